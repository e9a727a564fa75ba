"""Outlines of objects in a view: coordinates move, and pixels are filled once, at the end.

Coordinates are continuous: pixel (row, column) covers column..column + 1 and row..row + 1. Polygons are filled as
COCO's tools fill them, so a mask equals that of the polygon in the view's coordinates to the last pixel.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mvrec.data.listing.objects.shapes import run_lengths
from mvrec.data.views.geometry import Box, Geometry

Points = npt.NDArray[np.float64]  # (n, 2), x and y in pixels
_STEPS = 5  # per pixel: the grid to which COCO's tools round the points of a polygon
_FAR = 2.0**20  # pixels: coordinates beyond are cut, because each step between two points takes memory


class Piece(NamedTuple):
    """A mask without its empty surroundings.

    Attributes:
        top: Rows above it.
        left: Columns to its left.
        pixels: uint8 (h, w), 1 in the object; no side is empty.
    """

    top: int
    left: int
    pixels: npt.NDArray[np.uint8]

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """The tight box: left, top, right and bottom in pixels."""
        height, width = self.pixels.shape
        return self.left, self.top, self.left + width, self.top + height


class Movement:
    """The way of coordinates from a file to a view.

    Args:
        geometry: Cut, scale, crop and flip.
        frame: (height, width) of the file.
        angle: Degrees by which the whole picture is turned counterclockwise about its centre before.

    Attributes:
        size: (height, width) of the view without padding.
        scale: New side over old side, of x and y.
        turned: Whether the angle is not 0.
    """

    def __init__(self, geometry: Geometry, frame: tuple[int, int], angle: float = 0.0) -> None:
        box, (height, width) = geometry.box, geometry.size
        crop = geometry.crop or Box(0, 0, height, width)
        self.size, self.turned = (crop.height, crop.width), angle != 0.0
        self.scale = width / box.width, height / box.height
        moved = np.array(
            [
                [self.scale[0], 0.0, -box.left * self.scale[0] - crop.left],
                [0.0, self.scale[1], -box.top * self.scale[1] - crop.top],
                [0.0, 0.0, 1.0],
            ]
        )
        if geometry.flip:
            moved = np.array([[-1.0, 0.0, crop.width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]) @ moved
        self._matrix = moved @ _rotation(angle, frame) if self.turned else moved

    def points(self, points: Points) -> Points:
        """Return where points (n, 2) of the file are in the view."""
        return points @ self._matrix[:2, :2].T + self._matrix[:2, 2]

    def corners(self, boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the corners (N, 4), x1, y1, x2, y2, of boxes (N, 4), x, y, width, height; they may lie outside."""
        x, y, width, height = boxes.T
        ends = np.stack([x, y, x + width, y, x + width, y + height, x, y + height], axis=1).reshape(-1, 4, 2)
        moved = self.points(ends.reshape(-1, 2)).reshape(-1, 4, 2)
        return np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)

    def resampled(self, mask: npt.NDArray[np.uint8], corners: Sequence[float]) -> Piece | None:
        """Return what the view shows of a mask (H, W) of the file, by the nearest pixels.

        Args:
            mask: 1 in the object.
            corners: Its box in the view.
        """
        height, width = self.size
        left, top = max(math.floor(corners[0]), 0), max(math.floor(corners[1]), 0)
        right, bottom = min(math.ceil(corners[2]), width), min(math.ceil(corners[3]), height)
        if left >= right or top >= bottom:
            return None
        inverse = np.linalg.inv(self._matrix)
        x, y = np.arange(left, right) + 0.5, np.arange(top, bottom)[:, None] + 0.5
        columns = np.floor(inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]).astype(np.int64)
        rows = np.floor(inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]).astype(np.int64)
        inside = (columns >= 0) & (columns < mask.shape[1]) & (rows >= 0) & (rows < mask.shape[0])
        pixels = mask[rows.clip(0, mask.shape[0] - 1), columns.clip(0, mask.shape[1] - 1)] * inside
        return _trimmed(pixels.astype(np.uint8), top, left)


def _rotation(angle: float, frame: tuple[int, int]) -> npt.NDArray[np.float64]:
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    y, x = frame[0] / 2, frame[1] / 2
    return np.array(
        [
            [cosine, sine, x - cosine * x - sine * y],
            [-sine, cosine, y + sine * x - cosine * y],
            [0.0, 0.0, 1.0],
        ]
    )


def filled(polygons: Sequence[Points], height: int, width: int) -> Piece | None:
    """Return the union of polygons in a view of a size, or `None` if they cover no pixel of it.

    Args:
        polygons: The outlines of one object in pixels of the view, each at least three points.
        height: Rows of the view.
        width: Columns of the view.
    """
    from faster_coco_eval.core import mask as coco  # imported where masks are made only

    points = [np.clip(polygon, -_FAR, _FAR) for polygon in polygons]
    lowest = np.min([polygon.min(axis=0) for polygon in points], axis=0)
    highest = np.max([polygon.max(axis=0) for polygon in points], axis=0)
    left, top = max(math.floor(lowest[0]), 0), max(math.floor(lowest[1]), 0)
    right, bottom = min(math.ceil(highest[0]) + 1, width), min(math.ceil(highest[1]) + 1, height)
    if left >= right or top >= bottom:
        return None
    parts = [_shifted(polygon, left, top).ravel().tolist() for polygon in points]
    encoded = coco.frPyObjects(parts, bottom - top, right - left)
    union = encoded[0] if len(encoded) == 1 else coco.merge(encoded)
    x, y, box_width, box_height = (int(side) for side in np.ravel(coco.toBbox(union)))
    if not box_width:
        return None
    return Piece(top + y, left + x, decoded(union)[y : y + box_height, x : x + box_width])


def _shifted(polygon: Points, left: int, top: int) -> Points:
    """Return a polygon from another origin, rounded as at its own: a tie that is rounded later may fall elsewhere."""
    shift = np.array([left, top])
    rounded = np.floor(polygon * _STEPS + 0.5) / _STEPS - shift
    return np.where(shift > 0, rounded, polygon)  # without a shift negative points stay, which are rounded up


def _trimmed(pixels: npt.NDArray[np.uint8], top: int, left: int) -> Piece | None:
    """Return a mask at a place of the view without empty rows and columns at its sides, or `None` if it is empty."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return None
    cut = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Piece(top + int(rows[0]), left + int(columns[0]), cut)


def stacked(pieces: Sequence[Piece | None], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return the masks of a view: uint8 (N, height, width), 0 where there is no piece."""
    masks = np.zeros((len(pieces), height, width), np.uint8)
    for mask, piece in zip(masks, pieces, strict=True):
        if piece is not None:
            left, top, right, bottom = piece.corners
            mask[top:bottom, left:right] = piece.pixels
    return masks


def decoded(rle: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """Return the mask (h, w) of compressed run lengths of COCO; many times faster than decoding it run by run."""
    height, width = rle["size"]
    lengths = run_lengths(counts_of(rle))
    assert lengths is not None
    bits = np.arange(len(lengths), dtype=np.uint8) & 1  # out of the mask and in it in turn
    return np.repeat(bits, lengths).reshape(width, height).T


def rectangle(box: Sequence[float]) -> Points:
    """Return the outline (4, 2) of a box x, y, width, height."""
    x, y, width, height = (float(value) for value in box)
    return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])


def counts_of(rle: dict[str, Any]) -> bytes:
    """Return the compressed runs of COCO's tools as bytes."""
    counts = rle["counts"]
    return counts.encode() if isinstance(counts, str) else bytes(counts)
