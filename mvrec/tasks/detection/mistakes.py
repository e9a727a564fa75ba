"""Mistakes of detections above a score: their kinds, and the classes that they confuse.

Boxes are compared at an intersection over union of 0.5. Detections claim true boxes of their class in the order of
their scores, as in COCO's rule. Of the wrong ones (kinds of Bolya et al. 2020, "TIDE", by counts):

* location: it overlaps a true box of its class by 0.1 to 0.5;
* class: it overlaps a true box of another class by 0.5 or more;
* duplicate: it overlaps a true box of its class that a better detection has;
* background: all others.

A true box is missed if it has no right detection, and none with a wrong location or class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mvrec.tasks.detection.image_regions import Flags, Floats, ImageRegions

MIN_OVERLAP = 0.5
LEAST_OVERLAP = 0.1  # below it a wrong detection lies on the background
KINDS = ("location", "class", "duplicate", "background", "missed")
DEFAULT_SCORE = 0.5  # where no detection is right

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Claims:
    """The claims of an image's detections.

    Attributes:
        shares: float64 (N, M), the intersection over union with each true box; 0 for crowds.
        owners: int64 (N,), the true box that a detection has rightly claimed, else -1.
        ignored: bool (N,), whether a detection lies in a crowd of its class, and so is neither right nor wrong.
    """

    shares: Floats
    owners: Counts
    ignored: Flags

    @property
    def right(self) -> Flags:
        """Whether each detection is right, bool (N,)."""
        return self.owners >= 0


def claims_of(image: ImageRegions) -> Claims:
    """Let the detections of an image claim true boxes of their class, the highest score first."""
    truth, corners = image.truth, image.corners.astype(np.float64)
    intersections, areas, true_areas = _intersections(corners, truth.corners)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.nan_to_num(intersections / (areas[:, None] + true_areas - intersections))
        inside = np.nan_to_num(intersections / areas[:, None])
    same = image.labels[:, None] == truth.labels
    in_crowd = ((inside >= MIN_OVERLAP) & same & truth.crowd).any(axis=1)
    shares[:, truth.crowd] = 0
    owners = np.full(len(corners), -1, np.int64)
    candidates = np.where(same & (shares >= MIN_OVERLAP), shares, 0)
    for place in np.argsort(-image.scores, kind="stable").tolist():
        if candidates[place].any():
            owners[place] = best = int(candidates[place].argmax())
            candidates[:, best] = 0
    return Claims(shares, owners, in_crowd & (owners < 0))


def best_score(images: Sequence[ImageRegions], claims: Sequence[Claims]) -> float:
    """Return the least score of detections with which precision and recall of all boxes are balanced best (F1)."""
    scores = np.concatenate([np.zeros(0, np.float32), *(image.scores for image in images)])
    right = np.concatenate([np.zeros(0, bool), *(claim.right for claim in claims)])
    counted = ~np.concatenate([np.zeros(0, bool), *(claim.ignored for claim in claims)])
    order = np.argsort(-scores[counted], kind="stable")
    scores, right = scores[counted][order], right[counted][order]
    if not right.any():
        return DEFAULT_SCORE
    true = sum(int((~image.truth.crowd).sum()) for image in images)
    balance = 2 * np.cumsum(right) / (np.arange(1, len(right) + 1) + true)
    last = np.append(scores[1:] != scores[:-1], True)  # of equal scores: a threshold takes all or none
    return float(scores[last][balance[last].argmax()])


@dataclass(frozen=True, eq=False)
class Mistakes:
    """The mistakes of an image's detections above a score.

    Attributes:
        kinds: The kind of each detection, of `KINDS` without "missed": "" if it is right, in a crowd, or below.
        taken_for: int64 (M,), the class that a true box is taken for; -1 if for none.
        shown: bool (N,), whether a detection has the score and is in no crowd.
        owners: See `Claims`; -1 below the score.
        missed: bool (M,).
    """

    kinds: tuple[str, ...]
    taken_for: Counts
    shown: Flags
    owners: Counts
    missed: Flags


def mistakes_of(image: ImageRegions, claims: Claims, *, score: float) -> Mistakes:
    """Return the kind of each detection above a score, and what each true box is taken for."""
    truth, shown = image.truth, (image.scores >= score) & ~claims.ignored
    owners = np.where(shown, claims.owners, -1)
    taken_for = np.full(len(truth), -1, np.int64)
    taken_for[owners[owners >= 0]] = image.labels[owners >= 0]
    covered = taken_for >= 0
    same = image.labels[:, None] == truth.labels
    kinds = [""] * len(image.labels)
    for place in np.argsort(-image.scores, kind="stable").tolist():
        if shown[place] and owners[place] < 0:
            kinds[place] = _kind(claims.shares[place], same[place], covered)
    for place in np.argsort(-image.scores, kind="stable").tolist():  # right claims go first, whatever their score
        if kinds[place]:
            free = np.where(taken_for < 0, claims.shares[place], 0)
            if len(free) and free.max() >= MIN_OVERLAP:
                taken_for[free.argmax()] = image.labels[place]
    return Mistakes(tuple(kinds), taken_for, shown, owners, ~covered & ~truth.crowd)


def _kind(shares: Floats, same: Flags, covered: Flags) -> str:
    """Return the kind of a wrong detection; mark the true box that a wrong location or class covers.

    Args:
        shares: (M,), the overlap with each true box.
        same: (M,), whether the box has the detection's class.
        covered: (M,), changed.
    """
    same_class, other_class = np.where(same, shares, 0), np.where(same, 0, shares)
    if LEAST_OVERLAP <= same_class.max(initial=0) < MIN_OVERLAP:
        covered[same_class.argmax()] = True
        return "location"
    if other_class.max(initial=0) >= MIN_OVERLAP:
        covered[other_class.argmax()] = True
        return "class"
    return "duplicate" if same_class.max(initial=0) >= MIN_OVERLAP else "background"


def counted(mistakes: Sequence[Mistakes]) -> dict[str, int]:
    """Return the number of right detections, and of the mistakes of each kind."""
    counts = {"right": sum(int((entry.owners >= 0).sum()) for entry in mistakes), **dict.fromkeys(KINDS, 0)}
    for entry in mistakes:
        for kind in filter(None, entry.kinds):
            counts[kind] += 1
        counts["missed"] += int(entry.missed.sum())
    return counts


def confusion(images: Sequence[ImageRegions], mistakes: Sequence[Mistakes], num_classes: int) -> Counts:
    """Return what true boxes are taken for: int64 (K + 1, K + 1), true classes down, answers across.

    The last row counts detections without a true box, the last column true boxes without a detection. Right claims go
    first; then wrong detections take the true box of any class that they overlap most and that is free.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for image, entry in zip(images, mistakes, strict=True):
        counted_boxes = ~image.truth.crowd
        true, answers = image.truth.labels[counted_boxes], entry.taken_for[counted_boxes]
        np.add.at(counts, (true, np.where(answers < 0, num_classes, answers)), 1)
        answered = np.bincount(answers[answers >= 0], minlength=num_classes)
        counts[-1, :-1] += np.bincount(image.labels[entry.shown], minlength=num_classes) - answered
    return counts


def _intersections(first: Floats, second: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the intersections (N, M) of boxes by their corners, and the areas (N,) and (M,) of these."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    areas = [(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (first, second)]
    return np.maximum(high - low, 0).prod(axis=2), areas[0], areas[1]
