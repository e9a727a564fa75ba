"""A GELU computed by oneDNN together with the layer before it, where no gradients are recorded.

It reads and writes the widest activations of a network once less, and does not allocate them twice.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvrec.models.fast.choice import is_faster
from mvrec.models.fast.products import SMALL, Kind, Linear, may_go_by_onednn, operation
from mvrec.models.fast.recompute import is_plain

# The measured operations.
AFTER_PRODUCT = "products of few channels and their GELU", "products of many channels and their GELU"
AFTER_CONVOLUTION = "depthwise convolutions and their GELU"


def has_fused_gelu() -> bool:
    """Return whether torch has oneDNN's layers with a GELU."""
    names = ("_linear_pointwise", "_convolution_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


_HAS_FUSED = has_fused_gelu()


def linear_gelu(x: Tensor, layer: nn.Linear | nn.Conv2d, act: nn.Module) -> Tensor:
    """Compute `act(layer(x))`, `(..., C)` to `(..., D)`, of a linear layer or a convolution of 1x1 without a stride."""
    fusable = is_plain(act, nn.GELU) and (isinstance(layer, nn.Conv2d) or is_plain(layer, Linear))
    if fusable and may_go_by_onednn(x) and x.numel() * len(layer.weight) >= SMALL and _is_fused(x, AFTER_PRODUCT):
        return product_gelu(x, layer.weight.flatten(1), layer.bias, cast("nn.GELU", act).approximate)
    return act(layer(x.movedim(-1, 1)).movedim(1, -1) if isinstance(layer, nn.Conv2d) else layer(x))


def conv_gelu(grid: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int], act: nn.Module) -> Tensor:
    """Compute `act` of a depthwise convolution of `(B, h, w, C)` with `(C, 1, kh, kw)`, of the same size."""
    x = grid.permute(0, 3, 1, 2)
    if is_plain(act, nn.GELU) and may_go_by_onednn(x) and _is_fused(x, (AFTER_CONVOLUTION, AFTER_CONVOLUTION)):
        return convolution_gelu(x, weight, bias, padding, cast("nn.GELU", act).approximate).permute(0, 2, 3, 1)
    return act(F.conv2d(x, weight, bias, 1, padding, 1, len(weight)).permute(0, 2, 3, 1))


def _is_fused(x: Tensor, kind: Kind) -> bool:
    return _HAS_FUSED and not torch.is_grad_enabled() and is_faster(operation(x, kind), x.dtype)


def product_gelu(x: Tensor, weight: Tensor, bias: Tensor | None, approximate: str) -> Tensor:
    """Compute the GELU of `product(x, weight, bias)` in one operation."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], approximate)


def convolution_gelu(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int], approximate: str
) -> Tensor:
    """Compute the GELU of a depthwise convolution of `(B, C, h, w)` in one operation."""
    return torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, list(padding), [1, 1], [1, 1], len(weight), "gelu", [], approximate
    )
