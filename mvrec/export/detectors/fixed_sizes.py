"""Steps of detectors whose results have the same number of rows for every image, as graphs of other runtimes need."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from mvrec.models.heads.detection.pooler import Pooler

ROUNDS = 32  # of the suppression of overlapping boxes: the longest chain of boxes of which each removes the next
NO_SCORE = -1.0  # of a row without a box


def best_rows(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the highest scores (M,) of (N,), in descending order, and their rows; M is `count`, but at most N."""
    best = scores.topk(min(count, scores.shape[-1]))
    return best.values, best.indices


def stays(boxes: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Return which boxes stay if each removes those of its group behind it that it overlaps by more than a threshold.

    A box stays if no box that stays removes it. To begin with all of them and to repeat this gives the answer for the
    first box after one round, and for all after as many as the longest chain has boxes (Zheng et al. 2020, Cluster-NMS,
    arXiv 2005.03572).

    Args:
        boxes: (..., N, 4), the best first.
        groups: (..., N).
        threshold: Intersection over union.

    Returns:
        bool (..., N).
    """
    low = torch.maximum(boxes[..., :, None, :2], boxes[..., None, :, :2])
    high = torch.minimum(boxes[..., :, None, 2:], boxes[..., None, :, 2:])
    sides = (high - low).clamp(min=0)
    common = sides[..., 0] * sides[..., 1]
    areas = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    union = areas[..., :, None] + areas[..., None, :] - common
    removes = (common > threshold * union) & (groups[..., :, None] == groups[..., None, :])
    place = torch.arange(boxes.shape[-2], device=boxes.device)
    matrix = (removes & (place[:, None] < place)).to(boxes.dtype)
    staying = boxes.new_ones((*boxes.shape[:-2], 1, boxes.shape[-2]))
    for _ in range(ROUNDS):
        staying = (staying @ matrix < 0.5).to(boxes.dtype)
    return staying[..., 0, :] > 0.5


def clipped(boxes: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Return boxes (..., 4) inside an image."""
    return boxes.clamp(min=0).minimum(torch.stack([width, height, width, height]))


def shortest_sides(boxes: Tensor) -> Tensor:
    """Return the shorter side (...) of boxes (..., 4)."""
    return torch.minimum(boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1])


def box_cells(pooler: Pooler, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Return the cells (N, C, cells, cells) of boxes (N, 4), as the pooler does.

    Each map is asked about all boxes; a box of another map is a single pixel there, which takes no time.
    """
    levels = pooler.levels_of(boxes)
    pixel = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    total: Tensor | None = None
    for number, stride in enumerate(pooler.strides):
        is_own = levels == number
        corners = torch.where(is_own[:, None], boxes, pixel)
        rows = torch.cat([torch.zeros_like(corners[:, :1]), corners], 1)
        cells = roi_align(maps[number], rows, pooler.cells, 1 / stride, pooler.samples, pooler.aligned)
        cells_here = torch.where(is_own[:, None, None, None], cells, torch.zeros_like(cells))
        total = cells_here if total is None else total + cells_here
    assert total is not None
    return total
