"""Targets that a data module makes from the rows of its lists, instead of classes."""

from collections.abc import Callable

from mvrec.data.listing.lists import Row
from mvrec.data.views.targets import Target
from mvrec.errors import UserError

TargetOf = Callable[[Row], Target | None]


class RowTargets:
    """Makes or checks the targets of rows; the first row sets their type.

    Args:
        target_of: Makes the target of a row; `None` if its class or classes are the target.

    Attributes:
        type: The type of all targets; `None` if they are the rows' classes.
    """

    def __init__(self, target_of: TargetOf | None) -> None:
        self.type: type[Target] | None = None
        self._target_of = target_of
        self._place = ""  # of the first row

    def check(self, row: Row) -> None:
        """Check the type of the next row's target.

        Raises:
            UserError: The target cannot be made, or has another type than the first, with the row's place.
        """
        if self._target_of is None or (self.type is not None and self.type.in_file):
            return
        target = self.of(row)
        kind = None if target is None else type(target)
        if not self._place:
            self.type, self._place = kind, row.where or "the first row"
            if kind is None:
                self._target_of = None
        elif kind is not self.type:
            raise UserError(f"{row.where}: the target is {_name(kind)}, at {self._place} it is {_name(self.type)}")

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


def _name(kind: type[Target] | None) -> str:
    return "none" if kind is None else kind.__name__
