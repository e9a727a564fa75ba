"""Windows of a video merged into segments with a start, an end and a class. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mvrec.errors import UserError, nearest

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Segment:
    """A part of a video in which a class is seen.

    Attributes:
        start: In seconds.
        end: In seconds.
        label: The class's number.
        name: Its name.
        confidence: Its mean probability over the segment, 0..1.
    """

    start: float
    end: float
    label: int
    name: str
    confidence: float


@dataclass(frozen=True)
class TimelineKnobs:
    """The choices of a timeline.

    Attributes:
        on: Probability that begins a segment.
        off: Probability that keeps it up, at most `on`; a dip above it does not split a segment.
        least: Shortest segment in seconds.
        background: The class that stands for nothing; `None` if there is none.
    """

    on: float = 0.5
    off: float = 0.3
    least: float = 0.0
    background: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.off <= self.on <= 1:
            raise UserError(f"a timeline needs 0 < off <= on <= 1, not off {self.off:g} and on {self.on:g}")
        if not self.least >= 0:
            raise UserError(f"the shortest segment of a timeline has 0 seconds or more, not {self.least:g}")


def merge(
    probabilities: Any, starts: Any, ends: Any, names: Sequence[str], knobs: TimelineKnobs | None = None
) -> list[Segment]:
    """Merge windows into segments.

    Windows may overlap: each moment has the mean of those that cover it. A class is seen from where it rises to `on`,
    extended both ways as long as it is `off` or more. Classes may overlap in time, as in multi-label data.

    Args:
        probabilities: Of each class in each window, (W, K), 0..1.
        starts: Seconds at which the windows begin, (W,).
        ends: Seconds at which they end, (W,).
        names: Names of the classes.
        knobs: Thresholds, the shortest segment, and the background.

    Returns:
        Segments by start, then by class.

    Raises:
        UserError: The background is no class.
    """
    knobs = knobs or TimelineKnobs()
    if knobs.background is not None and knobs.background not in names:
        raise UserError(f"background {knobs.background!r} is no class{nearest(knobs.background, names)}")
    # An end that differs from the next start by rounding alone would leave a segment of no length between them.
    starts, ends = (np.round(np.asarray(seconds, np.float64), 6) for seconds in (starts, ends))
    moments, means = _means(np.asarray(probabilities, np.float64), starts, ends)
    if knobs.background is not None:
        is_background = means.argmax(axis=1) == list(names).index(knobs.background)
        means[is_background] = 0
    lengths = np.diff(moments)
    segments = []
    for label, name in enumerate(names):
        if name == knobs.background:
            continue
        for first, after in _runs(means[:, label], knobs):
            start, end = float(moments[first]), float(moments[after])
            if end - start >= knobs.least:
                share = float(np.average(means[first:after, label], weights=lengths[first:after]))
                segments.append(Segment(start, end, label, name, share))
    return sorted(segments, key=lambda segment: (segment.start, segment.label))


def _means(probabilities: Floats, starts: Floats, ends: Floats) -> tuple[Floats, Floats]:
    """Return the moments (M + 1,) at which windows begin or end, and the means between them, (M, K)."""
    moments = np.unique(np.concatenate([starts, ends]).astype(np.float64))
    sums = np.zeros((len(moments), probabilities.shape[1] + 1))
    counted = np.concatenate([probabilities, np.ones((len(probabilities), 1))], axis=1)
    np.add.at(sums, np.searchsorted(moments, starts), counted)
    np.subtract.at(sums, np.searchsorted(moments, ends), counted)
    sums = np.cumsum(sums, axis=0)[:-1]
    counts = np.rint(sums[:, -1:])
    return moments, np.where(counts > 0, sums[:, :-1] / np.maximum(counts, 1), 0.0)


def _runs(means: Floats, knobs: TimelineKnobs) -> list[tuple[int, int]]:
    """Return first place and place after the last of each run at `off` or more that reaches `on`."""
    rounding = 1e-9  # of sums
    is_kept = np.concatenate([[False], means >= knobs.off - rounding, [False]]).astype(np.int8)
    edges = np.flatnonzero(np.diff(is_kept)).reshape(-1, 2)
    return [(int(first), int(after)) for first, after in edges if means[first:after].max() >= knobs.on - rounding]
