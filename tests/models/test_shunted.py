import pytest
import torch
from torch import nn
from zoo_builds import BUILDS, inputs, lively

from mvrec.models.shunted import Stage


def test_pixels_outside_whole_coarse_patches_reach_the_fine_heads_alone() -> None:
    attention = lively(BUILDS["shunted"]()).block1[0].attn.eval()  # ratio 8: on 12 rows, the last 4 are no coarse patch
    attention.proj = nn.Identity()
    grid = torch.randn(1, 12, 16, 16, generator=torch.Generator().manual_seed(4))
    changed = grid.clone()
    changed[:, 9:] += 1.0
    difference = (attention(changed) - attention(grid))[:, :9].abs().amax((0, 1, 2))  # of untouched queries
    assert not difference[:8].any()
    assert (difference[8:] > 0).all()


def test_least_image_is_the_smallest_that_has_keys() -> None:
    for sr_ratios, least in (((8, 4, 2, 1), 31), ((1, 1), 3), ((2, 4), 27), ((4, 4, 1), 27)):
        stages = [Stage(dim=8, depth=1, heads=2, sr_ratio=r, mlp_ratio=1) for r in sr_ratios]
        model = BUILDS["shunted"](stages=stages).eval()
        assert model.min_image_size == least
        assert model(inputs(model, H=least, W=least)).isfinite().all(), sr_ratios
        model.min_image_size = 1
        if max(sr_ratios) > 1:
            with pytest.raises(RuntimeError, match="Kernel size"):
                model(inputs(model, H=least - 1, W=least))
