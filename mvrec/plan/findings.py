"""The contents of a folder of files: splits, classes and their files, and how large, long and fast these are."""

import hashlib
import math
import os
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TypeVar

from mvrec.data.listing.file_kinds import IMAGES, VIDEOS, Kind
from mvrec.data.listing.folds import Fold, Folds
from mvrec.data.listing.groups.rules import AUTO
from mvrec.data.listing.layouts import SPLITS, Layout
from mvrec.data.listing.lists import VALUE, Row
from mvrec.data.listing.row_targets import row_values
from mvrec.data.sets.folder import HashSplit, find_folder_layout
from mvrec.errors import UserError
from mvrec.plan.media import Media, probed

SAMPLE = 24  # files that are opened, spread over the data set
FOLDS = 5  # of a list of numbers without validation files
MOST_COMPARED = 1000  # files whose sizes in bytes are compared

Place = tuple[str, Row]  # a split and one of its files
Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Findings:
    """The contents of a folder.

    Attributes:
        root: The folder, as it was named.
        kind: The kind of its files.
        layout: How its splits are laid out, in one line.
        has_splits: Whether it has splits of its own.
        val_fraction: Share of the files that validate in a folder without splits.
        classes: Files of each class and split: `classes["train"]["run"]`. A file with several classes counts in each.
        files: Files of each split.
        multi_label: Whether a file may have several classes, or none.
        has_classes: Whether the task learns classes; labels of other tasks are any text.
        media: Sizes, lengths and frame rates of some files.
        remarks: What the user should know before training.
        values: The numbers to predict of training and validation files, by column: `values["train"]["age"]`.
        fold: The fold that splits a list of numbers without validation files; "" for other splits.
        has_masks: Whether the task learns the class of each pixel.
        num_videos: The number of videos whose boxes the task learns; files are then key frames, and classes count
            boxes. 0 for other tasks.
        num_objects: The number of objects in images that the task learns; classes count objects then. 0 for other
            tasks.
        has_shapes: Whether all of these objects have outlines.
    """

    root: Path
    kind: Kind
    layout: str
    has_splits: bool
    val_fraction: float
    classes: Mapping[str, Mapping[str, int]]
    files: Mapping[str, int]
    multi_label: bool
    has_classes: bool
    media: Media
    remarks: tuple[str, ...]
    values: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    fold: str = ""
    has_masks: bool = False
    num_videos: int = 0
    num_objects: int = 0
    has_shapes: bool = False

    @property
    def is_video(self) -> bool:
        """Whether the files are videos."""
        return self.kind is VIDEOS

    @property
    def noun(self) -> str:
        """The name of a file that the task learns."""
        return "key frame" if self.num_videos else self.kind.noun

    @property
    def class_names(self) -> list[str]:
        """The classes with training files, sorted."""
        return sorted(self.classes["train"])

    @property
    def num_train(self) -> int:
        """The number of training files."""
        return self.files["train"]


def look(
    root: Path,
    kind: Kind,
    *,
    val_fraction: float | None = None,
    fold: str | None = None,
    group: str = AUTO,
    has_classes: bool = True,
    values: Sequence[str] | None = None,
) -> Findings:
    """Look at a folder of files: list them all, and open some.

    Args:
        root: The folder.
        kind: The kind of its files.
        val_fraction: Share of the files that validate in a folder without splits; by default it follows from their
            number.
        fold: `data.fold`, which splits the training files in place of `val_fraction`.
        group: `data.group`, which says what a split keeps together.
        has_classes: Whether the task learns classes.
        values: Columns with the numbers that the task learns, none for the column "value"; `None` if it learns none.

    Raises:
        UserError: Nothing can be learned from the files: they have no classes or only one, each class has one file,
            all are the same, or their numbers are missing or equal.
    """
    planned_fold = ""
    if fold is None:
        layout = find_folder_layout(root, kind, val_fraction=val_fraction, group=group)
        if values is not None and layout.has("train") and not (layout.has("val") or isinstance(layout, HashSplit)):
            fold = planned_fold = f"1/{_folds(layout)}"
    if fold is not None:
        folder = find_folder_layout(root, kind, val_fraction=0.0)
        layout = Folds(folder, Fold.parse(fold), target_of=lambda row: None, group=group)
    has_splits = not isinstance(layout, HashSplit)
    rows = {split: list(layout.rows(split)) for split in SPLITS if layout.has(split)}
    _check_rows(rows, layout)
    classes = {split: _classes(split_rows) for split, split_rows in rows.items()}
    if has_classes:
        _check_classes(root, classes, rows, kind)
    numbers = {} if values is None else _values(root, rows, values)
    every = [row for split_rows in rows.values() for row in split_rows]
    remarks = [*copies(root, rows, kind)]
    sample = spread([row for row in every if row.offset < 0], SAMPLE)
    media = probed([root / row.path for row in sample], is_video=kind is VIDEOS)
    if media.unreadable:
        count = f"{len(media.unreadable)} of {len(media.unreadable) + media.num_read}"
        remarks.append(f"{count} {kind.noun}s looked at cannot be read: {media.unreadable[0]}")
    if kind is IMAGES and (folders := _frame_folders(every)):
        remarks.append(
            f"images lie in {folders} folders below their classes, as frames of videos do: frames of one video in both "
            "splits would make the score too good; videos train better as they are"
        )
    fraction = layout.val_fraction if isinstance(layout, HashSplit) else 0.0
    return Findings(
        root,
        kind,
        described(layout, root),
        has_splits,
        fraction,
        classes,
        {split: len(split_rows) for split, split_rows in rows.items()},
        any(row.multi_label for row in rows["train"]),
        has_classes,
        media,
        tuple(remarks),
        numbers,
        planned_fold,
    )


def _check_rows(rows: Mapping[str, Sequence[Row]], layout: Layout) -> None:
    root, noun = layout.root, layout.kind.noun
    if rows.get("train"):
        return
    if not isinstance(layout, HashSplit):
        raise UserError(f"data.root: {str(root)!r} has no split 'train': {layout.missing('train')}")
    raise UserError(
        f"data.root: {str(root)!r} has no class folders: put its {noun}s into one folder per class, "
        f"{root}/<class name>/<{noun}>, or list them with their classes in {root}/train.csv (path,label)"
    )


def _classes(rows: Sequence[Row]) -> Counter[str]:
    return Counter(label for row in rows for label in row.labels)


def _check_classes(
    root: Path, classes: Mapping[str, Counter[str]], rows: Mapping[str, Sequence[Row]], kind: Kind
) -> None:
    names, first = list(classes["train"]), rows["train"][0]
    if first.line and not first.label and not first.multi_label:
        raise UserError(f"{first.source}: its header has no column 'label'; {_named_columns(first)}")
    if len(names) < 2 and not first.multi_label:
        count = sum(map(len, rows.values()))
        files = f"all {count} {kind.noun}s are of it" if count > 1 else f"one {kind.noun} is of it"
        raise UserError(
            f"{first.source if first.line else root}: it has only the class {names[0]!r} ({files}), training needs two"
        )


def _named_columns(row: Row) -> str:
    names = [name for name, _ in row.others]
    return f"to predict numbers, name their columns, as in --data.values {names[0] if names else 'age'}"


def _folds(layout: Layout) -> int:
    """Return how many folds a training list is split into."""
    paths = {row.path for row in layout.rows("train")}
    if len(paths) < 2:
        raise UserError(f"{layout.place('train')}: it has one {layout.kind.noun}, training needs two")
    return min(FOLDS, len(paths))


def _values(
    root: Path, rows: Mapping[str, Sequence[Row]], columns: Sequence[str]
) -> dict[str, dict[str, tuple[float, ...]]]:
    """Return the numbers of training and validation files by column.

    Raises:
        UserError: A number is missing, or all training files have the same.
    """
    values: dict[str, dict[str, tuple[float, ...]]] = {}
    for split in ("train", "val"):
        targets = []
        for row in rows.get(split, ()):
            target = row_values(row, columns or None)
            if target is None:
                place = row.source if row.line else root
                raise UserError(f"{place}: it has no list with a column {VALUE!r}; {_named_columns(row)}")
            targets.append(target.values)
        if targets:
            values[split] = dict(zip(columns or [VALUE], zip(*targets, strict=True), strict=True))
    for name, numbers in values["train"].items():
        if len({*numbers}) == 1:
            place = rows["train"][0].source
            raise UserError(
                f"{place}: {name} is {numbers[0]:g} for all {len(numbers)} files: there is nothing to learn"
            )
    return values


def copies(root: Path, rows: Mapping[str, Sequence[Row]], kind: Kind, *, has_classes: bool = True) -> Iterator[str]:
    """Yield remarks about a file that lies in two classes, and one that lies in two splits, byte for byte.

    Args:
        root: The folder to which paths are relative.
        rows: The files of each split.
        kind: Their kind.
        has_classes: Whether labels are classes.

    Raises:
        UserError: All files are the same.
    """
    every = [(split, row) for split, split_rows in rows.items() for row in split_rows]
    plain = [place for place in every if place[1].offset < 0]  # the others are in archives
    sample = spread(plain, MOST_COMPARED)
    groups = _alike(root, sample)
    if groups and len(groups[0]) == len(sample):
        raise UserError(
            f"data.root: all {len(sample)} {kind.noun}s in {str(root)!r} are the same file, byte for byte: there is "
            "nothing to tell them apart by"
        )
    for group in groups if has_classes else ():
        first, other = group[0][1], next((row for _, row in group if row.labels != group[0][1].labels), None)
        if other is not None:
            yield f"{first.path} and {other.path} are the same {kind.noun} in two classes: keep it in one"
            break
    if (twice := _in_two_splits(every, groups)) is not None:
        (split, first), (other_split, other) = twice
        files = "is" if first.path == other.path else f"and {other.path} are the same {kind.noun},"
        yield f"{first.path} {files} in {split} and in {other_split}: keep it in one, or the score will be too good"


def _alike(root: Path, places: Sequence[Place]) -> list[list[Place]]:
    """Return groups of different files with the same content."""
    sizes: dict[int, list[Place]] = {}
    for split, row in places:
        if (path := root / row.path).is_file() and (size := path.stat().st_size):  # empty files are unreadable ones
            sizes.setdefault(size, []).append((split, row))
    contents: dict[bytes, list[Place]] = {}
    for alike in sizes.values():
        for split, row in alike if len(alike) > 1 else ():
            contents.setdefault(_digest(root / row.path), []).append((split, row))
    return [group for group in contents.values() if len({row.path for _, row in group}) > 1]


def _in_two_splits(places: Sequence[Place], groups: Sequence[Sequence[Place]]) -> tuple[Place, Place] | None:
    """Return a whole file in two splits, by its path or by its content in groups of equal files."""
    firsts: dict[tuple[str, int], Place] = {}
    by_path = ((place, firsts.setdefault((place[1].path, place[1].offset), place)) for place in places)
    by_content = ((place, group[0]) for group in groups for place in group)
    for place, first in chain(by_path, by_content):
        if place[0] != first[0] and math.isnan(place[1].start_seconds):  # spans of a video may be in several
            return first, place
    return None


def _digest(path: Path) -> bytes:
    """Return a digest of a file's first and last megabyte."""
    with path.open("rb") as file:
        head = file.read(1 << 20)
        file.seek(max(0, path.stat().st_size - (1 << 20)))
        return hashlib.blake2b(head + file.read(), digest_size=16).digest()


def spread(rows: Sequence[Entry], count: int) -> Sequence[Entry]:
    """Return at most so many rows, evenly spread over all."""
    if len(rows) <= count:
        return rows
    return [rows[len(rows) * number // count] for number in range(count)]


def _frame_folders(rows: Sequence[Row]) -> int:
    """Return the number of folders below classes in which images lie like frames of videos; 0 if they do not."""
    folders = Counter((os.path.dirname(row.path), row.label) for row in rows if not row.line)  # noqa: PTH120
    deep = [count for (folder, label), count in folders.items() if os.path.basename(folder) != label]  # noqa: PTH119
    return len(deep) if deep and statistics.median(deep) >= 8 and sum(deep) > len(rows) / 2 else 0


def described(layout: Layout, root: Path) -> str:
    """Describe a layout in a few words."""
    if isinstance(layout, HashSplit):
        return "class folders"
    if isinstance(layout, Folds):
        return f"{described(layout.layout, root)}, fold {layout.fold}"
    places = dict.fromkeys(layout.place(split) for split in SPLITS if layout.has(split))  # one file may list all
    return ", ".join(place.removeprefix(f"{root}/") + ("/" if Path(place).is_dir() else "") for place in places)
