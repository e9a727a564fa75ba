"""Faults of objects that would spoil training: boxes without area or outside the image, shapes of two points."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mvrec.data.listing.objects.table import Bools, ObjectTable
from mvrec.errors import UserError

FaultKind = Literal["empty", "outside", "shape", "cut"]
BadBoxes = Literal["refuse", "drop"]
HARMLESS = ("cut",)  # which training takes as they are
NOUNS: dict[FaultKind, tuple[str, str]] = {  # of one, and of several
    "empty": ("box without area", "boxes without area"),
    "outside": ("box outside the image", "boxes outside the image"),
    "shape": ("shape of fewer than three points", "shapes of fewer than three points"),
    "cut": ("box over the border of the image", "boxes over the border of the image"),
}
_ROUNDING = 1.0  # pixels by which boxes may lie over the border without a word
_TRIANGLE = 6  # numbers of the smallest polygon


class Fault(NamedTuple):
    """The objects of a table with a fault of one kind.

    Attributes:
        kind: The kind.
        objects: int64 (M,), their numbers.
        first: The message about the first.
    """

    kind: FaultKind
    objects: npt.NDArray[np.int64]
    first: str

    @property
    def text(self) -> str:
        """Their number, and the first."""
        single, several = NOUNS[self.kind]
        return f"{len(self.objects)} {single if len(self.objects) == 1 else several}, such as {self.first}"


def find_faults(table: ObjectTable, where: Callable[[int], str] | None = None) -> list[Fault]:
    """Return the faults of a table by kind; an object has one of "empty" and "outside" at most.

    Args:
        table: The objects.
        where: Returns the place of an object, for messages; by default the table's file with ids.
    """
    masks, where = _masks(table), where or table.where
    return [
        Fault(kind, np.flatnonzero(mask), f"{where(number)}: {_problem(kind, table, number)}")
        for kind, mask in masks.items()
        if mask.any() and (number := int(mask.argmax())) >= 0
    ]


def _masks(table: ObjectTable) -> dict[FaultKind, Bools]:
    x, y, width, height = table.boxes.T
    images = table.object_images
    right, bottom = table.widths[images], table.heights[images]
    is_known = (right > 0) & (bottom > 0)
    empty = ~((width > 0) & (height > 0))
    outside = is_known & ~empty & ((x >= right) | (y >= bottom) | (x + width <= 0) | (y + height <= 0))
    over = np.maximum.reduce([-x, -y, x + width - right, y + height - bottom])
    least = table.shapes.least_numbers
    shape = (least >= 0) & (least < _TRIANGLE)
    return {"empty": empty, "outside": outside, "shape": shape, "cut": is_known & ~outside & (over > _ROUNDING)}


def _problem(kind: FaultKind, table: ObjectTable, number: int) -> str:
    x, y, width, height = table.boxes[number].tolist()
    if kind == "empty":
        return f"the box has no area, it is {width:g} wide and {height:g} high"
    if kind == "shape":
        return f"a polygon of {int(table.shapes.least_numbers[number]) // 2} points is no shape"
    image = int(table.object_images[number])
    corners = ", ".join(f"{value:g}" for value in (x, y, x + width, y + height))
    side = f"{table.widths[image]}x{table.heights[image]} pixels"
    return f"the box {corners} lies {'outside' if kind == 'outside' else 'over the border of'} an image of {side}"


def without_faults(
    table: ObjectTable, bad_boxes: BadBoxes, where: Callable[[int], str] | None = None
) -> tuple[ObjectTable, list[Fault]]:
    """Return a table without the objects that have faults, and the faults; boxes over the border stay.

    Args:
        table: The objects.
        bad_boxes: Whether faults are refused, or their objects left out.
        where: See `find_faults`.

    Raises:
        UserError: There are some, and they are not left out.
    """
    keep, faults = np.ones(table.num_objects, np.bool_), find_faults(table, where)
    for fault in faults:
        if fault.kind in HARMLESS:
            continue
        if bad_boxes == "refuse":
            count = f"; {len(fault.objects) - 1} more like it" if len(fault.objects) > 1 else ""
            raise UserError(f"{fault.first}{count}: correct or remove it, or leave it out with data.bad_boxes drop")
        keep[fault.objects] = False
    return table.only_objects(keep), faults
