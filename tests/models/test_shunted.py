from collections.abc import Callable
from typing import Any

import pytest
import torch
from golden_support import run_with_features
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from zoo_builds import BUILDS, inputs, lively, quick_form

from mvrec.models.backbone import FeatureInfo
from mvrec.models.layers import StochasticDepth
from mvrec.models.shunted import GridConv, Shunted, Stage, shunted_b, shunted_s, shunted_t


def tiny(**changes: Any) -> Shunted:
    model = BUILDS["shunted"](**changes)
    assert isinstance(model, Shunted)
    return model


@pytest.mark.parametrize(
    ("build", "num_parameters", "stem_layers", "drop_path_rate"),
    [
        (shunted_t, 11_553_576, "013", 0.1),
        (shunted_s, 22_401_256, "01346", 0.2),
        (shunted_b, 39_614_376, "0134679", 0.3),
    ],
)
def test_variants_are_the_released_ones(
    build: Callable[..., Shunted], num_parameters: int, stem_layers: str, drop_path_rate: float
) -> None:
    with torch.device("meta"):
        model = build()
        other = build(7, drop_path_rate=0.0, image_size=(96, 64))
    assert sum(p.numel() for p in model.parameters()) == num_parameters
    keys = model.state_dict().keys()
    assert "".join(sorted({key.split(".")[2] for key in keys if key.startswith("patch_embed1.conv")})) == stem_layers
    rates = [module.p for module in model.modules() if isinstance(module, StochasticDepth)]
    steps = len(rates) - 1
    assert rates == pytest.approx([drop_path_rate * i / steps for i in range(steps + 1)])
    assert (model.input_shape, other.input_shape) == ((3, 224, 224), (3, 96, 64))
    assert (model.num_classes, model.num_features, other.head.out_features) == (1000, 512, 7)
    assert not any(module.p for module in other.modules() if isinstance(module, StochasticDepth))
    assert model.min_image_size == 31


@pytest.mark.parametrize(
    ("h", "w", "sizes"),
    [
        (64, 64, [(16, 16), (8, 8), (4, 4), (2, 2)]),
        (64, 96, [(16, 24), (8, 12), (4, 6), (2, 3)]),
        (96, 32, [(24, 8), (12, 4), (6, 2), (3, 1)]),
        (31, 45, [(8, 11), (4, 6), (2, 3), (1, 2)]),  # the stem drops a broken cell, the stages round up
    ],
)
def test_feature_maps_follow_feature_info(h: int, w: int, sizes: list[tuple[int, int]]) -> None:
    model = lively(tiny()).eval()
    assert model.feature_info == tuple(FeatureInfo(c, s) for c, s in zip((16, 32, 48, 64), (4, 8, 16, 32), strict=True))
    x = inputs(model, H=h, W=w)
    maps = model.feature_maps(x)
    assert [tuple(m.shape) for m in maps] == [(2, c, *size) for c, size in zip((16, 32, 48, 64), sizes, strict=True)]
    torch.testing.assert_close(maps[-1].mean((2, 3)), model.forward_features(x))
    _, norms = run_with_features(model, x, ["norm1", "norm4"])
    for level, grid in ((0, norms["norm1"]), (-1, norms["norm4"])):
        torch.testing.assert_close(maps[level][1, :, -1, 0], grid[1, -1, 0])


def test_each_half_of_the_heads_sees_its_own_keys() -> None:
    """Pixels beyond the last whole coarse patch reach the fine heads alone."""
    attention = lively(tiny()).block1[0].attn.eval()  # ratio 8: on 12 rows, the last 4 are no coarse patch
    attention.proj = nn.Identity()
    grid = torch.randn(1, 12, 16, 16, generator=torch.Generator().manual_seed(4))
    changed = grid.clone()
    changed[:, 9:] += 1.0
    difference = (attention(changed) - attention(grid))[:, :9].abs().amax((0, 1, 2))  # of untouched queries
    assert not difference[:8].any()
    assert (difference[8:] > 0).all()


@quick_form
def test_convolutions_read_the_tokens_where_they_lie() -> None:
    """A convolution whose input is no channels-last view makes a copy first."""
    model = tiny().eval()
    copied = []

    def check(name: str, grid: Tensor) -> None:
        if not grid.is_contiguous():
            copied.append(name)

    convs = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    for name, module in convs.items():
        if isinstance(module, GridConv):
            if ".local_conv" not in name:  # values are half of what holds them
                module.register_forward_pre_hook(lambda _, args, name=name: check(name, args[0]))
        else:
            module.register_forward_pre_hook(lambda _, args, name=name: check(name, args[0].permute(0, 2, 3, 1)))
    model(inputs(model))
    assert copied == []


def test_initialisation_is_the_released_one() -> None:
    with torch.random.fork_rng():
        model = shunted_t()
    deviations = {
        "block3.0.mlp.fc1": 0.02,
        "head": 0.02,
        "patch_embed1.conv.0": (2 / (49 * 64)) ** 0.5,
        "block2.0.attn.sr1": (2 / (16 * 128)) ** 0.5,
        "block4.0.mlp.dwconv.dwconv": (2 / 9) ** 0.5,
    }
    for name, std in deviations.items():
        assert model.get_submodule(name).weight.std().item() == pytest.approx(std, rel=0.05), name
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            assert not parameter.any(), name
        elif parameter.ndim == 1:
            assert (parameter == 1).all(), name


def test_layer_groups_walk_from_stem_to_head() -> None:
    groups = tiny().layer_groups()
    tops = [sorted({".".join(name.split(".")[: 1 + name.startswith("block")]) for name in group}) for group in groups]
    assert tops == [
        ["patch_embed1"],
        ["block1.0", "norm1"],
        ["block2.0", "patch_embed2"],
        ["block2.1", "norm2"],
        ["block3.0", "norm3", "patch_embed3"],
        ["block4.0", "patch_embed4"],
        ["head", "norm4"],
    ]


@pytest.mark.parametrize(
    ("sr_ratios", "least"), [((8, 4, 2, 1), 31), ((1, 1), 3), ((2, 1), 7), ((2, 4), 27), ((4, 4, 1), 27)]
)
def test_smallest_image_is_the_one_that_still_has_keys(sr_ratios: tuple[int, ...], least: int) -> None:
    model = tiny(stages=[Stage(dim=8, depth=1, heads=2, sr_ratio=r, mlp_ratio=1) for r in sr_ratios])
    assert model.min_image_size == least
    assert model.eval()(inputs(model, H=least, W=least)).isfinite().all()
    model.min_image_size = 1
    if max(sr_ratios) > 1:
        with pytest.raises(RuntimeError, match="Kernel size"):
            model(inputs(model, H=least - 1, W=least))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_stem_convs": -1}, "num_stem_convs must be 0 or more, got -1"),
        ({"stages": ()}, r"stages must hold one row or more, got \(\)"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 0}, "must be positive, got .*depth=0"),
        ({"sr_ratio": 3}, "sr_ratio must be 1 or even, got .*sr_ratio=3"),
        ({"sr_ratio": 0}, "sr_ratio must be 1 or even, got .*sr_ratio=0"),
        ({"heads": 5}, "width 48 does not split over 5 heads"),
        ({"heads": 3}, "heads must be even, got .*heads=3"),
    ],
)
def test_wrong_rows_are_named(changes: dict[str, Any], message: str) -> None:
    row: dict[str, Any] = {"dim": 48, "depth": 1, "heads": 2, "sr_ratio": 2, "mlp_ratio": 2}
    with pytest.raises(ValueError, match=message):
        Stage(**(row | changes))


def test_every_argument_can_come_from_yaml() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(Shunted, "model")
    fine = "{dim: 8, depth: 1, heads: 2, sr_ratio: 2, mlp_ratio: 4}"
    coarse = "{dim: 16, depth: 2, heads: 2, sr_ratio: 1, mlp_ratio: 2}"
    config = parser.parse_string(
        f"model: {{stages: [{fine}, {coarse}], num_stem_convs: 2, image_size: [32, 48], in_channels: 1}}"
    )
    model = parser.instantiate(config).model
    assert model.input_shape == (1, 32, 48)
    assert len(model.block2) == 2
