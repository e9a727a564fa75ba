"""Resizing of maps, and convolutions of resized maps without the resizing of their many channels."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

_plainly = False  # whether `convolved` counts as papers do


@contextmanager
def as_papers_count() -> Iterator[None]:
    """Run `convolved` as `convolved_plainly` inside this context, whose operations papers count."""
    global _plainly
    earlier, _plainly = _plainly, True
    try:
        yield
    finally:
        _plainly = earlier


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate maps `(B, C, h, w)` bilinearly to `size` (H, W), corners not aligned; unchanged if they have it."""
    # A comparison would fix the sizes of an exported network, and interpolation to the same size changes nothing.
    if not torch.compiler.is_exporting() and x.shape[-2:] == torch.Size(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def convolved(maps: Sequence[Tensor], kernel: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps, concatenate them and convolve them: `(B, K, H, W)`.

    A convolution is a sum over the taps of its kernel, and a 1x1 convolution and a resizing may change places. So the
    products with all taps are computed on each map's own grid, with a quarter of the operations or less, and resized
    while they are summed. The concatenation is never made. Equal to `convolved_plainly` but for rounding.

    Args:
        maps: `(B, C_i, h_i, w_i)`.
        kernel: `(K, sum of C_i, k, k)` with an odd k; the convolution keeps the size.
        size: (H, W).
    """
    if _plainly or torch.compiler.is_exporting():
        return convolved_plainly(maps, kernel, size)
    kernels = kernel.split([level.shape[1] for level in maps], dim=1)
    parts = [_part(level, taps, size) for level, taps in zip(maps, kernels, strict=True)]
    return sum(parts[1:], start=parts[0])


def convolved_plainly(maps: Sequence[Tensor], kernel: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps, concatenate them and convolve them, in this order; see `convolved`."""
    joined = torch.cat([resize(level, size) for level in maps], dim=1)
    return F.conv2d(joined, kernel, padding=kernel.shape[-1] // 2)


def _part(level: Tensor, kernel: Tensor, size: Sequence[int]) -> Tensor:
    """Return the convolution of one map `(B, C, h, w)` on its way to a size (H, W): `(B, K, H, W)`."""
    if level.shape[-2:] == torch.Size(size) or kernel.shape[-1] == 1:
        return resize(F.conv2d(level, kernel, padding=kernel.shape[-1] // 2), size)
    (num_maps, channels, height, width), (outputs, _, side, _) = level.shape, kernel.shape
    taps = kernel.permute(0, 3, 2, 1).reshape(-1, channels, 1, 1)  # (K, column of the kernel, row of the kernel)
    products = F.conv2d(level, taps).reshape(num_maps * outputs, side, side * height, width)
    rows = _resizing(height, size[0], side, products) @ products  # (B K, column of the kernel, H, w)
    columns = rows.transpose(1, 2).flatten(2)  # (B K, H, column of the kernel x w)
    resized = columns @ _resizing(width, size[1], side, columns).mT
    return resized.unflatten(0, (num_maps, outputs))


def _resizing(length: int, target: int, side: int, like: Tensor) -> Tensor:
    """Return the matrix `(target, side * length)` that resizes the products with each tap, shifts and sums them."""
    precision = torch.promote_types(like.dtype, torch.float32)  # the weights are exact even where the maps are half
    identity = torch.eye(length, device=like.device, dtype=precision)[None]
    weights = F.interpolate(identity, size=target, mode="linear", align_corners=False)[0].T  # (target, length)
    padded = F.pad(weights, (0, 0, side // 2, side // 2))  # of pixels outside
    return torch.cat([padded[tap : tap + target] for tap in range(side)], dim=1).to(like.dtype)
