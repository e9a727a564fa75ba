"""Anchors: boxes of fixed sizes around the cells of maps, which detectors correct.

torchvision's generator rounds the boxes, takes the stride from the sizes of maps and the dtype from the maps. The other
libraries do none of these, and no detection of one is a detection of the other.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from mvrec.models.heads.detection.results import ImageSize, Style

RATIOS = (0.5, 1.0, 2.0)  # height / width
PADDING = 32  # mmdetection pads every image to multiples of this, and then to the size of its batch


class Anchors(AnchorGenerator):
    """Anchors (N, 4) of an image, in float32 pixels whatever the dtype of the maps.

    They are ordered by map, row, column and shape. It is an `AnchorGenerator`, as torchvision's detectors require.

    Args:
        strides: Pixels per cell of each map. Style "torchvision" takes image size // map size instead.
        sizes: For each map, the sides of a square anchor in pixels.
        style: "mmdetection": exact sides, shapes ordered by ratio, then by size; "detectron2": exact sides, by size,
            then by ratio; "torchvision": whole pixels, by ratio, then by size.
    """

    def __init__(
        self, strides: Sequence[int], sizes: Sequence[Sequence[float]], *, style: Style = "mmdetection"
    ) -> None:
        sides = tuple(tuple(map(int, each)) if style == "torchvision" else tuple(each) for each in sizes)
        super().__init__(sides, (RATIOS,) * len(sides))
        self.strides, self.style = tuple(strides), style
        if style != "torchvision":
            self.cell_anchors = [_base_boxes(each, by_size=style == "detectron2") for each in sides]

    def of_levels(self, maps: Sequence[Tensor], size: Sequence[int]) -> list[Tensor]:
        """Return the anchors of each map (h * w * shapes, 4).

        Args:
            maps: (B, C, h, w) each.
            size: (height, width) of the padded batch in pixels.
        """
        grids = [tuple(each.shape[-2:]) for each in maps]
        strides = [(stride, stride) for stride in self.strides]
        if self.style == "torchvision":
            strides = [(size[0] // height, size[1] // width) for height, width in grids]
        self.set_cell_anchors(torch.float32, maps[0].device)
        return self.grid_anchors(grids, strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Return the anchors of all maps (N, 4), once for each image."""
        anchors = torch.cat(self.of_levels(feature_maps, image_list.tensors.shape[-2:]))
        return [anchors] * len(image_list.image_sizes)

    def usable(self, maps: Sequence[Tensor], image: ImageSize, *, within: bool = False) -> Tensor | None:
        """Return which anchors (N,) training assigns to objects in an image; None for all.

        Style "mmdetection" leaves out cells in the padding of a batch, but not those in the image's own padding.

        Args:
            maps: (B, C, h, w) each.
            image: Its size in the batch.
            within: Whether to leave out anchors that cross the border of the image too.
        """
        if self.style != "mmdetection":
            return None
        flags = []
        for level, stride, base in zip(maps, self.strides, self.cell_anchors, strict=True):
            rows, columns = (
                torch.arange(cells, device=level.device) < math.ceil(_padded(pixels) / stride)
                for cells, pixels in zip(level.shape[-2:], image[:2], strict=True)
            )
            flags.append((rows[:, None, None] & columns[None, :, None]).expand(-1, -1, len(base)).flatten())
        usable = torch.cat(flags)
        if within:
            x1, y1, x2, y2 = torch.cat(self.of_levels(maps, ())).unbind(1)
            usable &= (x1 >= 0) & (y1 >= 0) & (x2 < image.width) & (y2 < image.height)
        return usable


def _padded(pixels: int) -> int:
    return math.ceil(pixels / PADDING) * PADDING


def _base_boxes(sides: Sequence[float], *, by_size: bool) -> Tensor:
    """Return boxes around the origin (shapes, 4), of the area of a square of each side at each ratio."""
    roots = torch.tensor(RATIOS).sqrt()
    widths, heights = (factor[:, None] * torch.tensor(sides)[None] for factor in (1 / roots, roots))
    if by_size:
        widths, heights = widths.T, heights.T
    width, height = widths.flatten(), heights.flatten()
    return torch.stack([-width, -height, width, height], 1) / 2
