"""Boxes of people with their names and actions, drawn over the frames of a video."""

import colorsys
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mvrec.inference.actions.results import ActionPrediction
from mvrec.inference.overlay import font_for

Pixels = npt.NDArray[np.uint8]

LEAST_SCORE = 0.5  # of an action that is drawn
MOST_ACTIONS = 3  # that are drawn for a person
_TURN = 0.381966  # of the circle of hues from one person to the next, the golden section: neighbours differ most
_LETTERS, _LEAST_LETTERS = 1 / 36, 13  # pixels of letters: a share of the picture's height, and at least so many
_GAP = 3  # pixels around text
_INK, _PAPER_SHARE = (255, 255, 255), 0.55  # of text, and the share of the frame's brightness that stays below it


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


def colour_of(number: int) -> tuple[int, int, int]:
    """Return the colour of a person by number, RGB: bright, and unlike that of the numbers before."""
    red, green, blue = colorsys.hsv_to_rgb(0.33 + number * _TURN, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def drawn(picture: Pixels, labels: Sequence[Label], colours: dict[str, tuple[int, int, int]]) -> Pixels:
    """Draw boxes with names and actions over a picture; texts stay inside it and do not cover one another.

    Args:
        picture: uint8 (H, W, 3).
        labels: The boxes, in its pixels.
        colours: Of each name.

    Returns:
        uint8 (H, W, 3).
    """
    from PIL import Image, ImageDraw

    height = picture.shape[0]
    letters = max(round(height * _LETTERS), _LEAST_LETTERS)
    texts = [_lines(label) for label in labels]
    font = font_for("".join(line for lines in texts for line in lines), letters)
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    for label in labels:
        draw.rectangle(tuple(label.corners.tolist()), outline=colours[label.name], width=max(letters // 6, 2))
    places: list[_Rectangle] = []
    for label, lines in sorted(zip(labels, texts, strict=True), key=lambda pair: float(pair[0].corners[1])):
        size = (
            round(max(map(font.getlength, lines))) + 4 * _GAP,
            len(lines) * (letters + _GAP) + _GAP,
        )
        place = _free_place(label.corners, size, (picture.shape[1], height), places)
        places.append(place)
        below = canvas.crop(place).point([round(value * _PAPER_SHARE * 0.6) for value in range(256)] * 3)
        canvas.paste(below, place[:2])
        draw.rectangle((place[0], place[1], place[0] + _GAP - 1, place[3] - 1), fill=colours[label.name])
        for row, line in enumerate(lines):
            top = place[1] + _GAP / 2 + row * (letters + _GAP)
            draw.text((place[0] + 2 * _GAP, top), line, fill=_INK, font=font)
    return np.asarray(canvas)


_Rectangle = tuple[int, int, int, int]  # left, top, right, bottom


def _lines(label: Label) -> list[str]:
    return [label.name, *(f"{name} {score:.2f}" for name, score in label.actions)]


def _free_place(
    corners: npt.NDArray[np.float32], size: tuple[int, int], limits: tuple[int, int], others: Sequence[_Rectangle]
) -> _Rectangle:
    """Return the place of a text: above its box, below or inside it, the first that covers no other text.

    A text that does not fit above or below is moved into the picture, if the other places are worse.
    """
    width, height = size
    left = int(np.clip(corners[0], 0, max(limits[0] - width, 0)))
    tops = [int(top) for top in (corners[1] - height, corners[3], corners[1], corners[3] - height)]
    whole = [top for top in tops if 0 <= top <= limits[1] - height]
    moved = [min(max(top, 0), max(limits[1] - height, 0)) for top in tops]
    places = [(left, top, min(left + width, limits[0]), min(top + height, limits[1])) for top in (*whole, *moved)]
    return next((place for place in places if not any(_meet(place, other) for other in others)), places[0])


def _meet(first: _Rectangle, second: _Rectangle) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]
