"""Parity with torchvision's MViT at a small size, gradients included."""

from typing import Any

import pytest
import torch
from torchvision.models.video.mvit import MSBlockConfig
from torchvision.models.video.mvit import MViT as TorchvisionMViT

from mvrec.models import MViT

FRAMES, PIXELS = 4, 64
STARTS = {1: 2, 3: 2}
V1: dict[str, Any] = {}
V2: dict[str, Any] = {
    "pool_every_q": True,
    "dim_change": "attention",
    "pos_embed": "none",
    "rel_pos": True,
    "residual_pooling": True,
}


def ours(**changes: Any) -> MViT:
    return MViT(
        num_classes=7,
        num_frames=FRAMES,
        image_size=PIXELS,
        embed_dim=16,
        depth=5,
        dim_mults=STARTS,
        head_mults=STARTS,
        q_strides=STARTS,
        kv_stride=4,
        **changes,
    )


def theirs(is_v2: bool) -> TorchvisionMViT:
    widths_in = [16, 16, 32, 32, 64] if is_v2 else [16, 32, 32, 64, 64]
    widths_out = [16, 32, 32, 64, 64] if is_v2 else [32, 32, 64, 64, 64]
    q_strides = [1, 2, 1, 2, 1]
    blocks = [
        MSBlockConfig(
            num_heads=heads,
            input_channels=width_in,
            output_channels=width_out,
            kernel_q=[3, 3, 3] if is_v2 or q_stride > 1 else [],
            kernel_kv=[3, 3, 3],
            stride_q=[1, q_stride, q_stride] if is_v2 or q_stride > 1 else [],
            stride_kv=[1, kv_stride, kv_stride],
        )
        for heads, width_in, width_out, q_stride, kv_stride in zip(
            (1, 2, 2, 4, 4), widths_in, widths_out, q_strides, (4, 2, 2, 1, 1), strict=True
        )
    ]
    return TorchvisionMViT(
        spatial_size=(PIXELS, PIXELS),
        temporal_size=FRAMES,
        block_setting=blocks,
        residual_pool=is_v2,
        residual_with_cls_embed=False,
        rel_pos_embed=is_v2,
        proj_after_attn=is_v2,
        num_classes=7,
    )


RENAMES = [
    ("conv_proj.", "patch_embed.proj."),
    ("pos_encoding.class_token", "cls_token"),
    ("pos_encoding.spatial_pos", "pos_embed_spatial"),
    ("pos_encoding.temporal_pos", "pos_embed_temporal"),
    ("pos_encoding.class_pos", "pos_embed_class"),
    (".attn.project.0.", ".attn.proj."),
    *((f".attn.pool_{n}.pool.", f".attn.pool_{n}.") for n in "qkv"),
    *((f".attn.pool_{n}.norm_act.0.", f".attn.norm_{n}.") for n in "qkv"),
    (".mlp.0.", ".mlp.fc1."),
    (".mlp.3.", ".mlp.fc2."),
    (".project.", ".proj."),
    ("head.1.", "head.projection."),
]


def our_name(name: str) -> str:
    for old, new in RENAMES:
        name = name.replace(old, new)
    return name


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_outputs_and_gradients_match_torchvision(version: str) -> None:
    torch.manual_seed(0)
    mine = ours(**(V2 if version == "v2" else V1)).double().eval()
    other = theirs(version == "v2").double().eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    shapes = {name: p.shape for name, p in mine.state_dict().items()}
    state = {our_name(name): p for name, p in other.state_dict().items()}
    mine.load_state_dict({name: p.reshape(shapes[name]) for name, p in state.items()})

    x = torch.randn(2, 3, FRAMES, PIXELS, PIXELS, dtype=torch.float64)
    got, want = mine(x), other(x)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)

    got.square().sum().backward()
    want.square().sum().backward()
    gradients = {name: p.grad for name, p in mine.named_parameters()}
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(
            gradients[our_name(name)].reshape(parameter.shape), parameter.grad, rtol=1e-6, atol=1e-9, msg=name
        )
