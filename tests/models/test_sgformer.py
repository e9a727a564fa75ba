import math

import pytest
import torch
import torch.nn.functional as F
from golden_support import run_with_features
from zoo_builds import BUILDS, inputs, lively, released

from mvrec.models.sgformer import Stage, sgformer_s, sincos_positions


def test_variants_have_the_published_heads() -> None:
    heads = {"sgformer_s": [2, 4, 8, 16], "sgformer_m": [2, 4, 8, 16], "sgformer_b": [4, 6, 12, 24]}
    for name, expected in heads.items():
        model = released(name)
        widths = [info.channels for info in model.feature_info]
        head_dims = [getattr(model, f"block{i}")[0].attn.head_dim for i in (1, 2, 3, 4)]
        assert [width // dim for width, dim in zip(widths, head_dims, strict=True)] == expected, name


def test_positions_are_added_as_they_are_and_follow_another_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one of as many cells: the table's length does not say its shape."""
    for image_size, axes, grid in (((40, 64), {}, (10, 16)), ((32, 64), {"H": 64, "W": 32}, (16, 8))):
        model = lively(BUILDS["sgformer"](image_size=image_size)).eval()
        x = inputs(model, **axes)
        _, features = run_with_features(model, x, ["patch_embed1"])
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
        torch.testing.assert_close(entered[0], features["patch_embed1"] + table)


def test_positions_start_as_waves_of_the_column_then_of_the_row() -> None:
    model = sgformer_s(image_size=(24, 40))
    table = model.pos_embed.reshape(6, 10, 64)
    torch.testing.assert_close(model.pos_embed, sincos_positions(6, 10, 64).float(), rtol=0, atol=0)
    for row, column in ((5, 0), (3, 7)):
        angles = [[place / 10_000 ** (i / 16) for i in range(16)] for place in (column, row)]
        waves = [wave(angle) for axis in angles for wave in (math.sin, math.cos) for angle in axis]
        torch.testing.assert_close(table[row, column], torch.tensor(waves))


def test_least_image_is_the_smallest_with_tokens_in_each_part() -> None:
    for sr_ratios, least in (((8, 4, 2, 1), 17), ((2, 1), 5), ((2, 2, 4, 2), 33)):
        chunks = [(4, 2, 1) if ratio > 1 else () for ratio in sr_ratios]
        stages = [Stage(8, 2, 2, ratio, 1, chunk) for ratio, chunk in zip(sr_ratios, chunks, strict=True)]
        model = BUILDS["sgformer"](stages=stages)
        assert model.min_image_size == least
        model.min_image_size = 1
        for size in (least, least - 1):
            model.zero_grad()
            model(inputs(model, H=size, W=size)).square().sum().backward()
            merging = {n: p.grad for n, p in model.named_parameters() if ".attn.f" in n}
            idle = [name for name, grad in merging.items() if grad is None or not grad.any()]
            assert bool(idle) == (size < least), (sr_ratios, size)
    smallest = BUILDS["sgformer"](stages=[Stage(8, 2, 2, 1, 1)])
    assert smallest(inputs(smallest, H=1, W=1)).isfinite().all()
