"""Boxes of a video linked to people, and scores averaged along each person's key frames."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mvrec.inference.actions.results import ActionPrediction, Person

Corners = npt.NDArray[np.float32]  # (N, 4): left, top, right and bottom in pixels

LEAST_OVERLAP = 0.3  # IoU of a person's boxes at two moments
ROUNDING = 1e-6  # seconds


def longest_gap(step: float) -> float:
    """Return the seconds after which a hidden person counts as a new one: one look may miss a person, or a second.

    Args:
        step: Seconds from one look at people to the next.
    """
    return max(2.5 * step, 1.0)


def overlaps(first: Corners, second: Corners) -> npt.NDArray[np.float32]:
    """Return the intersection over union of each box (N, 4) with each other box (M, 4): (N, M)."""
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    opposite = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.clip(opposite - corner, 0, None).prod(-1)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(-1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None] - common
    return np.where(union > 0, common / np.where(union > 0, union, 1), 0).astype(np.float32)


class _Track(NamedTuple):
    name: str
    seconds: float
    corners: Corners  # (4,)
    speed: Corners  # (4,), in pixels per second

    def at(self, seconds: float) -> Corners:
        """Return where the box would be, if it kept its speed."""
        return self.corners + self.speed * np.float32(seconds - self.seconds)

    def moved(self, seconds: float, corners: Corners) -> "_Track":
        """Return the track with the box at a later moment."""
        passed = seconds - self.seconds
        speed = (corners - self.corners) / np.float32(passed) if passed > 0 else self.speed
        return _Track(self.name, seconds, corners, speed)


class Linker:
    """Names for the boxes of a video, from one moment to the next.

    Boxes at two moments are one person's if they overlap, where the earlier one was or where its speed would take
    it; the pair that overlaps most is linked first. A person may be hidden for a while. Boxes that have a name keep it.

    Args:
        most_gap: Seconds after which a person who was hidden counts as a new one.
        least_overlap: Least intersection over union of a person's boxes.
    """

    def __init__(self, *, most_gap: float, least_overlap: float = LEAST_OVERLAP) -> None:
        self.most_gap, self.least_overlap = most_gap, least_overlap
        self._tracks: list[_Track] = []
        self._names: set[str] = set()
        self._count = 0

    def link(self, seconds: float, corners: Corners, names: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the name of each box's person.

        Args:
            seconds: The moment, not before the last one.
            corners: (N, 4), in pixels.
            names: Names that are known; "" for a box without. Numbers name the others.
        """
        names = list(names) or [""] * len(corners)
        self._names.update(filter(None, names))
        tracks = [
            track
            for track in self._tracks[::-1]  # of two that overlap alike the one that was seen later is the person
            if seconds - track.seconds <= self.most_gap + ROUNDING and track.name not in names
        ]
        for row, track in self._pairs(seconds, corners, names, tracks):
            names[row] = track.name
        names = [name or self._new_name() for name in names]
        earlier = {track.name: track for track in self._tracks}
        current = [
            earlier[name].moved(seconds, box) if name in earlier else _Track(name, seconds, box, np.zeros_like(box))
            for name, box in zip(names, corners, strict=True)
        ]
        linked = {track.name for track in current}
        self._tracks = [track for track in self._tracks if track.name not in linked] + current
        self._tracks = [track for track in self._tracks if seconds - track.seconds <= self.most_gap + ROUNDING]
        return tuple(names)

    def _pairs(
        self, seconds: float, corners: Corners, names: Sequence[str], tracks: Sequence[_Track]
    ) -> Iterator[tuple[int, _Track]]:
        """Yield boxes without a name with their tracks, those that overlap most first."""
        rows = [row for row, name in enumerate(names) if not name]
        if not rows or not tracks:
            return
        places = ([track.corners for track in tracks], [track.at(seconds) for track in tracks])
        overlap = np.maximum(*(overlaps(corners[rows], np.stack(boxes)) for boxes in places))
        for place in np.argsort(-overlap, axis=None, kind="stable").tolist():
            row, column = divmod(place, len(tracks))
            if overlap[row, column] < self.least_overlap:
                return
            yield rows[row], tracks[column]
            overlap[row], overlap[:, column] = -1, -1

    def _new_name(self) -> str:
        self._count += 1
        while str(self._count) in self._names:
            self._count += 1
        return str(self._count)


def smoothed(predictions: Iterable[ActionPrediction], seconds: float) -> Iterator[ActionPrediction]:
    """Yield the key frames of a video, each person's scores averaged over those within some seconds before and after.

    Memory holds the key frames of that time only.

    Args:
        predictions: Key frames of one video in the order of time.
        seconds: On each side; 0 leaves all scores as they are.
    """
    near: deque[ActionPrediction] = deque()
    place = 0  # of the next key frame to yield, in `near`
    for prediction in predictions:
        near.append(prediction)
        while place < len(near) - 1 and _distance(near[place], prediction) > seconds + ROUNDING:
            yield _mean(near[place], near, seconds)
            place += 1
        while place and _distance(near[0], near[place]) > seconds + ROUNDING:
            near.popleft()
            place -= 1
    for middle in list(near)[place:]:
        yield _mean(middle, near, seconds)


def _distance(first: ActionPrediction, second: ActionPrediction) -> float:
    return abs(first.seconds - second.seconds)


def _mean(middle: ActionPrediction, near: Iterable[ActionPrediction], seconds: float) -> ActionPrediction:
    others = [other for other in near if _distance(other, middle) <= seconds + ROUNDING]

    def scores_of(person: Person) -> npt.NDArray[np.float64]:
        same = [peer.probabilities for other in others for peer in other.people if peer.name == person.name]
        return np.mean(same, axis=0)

    return replace(middle, people=tuple(replace(person, probabilities=scores_of(person)) for person in middle.people))
