"""Layers that keep only their input for the backward pass, not the intermediate results.

A linear layer needs its input for the gradient of its weight. If that is the output of a norm or a GELU, whose own
input is kept anyway, it is cheap to recompute: a third of a transformer block's activations need not be kept.
Values and gradients equal those of the plain layers, which run when nothing is gained: without gradients, under
`torch.compile` (whose partitioner makes the same choice), or if a user has replaced a layer, for example by a
low-rank adapter.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvrec.models.fast.products import HAS_GRADIENTS, Linear, product, product_gradients


def norm_linear(x: Tensor, norm: nn.Module, linear: nn.Module) -> Tensor:
    """Compute `linear(norm(x))`, `(..., C)` to `(..., D)`, keeping only `x`."""
    if isinstance(linear, Linear) and is_plain(linear, Linear) and _keeps_activations():
        return norm_project(x, norm, linear.weight, linear.bias)
    return linear(norm(x))


def norm_project(x: Tensor, norm: nn.Module, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `norm_linear` with a weight `(D, C)` and a bias `(D)` that may be parts of a layer's."""
    if is_plain(norm, nn.LayerNorm) and _keeps_activations():
        return _NormLinear.apply(x, norm.weight, norm.bias, norm.eps, weight, bias)
    return product(norm(x), weight, bias)


def gelu_linear(x: Tensor, act: nn.Module, linear: nn.Module) -> Tensor:
    """Compute `linear(act(x))`, `(..., C)` to `(..., D)`, keeping only `x`."""
    if is_plain(act, nn.GELU) and is_plain(linear, Linear) and _keeps_activations():
        return _GeluLinear.apply(x, act.approximate, linear.weight, linear.bias)
    return linear(act(x))


def has_hooks(module: nn.Module) -> bool:
    """Return whether somebody watches or changes the module's input, output or gradients."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


def is_plain(module: nn.Module, kind: type) -> bool:
    """Return whether a module is of exactly this class and nobody watches it."""
    return type(module) is kind and not has_hooks(module)


def _keeps_activations() -> bool:
    return HAS_GRADIENTS and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the precision in which autocast would compute a product."""
    device = x.device.type
    in_autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)  # "meta" has none
    return torch.get_autocast_dtype(device) if in_autocast else x.dtype


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    return product(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor, shift: Tensor, eps: float, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        normed, mean, rstd = torch.native_layer_norm(x.to(gain.dtype), gain.shape, gain, shift, eps)
        ctx.save_for_backward(x, gain, shift, mean, rstd, weight)
        ctx.eps, ctx.dtype = eps, product_dtype(normed)
        return _product(normed, weight, bias, ctx.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, gain, shift, mean, rstd, weight = ctx.saved_tensors
        of_x, of_gain, of_shift, _, of_weight, of_bias = ctx.needs_input_grad
        wide = x.to(gain.dtype)
        normed = torch.native_layer_norm(wide, gain.shape, gain, shift, ctx.eps)[0].to(ctx.dtype) if of_weight else x
        needed = (of_x or of_gain or of_shift, of_weight, of_bias)
        grad_normed, grad_weight, grad_bias = product_gradients(grad, normed, weight, needed)
        grads: list[Any] = [None, None, None]
        if grad_normed is not None:
            mask = [of_x, of_gain, of_shift]
            grad_normed = grad_normed.to(gain.dtype)
            grads = torch.ops.aten.native_layer_norm_backward(
                grad_normed, wide, gain.shape, mean, rstd, gain, shift, mask
            )
        grad_x = grads[0].to(x.dtype) if of_x else None
        return grad_x, grads[1] if of_gain else None, grads[2] if of_shift else None, None, grad_weight, grad_bias


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, approximate: str, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.approximate, ctx.dtype = approximate, product_dtype(x)
        return _product(F.gelu(x, approximate=approximate), weight, bias, ctx.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        of_x, _, of_weight, of_bias = ctx.needs_input_grad
        active = F.gelu(x, approximate=ctx.approximate).to(ctx.dtype) if of_weight else x
        grad_active, grad_weight, grad_bias = product_gradients(grad, active, weight, (of_x, of_weight, of_bias))
        if grad_active is not None:
            grad_active = grad_active.to(x.dtype)
            if active is not x and active.dtype == x.dtype and not torch.is_grad_enabled():
                # Into the memory of the GELU, which nobody reads from here on: new memory costs as much as the GELU.
                into = {"approximate": ctx.approximate, "grad_input": active}
                grad_active = torch.ops.aten.gelu_backward.grad_input(grad_active, x, **into)
            else:
                grad_active = torch.ops.aten.gelu_backward(grad_active, x, approximate=ctx.approximate)
        return grad_active, None, grad_weight, grad_bias
