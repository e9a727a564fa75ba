from typing import Any

import pytest
import torch
from golden_support import run_with_features
from jsonargparse import ArgumentParser
from torch import Tensor

from mvrec.models import MViT
from mvrec.models.backbone import Backbone, FeatureInfo
from mvrec.models.mvit import resized_positions

STARTS = {1: 2, 3: 2}
V1: dict[str, Any] = {
    "num_classes": 5,
    "embed_dim": 16,
    "depth": 5,
    "dim_mults": STARTS,
    "head_mults": STARTS,
    "q_strides": STARTS,
    "kv_stride": 4,
}
V2: dict[str, Any] = V1 | {
    "pool_every_q": True,
    "dim_change": "attention",
    "pos_embed": "none",
    "rel_pos": True,
    "residual_pooling": True,
}
VIDEO: dict[str, Any] = {"num_frames": 4, "image_size": 32}
IMAGE: dict[str, Any] = {"num_frames": None, "image_size": 32, "pool_kernel": (1, 3, 3)}
KINDS: dict[str, dict[str, Any]] = {
    "v1_video": V1 | VIDEO,
    "v1_image": V1 | IMAGE | {"pos_embed": "joint"},
    "v2_video": V2 | VIDEO,
    "v2_image": V2 | IMAGE | {"cls_token": False},
}
kinds = pytest.mark.parametrize("kind", KINDS)


def tiny(kind: str, **changes: Any) -> MViT:
    torch.manual_seed(0)
    return MViT(**(KINDS[kind] | changes))


def lively(model: MViT) -> MViT:
    """Weights of ordinary size: at initialisation the attention is almost uniform and hides mistakes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model


def batch(model: MViT, size: int = 2, **axes: int) -> Tensor:
    shape = dict(zip("CTHW" if len(model.input_shape) == 4 else "CHW", model.input_shape, strict=True)) | axes
    return torch.randn(size, *shape.values(), generator=torch.Generator().manual_seed(2))


@kinds
def test_honours_the_contract(kind: str) -> None:
    model = tiny(kind)
    x = batch(model)
    assert isinstance(model, Backbone)
    features, logits = model.forward_features(x), model(x)
    assert features.shape == (2, model.num_features) == (2, 64)
    assert logits.shape == (2, model.num_classes) == (2, 5)
    assert logits.isfinite().all()
    torch.testing.assert_close(model.head(features), logits)


@kinds
def test_logits_are_raw_in_evaluation_too(kind: str) -> None:
    model = lively(tiny(kind))
    x = batch(model)
    trained, evaluated = model.train()(x), model.eval()(x)
    torch.testing.assert_close(trained, evaluated)
    assert (evaluated < 0).any()


@kinds
def test_every_parameter_learns(kind: str) -> None:
    model = lively(tiny(kind))
    model(batch(model)).square().sum().backward()
    # Only the class token of the last block reaches the head; its query is neither pooled nor placed.
    inert = {f"blocks.4.attn.{n}" for n in ("rel_pos_t", "rel_pos_h", "rel_pos_w", "pool_q.weight")}
    inert = inert if kind == "v2_video" else set()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert bool(parameter.grad.any()) == (name not in inert), name


@kinds
def test_samples_do_not_see_each_other(kind: str) -> None:
    model = lively(tiny(kind)).eval()
    x = batch(model, 3)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]))


@kinds
def test_reset_head_starts_like_a_new_network(kind: str) -> None:
    model = tiny(kind, head_dropout=0.25).to(torch.float64).eval()
    model.reset_head(9)
    assert model.num_classes == 9
    assert model.head.projection.weight.dtype == torch.float64
    assert model.head.projection.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert not model.head.projection.bias.any()
    assert model.head.dropout.p == 0.25
    assert not model.head.training
    x = batch(model).double()
    assert model(x).shape == (2, 9)

    model.reset_head(0)
    torch.testing.assert_close(model(x), model.forward_features(x))
    with pytest.raises(ValueError, match="got -1"):
        model.reset_head(-1)


@kinds
def test_can_be_built_without_a_head(kind: str) -> None:
    model = tiny(kind, num_classes=0)
    assert model(batch(model)).shape == (2, model.num_features)


@kinds
def test_feature_maps_follow_feature_info(kind: str) -> None:
    model = tiny(kind).eval()
    widths = (32, 64, 64) if kind.startswith("v1") else (16, 32, 64)
    assert list(model.feature_info) == [FeatureInfo(c, s) for c, s in zip(widths, (4, 8, 16), strict=True)]
    x = batch(model, H=48, W=64)
    maps = model.feature_maps(x)
    frames = [2] if kind.endswith("video") else []
    assert [list(m.shape) for m in maps] == [
        [2, info.channels, *frames, 48 // info.stride, 64 // info.stride] for info in model.feature_info
    ]


def test_last_feature_map_is_what_the_head_sees() -> None:
    model = lively(tiny("v2_image")).eval()
    x = batch(model)
    torch.testing.assert_close(model.feature_maps(x)[-1].mean((2, 3)), model.forward_features(x))


@kinds
def test_feature_maps_are_the_tokens_in_their_places(kind: str) -> None:
    model = lively(tiny(kind))
    x = batch(model, W=64)
    _, features = run_with_features(model, x, ["blocks.0", "norm"])
    for level, tokens in ((0, features["blocks.0"]), (-1, features["norm"])):
        fmap = model.feature_maps(x)[level]
        fmap = fmap if kind.endswith("video") else fmap.unsqueeze(2)
        _, _, frames, height, width = fmap.shape
        assert width == 2 * height
        t, h, w = frames - 1, 1, 2
        place = (kind != "v2_image") + (t * height + h) * width + w
        torch.testing.assert_close(fmap[:, :, t, h, w], tokens[:, place])


@kinds
def test_checkpointing_changes_no_gradient(kind: str) -> None:
    model = lively(tiny(kind, drop_path_rate=0.3))
    x = batch(model, 4)
    gradients = []
    for on in (False, True):
        model.set_activation_checkpointing(on)
        model.zero_grad()
        torch.manual_seed(3)
        model(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_checkpointing_keeps_fewer_activations() -> None:
    model = tiny("v1_video")
    saved = []
    for on in (False, True):
        model.set_activation_checkpointing(on)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            model(batch(model))
        saved.append(sum(sizes))
    assert saved[1] < saved[0] / 2


@kinds
@pytest.mark.parametrize(("h", "w"), [(32, 48), (80, 16), (37, 51), (64, 64)])
def test_takes_any_size(kind: str, h: int, w: int) -> None:
    model = lively(tiny(kind))
    x = batch(model, H=h, W=w)
    logits = model(x)
    logits.sum().backward()
    assert logits.isfinite().all()
    assert [m.shape[-2:] for m in model.feature_maps(x)] == [
        (-(-h // info.stride), -(-w // info.stride)) for info in model.feature_info
    ]


@pytest.mark.parametrize("kind", ["v1_video", "v2_video"])
@pytest.mark.parametrize("frames", [1, 3, 8])
def test_takes_any_number_of_frames(kind: str, frames: int) -> None:
    model = lively(tiny(kind))
    x = batch(model, T=frames)
    assert model(x).isfinite().all()
    assert model.feature_maps(x)[0].shape[2] == -(-frames // 2)


@pytest.mark.parametrize("kind", ["v1_video", "v2_video"])
def test_can_be_built_for_one_frame_and_a_rectangle(kind: str) -> None:
    model = tiny(kind, num_frames=1, image_size=(32, 64))
    assert model.input_shape == (3, 1, 32, 64)
    assert model(batch(model)).isfinite().all()


@pytest.mark.parametrize("pooling", ["max", "avg"])
@kinds
def test_pools_without_weights(kind: str, pooling: str) -> None:
    model = tiny(kind, pooling=pooling)
    model(batch(model, H=16)).sum().backward()
    assert not any(".pool_" in key or ".norm_" in key for key in model.state_dict())


@pytest.mark.parametrize("pos_embed", ["joint", "separate", "none"])
@pytest.mark.parametrize("cls_token", [True, False])
@pytest.mark.parametrize("kind", ["v1_video", "v1_image"])
def test_positions_and_class_token_combine(kind: str, pos_embed: str, cls_token: bool) -> None:
    model = tiny(kind, pos_embed=pos_embed, cls_token=cls_token)
    assert ("pos_embed_class" in model.state_dict()) == (pos_embed == "separate" and cls_token)
    t = 2 if kind == "v1_video" else 1
    if pos_embed == "joint":
        assert model.pos_embed.shape == (1, t * 64 + cls_token, 16)
    assert model(batch(model)).shape == (2, 5)
    assert model(batch(model, H=48)).shape == (2, 5)


@kinds
def test_names_are_those_of_the_release(kind: str) -> None:
    keys = set(tiny(kind).state_dict())
    has = {
        "v1_video": {"cls_token", "pos_embed_spatial", "pos_embed_temporal", "pos_embed_class"},
        "v1_image": {"cls_token", "pos_embed"},
        "v2_video": {"cls_token", *(f"blocks.0.attn.rel_pos_{a}" for a in "thw")},
        "v2_image": {f"blocks.0.attn.rel_pos_{a}" for a in "hw"},
    }
    optional = set().union(*has.values())
    assert keys & optional == has[kind]
    assert {"patch_embed.proj.weight", "blocks.0.attn.qkv.bias", "blocks.3.mlp.fc2.weight"} <= keys
    assert {"norm.weight", "head.projection.weight", "blocks.1.attn.norm_k.bias"} <= keys
    assert ("blocks.0.proj.weight" in keys) == kind.startswith("v1")
    assert ("blocks.1.proj.weight" in keys) == kind.startswith("v2")


@kinds
def test_layer_groups_walk_from_stem_to_head(kind: str) -> None:
    model = tiny(kind)
    groups = model.layer_groups()
    assert len(groups) == 1 + 5 + 1
    assert sorted(name for group in groups for name in group) == sorted(name for name, _ in model.named_parameters())
    assert "patch_embed.proj.weight" in groups[0]
    assert ("cls_token" in groups[0]) == (kind != "v2_image")
    assert all(name.startswith("blocks.1.") for name in groups[2])
    assert {"norm.weight", "head.projection.bias"} <= set(groups[-1])
    model.reset_head(0)
    assert groups[-1][:2] == model.layer_groups()[-1] == ["norm.weight", "norm.bias"]


@kinds
def test_norms_and_biases_are_not_decayed_but_positions_are(kind: str) -> None:
    model = tiny(kind)
    exempt = model.no_weight_decay()
    shapes = {name: p.ndim for name, p in model.named_parameters()}
    assert exempt == {name for name, ndim in shapes.items() if ndim == 1}
    assert {"norm.weight", "patch_embed.proj.bias"} <= exempt


@kinds
def test_bf16_autocast_is_finite_and_close(kind: str) -> None:
    model = lively(tiny(kind)).eval()
    x = batch(model)
    reference = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x)
    assert logits.isfinite().all()
    assert (logits - reference).abs().max() < 0.1 * reference.std()


@kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_runs_in_another_precision(kind: str, dtype: torch.dtype) -> None:
    model = tiny(kind).to(dtype)
    assert model(batch(model, H=48).to(dtype)).dtype == dtype


@kinds
def test_compiles_as_one_graph(kind: str) -> None:
    torch._dynamo.reset()
    model = lively(tiny(kind, drop_path_rate=0.2, head_dropout=0.5))
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)
    compiled(batch(model)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    x = batch(model, H=48)
    torch.testing.assert_close(compiled(x), model(x))


def test_forward_keeps_nothing_on_the_module() -> None:
    model = tiny("v2_video").eval()
    x = batch(model)
    before = {name: set(vars(m)) for name, m in model.named_modules()}
    first = model(x)
    model(batch(model, T=8, H=64))
    assert before == {name: set(vars(m)) for name, m in model.named_modules()}
    torch.testing.assert_close(model(x), first, rtol=0, atol=0)


def test_drop_path_rises_linearly_from_zero() -> None:
    model = tiny("v1_video", drop_path_rate=0.4)
    assert [b.drop_path.p for b in model.blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert tiny("v1_video", depth=1, dim_mults=None, head_mults=None, q_strides=None).num_features == 16


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("v1_video", (2, 3, 32, 32), r"expected \(B, C, T, H, W\) .* got shape \('B', 3, 32, 32\)"),
        ("v1_image", (2, 3, 4, 32, 32), r"expected \(B, C, H, W\) .* got shape \('B', 3, 4, 32, 32\)"),
        ("v2_video", (2, 1, 4, 32, 32), r"with C=3 .* got shape \('B', 1, 4, 32, 32\)"),
        ("v2_video", (2, 3, 0, 32, 32), r"got shape \('B', 3, 0, 32, 32\)"),
        ("v2_image", (2, 3, 32, 15), r"H, W of 16 or more, got shape \('B', 3, 32, 15\)"),
    ],
)
def test_wrong_input_is_one_clear_error(kind: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(kind)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("v1_video", {"image_size": 8}, r"got shape \('B', 3, 4, 8, 8\)"),
        ("v1_video", {"num_frames": 0}, r"got shape \('B', 3, 0, 32, 32\)"),
        ("v1_video", {"num_classes": -1}, "num_classes must be 0 or more, got -1"),
        ("v1_video", {"drop_path_rate": 1.0}, r"drop_path_rate must lie in \[0, 1\), got 1.0"),
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
