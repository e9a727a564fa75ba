"""Depthwise convolution over token grids, with a backward pass that CPUs compute fast.

A grid `(B, T, H, W, C)` seen with its channels first is a channels-last input of convolutions, for which oneDNN's
forward pass is fast. Its backward pass is fast in two dimensions only, for kernels of 3 x 3, and for the gradient of
the grid in bfloat16 only without a stride. All other cases are composed of that, on one core of a Zen 5:

- A convolution in three dimensions is a sum of two-dimensional ones, one per tap in time, of shifted frames. For the
  queries of MViT-B's second stage (8 x 56 x 56 x 192, stride 2) 172 ms become 8 ms in bfloat16, 27 ms 7 ms in float32.
- The gradient of a larger kernel consists of those of kernels of 3 x 3 on shifted gradients: for 5 x 5 on
  8 x 56 x 56 x 128, 48 ms become 3.6 ms in bfloat16, 24 ms 11 ms in float32.
- With a stride in bfloat16, the grid's gradient is computed in float32: 39 ms become 2 ms for the same at stride 2.

If oneDNN lacks half precision (processors without AVX-512), torch sums the taps of gradients in half precision, up
to 1300 times the rounding of one number for 9 x 9. There all gradients of half precision are computed in float32.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mvrec.models.fast.choice import is_faster
from mvrec.models.fast.products import HAS_GRADIENTS, is_emulated, precision

Triple = tuple[int, int, int]
FAST = 3  # the kernel size for which oneDNN's gradients are fast
LARGE_SIZE = 5
MANY_CHANNELS = 1280  # beyond these, oneDNN's gradient of a larger kernel takes six times as long with AVX-512

# The measured operations.
TIME = "depthwise convolutions over time"
LARGE, LARGER = "depthwise kernels of 5 x 5", "larger depthwise kernels"
WIDE = "large depthwise kernels on many channels"
STRIDED = "strided depthwise convolutions"


def depthwise_conv(grid: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int, padding: Triple) -> Tensor:
    """Convolve every channel separately.

    Args:
        grid: `(B, T, H, W, C)`.
        weight: `(C, 1, kt, kh, kw)`.
        bias: `(C)`.
        stride: Along H and W.
        padding: Zeros on either side along (T, H, W).

    Returns:
        `(B, T', H', W', C)`.
    """
    needs_gradient = torch.is_grad_enabled() and (grid.requires_grad or weight.requires_grad)
    if (
        needs_gradient
        and not torch.compiler.is_compiling()
        and has_slow_backward(grid, (len(weight), *weight.shape[2:]), stride, padding)
    ):
        return DepthwiseConv.apply(grid, weight, bias, stride, padding)
    return convolve(grid, weight, bias, stride, padding)


def has_slow_backward(x: Tensor, kernel: Sequence[int], stride: int, padding: Triple) -> bool:
    """Return whether ours is faster than torch's backward pass of a kernel `(C, kt, kh, kw)`, or more exact."""
    if x.device.type != "cpu" or not HAS_GRADIENTS:
        return False
    channels, depth, *sizes = kernel
    dtype, size = precision(x), max(sizes)
    if is_emulated(dtype):
        return True
    if depth > 1 or padding[0] > 0:
        return is_faster(TIME, dtype)
    if size > FAST:
        few = LARGE if size <= LARGE_SIZE else LARGER
        return is_faster(WIDE if channels > MANY_CHANNELS else few, dtype)
    return stride > 1 and dtype == torch.bfloat16 and is_faster(STRIDED, dtype)


def _is_flat(weight: Tensor, padding: Triple) -> bool:
    return weight.shape[2] == 1 and padding[0] == 0


def convolve(grid: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: Triple) -> Tensor:
    """Compute `depthwise_conv` with torch's own backward pass."""
    channels = grid.shape[-1]
    if _is_flat(weight, padding):  # frames do not mix: the 2-D kernels are faster
        frames = _channels_first(grid)  # (B*T, C, H, W)
        frames = F.conv2d(frames, weight.squeeze(2), bias, stride, padding[1:], groups=channels)
        return frames.permute(0, 2, 3, 1).unflatten(0, grid.shape[:2])
    clip = grid.permute(0, 4, 1, 2, 3)  # (B, C, T, H, W)
    clip = F.conv3d(clip, weight, bias, (1, stride, stride), padding, groups=channels)
    return clip.permute(0, 2, 3, 4, 1)


class DepthwiseConv(torch.autograd.Function):
    """`depthwise_conv` with the backward pass that the module describes."""

    @staticmethod
    def forward(ctx: Any, grid: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: Triple) -> Tensor:
        out = convolve(grid, weight, bias, stride, padding)  # in autocast's precision
        ctx.save_for_backward(grid.to(out.dtype), weight)
        ctx.stride, ctx.padding, ctx.dtype = stride, padding, grid.dtype
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        grid, weight = ctx.saved_tensors
        of_grid, of_weight, of_bias = ctx.needs_input_grad[:3]
        if is_emulated(grad.dtype):
            grid, grad = grid.float(), grad.float()
        grad_bias = grad.flatten(0, -2).sum(0).to(weight.dtype) if of_bias else None
        if _is_flat(weight, ctx.padding):
            taps = weight.squeeze(2).to(grad.dtype)
            grad_grid = _grid_gradient(grad, grid, taps, ctx.stride, ctx.padding) if of_grid else None
            grad_taps = _taps_gradient(grad, grid, taps, ctx.stride, ctx.padding) if of_weight else None
            grad_weight = None if grad_taps is None else grad_taps.unsqueeze(2)
        else:
            grad_grid, grad_weight = _gradients_over_time(
                grad, grid, weight, ctx.stride, ctx.padding, of_grid=of_grid, of_weight=of_weight
            )
        grad_grid = None if grad_grid is None else grad_grid.to(ctx.dtype)
        if grad_weight is not None:  # in the weight's own layout, as DDP's buckets require
            grad_weight = torch.empty_like(weight).copy_(grad_weight)
        return grad_grid, grad_weight, grad_bias, None, None


def _gradients_over_time(
    grad: Tensor, grid: Tensor, weight: Tensor, stride: int, padding: Triple, *, of_grid: bool, of_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Sum the gradients of the grid and of the weight over the taps in time, in float32 or better."""
    exact = torch.promote_types(grid.dtype, torch.float32)
    grid, grad, weight = grid.to(exact), grad.to(exact), weight.to(exact)
    grad_grid, of_taps = None, [torch.zeros_like(weight[:, :, 0]) for _ in range(weight.shape[2])]
    shifts = [tap - padding[0] for tap in range(weight.shape[2])]
    for tap in sorted(range(len(shifts)), key=lambda tap: abs(shifts[tap])):  # start with the one that covers all
        shift, taps = shifts[tap], weight[:, :, tap]
        begin, end = max(0, -shift), min(grad.shape[1], grid.shape[1] - shift)  # frames that come out
        if begin >= end:
            continue
        out, read = grad[:, begin:end], grid[:, begin + shift : end + shift]
        if of_weight:
            of_taps[tap] = _taps_gradient(out, read, taps, stride, padding)
        if not of_grid:
            continue
        part = _grid_gradient(out, read, taps, stride, padding)
        if grad_grid is None:
            grad_grid = part
        else:
            grad_grid[:, begin + shift : end + shift] += part
    return grad_grid, torch.stack(of_taps, 2) if of_weight else None


def _grid_gradient(grad: Tensor, grid: Tensor, taps: Tensor, stride: int, padding: Triple) -> Tensor:
    """Return the grid's gradient of a 2-D convolution of the frames of `(B, T, H, W, C)` with `(C, 1, kh, kw)`."""
    dtype = grad.dtype
    if stride > 1 and dtype == torch.bfloat16:
        grad, grid, taps = grad.float(), grid.float(), taps.float()
    out, frames = _channels_first(grad), _channels_first(grid)
    gradient = _convolution_backward(out, frames, taps, stride, padding[1:], [True, False, False])[0]
    return gradient.permute(0, 2, 3, 1).unflatten(0, grid.shape[:2]).to(dtype)


def _taps_gradient(grad: Tensor, grid: Tensor, taps: Tensor, stride: int, padding: Triple) -> Tensor:
    """Return the kernel's gradient of a 2-D convolution of frames, `(C, 1, kh, kw)`."""
    if max(taps.shape[2:]) <= FAST or stride > FAST:
        out, frames = _channels_first(grad), _channels_first(grid)
        return _convolution_backward(out, frames, taps, stride, padding[1:], [False, True, False])[1]
    return _large_taps_gradient(grad.flatten(0, 1), grid.flatten(0, 1), taps, stride, padding[1:])


def _large_taps_gradient(grad: Tensor, grid: Tensor, taps: Tensor, stride: int, padding: tuple[int, int]) -> Tensor:
    """Return the kernel's gradient for frames `(B, H, W, C)` from kernels of 3 x 3.

    Note [large kernels from small ones]

    Taps from (a, b) on see the grid as taps from (0, 0) on do for gradients that are shifted by a / stride rows and
    b / stride columns. Zero-padded gradients in contiguous memory are so shifted when read from an earlier
    address: no copy, and oneDNN takes each as a dense tensor.
    """
    batch, channels = grad.shape[0], grad.shape[-1]
    step = FAST // stride * stride
    counts = [math.ceil(max(size - FAST, 0) / step) + 1 for size in taps.shape[2:]]  # of small kernels
    rows, columns = (size + (count - 1) * step // stride for size, count in zip(grad.shape[1:3], counts, strict=True))
    beyond = [
        stride * (outs - 1) + FAST - size - pad
        for outs, size, pad in zip((rows, columns), grid.shape[1:3], padding, strict=True)
    ]
    grid = F.pad(grid, (0, 0, padding[1], beyond[1], padding[0], beyond[0])).permute(0, 3, 1, 2)
    lead = rows * columns  # of a whole frame of zeros
    cells = grad.new_zeros(lead + batch * lead, channels)
    cells[lead:].view(batch, rows, columns, channels)[:, : grad.shape[1], : grad.shape[2]] = grad
    small = taps.new_empty(channels, 1, FAST, FAST)
    bands = []
    for i in range(counts[0]):
        band = []
        for j in range(counts[1]):
            first = lead - (i * columns + j) * step // stride
            later = cells[first : first + batch * lead].view(batch, rows, columns, channels).permute(0, 3, 1, 2)
            gradient = _convolution_backward(later, grid, small, stride, (0, 0), [False, True, False])[1]
            band.append(gradient if j == counts[1] - 1 else gradient[..., :step])
        joined = torch.cat(band, 3)
        bands.append(joined if i == counts[0] - 1 else joined[:, :, :step])
    return torch.cat(bands, 2)[:, :, : taps.shape[2], : taps.shape[3]]


def _channels_first(grid: Tensor) -> Tensor:
    """View a grid `(B, T, H, W, C)` as frames `(B * T, C, H, W)`."""
    return grid.flatten(0, 1).permute(0, 3, 1, 2)


def _convolution_backward(
    grad: Tensor, frames: Tensor, taps: Tensor, stride: int, padding: tuple[int, ...], needed: list[bool]
) -> Any:
    return torch.ops.aten.convolution_backward(
        grad, frames, taps, None, [stride] * 2, list(padding), [1, 1], False, [0, 0], len(taps), needed
    )
