"""Weights of another size, length or number of axes, and what is refused."""

import logging
from typing import Any

import pytest
import torch
from zoo_builds import inputs, small

from mvrec.errors import UserError
from mvrec.models import load_weights
from mvrec.models.checkpoints import load_recognised, recognised
from mvrec.models.checkpoints.files import StoredWeights

SIZES: tuple[dict[str, Any], ...] = (
    {"image_size": 64},
    {"image_size": (48, 32), "num_frames": 8},
    {"num_frames": 2},
)
TABLES = {"pos_embed_spatial", "pos_embed_temporal", "rel_pos_t", "rel_pos_h", "rel_pos_w"}


@pytest.mark.parametrize("kind", ["mvit_v1_video", "mvit_v2_video"])
def test_tables_fitted_to_another_clip_give_what_forward_would_make_of_them(kind: str) -> None:
    for size in SIZES:
        model, bigger = small(kind), small(kind, seed=9, **size)
        report = load_weights(bigger, model.state_dict())
        assert report.complete
        assert report.interpolated
        assert {resized.name.rpartition(".")[2] for resized in report.interpolated} <= TABLES
        x = inputs(bigger)
        torch.testing.assert_close(bigger(x), model(x), msg=lambda text, size=size: f"{size}: {text}")


@pytest.mark.parametrize("kind", ["mvit_v1_image", "sgformer"])
def test_tables_fitted_to_another_image_give_what_forward_would_make_of_them(kind: str) -> None:
    model, bigger = small(kind, image_size=64), small(kind, seed=9, image_size=(96, 64))
    report = load_weights(bigger, model.state_dict())
    assert [resized.name for resized in report.interpolated] == ["pos_embed"]
    x = inputs(bigger)
    torch.testing.assert_close(bigger.double()(x.double()), model.double()(x.double()), rtol=1e-4, atol=1e-4)


def test_table_of_no_square_grid_is_one_line() -> None:
    state = small("mvit_v1_video", image_size=(32, 64)).state_dict()
    assert load_weights(small("mvit_v1_video", image_size=(32, 64)), state).complete
    with pytest.raises(UserError, match="pos_embed_spatial holds 128 positions, which are not a square grid"):
        load_weights(small("mvit_v1_video", image_size=48), state)


def test_grid_that_a_file_names_is_used() -> None:
    """8 x 32 and 16 x 16 cells have tables of one length."""
    model, other = small("mvit_v1_video", image_size=(32, 128)), small("mvit_v1_video", image_size=64)
    state = {"model": model.state_dict(), "mvrec": {"position_grid": [2, 8, 32], "image_size": [32, 128]}}
    assert not load_weights(other, model.state_dict()).interpolated  # nothing tells them apart
    stored = StoredWeights(model.state_dict(), "x.ckpt", "model", state["mvrec"])
    report = load_recognised(other, stored, recognised(stored))
    assert [resized.name for resized in report.interpolated] == ["pos_embed_spatial"]
    x = inputs(other)
    torch.testing.assert_close(other(x), model(x))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_image_kernels_are_repeated_over_the_frames_of_a_clip(version: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="mvrec")
    image, video = small(f"mvit_{version}_image"), small(f"mvit_{version}_video", seed=9)
    before = {name: tensor.clone() for name, tensor in video.state_dict().items()}
    report = load_weights(video, image.state_dict())
    records = [(record.levelno, record.message) for record in caplog.records]
    actual, expected = video.state_dict(), image.state_dict()
    patch = expected["patch_embed.proj.weight"]
    torch.testing.assert_close(actual["patch_embed.proj.weight"], patch.unsqueeze(2).repeat(1, 1, 3, 1, 1))
    pool = expected["blocks.1.attn.pool_k.weight"]
    torch.testing.assert_close(actual["blocks.1.attn.pool_k.weight"], pool.repeat(1, 1, 3, 1, 1))
    assert {resized.name for resized in report.inflated} >= {"patch_embed.proj.weight", "blocks.1.attn.pool_k.weight"}
    if version == "v1":
        assert report.complete
        torch.testing.assert_close(actual["pos_embed_spatial"], expected["pos_embed"][:, 1:])
        torch.testing.assert_close(actual["pos_embed_class"], expected["pos_embed"][:, :1])
        assert not actual["pos_embed_temporal"].any()
    else:
        assert set(report.missing) == {"cls_token", *(f"blocks.{i}.attn.rel_pos_t" for i in range(5))}
        for name in report.missing:
            torch.testing.assert_close(actual[name], before[name], rtol=0, atol=0)
        ((level, message),) = records
        assert level == logging.WARNING
        assert "6 not from the file and left at their initial values (cls_token, blocks.0.attn.rel_pos_t" in message


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_clip_kernels_are_summed_over_their_frames(version: str) -> None:
    video, image = small(f"mvit_{version}_video"), small(f"mvit_{version}_image", seed=9)
    report = load_weights(image, video.state_dict())
    assert report.complete
    assert not report.unexpected
    actual, expected = image.state_dict(), video.state_dict()
    torch.testing.assert_close(actual["patch_embed.proj.weight"], expected["patch_embed.proj.weight"].sum(2))
    torch.testing.assert_close(
        actual["blocks.2.attn.pool_v.weight"], expected["blocks.2.attn.pool_v.weight"].sum(2, keepdim=True)
    )
    if version == "v1":
        places = expected["pos_embed_spatial"] + expected["pos_embed_temporal"].mean(1, keepdim=True)
        torch.testing.assert_close(actual["pos_embed"], torch.cat([expected["pos_embed_class"], places], 1))


def test_head_of_another_class_count_is_refused_and_with_allow_partial_replaced() -> None:
    model, other = small("mvit_v1_video", num_classes=7, image_size=64), small("mvit_v1_video", seed=9)
    with pytest.raises(
        UserError, match=r"its head knows 5 classes, the network 7: .*num_classes=5.*allow_partial=True"
    ):
        load_weights(model, other.state_dict())
    head = model.head.projection.weight.clone()
    report = load_weights(model, other.state_dict(), allow_partial=True)
    assert not report.complete
    assert [resized.name for resized in report.mismatched] == ["head.projection.weight", "head.projection.bias"]
    torch.testing.assert_close(model.head.projection.weight, head, rtol=0, atol=0)
    torch.testing.assert_close(model.forward_features(inputs(model)), other.forward_features(inputs(model)))
    for words in (
        "state dict: SlowFast layout, ",
        "1 interpolated (pos_embed_spatial (1, 64, 16) -> (1, 256, 16)), ",
        "2 of another shape and left at their initial values (head.projection.weight (5, 64) -> (7, 64), ",
    ):
        assert words in str(report)


def test_network_without_a_head_loads_the_rest_and_a_file_without_one_is_reported(caplog):
    model, other = small("mvit_v1_video", num_classes=0), small("mvit_v1_video", seed=9)
    report = load_weights(model, other.state_dict())
    assert report.complete
    assert not report.unexpected
    torch.testing.assert_close(model(inputs(model)), other.forward_features(inputs(model)))
    report = load_weights(other, model.state_dict())
    assert report.missing == ("head.projection.weight", "head.projection.bias")
    assert "2 of a new head (head.projection.weight, head.projection.bias)" in caplog.text


def test_weights_that_do_not_fit_are_one_line_and_change_nothing() -> None:
    """The first blocks of a deeper network would load silently and compute something else."""

    def without(lost: str) -> dict[str, torch.Tensor]:
        return {n: t for n, t in small("mvit_v1_video", seed=9).state_dict().items() if not n.startswith(lost)}

    for state, message in (
        (without("blocks.2."), r"\d+ tensors are missing \(blocks\.2\.norm1\.weight, .* and \d+ more\)"),
        (without("cls_token"), r"1 tensors are missing \(cls_token\)"),
        (without("pos_embed_temporal"), r"1 tensors are missing \(pos_embed_temporal\)"),
        (small("mvit_v1_video", depth=6).state_dict(), r"\d+ have no place in the network \(blocks\.5\.norm1\.weight"),
        (
            small("mvit_v1_video", embed_dim=32, num_heads=2).state_dict(),
            r"have another shape, file -> network \(cls_token \(1, 1, 32\) -> \(1, 1, 16\)",
        ),
    ):
        model = small("mvit_v1_video")
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(UserError, match=message):
            load_weights(model, state)
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    alien = {name: torch.zeros(3, 3) for name in small("mvit_v1_video").state_dict()}
    with pytest.raises(UserError, match="nothing in it fits this MViT"):
        load_weights(small("mvit_v1_video"), alien, allow_partial=True)
