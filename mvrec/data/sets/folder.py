"""Folders of classes without splits, which are split here."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from mvrec.data.listing.file_kinds import Kind
from mvrec.data.listing.folds import usual_val_fraction
from mvrec.data.listing.groups.rules import AUTO, NONE, check_rule
from mvrec.data.listing.groups.splits import grouping_of, validated
from mvrec.data.listing.layouts import SPLITS, Layout, ListsAndFolders, class_folders
from mvrec.data.listing.lists import Row
from mvrec.data.sets.image_data import ImageData
from mvrec.data.sets.video_data import VideoData
from mvrec.errors import UserError
from mvrec.ranges import check_ranges


class VideoFolder(VideoData):
    """Clips of `root/<class name>/<video>`, split into train and val by a hash of the path.

    A root with splits (`root/train/<class name>/<video>` or lists) is read with them, like `Kinetics`. `test` and
    `predict` read val if there is no test split.

    Args:
        root: The data set.
        val_fraction: Share of each class in val if the root has no splits. A hash of the paths chooses, so most files
            stay where they are when others are added or removed. `fold` replaces it.
        group: Files that a split or fold keeps together: "auto" guesses from folders of numbered frames, or stems that
            differ in their last counter (`v_Punch_g01_c03`, `game12_0003`), and says so, "none" keeps none together,
            "folder:2" those of one folder two levels deep, "column:NAME" those with the same value in a list without
            val. Anything else is a regular expression on the path, of which the first capture group counts.
        **knobs: See `VideoData`.

    Raises:
        UserError: A fraction outside 0..1, a malformed group; from `setup`: a missing or empty root or class folder.
    """

    def __init__(
        self,
        root: str,
        *,
        val_fraction: float = 0.1,
        group: str = AUTO,
        **knobs: Any,
    ) -> None:
        super().__init__(root, **knobs)
        self.val_fraction = checked_fraction(val_fraction)
        self.group = check_rule(group)

    @property
    def test_split(self) -> Literal["val", "test"]:
        """The split of `test` and `predict`."""
        return "test" if self.layout.has("test") else "val"

    def find_layout(self) -> Layout:
        """Return the root's own splits, else a split by hash."""
        fraction = 0 if self.fold else self.val_fraction
        return find_folder_layout(self.root, self.kind, val_fraction=fraction, group=self.group)


class ImageFolder(ImageData):
    """Images of `root/<class name>/<image>`, split into train and val by a hash of the path.

    A root with splits (`root/train/<class name>/<image>` or lists) is read with them, like `ImageNet`. `test` and
    `predict` read val if there is no test split. Images are turned as their EXIF block says.

    Args:
        root: The data set.
        val_fraction: See `VideoFolder`.
        group: See `VideoFolder`.
        **knobs: See `ImageData`.

    Raises:
        UserError: A fraction outside 0..1, a malformed group; from `setup`: a missing or empty root or class folder.
    """

    upright: ClassVar[bool] = True

    def __init__(
        self,
        root: str,
        *,
        val_fraction: float = 0.1,
        group: str = AUTO,
        **knobs: Any,
    ) -> None:
        super().__init__(root, **knobs)
        self.val_fraction = checked_fraction(val_fraction)
        self.group = check_rule(group)

    def find_layout(self) -> Layout:
        """Return the root's own splits, else a split by hash."""
        fraction = 0 if self.fold else self.val_fraction
        return find_folder_layout(self.root, self.kind, val_fraction=fraction, group=self.group)


def checked_fraction(val_fraction: float) -> float:
    """Return the share after a check that it leaves something to train on."""
    check_ranges("data.", {"val_fraction": val_fraction})
    return val_fraction


def find_folder_layout(root: Path, kind: Kind, *, val_fraction: float | None, group: str = AUTO) -> Layout:
    """Return the splits of a root, else `HashSplit`; without a share of val that of `usual_val_fraction`."""
    split = ListsAndFolders(root, kind)
    if any(split.has(name) for name in SPLITS):
        return split
    if val_fraction is None:
        files = split.rows_of_folders(root) if class_folders(root) else ()
        val_fraction = usual_val_fraction(sum(1 for _ in files))
    return HashSplit(root, kind, val_fraction=val_fraction, group=group)


class HashSplit(Layout):
    """`root/<class name>/<file>`, with a share of each class as val: the files with the lowest hashes of their paths.

    Files of one group stay together: the hash is that of the group. A class with more than one file has at least one in
    each split, as far as its groups allow; a single file is for training.

    Args:
        root: The folder of the class folders.
        kind: The kind of the files.
        val_fraction: The share of val.
        group: See `groups`.
    """

    title = "class folders"
    splits_files = True

    def __init__(self, root: Path, kind: Kind, *, val_fraction: float, group: str = NONE) -> None:
        super().__init__(root, kind)
        self.val_fraction, self.group = val_fraction, group
        self._said = self._groups_repeat = False

    def has(self, split: str) -> bool:
        """Return whether the root has class folders and the fraction leaves the split something."""
        return (split == "train" or (split == "val" and self.val_fraction > 0)) and bool(class_folders(self.root))

    def place(self, split: str) -> str:
        """Return the root's path."""
        return str(self.root)

    def expected(self) -> str:
        """Return the expected class folders."""
        noun = self.kind.noun
        return f"{self.root}/<class name>/<{noun}>, or with splits {self.root}/train/<class name>/<{noun}>"

    def missing(self, split: str) -> str:
        """Return why the split is missing: the fraction, or the folder."""
        return "data.val_fraction is 0" if split == "val" and not self.val_fraction else super().missing(split)

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the files of a split, class by class.

        Raises:
            UserError: Each class has a single file, so that none is left for validation.
        """
        rows = list(self.rows_of_folders(self.root))
        val = self._validated(rows)
        if split == "val" and not val:
            noun = self.kind.noun
            single = f"{noun} or group of {noun}s" if self._groups_repeat else noun
            advice = "add some, or see data.group" if self._groups_repeat else "add some"
            raise UserError(f"{self.root}: each class has a single {single}, none is left for validation: {advice}")
        yield from (row for row in rows if (row.path in val) == (split == "val"))

    def _validated(self, rows: list[Row]) -> set[str]:
        grouping = grouping_of(rows, self.group)
        self._groups_repeat = grouping.repeats
        if grouping.note and not self._said:
            self._said = True
            self.notes.append((logging.INFO, grouping.note))
        return validated([(row.path, row.label) for row in rows], grouping.of, fraction=self.val_fraction)
