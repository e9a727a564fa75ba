"""Masks of boxes as masks of an image."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mvrec.models.heads.detection.results import Style

THRESHOLD = 0.5  # from which probability on a pixel belongs to the object


class Patch(NamedTuple):
    """The part of an image outside of which a mask is empty.

    Attributes:
        top: Its first row in the image.
        left: Its first column in the image.
        mask: bool (h, w).
    """

    top: int
    left: int
    mask: Tensor


def paste_masks(
    probabilities: Tensor, boxes: Tensor, height: int, width: int, *, style: Style = "mmdetection"
) -> Tensor:
    """Return masks bool (N, height, width) of an image.

    Args:
        probabilities: (N, 28, 28) over each box.
        boxes: (N, 4) in pixels of the image.
        height: Of the image.
        width: Of the image.
        style: Whose rule, see `patches`.
    """
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool, device=probabilities.device)
    for image, patch in zip(masks, patches(probabilities, boxes, height, width, style=style), strict=True):
        rows, columns = patch.mask.shape
        image[patch.top : patch.top + rows, patch.left : patch.left + columns] = patch.mask
    return masks


def patches(
    probabilities: Tensor, boxes: Tensor, height: int, width: int, *, style: Style = "mmdetection"
) -> Iterator[Patch]:
    """Yield the mask of each object, one after the other; see `paste_masks`.

    A pixel belongs to an object if the probability at its centre, interpolated bilinearly with 0 outside of the box, is
    0.5 or more. Style "torchvision" rounds the box to whole pixels first.
    """
    paste = _torchvision_patch if style == "torchvision" else _patch
    for mask, box in zip(probabilities.float(), boxes.tolist(), strict=True):
        yield paste(mask, box, height, width)


def _patch(mask: Tensor, box: list[float], height: int, width: int) -> Patch:
    left, top, right, bottom = box
    rows, first_row = _weights(top, bottom, height, mask)
    columns, first_column = _weights(left, right, width, mask)
    # Interpolation is a product with the weights of rows and of columns, which is faster than a lookup per pixel.
    return Patch(first_row, first_column, rows @ mask @ columns.T >= THRESHOLD)


def _weights(start: float, end: float, pixels: int, mask: Tensor) -> tuple[Tensor, int]:
    """Return the weights (pixels of the box, cells) of cells at the centres of pixels, and the first pixel."""
    cells = mask.shape[-1]
    first, last = max(0, math.floor(start)), min(pixels, math.ceil(end))
    if not first < last or not start < end:
        return mask.new_zeros(0, cells), 0
    # float32 throughout, as in the reference
    centres = torch.arange(first, last, device=mask.device, dtype=torch.float32) + 0.5
    places = (centres - start) / (end - start) * cells - 0.5
    distance = (places[:, None] - torch.arange(cells, device=mask.device)).abs()
    return (1 - distance).clamp(min=0), first


def _torchvision_patch(mask: Tensor, box: list[float], height: int, width: int) -> Patch:
    """Return torchvision's mask: with a border of one cell, resized to the whole pixels that the box touches."""
    padded = F.pad(mask, (1, 1, 1, 1))
    growth = padded.shape[-1] / mask.shape[-1] / 2
    corners = torch.tensor(box)  # float32, in which the box is rounded
    centre, half = (corners[:2] + corners[2:]) * 0.5, (corners[2:] - corners[:2]) * growth
    left, top, right, bottom = torch.cat([centre - half, centre + half]).long().tolist()
    size = (max(1, bottom - top + 1), max(1, right - left + 1))
    resized = F.interpolate(padded[None, None], size=size, mode="bilinear", align_corners=False)[0, 0] >= THRESHOLD
    rows = slice(max(0, top) - top, max(0, min(bottom + 1, height) - top))
    columns = slice(max(0, left) - left, max(0, min(right + 1, width) - left))
    return Patch(max(0, top), max(0, left), resized[rows, columns])
