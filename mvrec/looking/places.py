"""Targets that are places in a picture, drawn over it: masks, objects, and boxes with actions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mvrec.data.views.objects import Objects
from mvrec.data.views.objects.shapes import Piece
from mvrec.data.views.targets import NOT_LABELLED, ActionBoxes, MaskMap, Target
from mvrec.inference.class_maps.drawing import OPACITY, painted
from mvrec.inference.objects.box_drawing import BoxLabel, Colour, colour_of, draw_boxes
from mvrec.inference.overlay import enlarged
from mvrec.tasks.segmentation.colours import colours

Pixels = npt.NDArray[np.uint8]

LEAST_PIXELS = 320  # of the short side under boxes, whose text would hide smaller pictures
SHOWN_SHARE = 0.005  # of a mask, below which a class is left out
NAMES = 3  # of actions at a box


class Drawing(NamedTuple):
    """A picture with its target.

    Attributes:
        picture: uint8 (H, W, 3); under boxes enlarged by a whole number.
        label: The target in words.
    """

    picture: Pixels
    label: str


def has_places(target_type: type[Target]) -> bool:
    """Return whether targets of a type can be drawn."""
    return issubclass(target_type, MaskMap | Objects | ActionBoxes)


def drawing_of(pixels: Pixels, target: Target, names: Sequence[str], *, protocol: Any = None) -> Drawing:
    """Return a view with its target over it.

    Args:
        pixels: uint8 (T, H, W, 3), the network's input; the boxes of a clip are those of frame T // 2.
        target: That of the view.
        names: Names of the classes.
        protocol: That of an evaluated view, whose outlines are moved to the view by it.
    """
    if isinstance(target, MaskMap):
        return _of_mask(pixels[0], target, names)
    if isinstance(target, Objects):
        return _of_objects(pixels[0], target, names, protocol)
    assert isinstance(target, ActionBoxes)
    return _of_actions(pixels[len(pixels) // 2], target, names)


def _of_mask(picture: Pixels, target: MaskMap, names: Sequence[str]) -> Drawing:
    """Return the picture with each class in its colour; pixels without a class stay as they are."""
    classes = target.classes
    palette = np.zeros((NOT_LABELLED + 1, 3), np.uint8)
    palette[: len(names)] = colours(len(names))
    labelled = classes != NOT_LABELLED
    picture = np.where(labelled[..., None], painted(picture, classes, palette), picture)
    shares = np.bincount(classes.ravel(), minlength=NOT_LABELLED + 1) / classes.size
    parts = [(float(shares[number]), name) for number, name in [*enumerate(names), (NOT_LABELLED, "not labelled")]]
    text = ", ".join(
        f"{name} {100 * share:.0f} %" for share, name in sorted(parts, reverse=True) if share > SHOWN_SHARE
    )
    return Drawing(picture, text)


def _of_objects(picture: Pixels, target: Objects, names: Sequence[str], protocol: Any) -> Drawing:
    if protocol is not None and target.frame is not None and target.outlined:
        target = replace(target, evaluated=False, masks=True).moved(protocol.geometries(*target.frame)[0])
    view = target.view
    assert view is not None
    tones = [colour_of(label) for label in view.labels.tolist()]
    for piece, tone in zip(view.pieces or (), tones, strict=False):
        if piece is not None:
            picture = _painted_piece(picture, piece, tone)
    texts = [names[label] for label in view.labels.tolist()]
    return Drawing(_boxed(picture, view.corners, [(text,) for text in texts], tones), ", ".join(texts) or "no object")


def _painted_piece(picture: Pixels, piece: Piece, tone: Colour) -> Pixels:
    height, width = piece.pixels.shape
    place = slice(piece.top, piece.top + height), slice(piece.left, piece.left + width)
    mixed = picture.copy()
    under = picture[place].astype(np.float32)
    over = np.rint(under * (1 - OPACITY) + np.array(tone, np.float32) * OPACITY).astype(np.uint8)
    mixed[place] = np.where(piece.pixels[..., None].astype(bool), over, picture[place])
    return mixed


def _of_actions(picture: Pixels, target: ActionBoxes, names: Sequence[str]) -> Drawing:
    assert target.corners is not None
    is_inside: Any = np.all(target.corners[:, 2:] > target.corners[:, :2], axis=1)  # bool (N,)
    texts = [[names[label] for label in np.flatnonzero(row).tolist()] for row in target.actions]
    shown = [number for number in range(len(texts)) if is_inside[number]]
    lines = [texts[number][:NAMES] + [f"and {len(texts[number]) - NAMES} more"] * (len(texts[number]) > NAMES) or ["-"]
             for number in shown]  # fmt: skip
    label = "; ".join(", ".join(texts[number]) or "no action" for number in shown) or "no box"
    outside = len(texts) - len(shown)
    drawn = _boxed(picture, target.corners[shown], lines, [colour_of(place) for place in range(len(shown))])
    return Drawing(drawn, f"{label}; {outside} outside the view" if outside else label)


def _boxed(
    picture: Pixels, corners: npt.NDArray[np.float32], lines: Sequence[Sequence[str]], tones: Sequence[Colour]
) -> Pixels:
    large = enlarged(picture[None], least=LEAST_PIXELS)[0]
    factor = np.float32(large.shape[0] / picture.shape[0])
    labels = [BoxLabel(box * factor, text, tone) for box, text, tone in zip(corners, lines, tones, strict=True)]
    return draw_boxes(large, labels) if labels else large
