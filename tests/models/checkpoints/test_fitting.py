"""Weights of another size, length or number of axes, and what is refused."""

import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_networks import images, lively, small

from mvrec.errors import UserError
from mvrec.models import create_model, load_weights

# -- position tables ----------------------------------------------------------------------------------------------

SIZES: list[dict[str, Any]] = [
    {"image_size": 64},
    {"image_size": (32, 64)},
    {"image_size": (48, 32), "num_frames": 8},
    {"num_frames": 2},
]


@pytest.mark.parametrize("kind", ["v1", "v2"])
@pytest.mark.parametrize("size", SIZES)
def test_tables_fit_another_size_as_forward_would_make_them(kind: str, size: dict[str, Any]) -> None:
    """Interpolated once on loading or in every forward pass: the same network."""
    model = small(kind)
    bigger = small(kind, seed=9, **size)
    report = load_weights(bigger, model.state_dict())
    assert report.complete
    assert {resized.name.rpartition(".")[2] for resized in report.interpolated} <= {
        "pos_embed_spatial",
        "pos_embed_temporal",
        "rel_pos_t",
        "rel_pos_h",
        "rel_pos_w",
    }
    assert report.interpolated
    x = images(bigger)
    torch.testing.assert_close(bigger(x), model(x))


@pytest.mark.parametrize("build", ["v1_image", "sgformer"])
def test_image_tables_fit_another_size_as_forward_would_make_them(build: str) -> None:
    def network(size: Any) -> Any:
        if build == "sgformer":
            return lively(create_model("sgformer_s", num_classes=5, image_size=size))
        return small(build, image_size=size)

    model, bigger = network(64), network((96, 64))
    torch.manual_seed(3)
    report = load_weights(bigger, lively(model, seed=4).state_dict())
    assert [resized.name for resized in report.interpolated] == ["pos_embed"]
    x = images(bigger)
    torch.testing.assert_close(bigger.double()(x.double()), model.double()(x.double()), rtol=1e-4, atol=1e-4)


def test_equal_sizes_are_bit_exact() -> None:
    for kind in ("v1", "v1_image", "v2", "v2_image"):
        model, other = small(kind), small(kind, seed=9)
        assert not load_weights(other, model.state_dict()).interpolated
        torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_table_of_no_square_grid_is_one_line() -> None:
    state = small("v1", image_size=(32, 64)).state_dict()
    assert load_weights(small("v1", image_size=(32, 64)), state).complete
    with pytest.raises(UserError, match="pos_embed_spatial holds 128 positions, which are not a square grid"):
        load_weights(small("v1", image_size=48), state)


def test_a_file_that_says_its_grid_is_believed() -> None:
    """8 x 32 and 16 x 16 cells have tables of one length."""
    model, other = small("v1", image_size=(32, 128)), small("v1", image_size=64)
    state = {"model": model.state_dict(), "mvrec": {"position_grid": [2, 8, 32], "image_size": [32, 128]}}
    assert not load_weights(other, model.state_dict()).interpolated  # nothing tells them apart
    # A mapping has no card; only files do.
    from mvrec.models.checkpoints import load_recognised, recognised
    from mvrec.models.checkpoints.files import StoredWeights

    stored = StoredWeights(model.state_dict(), "x.ckpt", "model", state["mvrec"])
    report = load_recognised(other, stored, recognised(stored))
    assert [resized.name for resized in report.interpolated] == ["pos_embed_spatial"]
    x = images(other)
    torch.testing.assert_close(other(x), model(x))


# -- images and clips ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_image_kernels_are_repeated_over_time(version: str) -> None:
    image, video = small(f"{version}_image"), small(version, seed=9)
    before = {name: tensor.clone() for name, tensor in video.state_dict().items()}
    report = load_weights(video, image.state_dict())
    ours, theirs = video.state_dict(), image.state_dict()
    patch = theirs["patch_embed.proj.weight"]
    torch.testing.assert_close(ours["patch_embed.proj.weight"], patch.unsqueeze(2).repeat(1, 1, 3, 1, 1))
    pool = theirs["blocks.1.attn.pool_k.weight"]
    torch.testing.assert_close(ours["blocks.1.attn.pool_k.weight"], pool.repeat(1, 1, 3, 1, 1))
    assert {resized.name for resized in report.inflated} >= {"patch_embed.proj.weight", "blocks.1.attn.pool_k.weight"}
    if version == "v1":
        assert report.complete
        torch.testing.assert_close(ours["pos_embed_spatial"], theirs["pos_embed"][:, 1:])
        torch.testing.assert_close(ours["pos_embed_class"], theirs["pos_embed"][:, :1])
        assert not ours["pos_embed_temporal"].any()
    else:
        assert set(report.missing) == {"cls_token", *(f"blocks.{i}.attn.rel_pos_t" for i in range(4))}
        for name in report.missing:
            torch.testing.assert_close(ours[name], before[name], rtol=0, atol=0)


def test_what_an_image_network_cannot_have_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="mvrec"):
        load_weights(small("v2"), small("v2_image").state_dict())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "5 not in the file and left at their initial values (cls_token, blocks.0.attn.rel_pos_t" in record.message


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_clip_kernels_are_summed_over_time(version: str) -> None:
    video, image = small(version), small(f"{version}_image", seed=9)
    report = load_weights(image, video.state_dict())
    assert report.complete
    assert not report.unexpected
    ours, theirs = image.state_dict(), video.state_dict()
    torch.testing.assert_close(ours["patch_embed.proj.weight"], theirs["patch_embed.proj.weight"].sum(2))
    torch.testing.assert_close(
        ours["blocks.2.attn.pool_v.weight"], theirs["blocks.2.attn.pool_v.weight"].sum(2, keepdim=True)
    )
    if version == "v1":
        places = theirs["pos_embed_spatial"] + theirs["pos_embed_temporal"].mean(1, keepdim=True)
        torch.testing.assert_close(ours["pos_embed"], torch.cat([theirs["pos_embed_class"], places], 1))


def test_there_and_back_is_a_multiple() -> None:
    """Repeated three times and summed: as SlowFast does it, and so not the weights that it began with."""
    image, video, again = small("v1_image"), small("v1"), small("v1_image", seed=9)
    load_weights(video, image.state_dict())
    load_weights(again, video.state_dict())
    torch.testing.assert_close(again.patch_embed.proj.weight, 3 * image.patch_embed.proj.weight)


def test_relative_positions_are_interpolated_on_the_way() -> None:
    image, video = small("v2_image", image_size=64), small("v2")
    load_weights(video, image.state_dict())
    table = image.state_dict()["blocks.0.attn.rel_pos_h"]  # (2 * 16 - 1, d)
    wanted = F.interpolate(table.T[None], size=15, mode="linear")[0].T
    torch.testing.assert_close(video.state_dict()["blocks.0.attn.rel_pos_h"], wanted)


# -- heads and parts ----------------------------------------------------------------------------------------------


def test_another_class_count_is_one_line() -> None:
    model = small("v1", num_classes=7)
    with pytest.raises(
        UserError, match=r"its head knows 5 classes, the network 7: .*num_classes=5.*allow_partial=True"
    ):
        load_weights(model, small("v1").state_dict())


def test_allow_partial_keeps_the_networks_own_head() -> None:
    model, other = small("v1", num_classes=7), small("v1", seed=9)
    head = model.head.projection.weight.clone()
    report = load_weights(model, other.state_dict(), allow_partial=True)
    assert not report.complete
    assert [resized.name for resized in report.mismatched] == ["head.projection.weight", "head.projection.bias"]
    torch.testing.assert_close(model.head.projection.weight, head, rtol=0, atol=0)
    torch.testing.assert_close(model.forward_features(images(model)), other.forward_features(images(model)))


def test_a_network_without_a_head_takes_the_rest() -> None:
    model, other = small("v1", num_classes=0), small("v1", seed=9)
    report = load_weights(model, other.state_dict())
    assert report.complete
    assert not report.unexpected
    torch.testing.assert_close(model(images(model)), other.forward_features(images(model)))


def test_a_file_without_a_head_leaves_it_untrained_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    report = load_weights(small("v1"), small("v1", num_classes=0).state_dict())
    assert report.missing == ("head.projection.weight", "head.projection.bias")
    assert "2 not in the file and left at their initial values" in caplog.text


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("blocks.2.", r"\d+ tensors are missing \(blocks\.2\.norm1\.weight, .* and \d+ more\)"),
        ("cls_token", r"1 tensors are missing \(cls_token\)"),
        ("pos_embed_temporal", r"1 tensors are missing \(pos_embed_temporal\)"),
    ],
)
def test_less_than_the_backbone_is_one_line(lost: str, message: str) -> None:
    state = {n: t for n, t in small("v1").state_dict().items() if not n.startswith(lost)}
    with pytest.raises(UserError, match=message):
        load_weights(small("v1"), state)


def test_more_than_the_network_is_one_line() -> None:
    """A deeper network's first blocks would load without a word and compute something else."""
    with pytest.raises(UserError, match=r"\d+ have no place in the network \(blocks\.4\.norm1\.weight"):
        load_weights(small("v1"), small("v1", depth=5).state_dict())


def test_another_width_is_one_line() -> None:
    with pytest.raises(
        UserError, match=r"have another shape, file -> network \(cls_token \(1, 1, 32\) -> \(1, 1, 16\)"
    ):
        load_weights(small("v1"), small("v1", embed_dim=32, num_heads=2).state_dict())


def test_a_failed_load_changes_nothing() -> None:
    model = small("v1")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = small("v1", seed=9).state_dict()
    state.pop("blocks.3.mlp.fc2.weight")
    with pytest.raises(UserError):
        load_weights(model, state)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_allow_partial_needs_something_that_fits() -> None:
    alien = {name: torch.zeros(3, 3) for name in small("v1").state_dict()}
    with pytest.raises(UserError, match="nothing in it fits this MViT"):
        load_weights(small("v1"), alien, allow_partial=True)


def test_the_report_is_one_line() -> None:
    report = load_weights(small("v1", image_size=64, num_classes=7), small("v1").state_dict(), allow_partial=True)
    total = len(small("v1").state_dict())
    assert str(report) == (
        f"state dict: SlowFast layout, {total - 2} of {total} tensors loaded, 1 interpolated (pos_embed_spatial "
        "(1, 64, 16) -> (1, 256, 16)), 2 of another shape and left at their initial values "
        "(head.projection.weight (5, 64) -> (7, 64), head.projection.bias (5,) -> (7,))"
    )
