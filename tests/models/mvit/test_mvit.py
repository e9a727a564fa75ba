import itertools

import pytest
import torch
from golden_support import run_with_features
from zoo_builds import BUILDS, inputs, lively, released

from mvrec.models.layers import resized_positions


@pytest.mark.parametrize("kind", ["v1_video", "v1_image", "v2_video", "v2_image"])
def test_feature_maps_hold_every_token_in_its_place(kind: str) -> None:
    model = lively(BUILDS[f"mvit_{kind}"]())
    x = inputs(model, W=64)
    _, features = run_with_features(model, x, ["blocks.0", "norm"])
    for level, tokens in ((0, features["blocks.0"]), (-1, features["norm"])):
        fmap = model.feature_maps(x)[level]
        fmap = fmap if kind.endswith("video") else fmap.unsqueeze(2)
        _, _, frames, height, width = fmap.shape
        assert width == 2 * height
        t, h, w = frames - 1, 1, 2
        place = (kind != "v2_image") + (t * height + h) * width + w
        torch.testing.assert_close(fmap[:, :, t, h, w], tokens[:, place])


def test_plan_pools_by_kernels_and_strides() -> None:
    """The common plans are those of the recordings."""
    without_kernel = [block.attn for block in released("mvit_b24_32x3").blocks]
    kernels = [(1, 9, 9)] * 2 + [(1, 5, 5)] * 3 + [(1, 3, 3)] * 16 + [None] * 3
    assert [attn.kv_kernel for attn in without_kernel] == kernels
    q_kernels = {i: attn.q_kernel for i, attn in enumerate(without_kernel) if attn.q_kernel}
    assert q_kernels == dict.fromkeys((2, 5, 21), (1, 3, 3))

    unpooled = [block.attn for block in BUILDS["mvit_v1_video"](unpooled_kv_blocks=(1,)).blocks]
    assert [attn.kv_kernel is None for attn in unpooled] == [False, True, False, False, False]
    assert [attn.kv_stride for attn in unpooled] == [4, 1, 2, 1, 1]

    one_pixel = [block.attn for block in BUILDS["mvit_v2_video"](pool_kernel=(1, 1, 1), kv_stride=1).blocks]
    assert [i for i, attn in enumerate(one_pixel) if attn.q_kernel] == [1, 3]
    assert all(attn.kv_kernel is None for attn in one_pixel)


def test_network_of_one_block_is_built_and_a_new_head_keeps_its_dropout() -> None:
    model = BUILDS["mvit_v1_video"](depth=1, dim_mults=None, head_mults=None, q_strides=None, head_dropout=0.25)
    model.reset_head(9)
    assert (model.num_features, model.head.dropout.p) == (16, 0.25)


@pytest.mark.parametrize("kind", ["v1_video", "v1_image"])
def test_every_kind_of_positions_works_with_and_without_a_class_token(kind: str) -> None:
    for pos_embed, cls_token in itertools.product(("joint", "separate", "none"), (True, False)):
        model = BUILDS[f"mvit_{kind}"](pos_embed=pos_embed, cls_token=cls_token)
        assert ("pos_embed_class" in model.state_dict()) == (pos_embed == "separate" and cls_token)
        if pos_embed == "joint":
            assert model.pos_embed.shape == (1, (2 if kind == "v1_video" else 1) * 64 + cls_token, 16)
        assert model(inputs(model, H=48)).shape == (2, 5), (pos_embed, cls_token)


def test_positions_that_ramp_keep_ramping_at_another_size() -> None:
    """A value that depends on one axis alone still does after interpolation, and in the same order."""
    t, h, w = 2, 3, 4
    grids = torch.meshgrid(torch.arange(t), torch.arange(h), torch.arange(w), indexing="ij")
    ramps = torch.stack(grids, -1).float().flatten(0, 2)[None]  # (1, t*h*w, 3)
    assert resized_positions(ramps, (t, h, w), (t, h, w)) is ramps
    for size in ((2, 6, 8), (5, 3, 4), (1, 5, 2)):
        resized = resized_positions(ramps, (t, h, w), size).unflatten(1, size)[0]
        for axis in range(3):
            line = resized[..., axis].movedim(axis, 0).flatten(1)
            torch.testing.assert_close(line, line[:, :1].expand_as(line))
            assert (line.diff(dim=0) > 0).all(), (size, axis)
