"""The zoo by name: what it says of itself is true, and files decide what is built."""

import inspect
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from zoo_builds import released

import mvrec.models as models
from mvrec.errors import UserError
from mvrec.models import MViT, count_macs, create_model, list_models
from mvrec.models.checkpoints.structure import build_as_stored
from mvrec.models.zoo import VARIANTS, identify
from mvrec.published import PUBLISHED

# Stochastic depth of the last block in the authors' code.
DROP_PATH = {
    **{"shunted_t": 0.1, "shunted_s": 0.2, "shunted_b": 0.3, "sgformer_s": 0.1, "sgformer_m": 0.2, "sgformer_b": 0.4},
    **{"cloformer_xxs": 0.0, "cloformer_xs": 0.06, "cloformer_s": 0.06, "mvit_b_image": 0.1, "mvit_v2_t": 0.1},
    **{"mvit_v2_s": 0.1, "mvit_v2_b": 0.3, "mvit_v2_l": 0.5, "mvit_b_16x4": 0.2, "mvit_b_32x3": 0.3},
    **{"mvit_b24_32x3": 0.3, "mvit_v2_s_16x4": 0.2, "mvit_v2_b_32x3": 0.3, "mvit_v2_l_40x3": 0.75},
}
# Counting and building by weights take up to five seconds: the smallest of each kind, the rest with the slow tests.
SMALL = ("shunted_t", "cloformer_xxs", "sgformer_s", "mvit_v2_t", "mvit_b_16x4")
NAMES = [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in list_models()]


def on_meta(name: str, **knobs: Any) -> models.Backbone:
    with torch.device("meta"):
        return create_model(name, **knobs)


def is_video(name: str) -> bool:
    return len(PUBLISHED[name].input) == 3


def drop_rates(model: models.Backbone) -> list[float]:
    return [module.p for module in model.modules() if type(module).__name__ == "StochasticDepth"]


def test_zoo_lists_all_released_networks_and_filters_them_by_pattern() -> None:
    assert list(PUBLISHED) == list(VARIANTS) == list_models() == list(DROP_PATH)
    functions = [value for name in models.__all__ if inspect.isfunction(value := getattr(models, name))]
    firsts = {function.__name__: next(iter(inspect.signature(function).parameters)) for function in functions}
    assert set(VARIANTS) == {name for name, first in firsts.items() if first == "num_classes"}
    assert list_models("mvit_v2_?") == ["mvit_v2_t", "mvit_v2_s", "mvit_v2_b", "mvit_v2_l"]
    assert list_models("nothing") == []


@pytest.mark.parametrize("name", list_models())
def test_variant_has_the_published_size_and_typed_knobs_that_arrive(name: str) -> None:
    published, model = PUBLISHED[name], released(name)
    assert sum(p.numel() for p in model.parameters()) == published.parameters
    assert (model.input_shape, model.num_classes) == ((3, *published.input), 400 if is_video(name) else 1000)
    assert drop_rates(model)[-1] == pytest.approx(DROP_PATH[name])
    if isinstance(model, MViT):
        assert model.head.dropout.p == (0.5 if is_video(name) else 0.0)
    signature = inspect.signature(VARIANTS[name])
    assert issubclass(type(model), signature.return_annotation)
    first, *others = signature.parameters.values()
    assert first.name == "num_classes"
    assert {"image_size", "in_channels", "drop_path_rate"} <= {parameter.name for parameter in others}
    assert ("num_frames" in signature.parameters) == is_video(name)
    for parameter in others:
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.annotation is not inspect.Parameter.empty
        assert parameter.name in inspect.signature(create_model).parameters
    more = {"head_dropout": 0.3, "pooling": "max"} if isinstance(model, MViT) else {}
    other = on_meta(name, num_classes=7, image_size=(64, 96), drop_path_rate=0.4, in_channels=4, **more)
    assert (other.num_classes, other.input_shape[0], other.input_shape[-2:]) == (7, 4, (64, 96))
    assert max(drop_rates(other)) == pytest.approx(0.4)
    if isinstance(other, MViT):
        assert (other.head.projection.out_features, other.head.dropout.p) == (7, 0.3)
        assert not any("pool_k" in key for key in other.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_multiply_adds_are_the_published_ones(name: str) -> None:
    assert count_macs(released(name)) / 1e9 == pytest.approx(PUBLISHED[name].gmacs, rel=0.002)


# Standard deviations of weights; of MViT all that are no norm have 0.02.
DEVIATIONS = {
    "shunted_t": {
        **{"block3.0.mlp.fc1": 0.02, "head": 0.02, "patch_embed1.conv.0": (2 / (49 * 64)) ** 0.5},
        **{"block2.0.attn.sr1": (2 / (16 * 128)) ** 0.5, "block4.0.mlp.dwconv.dwconv": (2 / 9) ** 0.5},
    },
    "sgformer_s": {
        **{"block3.0.mlp.fc1": 0.02, "block1.1.attn.f1": 0.02, "patch_embed1.conv.2.c": (2 / (9 * 64)) ** 0.5},
        **{"block2.0.attn.sr": (2 / (16 * 128)) ** 0.5, "block4.0.attn.lepe_conv": (2 / 9) ** 0.5},
    },
    "mvit_b_16x4": {},
}


@pytest.mark.parametrize("name", DEVIATIONS)
def test_initial_weights_are_the_authors(name: str) -> None:
    torch.manual_seed(0)  # tables are small: one draw in hundreds is off by a fifth
    model = create_model(name)
    for part, deviation in DEVIATIONS[name].items():
        weight = model.get_submodule(part).weight
        assert weight.std().item() == pytest.approx(deviation, rel=0.15 if weight.numel() < 1000 else 0.05), part
    for key, parameter in model.named_parameters():
        if key.endswith(".bias"):
            assert not parameter.any(), key
        elif parameter.ndim == 1:
            assert (parameter == 1).all(), key
        elif not DEVIATIONS[name]:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.2), key


def test_counting_multiply_adds_takes_another_size_and_leaves_the_network_alone() -> None:
    model = create_model("cloformer_xxs").train()
    assert count_macs(model, (3, 448, 448)) > 3.9 * count_macs(model)
    assert model.training
    assert next(model.parameters()).device.type == "cpu"
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ValueError, match="expected"):
        count_macs(model, (3, 8, 8))


def test_wrong_name_or_knob_is_one_line() -> None:
    for name, knob, message in (
        ("mvit_b_16x5", {}, r"the zoo has no model 'mvit_b_16x5'; did you mean 'mvit_b_16x4'\?"),
        ("mvit_v2_t", {"num_frames": 8}, "mvit_v2_t has no 'num_frames'; it has num_classes, image_size"),
        ("shunted_t", {"pooling": "max"}, "shunted_t has no 'pooling'"),
    ):
        with pytest.raises(UserError, match=message):
            create_model(name, **knob)


def weights_of(name: str, **knobs: Any) -> dict[str, torch.Tensor]:
    """Zeros in the shapes of a variant's weights: what is built follows from shapes alone."""
    return {key: torch.zeros(tensor.shape) for key, tensor in on_meta(name, **knobs).state_dict().items()}


def shapes(model: models.Backbone) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def plan(model: models.Backbone) -> list[tuple[Any, ...]]:
    """Such knobs leave no trace in the shapes of an MViT."""
    return [
        (b.attn.num_heads, b.attn.q_stride, b.attn.kv_stride, b.attn.q_kernel, b.attn.kv_kernel, b.drop_path.p)
        for b in (model.blocks if isinstance(model, MViT) else ())  # type: ignore[union-attr]
    ]


def built(name: str, file: models.Backbone, **knobs: Any) -> models.Backbone:
    """The variant as weights of `file` build it."""
    family = VARIANTS[name].__annotations__["return"]
    with torch.device("meta"):
        return build_as_stored(VARIANTS[name], file.state_dict(), knobs, family=family, details={})


def check_same_network(model: models.Backbone, other: models.Backbone) -> None:
    assert isinstance(other, type(model))
    assert shapes(model) == shapes(other)
    assert plan(model) == plan(other)


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_a_variant_build_that_variant(name: str) -> None:
    knobs: dict[str, Any] = {"num_classes": 7, "image_size": 64, "in_channels": 4}
    expected = on_meta(name, **knobs, **({"num_frames": 8} if is_video(name) else {}))
    model = built(name, expected)
    check_same_network(model, expected)
    assert model.num_classes == 7
    has_positions = expected.position_grid is not None
    assert model.input_shape == (expected.input_shape if has_positions else (4, *PUBLISHED[name].input))
    assert getattr(model, "head_dropout", None) == getattr(expected, "head_dropout", None)


def test_file_of_another_depth_pooling_or_ablation_gives_the_network_of_the_file() -> None:
    """SlowFast's file named B 32x3 holds 24 blocks; the first release of B 16x4 leaves its last keys unpooled."""
    first = on_meta("mvit_b_16x4", unpooled_kv_blocks=(14, 15))
    for name, file in (
        ("mvit_b_32x3", on_meta("mvit_b24_32x3", image_size=64, num_frames=8)),
        ("mvit_b_16x4", first),
        ("cloformer_xxs", on_meta("cloformer_xxs", branches="global")),
        ("cloformer_xxs", on_meta("cloformer_xxs", branches="local")),
    ):
        check_same_network(built(name, file), file)
    assert sum(p.numel() for p in first.parameters()) == 36_599_536
    assert identify(first.state_dict(), MViT) == []
    assert identify(first.state_dict(), MViT, but_for_pooling=True) == ["mvit_b_16x4", "mvit_b_32x3"]


def test_arguments_win_over_the_file(caplog: pytest.LogCaptureFixture) -> None:
    state = weights_of("mvit_v2_t", image_size=64)
    knobs: dict[str, Any] = {"num_classes": 3, "image_size": 96, "drop_path_rate": 0.3, "head_dropout": 0.2}
    model = create_model("mvit_v2_t", weights=state, **knobs)
    assert (model.num_classes, model.input_shape) == (3, (3, 96, 96))
    assert isinstance(model, MViT)
    assert model.blocks[-1].drop_path.p == pytest.approx(0.3)
    assert model.head_dropout == 0.2
    assert "its head of 1000 classes is skipped, the new one of 3 is untrained" in caplog.text
    assert model.head.projection.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_image_weights_build_a_network_for_clips_and_back() -> None:
    clips = built("mvit_v2_s_16x4", on_meta("mvit_v2_s", image_size=64, num_classes=7), num_frames=8)
    assert (clips.input_shape, clips.num_classes) == ((3, 8, 64, 64), 7)
    assert built("mvit_v2_s", clips).input_shape == (3, 64, 64)


def test_weights_of_another_variant_are_refused_in_one_line() -> None:
    for name, file, message in (
        ("cloformer_s", "cloformer_xs", "not those of cloformer_s but of other widths or depths; it fits cloformer_xs"),
        ("mvit_b_16x4", "mvit_v2_s_16x4", r"of an MViT v2 \(relative positions\) .* it fits mvit_v2_s_16x4"),
        ("mvit_v2_t", "mvit_b_image", r"of an MViT v1 \(absolute positions\) of width 96; it fits mvit_b_image"),
        ("mvit_v2_t", "shunted_t", "it fits shunted_t"),
    ):
        with pytest.raises(UserError, match=message) as error:
            create_model(name, weights=weights_of(file))
        assert "\n" not in str(error.value)


def test_allow_partial_takes_the_fitting_weights_of_another_variant_but_not_of_another_family() -> None:
    model = create_model("shunted_t", weights=weights_of("shunted_s"), allow_partial=True)
    assert shapes(model) == shapes(released("shunted_t"))
    assert not model.get_parameter("block1.0.norm1.weight").any()
    with pytest.raises(UserError, match="the network is a Shunted"):
        create_model("shunted_t", weights=weights_of("cloformer_xxs"), allow_partial=True)


def test_weights_that_fit_two_variants_are_of_the_one_of_their_size() -> None:
    assert identify(released("mvit_b_32x3").state_dict(), MViT) == ["mvit_b_32x3", "mvit_b_16x4"]
    assert identify(released("mvit_b_16x4").state_dict(), MViT) == ["mvit_b_16x4", "mvit_b_32x3"]
    assert identify({"x": torch.zeros(1)}) == []


def test_file_on_disk_gives_the_outputs_of_its_network_and_without_classes_its_features(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = create_model("cloformer_xxs", num_classes=4).eval()
    torch.save({"model": model.state_dict(), "epoch": 1}, tmp_path / "x.pth")
    with caplog.at_level(logging.INFO, logger="mvrec"):
        other = create_model("cloformer_xxs", weights=tmp_path / "x.pth", num_classes=4).eval()
        headless = create_model("cloformer_xxs", weights=tmp_path / "x.pth", num_classes=0).eval()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)
    torch.testing.assert_close(headless(x), model.forward_features(x), rtol=0, atol=0)
    assert headless.num_classes == 0
    assert "x.pth[model]: CloFormer layout, " in caplog.text
    assert "untrained" not in caplog.text
