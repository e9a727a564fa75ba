"""Features of boxes, from the map of a pyramid that fits the size of each box."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from mvrec.models.heads.detection.results import Style

COARSE_BOX = 224  # pixels per side of a box that is read on the third finest of four maps, Lin et al. 2017


class Pooler(nn.Module):
    """A grid of features in each box, on the map of its size (Lin et al. 2017; He et al. 2017, RoIAlign).

    mmdetection and detectron2 shift boxes by half a pixel and take as many samples per cell as the box has pixels;
    torchvision does neither, and guesses strides from the sizes of its first batch. Ours are those of the maps.

    Args:
        strides: Pixels per cell of the maps, fine to coarse; a box of 56 pixels per side is read on a map of stride 4.
        cells: Per side of the grid.
        style: Whose RoIAlign.
    """

    def __init__(self, strides: Sequence[int], cells: int, *, style: Style) -> None:
        super().__init__()
        self.strides, self.cells = tuple(strides), cells
        self.finest = round(math.log2(strides[0]))  # number of the finest map in the paper
        self.aligned, self.samples = style != "torchvision", 2 if style == "torchvision" else 0

    def levels_of(self, boxes: Tensor) -> Tensor:
        """Return the number of the map (N,) on which each box (N, 4) is read."""
        sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        # Sum and order of float32 are torchvision's. mmdetection adds 1e-6 to the ratio, which matters for no box.
        levels = (4 + torch.log2(sides / COARSE_BOX) + 1e-6).floor()
        # The logarithm of an empty box is not finite.
        return levels.clamp(self.finest, self.finest + len(self.strides) - 1).long() - self.finest

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Return features (sum of N, C, cells, cells) in float32.

        Args:
            maps: (B, C, H_i, W_i), of which the first ones, one per stride, are read.
            boxes: For each image (N, 4) in pixels of the padded batch.
        """
        numbers = torch.cat([each.new_full((len(each), 1), number) for number, each in enumerate(boxes)])
        corners = torch.cat(list(boxes))
        rows, levels = torch.cat([numbers, corners], 1), self.levels_of(corners)
        places, features = [], []
        for number, stride in enumerate(self.strides):
            place = torch.where(levels == number)[0]
            # Boxes stay float32, so maps of half precision are widened and not the boxes rounded.
            level = maps[number].float()
            features.append(self._read(level, rows[place], 1 / stride))
            places.append(place)
        return torch.cat(features).index_select(0, torch.cat(places).argsort())

    def _read(self, level: Tensor, rows: Tensor, scale: float) -> Tensor:
        """Return the features (N, C, cells, cells) of boxes (N, 5), whose first column is the image."""
        arguments = (level, rows, self.cells, scale, self.samples, self.aligned)
        if level.device.type == "cpu" and level.requires_grad and torch.is_grad_enabled():
            return _RoIAlign.apply(*arguments)
        return roi_align(*arguments)


class _RoIAlign(torch.autograd.Function):
    """torchvision's RoIAlign with a gradient by matrix products, two to three times as fast on a CPU.

    Samples are at the points of a grid, so that a feature is a product with weights of rows and with those of columns.
    """

    @staticmethod
    def forward(ctx: Any, level: Tensor, rows: Tensor, cells: int, scale: float, samples: int, aligned: bool) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape, ctx.arguments = level.shape, (cells, scale, samples, aligned)
        return roi_align(level, rows, cells, scale, samples, aligned)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (rows,), (cells, scale, samples, aligned) = ctx.saved_tensors, ctx.arguments
        _, channels, height, width = ctx.shape
        total = gradients[0].new_zeros(ctx.shape)
        if not len(rows):
            return total, None, None, None, None, None
        starts, ends = (rows[:, 1:] * scale - (0.5 if aligned else 0.0)).split(2, 1)
        sides = ends - starts if aligned else (ends - starts).clamp(min=1)
        columns, lines = (
            _weights(starts[:, axis], sides[:, axis], cells, pixels, samples=samples)
            for axis, pixels in enumerate((width, height))
        )
        of_boxes = gradients[0].flatten(2)  # (N, C, cells * cells)
        for number, image in enumerate(rows[:, 0].long().tolist()):
            (left, right, across), (top, bottom, down) = (weights.of(number) for weights in (columns, lines))
            size = (bottom - top, right - left)
            both = (down[:, None, :, None] * across[None, :, None, :]).reshape(cells**2, math.prod(size))
            with torch.autocast("cpu", enabled=False):
                patch = of_boxes[number] @ both
            total[image, :, top:bottom, left:right] += patch.view(channels, *size)
        return total, None, None, None, None, None


class _Weights(NamedTuple):
    """The weights of a map's lines, or columns, in the features of boxes.

    Attributes:
        first: The first line that a box reads (N,).
        last: And the one behind the last.
        shares: (N, cells, lines of the map) from the first line on.
    """

    first: list[int]
    last: list[int]
    shares: Tensor

    def of(self, number: int) -> tuple[int, int, Tensor]:
        """Return the first line of a box, the one behind its last, and the weights (cells, lines)."""
        first, last = self.first[number], self.last[number]
        return first, last, self.shares[number, :, : last - first]


def _weights(start: Tensor, side: Tensor, cells: int, pixels: int, *, samples: int) -> _Weights:
    """Return the weights of a map with so many `pixels` along an axis, for boxes (N,) from start to start + side."""
    counts = (torch.full_like(side, samples) if samples else (side / cells).ceil())[:, None, None]
    places = torch.arange(max(1, int(counts.max())))  # of samples in a cell
    used = places < counts  # (N, 1, places); none in an empty box
    counts, cell = counts.clamp(min=1), (side / cells)[:, None, None]
    points = start[:, None, None] + torch.arange(cells)[:, None] * cell + (places + 0.5) * (cell / counts)
    shares = (used & (points >= -1) & (points <= pixels)) / counts  # others are 0 in the operator
    points = points.clamp(0, pixels - 1)
    low = points.floor()
    high = (low + 1).clamp(max=pixels - 1)
    last = high.masked_fill(~used, -1).amax((1, 2)).long() + 1
    first = low.masked_fill(~used, pixels).amin((1, 2)).long().minimum(last)
    table = points.new_zeros(len(start), cells, pixels)
    for lines, share in ((low, (1 - points + low) * shares), (high, (points - low) * shares)):
        table.scatter_add_(2, (lines.long() - first[:, None, None]).clamp(min=0), share)
    return _Weights(first.tolist(), last.tolist(), table)
