"""Outputs and gradients next to the libraries that have the same networks, with random weights."""

import warnings
from collections.abc import Callable

import pytest
import timm
import torch
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from torch import nn
from torchvision.models import video as torchvision_video
from zoo_builds import IMAGE, MVIT_V1, MVIT_V2

from mvrec.models import MViT, accelerate, create_model, load_weights
from mvrec.models.checkpoints.layouts import recognise

with warnings.catch_warnings():  # it compiles functions for torch.jit, which torch has deprecated
    warnings.simplefilter("ignore", FutureWarning)
    from pytorchvideo.models.hub import mvit_base_16, mvit_base_16x4, mvit_base_32x3

PIXELS = 64


def with_slowfast_epsilon(model: nn.Module) -> nn.Module:
    """The released package pools with torch's own epsilon, its later source and SlowFast with 1e-6."""
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm) and ".norm_" in name:
            module.eps = 1e-6
    return model


def timm_widening_in_the_mlp() -> nn.Module:
    """Unlike the released ones, and small."""
    strides = {"stride_q": ((1, 1), (2, 2), (2, 2)), "stride_kv_adaptive": (4, 4)}
    plan = MultiScaleVitCfg(depths=(1, 2, 2), embed_dim=16, num_heads=1, expand_attn=False, **strides)
    return MultiScaleVit(plan, img_size=PIXELS, num_classes=5)


FULL: dict[str, tuple[Callable[[], nn.Module], ...]] = {
    "mvit_b_16x4": (torchvision_video.mvit_v1_b, lambda: with_slowfast_epsilon(mvit_base_16x4())),
    "mvit_b_32x3": (lambda: with_slowfast_epsilon(mvit_base_32x3()),),
    "mvit_v2_s_16x4": (torchvision_video.mvit_v2_s,),
    "mvit_v2_s": (lambda: timm.create_model("mvitv2_small"),),
    "mvit_v2_b": (lambda: timm.create_model("mvitv2_base"),),
    "mvit_v2_l": (lambda: timm.create_model("mvitv2_large"),),
}


def stirred(model: nn.Module) -> nn.Module:
    """Every parameter moved by an amount that follows its shape: at initialisation too much is zero or uniform."""
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.1 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
            parameter.add_(torch.randn_like(parameter), alpha=spread)
    return model


def check(build_peer: Callable[[], nn.Module], build_ours: Callable[[], nn.Module], *, rtol: float = 1e-7) -> None:
    """Outputs and gradients are close; gradients are renamed and joined as the weights are."""
    torch.manual_seed(0)
    peer, model = (build().double().eval() for build in (build_peer, build_ours))
    stirred(peer)
    report = load_weights(model, peer.state_dict())
    assert report.complete
    assert not report.interpolated
    x = torch.randn(1, *model.input_shape, dtype=torch.float64)
    logits, expected = model(x), peer(x)
    torch.testing.assert_close(logits, expected, rtol=rtol, atol=1e-9)

    logits.square().sum().backward()
    expected.square().sum().backward()
    gradients = {name: p.grad for name, p in peer.named_parameters() if p.grad is not None}
    gradients = recognise(gradients, source="gradients").tensors
    assert gradients.keys() == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        reference = gradients[name].reshape(parameter.shape)
        limit = 1e-9 + rtol * reference.abs().max().item()
        torch.testing.assert_close(parameter.grad, reference, rtol=0, atol=limit, msg=lambda m, n=name: f"{n}: {m}")


def test_small_image_network_that_widens_in_the_mlp_is_timms() -> None:
    knobs = IMAGE | {"image_size": PIXELS, "cls_token": False, "dim_change": "mlp"}
    check(timm_widening_in_the_mlp, lambda: accelerate(MViT(**(MVIT_V2 | knobs))))


def test_image_network_of_pytorchvideo_loads_though_its_times_are_a_table() -> None:
    """Its positions are a table of places and one of a single time; here they are one table."""
    starts, strides = [[1, 2.0], [3, 2.0]], [[1, 1, 2, 2], [3, 1, 2, 2]]
    sizes = {"spatial_size": PIXELS, "depth": 5, "patch_embed_dim": 16, "head_num_classes": 5}
    plan = {"embed_dim_mul": starts, "atten_head_mul": starts, "pool_q_stride_size": strides}
    peer = mvit_base_16(**sizes, **plan, pool_kv_stride_adaptive=[1, 4, 4])
    peer = with_slowfast_epsilon(stirred(peer)).double().eval()
    model = MViT(**MVIT_V1 | IMAGE | {"image_size": PIXELS, "pos_embed": "joint"}).double().eval()
    assert load_weights(model, peer.state_dict()).complete
    x = torch.randn(2, 3, PIXELS, PIXELS, dtype=torch.float64)
    torch.testing.assert_close(model(x), peer(x), rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_outputs_and_gradients_at_full_size_are_those_of_the_library(name: str) -> None:
    for peer in FULL[name]:
        check(peer, lambda: create_model(name), rtol=1e-6)
