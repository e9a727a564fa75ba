"""Depthwise convolution over token grids, with a backward pass that CPUs compute fast.

A grid `(B, T, H, W, C)` seen with its channels first is what convolutions call channels last, and there oneDNN's
forward pass is fast. Its backward pass is not: in three dimensions it takes hundreds of times the forward's time in
bfloat16, and with a stride also in two. In float32 and two dimensions it is fast, and a three-dimensional convolution
is a sum of two-dimensional ones, one per tap in time, of shifted frames. On one core of a Zen 5, for the queries of
MViT-B's second stage (8 x 56 x 56 x 192, stride 2): 172 ms becomes 8 ms in bfloat16, and 27 ms 7 ms in float32.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Triple = tuple[int, int, int]


def depthwise_conv(grid: Tensor, weight: Tensor, *, stride: int, padding: Triple) -> Tensor:
    """Convolve every channel by itself.

    Args:
        grid: `(B, T, H, W, C)`.
        weight: `(C, 1, kt, kh, kw)`.
        stride: Along H and W.
        padding: Zeros on either side along (T, H, W).

    Returns:
        `(B, T', H', W', C)`.
    """
    wanted = torch.is_grad_enabled() and (grid.requires_grad or weight.requires_grad)
    if wanted and not torch.compiler.is_compiling() and _has_slow_backward(grid, weight, stride, padding):
        return _DepthwiseConv.apply(grid, weight, stride, padding)
    return _convolve(grid, weight, stride, padding)


def _has_slow_backward(grid: Tensor, weight: Tensor, stride: int, padding: Triple) -> bool:
    """In three dimensions always; in two it is slow with a stride in bfloat16 alone, and up to 5 times faster else."""
    if grid.device.type != "cpu":
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else grid.dtype
    return not _is_flat(weight, padding) or (stride > 1 and dtype == torch.bfloat16)


def _is_flat(weight: Tensor, padding: Triple) -> bool:
    return weight.shape[2] == 1 and padding[0] == 0


def _convolve(grid: Tensor, weight: Tensor, stride: int, padding: Triple) -> Tensor:
    channels = grid.shape[-1]
    if _is_flat(weight, padding):  # frames do not mix: the 2-D kernels are the faster ones
        frames = grid.flatten(0, 1).permute(0, 3, 1, 2)  # (B*T, C, H, W)
        frames = F.conv2d(frames, weight.squeeze(2), None, stride, padding[1:], groups=channels)
        return frames.permute(0, 2, 3, 1).unflatten(0, grid.shape[:2])
    clip = grid.permute(0, 4, 1, 2, 3)  # (B, C, T, H, W)
    clip = F.conv3d(clip, weight, None, (1, stride, stride), padding, groups=channels)
    return clip.permute(0, 2, 3, 4, 1)


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grid: Tensor, weight: Tensor, stride: int, padding: Triple) -> Tensor:
        out = _convolve(grid, weight, stride, padding)  # in autocast's precision
        ctx.save_for_backward(grid.to(out.dtype), weight)
        ctx.stride, ctx.padding, ctx.dtype = stride, padding, grid.dtype
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        grid, weight = ctx.saved_tensors
        exact = torch.promote_types(grid.dtype, torch.float32)
        grid, grad, wide = grid.to(exact), grad.to(exact), weight.to(exact)
        of_grid, of_weight = ctx.needs_input_grad[:2]
        grad_grid, of_taps = None, [torch.zeros_like(wide[:, :, 0]) for _ in range(weight.shape[2])]
        shifts = [tap - ctx.padding[0] for tap in range(weight.shape[2])]
        for tap in sorted(range(len(shifts)), key=lambda tap: abs(shifts[tap])):  # the one that covers all frames first
            shift = shifts[tap]
            begin, end = max(0, -shift), min(grad.shape[1], grid.shape[1] - shift)  # frames that come out
            if begin >= end:
                continue
            part, of_taps[tap] = _frame_gradients(
                grad[:, begin:end],
                grid[:, begin + shift : end + shift],
                wide[:, :, tap],
                ctx.stride,
                ctx.padding[1:],
                [of_grid, of_weight, False],
            )
            if of_grid and grad_grid is None:
                grad_grid = part
            elif of_grid and grad_grid is not None:
                grad_grid[:, begin + shift : end + shift] += part
        grad_grid = grad_grid.to(ctx.dtype) if grad_grid is not None else None
        return grad_grid, torch.stack(of_taps, 2).to(weight.dtype) if of_weight else None, None, None


def _frame_gradients(
    grad: Tensor, frames: Tensor, weight: Tensor, stride: int, padding: tuple[int, ...], needed: list[bool]
) -> tuple[Any, Any]:
    """Of a 2-D convolution of `frames` `(B, T, H, W, C)` with `(C, 1, kh, kw)`: for the frames and for the weight."""
    batch, channels = frames.shape[:2], frames.shape[-1]
    flat_grad, flat = (part.flatten(0, 1).permute(0, 3, 1, 2) for part in (grad, frames))
    of_frames, of_weight, _ = torch.ops.aten.convolution_backward(
        flat_grad, flat, weight, None, [stride] * 2, list(padding), [1, 1], False, [0, 0], channels, needed
    )
    return of_frames.permute(0, 2, 3, 1).unflatten(0, batch) if needed[0] else None, of_weight
