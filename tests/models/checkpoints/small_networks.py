"""Small networks with lively weights, and their weights under other people's names."""

import re
from typing import Any

import torch
from torch import Tensor

from mvrec.models import MViT
from mvrec.models.backbone import Backbone

STARTS = {1: 2, 3: 2}
V1: dict[str, Any] = {
    "num_classes": 5,
    "num_frames": 4,
    "image_size": 32,
    "embed_dim": 16,
    "depth": 4,
    "dim_mults": STARTS,
    "head_mults": STARTS,
    "q_strides": STARTS,
    "kv_stride": 4,
}
V1_IMAGE = V1 | {"num_frames": None, "pool_kernel": (1, 3, 3), "pos_embed": "joint"}
V2 = V1 | {
    "pool_every_q": True,
    "dim_change": "attention",
    "pos_embed": "none",
    "rel_pos": True,
    "residual_pooling": True,
}
V2_IMAGE = V2 | {"num_frames": None, "pool_kernel": (1, 3, 3), "cls_token": False}
KINDS = {"v1": V1, "v1_image": V1_IMAGE, "v2": V2, "v2_image": V2_IMAGE}


def small(kind: str, *, seed: int = 0, **changes: Any) -> MViT:
    torch.manual_seed(seed)
    return lively(MViT(**(KINDS[kind] | changes)))


def lively(model: Any, *, seed: int = 1) -> Any:
    """Weights of ordinary size: at initialisation too much is zero or uniform."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand(buffer.shape, generator=generator))
    return model.eval()


def images(model: Backbone, size: int = 2, **axes: int) -> Tensor:
    shape = dict(zip("CTHW" if len(model.input_shape) == 4 else "CHW", model.input_shape, strict=True)) | axes
    return torch.randn(size, *shape.values(), generator=torch.Generator().manual_seed(2))


def separate_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As SlowFast saved it between June 2021 and June 2022."""
    split: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".qkv." in name:
            split |= {name.replace(".qkv.", f".{n}."): part for n, part in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            split[name] = tensor
    return split


def mvit_repository(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Images are pooled by 2-D kernels there."""
    return {n: t.squeeze(2) if re.search(r"pool_[qkv]\.weight", n) else t for n, t in state.items()}
