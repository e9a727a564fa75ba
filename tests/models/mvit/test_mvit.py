from typing import Any

import pytest
import torch
from golden_support import run_with_features
from jsonargparse import ArgumentParser
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
def test_new_head_starts_like_the_first(kind: str) -> None:
    model = tiny(kind, head_dropout=0.25)
    model.reset_head(9)
    assert model.head.projection.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert not model.head.projection.bias.any()
    assert model.head.dropout.p == 0.25


@kinds
def test_width_grows_before_a_stage_in_v1_and_with_it_in_v2(kind: str) -> None:
    widths = (32, 64, 64) if kind.startswith("v1") else (16, 32, 64)
    assert [info.channels for info in tiny(kind).feature_info] == list(widths)


@kinds
def test_feature_maps_are_the_tokens_in_their_places(kind: str) -> None:
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


@pytest.mark.parametrize("pooling", ["max", "avg"])
@kinds
def test_pooling_without_weights_has_none(kind: str, pooling: str) -> None:
    assert not any(".pool_" in key or ".norm_" in key for key in tiny(kind, pooling=pooling).state_dict())


def test_one_block_is_a_network() -> None:
    assert tiny("v1_video", depth=1, dim_mults=None, head_mults=None, q_strides=None).num_features == 16


@pytest.mark.parametrize("pos_embed", ["joint", "separate", "none"])
@pytest.mark.parametrize("cls_token", [True, False])
@pytest.mark.parametrize("kind", ["v1_video", "v1_image"])
def test_positions_and_class_token_combine(kind: str, pos_embed: str, cls_token: bool) -> None:
    model = tiny(kind, pos_embed=pos_embed, cls_token=cls_token)
    assert ("pos_embed_class" in model.state_dict()) == (pos_embed == "separate" and cls_token)
    t = 2 if kind == "v1_video" else 1
    if pos_embed == "joint":
        assert model.pos_embed.shape == (1, t * 64 + cls_token, 16)
    assert model(inputs(model)).shape == (2, 5)
    assert model(inputs(model, H=48)).shape == (2, 5)


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
def test_wrong_arguments_are_named(kind: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(kind, **changes)


def test_positions_of_the_same_size_are_untouched() -> None:
    positions = torch.randn(1, 2 * 3 * 4, 5)
    assert resized_positions(positions, (2, 3, 4), (2, 3, 4)) is positions


@pytest.mark.parametrize("new_size", [(2, 6, 8), (5, 3, 4), (1, 5, 2)])
def test_positions_that_ramp_keep_ramping(new_size: tuple[int, int, int]) -> None:
    """A value that depends on one axis alone still does after interpolation, and in the same order."""
    t, h, w = 2, 3, 4
    grids = torch.meshgrid(torch.arange(t), torch.arange(h), torch.arange(w), indexing="ij")
    ramps = torch.stack(grids, -1).float().flatten(0, 2)[None]  # (1, t*h*w, 3)
    resized = resized_positions(ramps, (t, h, w), new_size).unflatten(1, new_size)[0]
    for axis in range(3):
        line = resized[..., axis].movedim(axis, 0).flatten(1)
        torch.testing.assert_close(line, line[:, :1].expand_as(line))
        assert (line.diff(dim=0) > 0).all()


def test_every_argument_can_come_from_yaml() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(MViT, "model")
    config = parser.parse_string(
        "model: {num_frames: 4, image_size: [32, 48], embed_dim: 16, depth: 3, kv_stride: 2,"
        " pool_kernel: null, dim_mults: {1: 2}, head_mults: {1: 2}, q_strides: {1: 2},"
        " unpooled_kv_blocks: [2], dim_change: attention}"
    )
    model = parser.instantiate(config).model
    assert model.input_shape == (3, 4, 32, 48)
    assert model.num_features == 32
    assert model.blocks[2].attn.pool_k is None
