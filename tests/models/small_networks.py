"""Small networks with lively weights, and their weights under other people's names."""

import re
from typing import Any

import torch
from torch import Tensor
from zoo_builds import IMAGE, MVIT_V1, MVIT_V2, VIDEO, lively

from mvrec.models import MViT

V1: dict[str, Any] = MVIT_V1 | VIDEO | {"depth": 4}
V2: dict[str, Any] = MVIT_V2 | VIDEO | {"depth": 4}
KINDS = {"v1": V1, "v1_image": V1 | IMAGE | {"pos_embed": "joint"}, "v2": V2, "v2_image": V2 | IMAGE}
KINDS["v2_image"] |= {"cls_token": False}


def small(kind: str, *, seed: int = 0, **changes: Any) -> MViT:
    torch.manual_seed(seed)
    return lively(MViT(**(KINDS[kind] | changes))).eval()


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
