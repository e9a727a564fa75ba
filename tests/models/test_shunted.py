from typing import Any

import pytest
import torch
from golden_support import run_with_features
from torch import nn
from zoo_builds import BUILDS, inputs, lively

from mvrec.models.backbone import FeatureInfo
from mvrec.models.shunted import Shunted, Stage


def tiny(**changes: Any) -> Shunted:
    model = BUILDS["shunted"](**changes)
    assert isinstance(model, Shunted)
    return model


def test_feature_maps_have_the_sizes_of_feature_info_and_the_last_tokens_in_their_places() -> None:
    model = lively(tiny()).eval()
    assert model.feature_info == tuple(FeatureInfo(c, s) for c, s in zip((16, 32, 48, 64), (4, 8, 16, 32), strict=True))
    for h, w, sizes in (
        (64, 96, [(16, 24), (8, 12), (4, 6), (2, 3)]),
        (96, 32, [(24, 8), (12, 4), (6, 2), (3, 1)]),
        (31, 45, [(8, 11), (4, 6), (2, 3), (1, 2)]),  # the stem drops a broken cell, the stages round up
    ):
        x = inputs(model, H=h, W=w)
        maps = model.feature_maps(x)
        shapes = [(2, channels, *size) for channels, size in zip((16, 32, 48, 64), sizes, strict=True)]
        assert [tuple(level.shape) for level in maps] == shapes
        torch.testing.assert_close(maps[-1].mean((2, 3)), model.forward_features(x))
        _, norms = run_with_features(model, x, ["norm1", "norm4"])
        for level, name in ((0, "norm1"), (-1, "norm4")):
            torch.testing.assert_close(maps[level][1, :, -1, 0], norms[name][1, -1, 0])


def test_pixels_outside_whole_coarse_patches_reach_the_fine_heads_alone() -> None:
    attention = lively(tiny()).block1[0].attn.eval()  # ratio 8: on 12 rows, the last 4 are no coarse patch
    attention.proj = nn.Identity()
    grid = torch.randn(1, 12, 16, 16, generator=torch.Generator().manual_seed(4))
    changed = grid.clone()
    changed[:, 9:] += 1.0
    difference = (attention(changed) - attention(grid))[:, :9].abs().amax((0, 1, 2))  # of untouched queries
    assert not difference[:8].any()
    assert (difference[8:] > 0).all()


def test_layer_groups_go_from_the_stem_to_the_head() -> None:
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
def test_least_image_is_the_smallest_that_has_keys(sr_ratios: tuple[int, ...], least: int) -> None:
    model = tiny(stages=[Stage(dim=8, depth=1, heads=2, sr_ratio=r, mlp_ratio=1) for r in sr_ratios])
    assert model.min_image_size == least
    assert model.eval()(inputs(model, H=least, W=least)).isfinite().all()
    model.min_image_size = 1
    if max(sr_ratios) > 1:
        with pytest.raises(RuntimeError, match="Kernel size"):
            model(inputs(model, H=least - 1, W=least))


def test_wrong_argument_is_named() -> None:
    with pytest.raises(ValueError, match="num_stem_convs must be 0 or more, got -1"):
        tiny(num_stem_convs=-1)
    with pytest.raises(ValueError, match=r"stages must hold one row or more, got \(\)"):
        tiny(stages=())
    row: dict[str, Any] = {"dim": 48, "depth": 1, "heads": 2, "sr_ratio": 2, "mlp_ratio": 2}
    for changes, message in (
        ({"depth": 0}, "must be positive, got .*depth=0"),
        ({"sr_ratio": 3}, "sr_ratio must be 1 or even, got .*sr_ratio=3"),
        ({"sr_ratio": 0}, "sr_ratio must be 1 or even, got .*sr_ratio=0"),
        ({"heads": 5}, "width 48 does not split over 5 heads"),
        ({"heads": 3}, "heads must be even, got .*heads=3"),
    ):
        with pytest.raises(ValueError, match=message):
            Stage(**(row | changes))
