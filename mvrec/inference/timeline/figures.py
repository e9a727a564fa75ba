"""Mean average precision of segments over time, by ActivityNet's rule. No torch.

For each class apart: the segments of all videos are ranked by confidence, equal ones in their order. Each claims the
true segment of its video and class that it overlaps most among those not claimed yet, if their intersection over union
(tIoU) reaches the threshold; else it is wrong. Average precision is the area under the curve of the greatest precision
at each recall or above. A class without true segments is left out of the mean.

Source: Heilbron et al. 2015 (ActivityNet), and the rules of its challenge (tIoU 0.5, 0.55 to 0.95).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mvrec.inference.timeline.segments import Segment
from mvrec.messages import counted

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
Spans = Sequence[tuple[float, float]]


class TimelineFigures(NamedTuple):
    """Scores of timelines.

    Attributes:
        by_threshold: Mean average precision at each tIoU.
        by_class: Average precision of each class at a tIoU of 0.5.
        num_videos: Videos with true segments or predicted ones.
        num_true: True segments.
    """

    by_threshold: dict[float, float]
    by_class: dict[str, float]
    num_videos: int
    num_true: int

    @property
    def mean(self) -> float:
        """The mean over all thresholds."""
        return sum(self.by_threshold.values()) / len(self.by_threshold)

    def __str__(self) -> str:
        parts = [f"{100 * self.by_threshold[at]:.2f} % at {at:g}" for at in (0.5, 0.75, 0.95)]
        return (
            f"tIoU mAP {', '.join(parts)}, mean of 0.5 to 0.95 {100 * self.mean:.2f} % "
            f"({counted(self.num_true, 'segments')} of {counted(len(self.by_class), 'classes')} "
            f"in {counted(self.num_videos, 'videos')})"
        )


def timeline_figures(
    predicted: Mapping[str, Sequence[Segment]], truth: Mapping[str, Sequence[tuple[float, float, str]]]
) -> TimelineFigures:
    """Score segments.

    Args:
        predicted: Segments of each video.
        truth: Start, end and class of the true segments of each video.
    """
    names = sorted({name for spans in truth.values() for _, _, name in spans})
    values: dict[str, npt.NDArray[np.float64]] = {}
    for name in names:
        true = {video: [(start, end) for start, end, label in spans if label == name] for video, spans in truth.items()}
        claims = [(video, part) for video, parts in predicted.items() for part in parts if part.name == name]
        claims.sort(key=lambda claim: -claim[1].confidence)
        values[name] = np.array([_average_precision(claims, true, threshold) for threshold in THRESHOLDS])
    means = np.mean(list(values.values()), axis=0)
    return TimelineFigures(
        dict(zip(THRESHOLDS, means.tolist(), strict=True)),
        {name: float(precisions[0]) for name, precisions in values.items()},
        len({*predicted, *truth}),
        sum(map(len, truth.values())),
    )


def overlap(span: tuple[float, float], other: tuple[float, float]) -> float:
    """Return the intersection over union of two spans of time."""
    shared = max(0.0, min(span[1], other[1]) - max(span[0], other[0]))
    union = (span[1] - span[0]) + (other[1] - other[0]) - shared
    return shared / union if union > 0 else 0.0


def _average_precision(claims: Sequence[tuple[str, Segment]], true: Mapping[str, Spans], threshold: float) -> float:
    claimed: dict[str, set[int]] = {video: set() for video in true}
    is_right = []
    for video, part in claims:
        overlaps = [
            (overlap((part.start, part.end), span), -place)
            for place, span in enumerate(true.get(video, ()))
            if place not in claimed[video]
        ]
        best, place = max(overlaps, default=(0.0, 0))
        is_right.append(best >= threshold)
        if is_right[-1]:
            claimed[video].add(-place)
    num_true = sum(map(len, true.values()))
    rights = np.cumsum(is_right) if is_right else np.zeros(0)
    precision = rights / np.arange(1, len(rights) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    recall = np.concatenate([[0.0], rights / num_true])
    return float(np.sum(np.diff(recall) * highest))
