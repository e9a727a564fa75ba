"""The origins of an index's rows, and their other columns."""

from array import array
from bisect import bisect_right

import numpy as np

from mvrec.data.listing.lists import Row

_BETWEEN = "\0"  # between values of one row: no list contains it


class Origins:
    """The place of every row in its list and its other columns, in packed arrays that grow row by row."""

    def __init__(self) -> None:
        self._firsts: list[int] = []  # first row of each run of rows with one source
        self._sources: list[str] = []
        self._lines = array("i")
        self._names: tuple[str, ...] = ()  # of the other columns
        self._values = bytearray()
        self._ends = array("q")
        self._rows: np.ndarray | None = None  # the remaining rows

    @property
    def first_source(self) -> str:
        """The place of the first row."""
        return self._sources[0] if self._sources else ""

    @property
    def nbytes(self) -> int:
        """Size of the packed arrays in bytes."""
        return self._lines.itemsize * len(self._lines) + len(self._values) + self._ends.itemsize * len(self._ends)

    def add(self, row: Row) -> None:
        """Append a row."""
        if not self._sources or self._sources[-1] != row.source:
            self._firsts.append(len(self._lines))
            self._sources.append(row.source)
        self._lines.append(row.line)
        if row.others and not self._names:
            self._names = tuple(name for name, _ in row.others)
            self._ends.extend([0] * (len(self._lines) - 1))
        if self._names:
            values = dict(row.others)
            text = _BETWEEN.join(values.get(name, "") for name in self._names)
            self._values += text.encode("utf-8", "surrogateescape")
            self._ends.append(len(self._values))

    def where(self, number: int) -> str:
        """Return `list:line` of a row."""
        return self._place(number).where

    def row(self, number: int) -> Row:
        """Return the stored part of a row: its place and its other columns."""
        stored = number if self._rows is None else int(self._rows[number])
        values = zip(self._names, self._fields(stored), strict=True) if self._names else ()
        return self._place(number)._replace(others=tuple(values))

    def _place(self, number: int) -> Row:
        number = number if self._rows is None else int(self._rows[number])
        source = self._sources[bisect_right(self._firsts, number) - 1]
        return Row("", "", source=source, line=self._lines[number])

    def columns(self) -> dict[str, list[str]]:
        """Return the other columns by name, a value for every row."""
        if not self._names:
            return {}
        rows = range(len(self._ends)) if self._rows is None else self._rows.tolist()
        fields = [self._fields(number) for number in rows]
        return {name: [row[place] for row in fields] for place, name in enumerate(self._names)}

    def _fields(self, number: int) -> list[str]:
        begin = self._ends[number - 1] if number else 0
        text = bytes(self._values[begin : self._ends[number]]).decode("utf-8", "surrogateescape")
        return text.split(_BETWEEN) if text else [""] * len(self._names)

    def kept(self, keep: np.ndarray) -> "Origins":
        """Return the origins of the rows for which `keep`, bool (rows,), is true."""
        self._rows = np.flatnonzero(keep)
        return self
