"""Numbers of classes that lists name."""

from collections.abc import Sequence

from mvrec.data.listing.class_names import class_names_of
from mvrec.data.listing.objects.table import ObjectPacking, ObjectTable
from mvrec.errors import UserError


class Labels:
    """The labels of a list, numbered as they come."""

    def __init__(self) -> None:
        self._firsts: dict[str, str] = {}  # the place of each label's first object
        self._numbers: dict[str, int] = {}

    def number(self, label: str, where: str) -> int:
        """Return the number of a label.

        Raises:
            UserError: The label is empty.
        """
        if not label:
            raise UserError(f"{where}: the label is empty: name the class of the object")
        self._firsts.setdefault(label, where)
        return self._numbers.setdefault(label, len(self._numbers))

    def table(self, packed: ObjectPacking) -> ObjectTable:
        """Return the table of objects with these labels, whose classes are in the order of their names."""
        names: Sequence[str] = class_names_of(self._firsts, are_names=True) if self._firsts else []
        table = packed.table(list(self._numbers))
        return table.with_classes(names, range(1, len(names) + 1))
