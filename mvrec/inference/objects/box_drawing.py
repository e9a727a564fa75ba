"""Boxes with lines of text over a picture."""

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mvrec.inference.overlay import font_for

Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

_TURN = 0.381966  # of the circle of hues from one colour to the next, the golden section: neighbours differ most
_LETTERS, _LEAST_LETTERS = 1 / 36, 13  # pixels of letters: a share of the picture's height, and at least so many
_GAP = 3  # pixels around text
_INK, _PAPER_SHARE = (255, 255, 255), 0.55  # of text, and the share of the picture's brightness that stays below it


class BoxLabel(NamedTuple):
    """A box and its text in one picture.

    Attributes:
        corners: float (4,), left, top, right and bottom in pixels.
        lines: Lines of text.
        colour: Of the box, RGB.
    """

    corners: npt.NDArray[np.float32]
    lines: Sequence[str]
    colour: Colour


def colour_of(number: int) -> Colour:
    """Return a colour by number, RGB: bright, and unlike those of the numbers before."""
    red, green, blue = colorsys.hsv_to_rgb(0.33 + number * _TURN, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_boxes(picture: Pixels, labels: Sequence[BoxLabel]) -> Pixels:
    """Draw boxes with texts over a picture; texts stay inside it and do not cover one another, if there is room.

    Args:
        picture: uint8 (H, W, 3).
        labels: The boxes, in its pixels.

    Returns:
        uint8 (H, W, 3).
    """
    from PIL import Image, ImageDraw

    height = picture.shape[0]
    letters = max(round(height * _LETTERS), _LEAST_LETTERS)
    font = font_for("".join(line for label in labels for line in label.lines), letters)
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    for label in labels:
        draw.rectangle(tuple(label.corners.tolist()), outline=label.colour, width=max(letters // 6, 2))
    places: list[_Rectangle] = []
    for label in sorted(labels, key=lambda label: float(label.corners[1])):
        size = (
            round(max(map(font.getlength, label.lines))) + 4 * _GAP,
            len(label.lines) * (letters + _GAP) + _GAP,
        )
        place = _free_place(label.corners, size, (picture.shape[1], height), places)
        places.append(place)
        below = canvas.crop(place).point([round(value * _PAPER_SHARE * 0.6) for value in range(256)] * 3)
        canvas.paste(below, place[:2])
        draw.rectangle((place[0], place[1], place[0] + _GAP - 1, place[3] - 1), fill=label.colour)
        for row, line in enumerate(label.lines):
            top = place[1] + _GAP / 2 + row * (letters + _GAP)
            draw.text((place[0] + 2 * _GAP, top), line, fill=_INK, font=font)
    return np.asarray(canvas)


_Rectangle = tuple[int, int, int, int]  # left, top, right, bottom


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
