"""Matrix products by the faster of torch's libraries."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvrec.models.fast.choice import is_faster

SMALL = 2**20  # multiply-adds below which a call costs more than it saves
# Up to so many channels, summed over in a product of so many rows, the output's memory takes most of the time.
FEW_CHANNELS, MANY_ROWS = 128, 1024

# The measured operations. A kind of product is a pair of them: over few channels, and over many.
FEW, MANY = "products of few channels", "products of many channels"
INPUT_OF_FEW, INPUT_OF_MANY = "gradients of inputs from few channels", "gradients of inputs from many channels"
WEIGHTS = "gradients of weights"
POINTWISE = "1x1 convolutions as products"
Kind = tuple[str, str]
OUTPUT, OF_INPUT, OF_WEIGHT = (FEW, MANY), (INPUT_OF_FEW, INPUT_OF_MANY), (WEIGHTS, WEIGHTS)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, kind: Kind = OUTPUT) -> Tensor:
    """Compute `x @ weight.T + bias`, `(..., C)` and `(D, C)` to `(..., D)`, without recording gradients.

    torch computes float32 products on CPUs with MKL. On AMD's processors it uses half of their width: on a Zen 5
    60 to 120 GFLOP/s, where oneDNN, torch's library for convolutions, reaches 225 to 255 (weights of MViT-B, one core).
    On Intel's, oneDNN is faster for few channels and slower for gradients of weights. Sums are float32 either way.
    """
    # A graph that is being recorded must not depend on the size of a batch, so the size is looked at last.
    large = goes_by_onednn(x, kind) and x.numel() * len(weight) >= SMALL
    return by_onednn(x, weight, bias) if large else F.linear(x, weight, bias)


def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `product` with oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def goes_by_onednn(x: Tensor, kind: Kind) -> bool:
    """Return whether oneDNN computes large products of `x` when no gradients are recorded."""
    return may_go_by_onednn(x) and not torch.is_grad_enabled() and is_faster(operation(x, kind), x.dtype)


def may_go_by_onednn(x: Tensor) -> bool:
    """Return whether oneDNN's own operators can compute with `x`."""
    if torch.compiler.is_compiling():  # a graph for other machines must not have this machine's operators
        return False
    if x.dtype != torch.float32 or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    return _HAS_ONEDNN and bool(torch.backends.mkldnn.enabled)


def operation(x: Tensor, kind: Kind, channels: int | None = None) -> str:
    """Return the measured operation of a product of `(..., C)` over its channels, or over another number of them."""
    channels, rows = x.shape[-1] if channels is None else channels, x.shape[:-1].numel()
    return kind[channels > FEW_CHANNELS or rows < MANY_ROWS]


def has_onednn() -> bool:
    """Return whether torch has oneDNN's products."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


_HAS_ONEDNN = has_onednn()
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
    grad_x = product(grad, weight.to(grad.dtype).T, kind=OF_INPUT) if of_x else None
    grad_weight = product(rows.T, x.flatten(0, -2).T, kind=OF_WEIGHT).to(weight.dtype) if of_weight else None
    grad_bias = rows.sum(0).to(weight.dtype) if of_bias else None
    return grad_x, grad_weight, grad_bias


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `product`, also in the backward pass when gradients are recorded."""
    if torch.is_grad_enabled() and may_go_by_onednn(x):
        steps = operation(x, OUTPUT), operation(x, OF_INPUT, len(weight)), WEIGHTS
        if any(is_faster(step, x.dtype) for step in steps):
            return _Linear.apply(x, weight, bias)
    return product(x, weight, bias)


def precision(x: Tensor) -> torch.dtype:
    """Return the precision in which the CPU computes with `x`, that of autocast if it is on."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def is_emulated(dtype: torch.dtype) -> bool:
    """Return whether this processor computes a half precision in software, and torch sums gradients in it."""
    names = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    supported = getattr(torch.ops.mkldnn, names.get(dtype, ""), None)
    return dtype in names and not (supported is not None and supported())


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
