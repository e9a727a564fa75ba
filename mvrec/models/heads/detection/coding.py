"""Boxes as corrections of other boxes, and which box of an image belongs to which of these, in float32.

The formulas are those of Girshick 2015 and Ren et al. 2015; torchvision has them too, in the dtype of its inputs.
"""

import math

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder as TorchvisionBoxCoder
from torchvision.models.detection._utils import Matcher as TorchvisionMatcher
from torchvision.ops import box_iou

from mvrec.models.heads.detection.results import Style

LARGEST_LOG_RATIO = math.log(1000 / 16)  # of a corrected side over that of the anchor, in all three libraries


class BoxCoder(TorchvisionBoxCoder):
    """Corrections (dx, dy, dw, dh) of boxes, in float32 also under autocast.

    bfloat16 would round boxes to 8 pixels at the right border of a large image.

    Args:
        weights: Factors of the four numbers: 1 / standard deviation of mmdetection's coders.
        style: "mmdetection" limits the logarithms of sides on both ends, the others on the upper one.
    """

    def __init__(
        self, weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0), *, style: Style = "mmdetection"
    ) -> None:
        super().__init__(weights, LARGEST_LOG_RATIO)
        self.style = style

    def encode_single(self, reference_boxes: Tensor, proposals: Tensor) -> Tensor:
        """Return the corrections (N, 4) that make `proposals` (N, 4) the `reference_boxes` (N, 4)."""
        return super().encode_single(reference_boxes.float(), proposals.float())

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Return the boxes (N, 4 * C) that corrections (N, 4 * C) make of `boxes` (N, 4)."""
        codes = rel_codes.float()
        if self.style == "mmdetection":
            least = [-math.inf, -math.inf, -LARGEST_LOG_RATIO * self.weights[2], -LARGEST_LOG_RATIO * self.weights[3]]
            codes = codes.unflatten(1, (-1, 4)).maximum(codes.new_tensor(least)).flatten(1)
        return super().decode_single(codes, boxes.float())


class Matcher(TorchvisionMatcher):
    """The object (N,) that each of N boxes belongs to by IoU; -1 for none, -2 for boxes that training ignores.

    A box belongs to the object that it overlaps most if their IoU is `high` or more, and to none if it is less than
    `low`. In between it is ignored.

    Args:
        high: Least IoU of a box that belongs to an object.
        low: IoU from which on a box is not background.
        least_best: Whether objects have their best boxes whatever `high` says, from this IoU on; None for not.
        style: What these best boxes belong to: with "mmdetection" to the object (to the last of several), with the
            others to the object that they overlap most, which may be another one.
    """

    def __init__(
        self, high: float, low: float, *, least_best: float | None = None, style: Style = "mmdetection"
    ) -> None:
        super().__init__(high, low, allow_low_quality_matches=least_best is not None)
        self.least_best, self.style = least_best, style

    def __call__(self, match_quality_matrix: Tensor) -> Tensor:
        """Return the objects of boxes, from the IoU (M, N) of M objects and N boxes; M and N may be 0."""
        if not match_quality_matrix.numel():
            return match_quality_matrix.new_full((match_quality_matrix.shape[1],), -1, dtype=torch.int64)
        return super().__call__(match_quality_matrix)

    def set_low_quality_matches_(self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor) -> None:
        """Give each object its best boxes, in place."""
        if self.style != "mmdetection":
            super().set_low_quality_matches_(matches, all_matches, match_quality_matrix)
            return
        assert self.least_best is not None
        best = match_quality_matrix.amax(1, keepdim=True)  # (M, 1)
        # An object that overlaps no box would have them all.
        is_best = (match_quality_matrix == best) & (best > 0) & (best >= self.least_best)
        objects, boxes = torch.where(is_best)
        matches.scatter_reduce_(0, boxes, objects, "amax", include_self=False)

    def assign(self, truth: Tensor, boxes: Tensor, usable: Tensor | None = None) -> Tensor:
        """Return the objects (N,) of boxes, as numbers of `truth`, or -1 or -2.

        Args:
            truth: Boxes of the objects (M, 4).
            boxes: (N, 4).
            usable: Which boxes are considered (N,); others are ignored.
        """
        if usable is None:
            return self(box_iou(truth.float(), boxes.float()))
        matches = boxes.new_full((len(boxes),), self.BETWEEN_THRESHOLDS, dtype=torch.int64)
        matches[usable] = self(box_iou(truth.float(), boxes[usable].float()))
        return matches
