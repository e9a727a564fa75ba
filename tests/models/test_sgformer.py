import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_support import run_with_features
from zoo_builds import BUILDS, SGFORMER_STAGES, inputs, lively, released

from mvrec.models import create_model
from mvrec.models.backbone import FeatureInfo
from mvrec.models.sgformer import (
    FullAttention,
    GuidedAttention,
    HybridAttention,
    SGFormer,
    Stage,
    sgformer_s,
    sincos_positions,
)

CHUNKS = {8: (196, 56, 28), 4: (49, 14, 7), 2: (2, 1)}  # of the released networks, by sr_ratio


def tiny(**changes: Any) -> SGFormer:
    model = BUILDS["sgformer"](**changes)
    assert isinstance(model, SGFormer)
    return model


@pytest.mark.parametrize(
    ("name", "heads"), [("sgformer_s", (2, 4, 8, 16)), ("sgformer_m", (2, 4, 8, 16)), ("sgformer_b", (4, 6, 12, 24))]
)
def test_variant_has_the_released_heads_and_kinds_of_attention(name: str, heads: tuple[int, ...]) -> None:
    model = released(name)
    assert isinstance(model, SGFormer)
    assert (model.position_grid, model.min_image_size) == ((1, 56, 56), 17)
    for info, blocks, count, sr in zip(
        model.feature_info, (model.block1, model.block2, model.block3, model.block4), heads, (8, 4, 2, 1), strict=True
    ):
        assert info.channels // blocks[0].attn.head_dim == count
        kinds = [HybridAttention, GuidedAttention] if sr > 1 else [FullAttention]
        assert all(isinstance(block.attn, kinds[i % len(kinds)]) for i, block in enumerate(blocks))
        if sr > 1:
            assert blocks[0].attn.sr.kernel_size == (sr, sr)
            assert blocks[1].attn.chunks == CHUNKS[sr]


def test_guided_block_gets_the_importance_of_the_block_before_it() -> None:
    # The stages' depths are odd, so that blocks before and after another kind of block differ.
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


def test_feature_maps_have_the_sizes_of_feature_info_and_the_last_tokens_in_their_places() -> None:
    model = lively(tiny()).eval()
    assert model.feature_info == tuple(FeatureInfo(c, s) for c, s in zip((16, 32, 48, 64), (4, 8, 16, 32), strict=True))
    for h, w, sizes in (
        (64, 96, [(16, 24), (8, 12), (4, 6), (2, 3)]),
        (17, 37, [(5, 10), (3, 5), (2, 3), (1, 2)]),  # all grids round up
    ):
        x = inputs(model, H=h, W=w)
        maps = model.feature_maps(x)
        shapes = [(2, channels, *size) for channels, size in zip((16, 32, 48, 64), sizes, strict=True)]
        assert [tuple(level.shape) for level in maps] == shapes
        _, norms = run_with_features(model, x, ["norm1", "norm4"])
        for level, name in ((0, "norm1"), (-1, "norm4")):
            torch.testing.assert_close(maps[level][1, :, -1, 0], norms[name][1, -1, 0])


@pytest.mark.slow
@torch.no_grad()
def test_released_network_runs_at_sizes_of_other_tasks() -> None:
    model = lively(create_model("sgformer_s")).eval()
    for h, w in ((112, 112), (225, 250), (256, 320), (384, 384), (448, 448), (480, 1333), (800, 1333)):
        x = inputs(model, 1, H=h, W=w)
        logits = model(x)
        assert logits.isfinite().all(), (h, w)
        torch.testing.assert_close(model(x), logits, rtol=0, atol=0)


def test_positions_are_added_as_they_are_and_follow_another_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one of as many cells: the table's length does not say its shape."""
    for image_size, axes, grid in (((40, 64), {}, (10, 16)), ((32, 64), {"H": 64, "W": 32}, (16, 8))):
        model = lively(tiny(image_size=image_size)).eval()
        x = inputs(model, **axes)
        _, seen = run_with_features(model, x, ["patch_embed1"])
        entered = []
        model.block1[0].register_forward_pre_hook(lambda _, args, entered=entered: entered.append(args[0]))
        with monkeypatch.context() as patch:
            if not axes:
                patch.delattr(F, "interpolate")  # which may round, depending on device and precision
            model(x)
        table = model.pos_embed.reshape(1, image_size[0] // 4, 16, 16)
        if axes:
            table = F.interpolate(table.permute(0, 3, 1, 2), size=grid, mode="bicubic", align_corners=False)
            table = table.permute(0, 2, 3, 1)
        torch.testing.assert_close(entered[0], seen["patch_embed1"] + table)


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


@pytest.mark.parametrize(
    ("sr_ratios", "least"), [((8, 4, 2, 1), 17), ((1, 1), 1), ((2, 1), 5), ((1, 1, 2), 17), ((2, 2, 4, 2), 33)]
)
def test_least_image_is_the_smallest_with_tokens_in_each_part(sr_ratios: tuple[int, ...], least: int) -> None:
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


def test_wrong_argument_is_named() -> None:
    row: dict[str, Any] = {"dim": 48, "depth": 1, "heads": 2, "sr_ratio": 2, "chunks": (2, 1), "mlp_ratio": 2}
    for changes, message in (
        ({"depth": 0}, "must be positive, got .*depth=0"),
        ({"sr_ratio": 0}, "sr_ratio must be 1 or more, got .*sr_ratio=0"),
        ({"heads": 5}, "width 48 does not split over 5 heads"),
        ({"heads": 3}, "heads must be even, got .*heads=3"),
        ({"chunks": (4,)}, r"chunks must be two or three positive sizes, got .*chunks=\(4,\)"),
        ({"chunks": ()}, r"chunks must be two or three positive sizes, got .*chunks=\(\)"),
        ({"chunks": (4, 0)}, r"chunks must be two or three positive sizes, got .*chunks=\(4, 0\)"),
        ({"sr_ratio": 1}, r"plain attention \(sr_ratio 1\) merges no chunks, got .*chunks=\(2, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            Stage(**(row | changes))
    for changes, message in (
        ({"image_size": 16}, r"H, W of 17 or more, got shape \('B', 3, 16, 16\)"),
        ({"stages": ()}, r"stages must hold one row or more, got \(\)"),
        ({"stages": (Stage(6, 1, 2, 1, 1),)}, "the first width must be a multiple of 4, .* got 6"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny(**changes)
