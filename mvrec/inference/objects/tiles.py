"""Tiles of large images for small objects, and the objects of all tiles as those of one image."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mvrec.data.views.geometry import Box
from mvrec.inference.actions.tracks import overlaps

Floats = npt.NDArray[np.float32]

OVERLAP = 0.2  # of two neighbouring tiles, as a share of their side
BORDER_SHARE = 0.01  # of a tile's side: an object so near to a border between tiles may go on behind it
INSIDE = 0.5  # of a cut object in a whole one: it is a part of that


class Candidates(NamedTuple):
    """Objects of all tiles, in pixels of the image.

    Attributes:
        boxes: float32 (N, 4), left, top, right, bottom.
        scores: float32 (N,).
        labels: int64 (N,).
        cut: bool (N,), whether a border between tiles may cut the object.
    """

    boxes: Floats
    scores: Floats
    labels: npt.NDArray[np.int64]
    cut: npt.NDArray[np.bool_]


def tiles_of(height: int, width: int, *, side: int, overlap: float = OVERLAP) -> list[Box]:
    """Return squares that cover an image, by rows; those at the lower and right border are shifted back into it.

    Args:
        height: Of the image in pixels.
        width: Of the image in pixels.
        side: Of a tile in pixels; a shorter side of the image is a tile's.
        overlap: Least share of a tile that the next one has too.
    """
    step = max(round(side * (1 - overlap)), 1)
    rows, columns = ([*range(0, max(length - side, 0), step), max(length - side, 0)] for length in (height, width))
    return [Box(top, left, min(side, height), min(side, width)) for top in rows for left in columns]


def is_cut(boxes: Floats, tile: Box, *, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Return which boxes (N, 4) in pixels of an image lie at a border of a tile where the image goes on."""
    margin = BORDER_SHARE * max(tile.height, tile.width)
    right, bottom = tile.left + tile.width, tile.top + tile.height
    return (
        ((tile.left > 0) & (boxes[:, 0] <= tile.left + margin))
        | ((tile.top > 0) & (boxes[:, 1] <= tile.top + margin))
        | ((right < width) & (boxes[:, 2] >= right - margin))
        | ((bottom < height) & (boxes[:, 3] >= bottom - margin))
    )


def merged(candidates: Candidates, *, threshold: float) -> npt.NDArray[np.int64]:
    """Return the numbers of the objects that stay if each one counts once, those with the highest scores first.

    Of two objects of a class that overlap by more than the threshold the one with the higher score stays, and a whole
    one before a cut one. A cut one goes too if most of it lies in an object that stays: it is a part of that.

    Args:
        candidates: The objects.
        threshold: Largest intersection over union of two objects of a class.
    """
    boxes, scores, labels, cut = candidates
    areas = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1)
    waiting = np.lexsort((-scores, cut))
    winners = []
    while len(waiting):
        first, waiting = waiting[0], waiting[1:]
        winners.append(first)
        overlap = overlaps(boxes[first : first + 1], boxes[waiting])[0]
        common = overlap * (areas[first] + areas[waiting]) / (1 + overlap)  # of IoU = common / (sum - common)
        is_part = cut[waiting] & (common > INSIDE * areas[waiting])
        waiting = waiting[(labels[waiting] != labels[first]) | ~((overlap > threshold) | is_part)]
    rows: Any = np.array(winners, np.int64)
    return rows[np.argsort(-scores[rows], kind="stable")]
