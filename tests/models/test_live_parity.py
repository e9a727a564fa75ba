"""Outputs and gradients beside the libraries that have the same networks, with random weights."""

import warnings
from collections.abc import Callable, Iterable

import pytest
import timm
import torch
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from torch import Tensor, nn
from torchvision.models import video as torchvision_video
from zoo_builds import MVIT_V1, MVIT_V2

from mvrec.models import Backbone, MViT, create_model, load_weights
from mvrec.models.checkpoints.layouts import recognise

with warnings.catch_warnings():  # it compiles functions for torch.jit, which torch has deprecated
    warnings.simplefilter("ignore", FutureWarning)
    from pytorchvideo.models.hub import mvit_base_16, mvit_base_16x4, mvit_base_32x3

FRAMES, PIXELS = 4, 64


def with_slowfast_epsilon(model: nn.Module) -> nn.Module:
    """The released package pools with torch's own epsilon, its later source and SlowFast with 1e-6."""
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm) and ".norm_" in name:
            module.eps = 1e-6
    return model


def pytorchvideo_small() -> nn.Module:
    """After the plan of `MVIT_V1`."""
    starts, strides = [[1, 2.0], [3, 2.0]], [[1, 1, 2, 2], [3, 1, 2, 2]]
    sizes = {"spatial_size": PIXELS, "temporal_size": FRAMES, "depth": 5, "patch_embed_dim": 16, "head_num_classes": 5}
    plan = {"embed_dim_mul": starts, "atten_head_mul": starts, "pool_q_stride_size": strides}
    return with_slowfast_epsilon(mvit_base_16x4(**sizes, **plan, pool_kv_stride_adaptive=[1, 4, 4]))


def timm_widening_in_the_mlp() -> nn.Module:
    """Unlike the released ones, and small."""
    strides = {"stride_q": ((1, 1), (2, 2), (2, 2)), "stride_kv_adaptive": (4, 4)}
    plan = MultiScaleVitCfg(depths=(1, 2, 2), embed_dim=16, num_heads=1, expand_attn=False, **strides)
    return MultiScaleVit(plan, img_size=PIXELS, num_classes=5)


IMAGE = {"num_frames": None, "pool_kernel": (1, 3, 3), "cls_token": False, "image_size": PIXELS}
Pair = tuple[Callable[[], nn.Module], Callable[[], Backbone]]
# torchvision's take no other size: they are with the slow tests, and their recorded outputs in test_golden.py.
SMALL: dict[str, Pair] = {
    "pytorchvideo": (pytorchvideo_small, lambda: MViT(**MVIT_V1, num_frames=FRAMES, image_size=PIXELS)),
    "timm, widening in the MLP": (timm_widening_in_the_mlp, lambda: MViT(**(MVIT_V2 | IMAGE | {"dim_change": "mlp"}))),
    "timm mvitv2_tiny": (
        lambda: timm.create_model("mvitv2_tiny", img_size=PIXELS),
        lambda: create_model("mvit_v2_t", image_size=PIXELS),
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
def test_outputs_and_gradients_are_those_of_the_library(name: str) -> None:
    check(SMALL[name], dtype=torch.float64, rtol=1e-7, atol=1e-9)


def test_image_network_of_pytorchvideo_loads_though_its_times_are_a_table() -> None:
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
def test_outputs_and_gradients_at_full_size_are_those_of_the_library(name: str) -> None:
    check(FULL[name], dtype=torch.float64, rtol=1e-6, atol=1e-9, samples=1)
    check(FULL[name], dtype=torch.float32, rtol=2e-3, atol=2e-4, samples=1, max_pooling=True)
