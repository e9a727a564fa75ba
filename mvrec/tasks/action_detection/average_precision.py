"""Mean average precision of boxes with actions, as ActivityNet's tool scores AVA.

The rule is that of PASCAL VOC from 2010 on (http://host.robots.ox.ac.uk/pascal/VOC), for each class apart:

1. The boxes of a frame claim the class in the order of their scores, equal scores in the order of rows.
2. A claim looks at the true box that it overlaps most. It is right if their intersection over union is 0.5 or more and
   no earlier claim has that true box; else it is wrong.
3. The claims of all frames are ranked by score, equal scores by frame and row. Average precision is the area under the
   curve of the greatest precision at each recall or above.

A class without true boxes has no average precision, and the mean leaves it out. SlowFast's copy of the tool makes
claims in the order of rows and ranks equal scores in no stable order; so its figures differ where a class has equal
scores, or several claims on one true box.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MIN_OVERLAP = 0.5

Floats = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class FrameBoxes:
    """The boxes of a key frame: those with scores, and the true ones.

    Attributes:
        places: (N, 4), left, top, right and bottom, in the unit of `truth`.
        scores: (N, K), the score of each class; nan where a box does not claim a class.
        truth: (M, 4).
        actions: bool (M, K), the classes of each true box.
    """

    places: Floats
    scores: Floats
    truth: Floats
    actions: Flags


def overlaps(places: Floats, truth: Floats) -> npt.NDArray[np.float64]:
    """Return the intersection over union of boxes (N, 4) and (M, 4): (N, M), 0 for two boxes without area."""
    first, second = places[:, None].astype(np.float64), truth[None].astype(np.float64)
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    intersection = np.maximum(sides, 0).prod(axis=-1)
    areas = [(boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) for boxes in (first, second)]
    union = areas[0] + areas[1] - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def right_claims(frame: FrameBoxes) -> Flags:
    """Return which claims of a frame are right: bool (N, K)."""
    right = np.zeros(frame.scores.shape, bool)
    shares = overlaps(frame.places, frame.truth)
    for number in np.flatnonzero(frame.actions.any(axis=0)).tolist() if len(frame.places) else ():
        with_class = shares[:, frame.actions[:, number]]  # (N, true boxes of the class)
        target, scores = with_class.argmax(axis=1), frame.scores[:, number]
        order = np.argsort(-scores, kind="stable")
        order = order[(with_class.max(axis=1) >= MIN_OVERLAP)[order] & ~np.isnan(scores[order])]
        _, first = np.unique(target[order], return_index=True)
        right[order[first], number] = True
    return right


@dataclass(frozen=True, eq=False)
class Claims:
    """The claims of all frames.

    Attributes:
        scores: (claims, K), in the order of frames and rows; nan for no claim.
        right: bool (claims, K).
        num_true: int64 (K,), the true boxes of each class.
    """

    scores: Floats
    right: Flags
    num_true: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls,
        frames: Sequence[FrameBoxes],
        num_classes: int,
        *,
        only_with_truth: bool = False,
        missed: npt.NDArray[np.int64] | None = None,
    ) -> "Claims":
        """Return the claims of frames.

        Args:
            frames: The frames in the order that decides between equal scores.
            num_classes: K.
            only_with_truth: Whether frames without true boxes are left out; else their claims are wrong.
            missed: int64 (K,), true boxes that no frame has.
        """
        num_true = np.zeros(num_classes, np.int64) if missed is None else missed.copy()
        scores: list[Floats] = [np.zeros((0, num_classes))]
        right: list[Flags] = [np.zeros((0, num_classes), bool)]
        for frame in frames:
            num_true += frame.actions.sum(axis=0)
            if frame.actions.any() or not only_with_truth:
                scores.append(frame.scores)
                right.append(right_claims(frame))
        return cls(np.concatenate(scores), np.concatenate(right), num_true)

    def average_precisions(self) -> npt.NDArray[np.float64]:
        """Return the average precision of each class, (K,); nan for a class without true boxes."""
        values = np.full(len(self.num_true), np.nan)
        for number in np.flatnonzero(self.num_true).tolist():
            scores = self.scores[:, number]
            order = np.argsort(-scores, kind="stable")
            order = order[~np.isnan(scores[order])]
            values[number] = average_precision(self.right[order, number], int(self.num_true[number]))
        return values

    def of_equal_scores(self) -> npt.NDArray[np.float64]:
        """Return the average precision of each class if all claims had one score, (K,): precision times recall."""
        claims, right = (~np.isnan(self.scores)).sum(axis=0), self.right.sum(axis=0)
        values = right / np.maximum(claims, 1) * right / np.maximum(self.num_true, 1)
        return np.where(self.num_true > 0, values, np.nan)


def average_precision(right: Flags, num_true: int) -> float:
    """Return the area under the curve of the greatest precision at each recall or above.

    Args:
        right: Whether each claim is right, the highest score first.
        num_true: True boxes, at least one.
    """
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    greatest = np.maximum.accumulate(precision[::-1])[::-1]
    return float(greatest[right].sum() / num_true)
