import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_support import run_with_features
from jsonargparse import ArgumentParser
from torch import nn
from zoo_builds import BUILDS, SGFORMER_STAGES, inputs, lively, quick_form

from mvrec.models.backbone import FeatureInfo
from mvrec.models.layers import GridConv, StochasticDepth
from mvrec.models.sgformer import (
    FullAttention,
    GuidedAttention,
    HybridAttention,
    SGFormer,
    Stage,
    sgformer_b,
    sgformer_m,
    sgformer_s,
    sincos_positions,
)

CHUNKS = {8: (196, 56, 28), 4: (49, 14, 7), 2: (2, 1)}  # of the released networks, by sr_ratio


def tiny(**changes: Any) -> SGFormer:
    model = BUILDS["sgformer"](**changes)
    assert isinstance(model, SGFormer)
    return model


# Variants


@pytest.mark.parametrize(
    ("build", "num_parameters", "dims", "heads", "depths", "drop_path_rate"),
    [
        (sgformer_s, 22_545_981, (64, 128, 256, 512), (2, 4, 8, 16), (2, 4, 16, 1), 0.1),
        (sgformer_m, 38_689_316, (64, 128, 256, 512), (2, 4, 8, 16), (2, 6, 28, 2), 0.2),
        (sgformer_b, 77_950_293, (96, 192, 384, 768), (4, 6, 12, 24), (4, 6, 24, 2), 0.4),
    ],
)
def test_variants_are_the_released_ones(
    build: Callable[..., SGFormer],
    num_parameters: int,
    dims: tuple[int, ...],
    heads: tuple[int, ...],
    depths: tuple[int, ...],
    drop_path_rate: float,
) -> None:
    with torch.device("meta"):
        model = build()
        other = build(7, drop_path_rate=0.0, image_size=(96, 64))
    assert sum(p.numel() for p in model.parameters()) == num_parameters
    assert tuple(info.channels for info in model.feature_info) == dims
    stages = [getattr(model, f"block{i}") for i in (1, 2, 3, 4)]
    assert tuple(map(len, stages)) == depths
    assert tuple(d // blocks[0].attn.head_dim for d, blocks in zip(dims, stages, strict=True)) == heads
    for blocks, sr_ratio in zip(stages, (8, 4, 2, 1), strict=True):
        kinds = [HybridAttention, GuidedAttention] * len(blocks) if sr_ratio > 1 else [FullAttention] * len(blocks)
        assert [type(block.attn) for block in blocks] == kinds[: len(blocks)]
        if sr_ratio > 1:
            assert blocks[0].attn.sr.kernel_size == (sr_ratio, sr_ratio)
            assert blocks[1].attn.chunks == CHUNKS[sr_ratio]
    rates = [module.p for module in model.modules() if isinstance(module, StochasticDepth)]
    assert rates == pytest.approx([drop_path_rate * i / (len(rates) - 1) for i in range(len(rates))])
    assert not any(module.p for module in other.modules() if isinstance(module, StochasticDepth))
    assert (model.input_shape, other.input_shape) == ((3, 224, 224), (3, 96, 64))
    assert (model.position_grid, other.position_grid) == ((1, 56, 56), (1, 24, 16))
    assert (model.num_classes, other.head.out_features) == (1000, 7)
    assert model.min_image_size == 17


def test_initialisation_is_the_released_one() -> None:
    with torch.random.fork_rng():
        model = sgformer_s()
    deviations = {
        "block3.0.mlp.fc1": 0.02,
        "block1.1.attn.f1": 0.02,
        "patch_embed1.conv.2.c": (2 / (9 * 64)) ** 0.5,
        "block2.0.attn.sr": (2 / (16 * 128)) ** 0.5,
        "block4.0.attn.lepe_conv": (2 / 9) ** 0.5,
    }
    for name, std in deviations.items():
        weight = model.get_submodule(name).weight
        assert weight.std().item() == pytest.approx(std, rel=0.15 if weight.numel() < 1000 else 0.05), name
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            assert not parameter.any(), name
        elif parameter.ndim == 1:
            assert (parameter == 1).all(), name


# Stages


def test_importance_goes_to_the_next_block_and_no_further() -> None:
    """Each guided block gets the map of the block just before it, though the stages' depths are odd here."""
    stages = [replace(stage, depth=depth) for stage, depth in zip(SGFORMER_STAGES, (3, 5, 1, 2), strict=True)]
    model = lively(tiny(stages=stages)).eval()
    came, went = {}, {}
    for i in (1, 2, 3, 4):
        for j, block in enumerate(getattr(model, f"block{i}")):
            block.register_forward_pre_hook(lambda _m, args, key=(i, j): came.update({key: args[1]}))
            block.register_forward_hook(lambda _m, _a, out, key=(i, j): went.update({key: out[1]}))
    model(inputs(model))
    for i, depth in enumerate((3, 5, 1, 2), start=1):
        for j in range(depth):
            hybrid = i < 4 and j % 2 == 0
            assert (went[i, j] is not None) == hybrid
            assert came[i, j] is (went[i, j - 1] if i < 4 and j % 2 else None)
            if hybrid:
                assert went[i, j].shape == (2, 64 // 2 ** (i + 1), 64 // 2 ** (i + 1))


@pytest.mark.parametrize(
    ("h", "w", "sizes"),
    [
        (64, 96, [(16, 24), (8, 12), (4, 6), (2, 3)]),
        (17, 37, [(5, 10), (3, 5), (2, 3), (1, 2)]),  # all grids round up
    ],
)
def test_feature_maps_follow_feature_info(h: int, w: int, sizes: list[tuple[int, int]]) -> None:
    model = lively(tiny()).eval()
    assert model.feature_info == tuple(FeatureInfo(c, s) for c, s in zip((16, 32, 48, 64), (4, 8, 16, 32), strict=True))
    x = inputs(model, H=h, W=w)
    maps = model.feature_maps(x)
    assert [tuple(m.shape) for m in maps] == [(2, c, *size) for c, size in zip((16, 32, 48, 64), sizes, strict=True)]
    _, norms = run_with_features(model, x, ["norm1", "norm4"])
    for level, grid in ((0, norms["norm1"]), (-1, norms["norm4"])):
        torch.testing.assert_close(maps[level][1, :, -1, 0], grid[1, -1, 0])


@torch.no_grad()
@pytest.mark.parametrize(
    ("h", "w"),
    [
        (112, 112),
        (225, 250),
        *(
            pytest.param(h, w, marks=pytest.mark.slow)
            for h, w in ((256, 320), (384, 384), (448, 448), (480, 1333), (800, 1333))
        ),
    ],
)
def test_released_network_runs_at_sizes_of_other_tasks(h: int, w: int) -> None:
    model = lively(sgformer_s()).eval()
    x = inputs(model, 1, H=h, W=w)
    logits = model(x)
    assert logits.isfinite().all()
    torch.testing.assert_close(model(x), logits, rtol=0, atol=0)


@quick_form
def test_convolutions_read_the_tokens_where_they_lie() -> None:
    """A convolution whose input is no channels-last view makes a copy first."""
    model = tiny().eval()
    copied = []
    for name, module in model.named_modules():
        if isinstance(module, GridConv):
            module.register_forward_pre_hook(
                lambda _, args, name=name: None if args[0].is_contiguous() else copied.append(name)
            )
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == 3 + 3 * 3 + 6 * 2 + 3
    model(inputs(model, W=80))
    assert copied == []


# Positions


def test_positions_of_the_constructed_size_are_added_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(F, "interpolate")  # which may round, depending on device and precision
    model = lively(tiny(image_size=(40, 64))).eval()
    x = inputs(model)
    _, seen = run_with_features(model, x, ["patch_embed1"])
    entered = []
    model.block1[0].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    model(x)
    wanted = seen["patch_embed1"] + model.pos_embed.reshape(10, 16, 16)
    torch.testing.assert_close(entered[0], wanted, rtol=0, atol=0)


def test_positions_follow_another_grid() -> None:
    """Also one of as many cells: the table's length does not say its shape."""
    model = lively(tiny(image_size=(32, 64))).eval()
    x = inputs(model, H=64, W=32)
    _, seen = run_with_features(model, x, ["patch_embed1"])
    entered = []
    model.block1[0].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    model(x)
    table = model.pos_embed.reshape(1, 8, 16, 16).permute(0, 3, 1, 2)
    resized = F.interpolate(table, size=(16, 8), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    torch.testing.assert_close(entered[0], seen["patch_embed1"] + resized)


def test_positions_start_as_waves_of_the_column_then_of_the_row() -> None:
    model = sgformer_s(image_size=(24, 40))
    assert model.position_grid == (1, 6, 10)
    table = model.pos_embed.reshape(6, 10, 64)
    torch.testing.assert_close(model.pos_embed, sincos_positions(6, 10, 64).float(), rtol=0, atol=0)
    for row, column in ((0, 0), (5, 0), (0, 9), (3, 7)):
        wanted = [
            wave(place / 10_000 ** (i / 16))
            for place in (column, row)
            for wave in (math.sin, math.cos)
            for i in range(16)
        ]
        torch.testing.assert_close(table[row, column], torch.tensor(wanted))


def test_positions_belong_to_the_stem_and_decay() -> None:
    model = tiny()
    groups = model.layer_groups()
    assert {name.split(".")[0] for name in groups[0]} == {"pos_embed", "patch_embed1"}
    assert groups[-1] == ["norm4.weight", "norm4.bias", "head.weight", "head.bias"]
    assert "pos_embed" not in model.no_weight_decay()


# Arguments


@pytest.mark.parametrize(
    ("sr_ratios", "least"), [((8, 4, 2, 1), 17), ((1, 1), 1), ((2, 1), 5), ((1, 1, 2), 17), ((2, 2, 4, 2), 33)]
)
def test_smallest_image_is_the_one_that_still_has_tokens_in_each_part(sr_ratios: tuple[int, ...], least: int) -> None:
    rows = [
        Stage(dim=8, depth=2, heads=2, sr_ratio=r, mlp_ratio=1, chunks=(4, 2, 1) if r > 1 else ()) for r in sr_ratios
    ]
    model = tiny(stages=rows)
    assert model.min_image_size == least
    if least == 1:
        assert model(inputs(model, H=1, W=1)).isfinite().all()
        return

    def idle_weights(size: int) -> list[str]:
        model.zero_grad()
        model(inputs(model, H=size, W=size)).square().sum().backward()
        return [n for n, p in model.named_parameters() if ".attn.f" in n and not (p.grad is not None and p.grad.any())]

    assert idle_weights(least) == []
    model.min_image_size = 1
    assert idle_weights(least - 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 0}, "must be positive, got .*depth=0"),
        ({"sr_ratio": 0}, "sr_ratio must be 1 or more, got .*sr_ratio=0"),
        ({"heads": 5}, "width 48 does not split over 5 heads"),
        ({"heads": 3}, "heads must be even, got .*heads=3"),
        ({"chunks": (4,)}, r"chunks must be two or three positive sizes, got .*chunks=\(4,\)"),
        ({"chunks": ()}, r"chunks must be two or three positive sizes, got .*chunks=\(\)"),
        ({"chunks": (4, 0)}, r"chunks must be two or three positive sizes, got .*chunks=\(4, 0\)"),
        ({"sr_ratio": 1}, r"plain attention \(sr_ratio 1\) merges no chunks, got .*chunks=\(2, 1\)"),
    ],
)
def test_wrong_rows_are_named(changes: dict[str, Any], message: str) -> None:
    row: dict[str, Any] = {"dim": 48, "depth": 1, "heads": 2, "sr_ratio": 2, "chunks": (2, 1), "mlp_ratio": 2}
    with pytest.raises(ValueError, match=message):
        Stage(**(row | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 16}, r"H, W of 17 or more, got shape \('B', 3, 16, 16\)"),
        ({"stages": ()}, r"stages must hold one row or more, got \(\)"),
        ({"stages": (Stage(6, 1, 2, 1, 1),)}, "the first width must be a multiple of 4, .* got 6"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_every_argument_can_come_from_yaml() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(SGFormer, "model")
    fine = "{dim: 8, depth: 2, heads: 2, sr_ratio: 2, chunks: [2, 1], mlp_ratio: 4}"
    coarse = "{dim: 16, depth: 2, heads: 2, sr_ratio: 1, mlp_ratio: 2}"
    config = parser.parse_string(f"model: {{stages: [{fine}, {coarse}], image_size: [32, 48], in_channels: 1}}")
    model = parser.instantiate(config).model
    assert model.input_shape == (1, 32, 48)
    assert model.block1[1].attn.chunks == (2, 1)
    assert len(model.block2) == 2
