"""Masks as run lengths in COCO's form, made from patches, so that no mask of a whole image exists."""

import itertools
from typing import TypedDict

import torch
from torch import Tensor

from mvrec.models.heads.detection.paste import Patch, patches
from mvrec.models.heads.detection.results import Style


class RLE(TypedDict):
    """A mask in COCO's compressed form.

    Attributes:
        size: [height, width].
        counts: Lengths of runs down the columns, from left to right, beginning with a run of 0.
    """

    size: list[int]
    counts: bytes


def encoded(
    probabilities: Tensor, boxes: Tensor, height: int, width: int, *, style: Style = "mmdetection"
) -> list[RLE]:
    """Return the masks of an image's objects; those of `paste_masks`, one after the other.

    Args:
        probabilities: (N, 28, 28) over each box.
        boxes: (N, 4) in pixels of the image.
        height: Of the image.
        width: Of the image.
        style: Whose rule, see `patches`.
    """
    from faster_coco_eval.core import mask as coco  # C++ that only masks need

    lengths = [run_lengths(patch, height, width) for patch in patches(probabilities, boxes, height, width, style=style)]
    size = [height, width]
    return coco.frPyObjects([{"size": size, "counts": each} for each in lengths], height, width) if lengths else []


def run_lengths(patch: Patch, height: int, width: int) -> list[int]:
    """Return the lengths of the runs of 0 and 1 down the columns of an image, beginning with 0."""
    columns = patch.mask.T.to(torch.int8)  # (w, h)
    edges = columns.new_zeros(columns.shape[0], columns.shape[1] + 1)
    edges[:, :-1] += columns
    edges[:, 1:] -= columns
    column, row = torch.where(edges)  # in pairs: where a run begins, and behind its end
    places = (column + patch.left) * height + row + patch.top
    # A run that reaches the bottom goes on at the top of the next column: its end is the next one's begin.
    is_new = places.diff() != 0
    yes = is_new.new_ones(min(1, len(places)))
    ends = [0, *places[torch.cat([yes, is_new]) & torch.cat([is_new, yes])].tolist()]
    lengths = [after - before for before, after in itertools.pairwise([*ends, height * width])]
    return lengths if lengths[-1] else lengths[:-1]
