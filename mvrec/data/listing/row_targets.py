"""Targets that a data module makes from the rows of its lists, instead of classes."""

import hashlib
import math
from collections.abc import Callable, Sequence

from mvrec.data.listing.lists import VALUE, Row
from mvrec.data.views.targets import Target, Values
from mvrec.errors import UserError, nearest

TargetOf = Callable[[Row], Target | None]


def row_values(row: Row, names: Sequence[str] | None = None) -> Values | None:
    """Return the numbers in a row's columns.

    Args:
        row: A row of a list.
        names: The columns, in any case of letters; by default the column "value", but `None` is returned for a row with
            a label or without that column.

    Raises:
        UserError: There is no such column, or its field is not a finite number, with the row's place.
    """
    if names is None and (row.label or row.multi_label):
        return None
    fields = {name.lower(): text for name, text in row.others}
    if names is None:
        return Values((_number(fields[VALUE], VALUE, row.where),)) if VALUE in fields else None
    missing = next((name for name in names if name.lower() not in fields), None)
    if missing is not None:
        if not row.line:
            raise UserError(f"{row.where}: data.values needs a list with columns, a folder of classes has none")
        raise UserError(f"{row.source}: data.values: there is no column {missing!r}{nearest(missing, list(fields))}")
    return Values(tuple(_number(fields[name.lower()], name, row.where) for name in names))


def value_columns(columns: str | list[str] | None) -> list[str] | None:
    """Return the columns that `data.values` names.

    Raises:
        UserError: There is none, or one twice.
    """
    names = [columns] if isinstance(columns, str) else columns
    if names is not None and len({name.lower() for name in names}) != max(len(names), 1):
        raise UserError(f"data.values: give one or more different columns, got {names}")
    return names


def value_names(columns: list[str] | None, target: Target) -> list[str]:
    """Return names of a target's numbers: those of the columns, or numbered ones for a data module's own targets."""
    assert isinstance(target, Values)
    names, count = columns or [VALUE], len(target.values)
    return names if len(names) == count else [f"{VALUE}_{number}" for number in range(1, count + 1)]


def _number(text: str, column: str, where: str) -> float:
    if not text:
        raise UserError(f"{where}: {column} is empty: write a number, or remove the row")
    try:
        number = float(text)
    except ValueError:
        comma = ": write a point, not a comma" if text.count(",") == 1 and text.replace(",", "").isdecimal() else ""
        raise UserError(f"{where}: {column} {text[:80]!r} is not a number{comma}") from None
    if not math.isfinite(number):
        raise UserError(f"{where}: {column} {text!r} is not finite: write a number, or remove the row")
    return number


def declared_type(target_of: TargetOf | None) -> type[Target] | None:
    """Return the type that a function names in its attribute `target_type`, so that no file is read to learn it."""
    return getattr(target_of, "target_type", None)


class RowTargets:
    """Makes or checks the targets of rows; the first row sets their type.

    Args:
        target_of: Makes the target of a row; `None` if its class or classes are the target.

    Attributes:
        type: The type of all targets; `None` if they are the rows' classes.
    """

    def __init__(self, target_of: TargetOf | None) -> None:
        self.type = declared_type(target_of)
        self._target_of = target_of
        self._declared = self.type is not None
        self._labels: set[str] = set()  # whose targets are in the hash
        self._place = ""  # of the first row
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> bytes:
        """A hash of the targets so far; of targets in files it is that of nothing.

        A function of a declared type may give the hash itself, by its method `digest_of(label)`.
        """
        return self._hash.digest()

    def check(self, row: Row) -> None:
        """Check the type of the next row's target.

        Raises:
            UserError: The target cannot be made, or has another type than the first, with the row's place.
        """
        if self._target_of is None:
            _check_label(row)
        if self._declared:
            self._add_digest_of(row.label)
        if self._target_of is None or self._declared:
            return
        target = self.of(row)
        kind = None if target is None else type(target)
        if not self._place:
            self.type, self._place = kind, row.where or "the first row"
            if kind is None:
                self._target_of = None
                _check_label(row)
        elif kind is not self.type:
            raise UserError(f"{row.where}: the target is {_name(kind)}, at {self._place} it is {_name(self.type)}")
        if target is not None:
            self._hash.update(repr(target).encode())

    def _add_digest_of(self, label: str) -> None:
        digest_of = getattr(self._target_of, "digest_of", None)
        if digest_of is not None and label not in self._labels:
            self._labels.add(label)
            self._hash.update(digest_of(label))

    def of(self, row: Row) -> Target | None:
        """Return the target of a row.

        Raises:
            UserError: The target cannot be made.
        """
        assert self._target_of is not None
        try:
            return self._target_of(row)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{row.where}: {error}") from None


def _check_label(row: Row) -> None:
    """Refuse a row of a list without labels that has no other target either."""
    if row.line and not row.label and not row.multi_label:
        names = [name for name, _ in row.others]
        raise UserError(
            f"{row.source}: its header has neither 'label' nor 'value'; to predict the numbers of other columns, name "
            f"them, as in --data.values {names[0] if names else 'age'} --model Regression"
        )


def _name(kind: type[Target] | None) -> str:
    return "none" if kind is None else kind.__name__
