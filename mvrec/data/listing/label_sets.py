"""Sets of labels in packed arrays: the labels of all rows concatenated, and the end of each row's labels."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelSets:
    """A sequence of sets of class numbers, possibly empty.

    Attributes:
        values: int32 (labels,), the labels of row 0, then those of row 1 and so on.
        ends: int64 (rows,), the end of each row's labels in `values`.
    """

    values: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.ends[row - 1] if row else 0 : self.ends[row]]

    @property
    def rows(self) -> np.ndarray:
        """Return the row of each label: int64 (labels,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.ends, prepend=0))

    def ordered(self) -> "LabelSets":
        """Return the sets with each row's labels in ascending order."""
        return LabelSets(self.values[np.lexsort((self.values, self.rows))], self.ends)

    def first_repeated(self) -> tuple[int, int] | None:
        """Return row and label of the first label that its row repeats; labels must be in ascending order."""
        rows = self.rows
        twice = np.flatnonzero((rows[1:] == rows[:-1]) & (self.values[1:] == self.values[:-1]))
        return (int(rows[twice[0]]), int(self.values[twice[0]])) if len(twice) else None

    def joined(self, into: np.ndarray) -> "LabelSets":
        """Merge rows into sets without repeated labels.

        Args:
            into: int64 (rows,), the new number of each row: 0 to the highest, each at least once.
        """
        count = int(into.max(initial=-1)) + 1
        width = int(self.values.max(initial=0)) + 1
        rows, values = np.divmod(np.unique(into[self.rows] * width + self.values), width)
        return LabelSets(values.astype(np.int32), np.cumsum(np.bincount(rows, minlength=count)))
