"""A row of a list of boxes, and the faults that it may have."""

import math
from collections import Counter
from typing import Literal, NamedTuple

from mvrec.errors import UserError

Corners = tuple[float, float, float, float]
NO_BOX: Corners = (math.nan,) * 4  # of a row that names a key frame without boxes
PIXELS_FROM = 2.0  # a list with a first box that reaches so far is in pixels: shares of the frame end at 1
FaultKind = Literal["empty", "outside", "cut"]
_ROUNDING = 0.005  # by which shares of the frame may lie outside it without a word


class BoxRow(NamedTuple):
    """A box with one label as a list has it; a box with several labels has several rows.

    Attributes:
        path: The video, relative to the root or absolute; in AVA's lists its id.
        seconds: The time of the key frame from the start of the video.
        corners: Left, top, right and bottom, `NO_BOX` for a key frame without boxes.
        relative: Whether corners are shares of the frame, in 0..1, or pixels.
        label: Name or number of an action; "" for a box without one.
        person: The person or track; "" if unknown.
        score: The confidence of a detector; nan without one.
        source: The list, for messages.
        line: Its line in the list.
    """

    path: str
    seconds: float
    corners: Corners
    relative: bool
    label: str
    person: str = ""
    score: float = math.nan
    source: str = ""
    line: int = 0

    @property
    def where(self) -> str:
        """`file:line`, the beginning of messages."""
        return f"{self.source}:{self.line}" if self.line else self.source

    @property
    def has_box(self) -> bool:
        """Whether the row is more than a key frame."""
        return self.corners[0] == self.corners[0]  # not nan


class Faults:
    """The treatment of boxes without area or outside the picture: an error, or left out and counted.

    Boxes that reach over the border of the picture are cut there, and counted.

    Args:
        drop: Whether rows with faults are left out.

    Attributes:
        counts: Rows by the kind of their fault.
        firsts: The first message of each kind.
    """

    def __init__(self, *, drop: bool = False) -> None:
        self.drop = drop
        self.counts: Counter[FaultKind] = Counter()
        self.firsts: dict[FaultKind, str] = {}

    def fault_of(self, row: BoxRow) -> tuple[FaultKind, str] | None:
        """Return the kind of a row's fault and the message about it; `None` for a good row."""
        left, top, right, bottom = row.corners
        if not (right > left and bottom > top):
            axis, first, second = ("x", left, right) if right <= left else ("y", top, bottom)
            return "empty", (
                f"{row.where}: the box has no area, {axis}2 {second:g} is not greater than {axis}1 {first:g}: boxes "
                "are x1,y1,x2,y2, not x,y,width,height"
            )
        if right <= 0 or bottom <= 0 or (row.relative and (left >= 1 or top >= 1)):
            corners = ", ".join(f"{value:g}" for value in row.corners)
            return "outside", f"{row.where}: the box {corners} lies outside the picture: correct or remove it"
        return None

    def accepts(self, row: BoxRow) -> bool:
        """Return whether a row is good.

        Raises:
            UserError: It is not, and rows with faults are not left out.
        """
        if not row.has_box:
            return True
        if (fault := self.fault_of(row)) is None:
            if min(row.corners) < -_ROUNDING or (row.relative and max(row.corners) > 1 + _ROUNDING):
                self._count("cut", f"{row.where}: {', '.join(f'{value:g}' for value in row.corners)}")
            return True
        kind, text = fault
        if not self.drop:
            raise UserError(text)
        self._count(kind, text)
        return False

    def _count(self, kind: FaultKind, text: str) -> None:
        self.counts[kind] += 1
        self.firsts.setdefault(kind, text)


class Unit:
    """The unit of a list's boxes, shares of the frame or pixels, which the first box tells.

    Attributes:
        relative: Whether they are shares; `None` before the first box.
    """

    def __init__(self) -> None:
        self.relative: bool | None = None
        self._first = ""

    def of(self, corners: Corners, where: str) -> bool:
        """Return whether the corners of a box are shares of the frame.

        Raises:
            UserError: The list mixes shares and pixels.
        """
        reach = max(map(abs, corners))
        if reach == 0:  # tells nothing
            return self.relative is not False
        relative = reach < PIXELS_FROM
        if self.relative is None:
            self.relative, self._first = relative, where
        elif relative != self.relative:
            raise UserError(
                f"{where}: a box in {unit_noun(relative)}, but that of {self._first} is in "
                f"{unit_noun(self.relative)}: a list needs one unit"
            )
        return relative


def unit_noun(relative: bool) -> str:
    """Return the name of a unit of boxes."""
    return "shares of the frame" if relative else "pixels"


def read_number(text: str, name: str, where: str) -> float:
    """Return a finite number of a field.

    Raises:
        UserError: It is empty, no number, or not finite.
    """
    try:
        number = float(text)
    except ValueError:
        problem = "is empty" if not text else f"{text[:80]!r} is not a number"
        raise UserError(f"{where}: {name} {problem}") from None
    if not math.isfinite(number):
        raise UserError(f"{where}: {name} {text[:80]!r} is not a finite number")
    return number
