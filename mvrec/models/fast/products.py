"""Matrix products by the faster of torch's libraries."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALL = 2**20  # multiply-adds below which a call costs more than it saves


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `x @ weight.T + bias`, `(..., C)` and `(D, C)` to `(..., D)`, without recording gradients.

    torch computes float32 products on CPUs with MKL, which on AMD's processors uses half of their width: on a
    Zen 5 with AVX-512 60 to 120 GFLOP/s, where oneDNN, torch's library for convolutions, reaches 225 to 255 (weights
    of MViT-B, one core). Sums are float32 either way.
    """
    if goes_by_onednn(x) and not torch.is_grad_enabled() and x.numel() * len(weight) >= SMALL:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def goes_by_onednn(x: Tensor) -> bool:
    """Return whether oneDNN computes large products of `x` when no gradients are recorded."""
    if torch.compiler.is_compiling():  # a graph for other machines must not have this machine's operators
        return False
    if x.dtype != torch.float32 or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    return _HAS_ONEDNN and bool(torch.backends.mkldnn.enabled)


def _has_onednn() -> bool:
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return wide and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


_HAS_ONEDNN = _has_onednn()
# Parts of torch's own gradients, used separately; without them torch's layers run unchanged.
HAS_GRADIENTS = all(
    hasattr(torch.ops.aten, name) for name in ("convolution_backward", "native_layer_norm_backward", "gelu_backward")
)


def softmax_gradient(grad: Tensor, probabilities: Tensor) -> Tensor:
    """Return the gradient of a softmax over the last axis for its input."""
    if hasattr(torch, "_softmax_backward_data"):
        return torch._softmax_backward_data(grad, probabilities, -1, probabilities.dtype)
    return probabilities * (grad - (grad * probabilities).sum(-1, keepdim=True))


def product_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, needed: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the required gradients of `product` for `x`, weight and bias; `grad` and `x` have one precision."""
    of_x, of_weight, of_bias = needed
    rows = grad.flatten(0, -2)
    grad_x = product(grad, weight.to(grad.dtype).T) if of_x else None
    grad_weight = product(rows.T, x.flatten(0, -2).T).to(weight.dtype) if of_weight else None
    grad_bias = rows.sum(0).to(weight.dtype) if of_bias else None
    return grad_x, grad_weight, grad_bias


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `product`, also in the backward pass when gradients are recorded."""
    if torch.is_grad_enabled() and goes_by_onednn(x):
        return _Linear.apply(x, weight, bias)
    return product(x, weight, bias)


class Linear(nn.Linear):
    """A linear layer that computes its products, and those of its gradients, with `product`."""

    def forward(self, x: Tensor) -> Tensor:
        """`(..., C)` to `(..., D)`."""
        return linear(x, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return product_gradients(grad, x, weight, ctx.needs_input_grad)
