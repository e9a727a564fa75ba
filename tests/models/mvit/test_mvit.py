import itertools
from typing import Any

import pytest
import torch
from golden_support import run_with_features
from zoo_builds import BUILDS, inputs, lively

from mvrec.models import MViT
from mvrec.models.layers import resized_positions

KINDS = ("v1_video", "v1_image", "v2_video", "v2_image")
kinds = pytest.mark.parametrize("kind", KINDS)


def tiny(kind: str, **changes: Any) -> MViT:
    model = BUILDS[f"mvit_{kind}"](**changes)
    assert isinstance(model, MViT)
    return model


@kinds
def test_new_head_starts_like_the_first_and_widths_and_poolings_are_the_versions(kind: str) -> None:
    model = tiny(kind, head_dropout=0.25)
    model.reset_head(9)
    assert model.head.projection.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert not model.head.projection.bias.any()
    assert model.head.dropout.p == 0.25
    # v1 widens before a stage, v2 with it.
    assert [info.channels for info in model.feature_info] == ([32, 64, 64] if kind.startswith("v1") else [16, 32, 64])
    for pooling in ("max", "avg"):
        assert not any(".pool_" in key or ".norm_" in key for key in tiny(kind, pooling=pooling).state_dict())


@kinds
def test_feature_maps_hold_every_token_in_its_place(kind: str) -> None:
    model = lively(tiny(kind))
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


def test_network_of_one_block_is_built() -> None:
    assert tiny("v1_video", depth=1, dim_mults=None, head_mults=None, q_strides=None).num_features == 16


@pytest.mark.parametrize("kind", ["v1_video", "v1_image"])
def test_every_kind_of_positions_works_with_and_without_a_class_token(kind: str) -> None:
    for pos_embed, cls_token in itertools.product(("joint", "separate", "none"), (True, False)):
        model = tiny(kind, pos_embed=pos_embed, cls_token=cls_token)
        assert ("pos_embed_class" in model.state_dict()) == (pos_embed == "separate" and cls_token)
        if pos_embed == "joint":
            assert model.pos_embed.shape == (1, (2 if kind == "v1_video" else 1) * 64 + cls_token, 16)
        assert model(inputs(model)).shape == (2, 5), (pos_embed, cls_token)
        assert model(inputs(model, H=48)).shape == (2, 5), (pos_embed, cls_token)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("v1_video", {"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ("v1_video", {"head_dropout": -0.1}, r"head_dropout must lie in \[0, 1\), got -0.1"),
        ("v1_video", {"pooling": "mean"}, "pooling must be one of .*'avg'.* got 'mean'"),
        ("v1_video", {"pos_embed": "sincos"}, "pos_embed must be one of .* got 'sincos'"),
        ("v1_image", {"pool_kernel": (3, 3, 3)}, r"pool_kernel must start with 1, got \(3, 3, 3\)"),
    ],
)
def test_wrong_argument_is_named(kind: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(kind, **changes)


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
