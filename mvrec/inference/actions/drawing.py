"""Boxes of people with their names and actions, drawn over the frames of a video."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mvrec.inference.actions.results import ActionPrediction
from mvrec.inference.objects.box_drawing import BoxLabel, Colour, Pixels, draw_boxes

LEAST_SCORE = 0.5  # of an action that is drawn
MOST_ACTIONS = 3  # that are drawn for a person


class Label(NamedTuple):
    """A box and its text in one picture.

    Attributes:
        corners: float (4,), left, top, right and bottom in pixels.
        name: Of the person.
        actions: With their scores, the most probable one first.
    """

    corners: npt.NDArray[np.float32]
    name: str
    actions: Sequence[tuple[str, float]]


@dataclass
class _Path:
    """Moments of a person: times in ascending order, boxes (N, 4), and times and scores of key frames."""

    times: list[float]
    corners: list[npt.NDArray[np.float32]]
    key_times: list[float]
    actions: list[list[tuple[str, float]]]


class Scene:
    """All people of a video, at any time of it.

    Between two moments of a person the box moves in a straight line. Actions are those of the nearest key frame.

    Args:
        predictions: The video's key frames in the order of time.
        step: Seconds from one look at people to the next.
        most_gap: Seconds between two moments of a person over which the box moves on; in longer gaps it is hidden.
        least_score: Least score of an action that is shown.
    """

    def __init__(
        self, predictions: Sequence[ActionPrediction], *, step: float, most_gap: float, least_score: float = LEAST_SCORE
    ) -> None:
        self.step, self.most_gap = step, most_gap
        looks = [sighting.seconds for prediction in predictions for sighting in prediction.sightings]
        self.first, self.last = min(looks, default=0.0), max(looks, default=0.0)
        self._paths: dict[str, _Path] = {}
        for prediction in predictions:
            for sighting in prediction.sightings:
                for name, corners in zip(sighting.names, sighting.corners, strict=True):
                    path = self._paths.setdefault(name, _Path([], [], [], []))
                    if not path.times or sighting.seconds > path.times[-1]:
                        path.times.append(sighting.seconds)
                        path.corners.append(corners)
            for person in prediction.people:
                path = self._paths[person.name]
                path.key_times.append(prediction.seconds)
                path.actions.append([pair for pair in person.top(MOST_ACTIONS) if pair[1] >= least_score])

    @property
    def names(self) -> list[str]:
        """The names of all people, in the order in which they appear."""
        return list(self._paths)

    def at(self, seconds: float) -> list[Label]:
        """Return the boxes at a time."""
        # Before the first look and after the last one nothing is known: people stay for a step.
        seconds = self.first if self.first - self.step <= seconds < self.first else seconds
        seconds = self.last if self.last < seconds <= self.last + self.step else seconds
        labels = ((name, path, self._place(path, seconds)) for name, path in self._paths.items())
        return [Label(corners, name, _actions(path, seconds)) for name, path, corners in labels if corners is not None]

    def _place(self, path: _Path, seconds: float) -> npt.NDArray[np.float32] | None:
        after = bisect_right(path.times, seconds)
        if 0 < after < len(path.times) and path.times[after] - path.times[after - 1] <= self.most_gap:
            start, end = path.times[after - 1], path.times[after]
            share = np.float32((seconds - start) / (end - start))
            return path.corners[after - 1] * (1 - share) + path.corners[after] * share
        # A person whom the look before or after does not see is there until the middle between both.
        nearest = _nearest(path.times, seconds)
        return path.corners[nearest] if abs(path.times[nearest] - seconds) <= self.step / 2 else None


def _actions(path: _Path, seconds: float) -> list[tuple[str, float]]:
    if not path.key_times:
        return []
    return path.actions[_nearest(path.key_times, seconds)]


def _nearest(times: Sequence[float], seconds: float) -> int:
    """Return the place of the nearest of ascending times, at least one; of two that are as near the earlier one."""
    after = bisect_right(times, seconds)
    places = [place for place in (after - 1, after) if 0 <= place < len(times)]
    return min(places, key=lambda place: abs(times[place] - seconds))


def drawn(picture: Pixels, labels: Sequence[Label], colours: dict[str, Colour]) -> Pixels:
    """Draw boxes with names and actions over a picture uint8 (H, W, 3), each in the colour of its name."""
    return draw_boxes(picture, [BoxLabel(label.corners, _lines(label), colours[label.name]) for label in labels])


def _lines(label: Label) -> list[str]:
    return [label.name, *(f"{name} {score:.2f}" for name, score in label.actions)]
