"""Outputs and gradients beside the libraries that have the same networks, with random weights."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import timm
import torch
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from torch import Tensor, nn
from torchvision.models import video as torchvision_video
from torchvision.models.video.mvit import MSBlockConfig
from torchvision.models.video.mvit import MViT as TorchvisionMViT

from mvrec.models import Backbone, MViT, create_model, load_weights
from mvrec.models.checkpoints.layouts import recognise

with warnings.catch_warnings():  # it compiles functions for torch.jit, which torch has deprecated
    warnings.simplefilter("ignore", FutureWarning)
    from pytorchvideo.models.hub import mvit_base_16, mvit_base_16x4, mvit_base_32x3
    from pytorchvideo.models.vision_transformers import create_multiscale_vision_transformers

FRAMES, PIXELS = 4, 64
STARTS = {1: 2, 3: 2}
V1: dict[str, Any] = {
    "num_classes": 7,
    "num_frames": FRAMES,
    "image_size": PIXELS,
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
V2_IMAGE: dict[str, Any] = V2 | {"num_frames": None, "pool_kernel": (1, 3, 3), "cls_token": False}


def torchvision_small(*, v2: bool) -> nn.Module:
    plan = zip(
        (1, 2, 2, 4, 4),
        [16, 16, 32, 32, 64] if v2 else [16, 32, 32, 64, 64],
        [16, 32, 32, 64, 64] if v2 else [32, 32, 64, 64, 64],
        (1, 2, 1, 2, 1),
        (4, 2, 2, 1, 1),
        strict=True,
    )
    blocks = [
        MSBlockConfig(
            num_heads=heads,
            input_channels=width_in,
            output_channels=width_out,
            kernel_q=[3, 3, 3] if v2 or q_stride > 1 else [],
            kernel_kv=[3, 3, 3],
            stride_q=[1, q_stride, q_stride] if v2 or q_stride > 1 else [],
            stride_kv=[1, kv_stride, kv_stride],
        )
        for heads, width_in, width_out, q_stride, kv_stride in plan
    ]
    return TorchvisionMViT(
        spatial_size=(PIXELS, PIXELS),
        temporal_size=FRAMES,
        block_setting=blocks,
        residual_pool=v2,
        residual_with_cls_embed=False,
        rel_pos_embed=v2,
        proj_after_attn=v2,
        num_classes=7,
    )


def with_slowfast_epsilon(model: nn.Module) -> nn.Module:
    """The released package pools with torch's own epsilon, its later source and SlowFast with 1e-6."""
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm) and ".norm_" in name:
            module.eps = 1e-6
    return model


def pytorchvideo_small() -> nn.Module:
    model = create_multiscale_vision_transformers(
        spatial_size=PIXELS,
        temporal_size=FRAMES,
        depth=5,
        patch_embed_dim=16,
        conv_patch_embed_kernel=(3, 7, 7),
        conv_patch_embed_stride=(2, 4, 4),
        conv_patch_embed_padding=(1, 3, 3),
        embed_dim_mul=[[1, 2.0], [3, 2.0]],
        atten_head_mul=[[1, 2.0], [3, 2.0]],
        pool_q_stride_size=[[1, 1, 2, 2], [3, 1, 2, 2]],
        pool_kv_stride_adaptive=[1, 4, 4],
        pool_kvq_kernel=[3, 3, 3],
        head_num_classes=7,
        dropout_rate_block=0.0,
        droppath_rate_block=0.0,
    )
    return with_slowfast_epsilon(model)


def timm_small(*, expand_attn: bool) -> nn.Module:
    return MultiScaleVit(
        MultiScaleVitCfg(
            depths=(1, 2, 2),
            embed_dim=16,
            num_heads=1,
            stride_q=((1, 1), (2, 2), (2, 2)),
            stride_kv_adaptive=(4, 4),
            expand_attn=expand_attn,
        ),
        img_size=PIXELS,
        num_classes=7,
    )


Pair = tuple[Callable[[], nn.Module], Callable[[], Backbone]]
SMALL: dict[str, Pair] = {
    "torchvision v1": (lambda: torchvision_small(v2=False), lambda: MViT(**V1)),
    "torchvision v2": (lambda: torchvision_small(v2=True), lambda: MViT(**V2)),
    "pytorchvideo": (pytorchvideo_small, lambda: MViT(**V1)),
    "timm": (lambda: timm_small(expand_attn=True), lambda: MViT(**V2_IMAGE)),
    "timm, widening in the MLP": (
        lambda: timm_small(expand_attn=False),
        lambda: MViT(**(V2_IMAGE | {"dim_change": "mlp"})),
    ),
    "timm mvitv2_tiny": (
        lambda: timm.create_model("mvitv2_tiny", img_size=64),
        lambda: create_model("mvit_v2_t", image_size=64),
    ),
}
FULL: dict[str, Pair] = {
    "torchvision mvit_v1_b": (torchvision_video.mvit_v1_b, lambda: create_model("mvit_b_16x4")),
    "torchvision mvit_v2_s": (torchvision_video.mvit_v2_s, lambda: create_model("mvit_v2_s_16x4")),
    "pytorchvideo mvit_base_16x4": (
        lambda: with_slowfast_epsilon(mvit_base_16x4()),
        lambda: create_model("mvit_b_16x4"),
    ),
    "pytorchvideo mvit_base_32x3": (
        lambda: with_slowfast_epsilon(mvit_base_32x3()),
        lambda: create_model("mvit_b_32x3"),
    ),
    "timm mvitv2_small": (lambda: timm.create_model("mvitv2_small"), lambda: create_model("mvit_v2_s")),
    "timm mvitv2_base": (lambda: timm.create_model("mvitv2_base"), lambda: create_model("mvit_v2_b")),
    "timm mvitv2_large": (lambda: timm.create_model("mvitv2_large"), lambda: create_model("mvit_v2_l")),
}


def stirred(model: nn.Module) -> nn.Module:
    """Every parameter moved by an amount that follows its shape: at initialisation too much is zero or uniform."""
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.1 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
            parameter.add_(torch.randn_like(parameter), alpha=spread)
    return model


def our_gradients(peer: nn.Module, ours: Iterable[str]) -> dict[str, Tensor]:
    """The peer's gradients under our names: they are renamed and joined as the weights are."""
    gradients = {name: p.grad for name, p in peer.named_parameters() if p.grad is not None}
    found = recognise(gradients, source="gradients").tensors
    assert found.keys() == set(ours)
    return found


def check(
    pair: Pair, *, dtype: torch.dtype, rtol: float, atol: float, samples: int = 2, max_pooling: bool = False
) -> None:
    """Outputs and gradients are close.

    In float32 rounding decides which of two nearly equal tokens a max pooling takes, and so which of them gets the
    gradient. With `max_pooling` gradients may differ so, by some hundredths of their norm.
    """
    torch.manual_seed(0)
    peer, model = (build().to(dtype).eval() for build in pair)
    stirred(peer)
    report = load_weights(model, peer.state_dict())
    assert report.complete
    assert not report.interpolated
    x = torch.randn(samples, *model.input_shape, dtype=dtype)
    got, want = model(x), peer(x)
    torch.testing.assert_close(got, want, rtol=rtol, atol=atol)

    got.square().sum().backward()
    want.square().sum().backward()
    found = our_gradients(peer, dict(model.named_parameters()))
    for name, parameter in model.named_parameters():
        if dtype == torch.float32 and name.endswith("norm_k.bias"):
            continue  # softmax does not see a shift of all keys: in float32 both are rounding noise
        theirs = found[name].reshape(parameter.shape)
        assert parameter.grad is not None
        if max_pooling:
            off, norm = (parameter.grad - theirs).norm(), theirs.norm()
            assert off <= 0.03 * norm, f"{name}: the gradient, of norm {norm:.3g}, is off by {off:.3g}"
        else:
            limit = atol + rtol * theirs.abs().max().item()
            torch.testing.assert_close(parameter.grad, theirs, rtol=0, atol=limit, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", SMALL)
def test_outputs_and_gradients_match(name: str) -> None:
    check(SMALL[name], dtype=torch.float64, rtol=1e-7, atol=1e-9)


def test_the_image_network_of_pytorchvideo_keeps_time_apart() -> None:
    """Its positions are a table of places and one of a single time; here they are one table."""
    torch.manual_seed(0)
    peer = with_slowfast_epsilon(stirred(mvit_base_16(head_num_classes=1000, spatial_size=64))).double().eval()
    model = create_model("mvit_b_image", weights=peer.state_dict()).double()
    load_weights(model, peer.state_dict())
    assert model.input_shape == (3, 64, 64)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(model.eval()(x), peer(x), rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_outputs_and_gradients_match_at_full_size(name: str) -> None:
    check(FULL[name], dtype=torch.float64, rtol=1e-6, atol=1e-9, samples=1)
    check(FULL[name], dtype=torch.float32, rtol=2e-3, atol=2e-4, samples=1, max_pooling=True)
