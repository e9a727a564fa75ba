"""Cross-validation: the files of a training split in parts, each of which is the validation split of one run."""

import logging
import re
from collections.abc import Iterator
from typing import NamedTuple, Self

from mvrec.data.listing.groups.rules import NONE
from mvrec.data.listing.groups.splits import folded, grouping_of
from mvrec.data.listing.layouts import Layout
from mvrec.data.listing.lists import Row
from mvrec.data.listing.row_targets import TargetOf, declared_type
from mvrec.errors import UserError

SMALL_SET = 400  # files, below which more of them validate
ALL_FILES = ""  # the stratum of files that have not one class each


class Fold(NamedTuple):
    """One of several folds, from 1 on."""

    number: int
    folds: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the fold in a text like "2/5".

        Raises:
            UserError: The text is no fold.
        """
        parts = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", str(text))
        fold = cls(*map(int, parts.groups())) if parts else None
        if fold is None or not 1 <= fold.number <= fold.folds or fold.folds < 2:
            raise UserError(f"data.fold {text!r}: give a fold and their number, such as 1/5, 2/5 to 5/5")
        return fold

    def __str__(self) -> str:
        return f"{self.number}/{self.folds}"


class Folds(Layout):
    """A layout whose training files are split into training and validation, as one of several folds has them.

    Over all folds each file is in the validation split once. Each class is spread evenly over the folds, by the hashes
    of its paths. All rows of a file are in the same fold, and all files of a group; groups make folds less even.

    Args:
        layout: The layout of the data set, without a validation split.
        fold: The fold.
        target_of: See `RecognitionData.target`; files that have other targets than classes are spread as one class.
        group: See `groups`.

    Raises:
        UserError: The layout has a validation split, or lacks a training split.
    """

    def __init__(self, layout: Layout, fold: Fold, *, target_of: TargetOf, group: str = NONE) -> None:
        super().__init__(layout.root, layout.kind)
        self.group, self._said = group, False
        self.layout, self.fold, self.target_of = layout, fold, target_of
        self.notes = layout.notes
        self.title = f"{layout.title}, fold {fold}"  # type: ignore[misc]  # of this object
        if layout.has("val"):
            raise UserError(
                f"data.fold {fold}: {layout.root} has its own validation split ({layout.place('val')}): leave "
                "data.fold out, or move these files to the training split"
            )

    def has(self, split: str) -> bool:
        """Return whether the split exists: validation where training does."""
        return self.layout.has("train" if split == "val" else split)

    def place(self, split: str) -> str:
        """Return the source of a split's rows."""
        return self.layout.place("train" if split == "val" else split)

    def expected(self) -> str:
        """Return where the files should be."""
        return self.layout.expected()

    def missing(self, split: str) -> str:
        """Return what a missing split should have looked like."""
        return self.layout.missing(split)

    def class_names(self) -> list[str]:
        """Return the names of the data set."""
        return self.layout.class_names()

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the rows of a split in their order.

        Raises:
            UserError: A class has fewer files than there are folds.
        """
        if split not in ("train", "val"):
            yield from self.layout.rows(split)
            return
        rows = list(self.layout.rows("train"))
        validated = self._validated(rows)
        yield from (row for row in rows if (row.path in validated) == (split == "val"))

    def _validated(self, rows: list[Row]) -> set[str]:
        has_class = declared_type(self.target_of) is None and bool(rows) and not rows[0].multi_label
        one_class = has_class and self.target_of(rows[0]) is None
        strata: dict[str, dict[str, None]] = {}
        stratum_of: dict[str, str] = {}
        for row in rows:
            stratum = stratum_of.setdefault(row.path, row.label if one_class else ALL_FILES)
            strata.setdefault(stratum, {})[row.path] = None
        for stratum in sorted(strata):
            if len(strata[stratum]) < self.fold.folds:
                raise UserError(self._too_few(stratum, len(strata[stratum])))
        grouping = grouping_of(list({row.path: row for row in rows}.values()), self.group)
        if grouping.note and not self._said:
            self._said = True
            self.notes.append((logging.INFO, grouping.note))
        number = len(set(grouping.of))
        if number < self.fold.folds:
            raise UserError(
                f"data.fold {self.fold}: {self.root} has {number} groups of {self.kind.noun}s, fewer than the "
                f"{self.fold.folds} folds: take {number} folds at most, or --data.group none"
            )
        group_of = dict(zip(stratum_of, grouping.of, strict=True))
        return folded({name: list(paths) for name, paths in strata.items()}, group_of, self.fold)

    def _too_few(self, stratum: str, count: int) -> str:
        of = f"class {stratum!r}" if stratum else str(self.root)
        files = f"{count} {self.kind.noun}{'' if count == 1 else 's'}"
        instead = f"take {count} folds at most, or add files" if count > 1 else "add files, or leave data.fold out"
        return f"data.fold {self.fold}: {of} has {files}, fewer than the {self.fold.folds} folds: {instead}"


def usual_val_fraction(num_files: int) -> float:
    """Return the share of val in a folder without splits: a fifth of a small set, a tenth of any other."""
    return 0.2 if num_files < SMALL_SET else 0.1
