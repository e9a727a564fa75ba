"""The targets of rows of images with objects."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from mvrec.data.listing.lists import Row
from mvrec.data.listing.objects.table import ObjectTable
from mvrec.data.views.objects import Objects
from mvrec.data.views.targets import Target


class ObjectTargets:
    """Makes the targets of rows, whose label is a split and whose line the number of an image in its table, from 1 on.

    Args:
        root: The folder to which the paths are relative.
        tables: The objects of each split, by the rows' label.
        masks: Whether outlines are learned and scored.
    """

    target_type: ClassVar[type[Target]] = Objects

    def __init__(self, root: Path, tables: Mapping[str, ObjectTable], *, masks: bool = True) -> None:
        self.root, self.tables = root, dict(tables)
        self._outlined = {split: masks and bool(table.shapes.present.any()) for split, table in tables.items()}

    def __call__(self, row: Row) -> Objects:
        """Return the objects of a row's image."""
        annotations, outlined = self.tables[row.label].objects(row.line - 1), self._outlined[row.label]
        return Objects(annotations, self.root / row.path, masks=outlined, outlined=outlined)

    def digest_of(self, label: str) -> bytes:
        """Return a hash of the targets of all rows with a label."""
        return self.tables[label].digest().encode()
