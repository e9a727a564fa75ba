"""Features of boxes, from the map of a pyramid that fits the size of each box."""

import math
from collections.abc import Sequence

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
            features.append(roi_align(level, rows[place], self.cells, 1 / stride, self.samples, self.aligned))
            places.append(place)
        return torch.cat(features).index_select(0, torch.cat(places).argsort())
