"""The zoo by name: what it says of itself is true, and files decide what is built."""

import inspect
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import mvrec.models as models
from mvrec.errors import UserError
from mvrec.models import MViT, count_macs, create_model, list_models, load_weights
from mvrec.models.zoo import VARIANTS, identify
from mvrec.published import PUBLISHED

NAMES = list(VARIANTS)


def on_meta(name: str, **knobs: Any) -> models.Backbone:
    with torch.device("meta"):
        return create_model(name, **knobs)


def test_the_zoo_is_what_it_should_be() -> None:
    assert list(PUBLISHED) == NAMES
    assert set(NAMES) == {
        *(f"shunted_{size}" for size in "tsb"),
        *(f"sgformer_{size}" for size in "smb"),
        *(f"cloformer_{size}" for size in ("xxs", "xs", "s")),
        *("mvit_b_16x4", "mvit_b_32x3", "mvit_b24_32x3", "mvit_b_image"),
        *(f"mvit_v2_{size}" for size in "tsbl"),
        *("mvit_v2_s_16x4", "mvit_v2_b_32x3", "mvit_v2_l_40x3"),
    }
    assert set(NAMES) <= set(models.__all__)


def test_names_are_listed_by_pattern() -> None:
    assert list_models() == NAMES
    assert list_models("mvit_v2_?") == ["mvit_v2_t", "mvit_v2_s", "mvit_v2_b", "mvit_v2_l"]
    assert list_models("nothing") == []


@pytest.mark.parametrize("name", NAMES)
def test_the_table_tells_the_truth(name: str) -> None:
    published, model = PUBLISHED[name], on_meta(name)
    assert sum(p.numel() for p in model.parameters()) == published.parameters
    assert model.input_shape == (3, *published.input)
    assert model.num_classes == (400 if len(published.input) == 3 else 1000)
    assert count_macs(model) / 1e9 == pytest.approx(published.gmacs, rel=0.002)


@pytest.mark.parametrize("name", NAMES)
def test_knobs_are_typed_keywords(name: str) -> None:
    signature = inspect.signature(VARIANTS[name])
    first, *others = signature.parameters.values()
    assert first.name == "num_classes"
    assert {"image_size", "in_channels", "drop_path_rate"} <= {parameter.name for parameter in others}
    assert ("num_frames" in signature.parameters) == (len(PUBLISHED[name].input) == 3)
    for parameter in others:
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.annotation is not inspect.Parameter.empty
        assert parameter.name in inspect.signature(create_model).parameters
    model = on_meta(name, num_classes=7, image_size=(64, 96), drop_path_rate=0.4, in_channels=4)
    assert (model.num_classes, model.input_shape[0], model.input_shape[-2:]) == (7, 4, (64, 96))
    rates = [module.p for module in model.modules() if type(module).__name__ == "StochasticDepth"]
    assert max(rates) == pytest.approx(0.4)


def test_macs_count_another_size_and_change_nothing() -> None:
    model = create_model("shunted_t").train()
    assert count_macs(model, (3, 448, 448)) > 3.9 * count_macs(model)
    assert model.training
    assert next(model.parameters()).device.type == "cpu"
    with pytest.raises(ValueError, match="expected"):
        count_macs(model, (3, 8, 8))


def test_macs_leave_no_hook_behind() -> None:
    model = on_meta("mvit_v2_t")
    count_macs(model)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("name", "knobs", "message"),
    [
        ("mvit_b_16x5", {}, r"the zoo has no model 'mvit_b_16x5'; did you mean 'mvit_b_16x4'\?"),
        ("mvit_v2_t", {"num_frames": 8}, "mvit_v2_t has no 'num_frames'; it has num_classes, image_size"),
        ("shunted_t", {"pooling": "max"}, "shunted_t has no 'pooling'"),
        ("cloformer_s", {"head_dropout": 0.1}, "cloformer_s has no 'head_dropout'"),
    ],
)
def test_wrong_names_and_knobs_are_one_line(name: str, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_model(name, **knobs)


# -- weights decide -----------------------------------------------------------------------------------------------


def weights_of(name: str, **knobs: Any) -> dict[str, torch.Tensor]:
    """Zeros in the shapes of a variant's weights: what is built follows from shapes alone."""
    return {key: torch.zeros(tensor.shape) for key, tensor in on_meta(name, **knobs).state_dict().items()}


def shapes(model: models.Backbone) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def plan(model: MViT) -> list[tuple[Any, ...]]:
    """What leaves no trace in the shapes."""
    return [
        (b.attn.num_heads, b.attn.q_stride, b.attn.kv_stride, b.attn.q_kernel, b.attn.kv_kernel, b.drop_path.p)
        for b in model.blocks
    ]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if PUBLISHED[n].parameters > 50e6 else ()) for n in NAMES],
)
def test_a_variants_own_weights_build_it(name: str) -> None:
    knobs: dict[str, Any] = {"num_classes": 7, "image_size": 64, "in_channels": 4}
    if "num_frames" in inspect.signature(VARIANTS[name]).parameters:
        knobs["num_frames"] = 8
    wanted = on_meta(name, **knobs)
    model = create_model(name, weights=weights_of(name, **knobs))
    assert isinstance(model, type(wanted))
    assert shapes(model) == shapes(wanted)
    assert model.num_classes == 7
    has_positions = wanted.position_grid is not None
    assert model.input_shape == (wanted.input_shape if has_positions else (4, *PUBLISHED[name].input))
    if isinstance(model, MViT) and isinstance(wanted, MViT):
        assert plan(model) == plan(wanted)
        assert model.head_dropout == wanted.head_dropout


def test_a_files_depth_wins_over_the_name() -> None:
    """SlowFast's file named B 32x3 holds 24 blocks whose kernels follow their strides."""
    knobs: dict[str, Any] = {"image_size": 64, "num_frames": 8}
    model = create_model("mvit_b_32x3", weights=weights_of("mvit_b24_32x3", **knobs))
    wanted = on_meta("mvit_b24_32x3", **knobs)
    assert isinstance(model, MViT)
    assert isinstance(wanted, MViT)
    assert shapes(model) == shapes(wanted)
    assert plan(model) == plan(wanted)


def test_the_first_release_of_16x4_is_built_from_its_file() -> None:
    knobs: dict[str, Any] = {"image_size": 64, "num_frames": 8}
    state = weights_of("mvit_b_16x4", unpooled_kv_blocks=(14, 15), **knobs)
    model = create_model("mvit_b_16x4", weights=state)
    assert set(model.state_dict()) == set(state)
    assert isinstance(model, MViT)
    assert [i for i, block in enumerate(model.blocks) if block.attn.kv_kernel is None] == [14, 15]


@pytest.mark.parametrize("branches", ["global", "local"])
def test_cloformers_ablations_are_built_from_their_files(branches: Any) -> None:
    model = create_model("cloformer_xxs", weights=weights_of("cloformer_xxs", branches=branches))
    assert shapes(model) == shapes(on_meta("cloformer_xxs", branches=branches))


def test_what_is_given_wins_over_the_file(caplog: pytest.LogCaptureFixture) -> None:
    state = weights_of("mvit_b_image", image_size=64)
    model = create_model(
        "mvit_b_image", weights=state, num_classes=3, image_size=96, drop_path_rate=0.3, head_dropout=0.2
    )
    assert (model.num_classes, model.input_shape) == (3, (3, 96, 96))
    assert isinstance(model, MViT)
    assert model.blocks[-1].drop_path.p == pytest.approx(0.3)
    assert model.head_dropout == 0.2
    assert "its head of 1000 classes is skipped, the new one of 3 is untrained" in caplog.text
    assert model.head.projection.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_an_equal_class_count_keeps_the_files_head(caplog: pytest.LogCaptureFixture) -> None:
    model = create_model("shunted_t", weights=weights_of("shunted_t", num_classes=3), num_classes=3)
    assert not model.head.weight.any()
    assert "untrained" not in caplog.text


def test_no_classes_leave_the_files_head_out() -> None:
    model = create_model("cloformer_xxs", weights=weights_of("cloformer_xxs"), num_classes=0)
    assert model.num_classes == 0
    assert not any(key.startswith("head.") for key in model.state_dict())


def test_image_weights_build_a_network_for_clips() -> None:
    state = weights_of("mvit_v2_s", image_size=64, num_classes=7)
    model = create_model("mvit_v2_s_16x4", weights=state, num_frames=8)
    assert model.input_shape == (3, 8, 64, 64)
    assert model.num_classes == 7
    assert not model.patch_embed.proj.weight.any()
    back = create_model("mvit_v2_s", weights={key: tensor.cpu() for key, tensor in model.state_dict().items()})
    assert back.input_shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("asked", "holds", "message"),
    [
        ("shunted_t", "shunted_s", r"not those of shunted_t but of other widths or depths; it fits shunted_s"),
        ("cloformer_s", "cloformer_xs", r"not those of cloformer_s .* it fits cloformer_xs"),
        ("sgformer_m", "sgformer_s", r"not those of sgformer_m .* it fits sgformer_s"),
        ("mvit_b_16x4", "mvit_v2_s_16x4", r"of an MViT v2 \(relative positions\) of width 96; it fits mvit_v2_s_16x4"),
        ("mvit_v2_t", "mvit_b_image", r"of an MViT v1 \(absolute positions\) of width 96; it fits mvit_b_image"),
        ("shunted_t", "mvit_v2_t", r"it fits mvit_v2_t"),
        ("mvit_v2_t", "shunted_t", r"it fits shunted_t"),
    ],
)
def test_weights_of_another_variant_are_one_line(asked: str, holds: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        create_model(asked, weights=weights_of(holds))
    assert "\n" not in str(error.value)


def test_allow_partial_takes_from_another_variant_what_fits() -> None:
    model = create_model("shunted_t", weights=weights_of("shunted_s"), allow_partial=True)
    assert shapes(model) == shapes(on_meta("shunted_t"))
    assert not model.get_parameter("block1.0.norm1.weight").any()
    with pytest.raises(UserError, match="the network is a Shunted"):
        create_model("shunted_t", weights=weights_of("mvit_v2_t", image_size=64), allow_partial=True)


def test_weights_are_told_apart_by_their_size() -> None:
    assert identify(weights_of("mvit_b_32x3")) == ["mvit_b_32x3", "mvit_b_16x4"]
    assert identify(weights_of("mvit_b_16x4")) == ["mvit_b_16x4", "mvit_b_32x3"]
    assert identify({"x": torch.zeros(1)}) == []


def test_the_first_release_of_16x4_is_another_network_but_for_its_pooling() -> None:
    state = weights_of("mvit_b_16x4", unpooled_kv_blocks=(14, 15))
    assert identify(state) == []
    assert identify(state, but_for_pooling=True) == ["mvit_b_16x4", "mvit_b_32x3"]


def test_a_file_on_disk_gives_its_outputs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = create_model("cloformer_xxs", num_classes=4).eval()
    torch.save({"model": model.state_dict(), "epoch": 1}, tmp_path / "x.pth")
    with caplog.at_level(logging.INFO, logger="mvrec"):
        other = create_model("cloformer_xxs", weights=tmp_path / "x.pth").eval()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)
    assert "x.pth[model]: CloFormer layout, " in caplog.text
    assert load_weights(other, str(tmp_path / "x.pth")).complete
