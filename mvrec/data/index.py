"""Lists of videos or images: which files there are and what class each belongs to.

The only code that knows list formats. An index keeps its rows in a few packed arrays, so that a million
of them cost one allocation each and forked loader workers share the memory.
"""

import csv
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mvrec.errors import UserError, nearest

VIDEO_EXTENSIONS = frozenset(
    [".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv", ".mts", ".m2ts"]
)
IMAGE_EXTENSIONS = frozenset([".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"])


@dataclass(frozen=True)
class Kind:
    """What sort of files a data set is made of.

    Attributes:
        noun: What messages call one file.
        extensions: How the names of such files end, in lower case.
        nested: Whether files may lie deeper than their class folder, as in `train/<class name>/images/1.JPEG`.
    """

    noun: str
    extensions: frozenset[str]
    nested: bool = False


VIDEOS = Kind("video", VIDEO_EXTENSIONS)
IMAGES = Kind("image", IMAGE_EXTENSIONS, nested=True)


@dataclass(frozen=True)
class Sample:
    """One row: a file, its class, and optionally the part of it that counts.

    Attributes:
        path: The file.
        label: Class index.
        start_seconds: Where the action starts; `None` for the whole file.
        end_seconds: Where it ends; `None` for the whole file.
    """

    path: Path
    label: int
    start_seconds: float | None = None
    end_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row as read, before class names have become numbers. `where` is for error messages."""

    path: str
    label: str
    start_seconds: float = math.nan
    end_seconds: float = math.nan
    where: str = ""


class VideoIndex:
    """An immutable sequence of `Sample`s with the names of their classes.

    Args:
        rows: What was read from a list or found in folders.
        root: Relative paths are relative to it.
        class_names: Names in label order. A row's label is one of them, or a number below their count.

    Raises:
        UserError: A label that is no class, with the row's place and the nearest name.
    """

    def __init__(self, rows: Iterable[Row], *, root: Path, class_names: Sequence[str]) -> None:
        self.root = root
        self.class_names = tuple(class_names)
        number_of = {name: number for number, name in enumerate(self.class_names)}
        paths, labels, spans = [], [], []
        for row in rows:
            paths.append(row.path.encode("utf-8", "surrogateescape"))
            labels.append(_label_number(row, number_of))
            spans.append((row.start_seconds, row.end_seconds))
        self._bytes = np.frombuffer(b"".join(paths), dtype=np.uint8)
        self._ends = np.cumsum([len(path) for path in paths], dtype=np.int64)
        self.labels = np.asarray(labels, dtype=np.int32)
        self._spans = np.asarray(spans, dtype=np.float32).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> Sample:
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of an index of {len(self)} rows")
        begin = self._ends[number - 1] if number else 0
        name = self._bytes[begin : self._ends[number]].tobytes().decode("utf-8", "surrogateescape")
        start, end = (None if math.isnan(second) else float(second) for second in self._spans[number])
        return Sample(self.root / name, int(self.labels[number]), start, end)

    def __iter__(self) -> Iterator[Sample]:
        return (self[number] for number in range(len(self)))

    def class_counts(self) -> np.ndarray:
        """How many rows each class has, in label order."""
        return np.bincount(self.labels, minlength=len(self.class_names))


def _label_number(row: Row, number_of: dict[str, int]) -> int:
    number = number_of.get(row.label)
    if number is not None:
        return number
    try:
        number = int(row.label)
    except ValueError:
        hint = nearest(row.label, number_of)
        raise UserError(f"{row.where}: {row.label!r} is not one of the {len(number_of)} classes{hint}") from None
    if not 0 <= number < len(number_of):
        raise UserError(f"{row.where}: label {number} is outside 0..{len(number_of) - 1}")
    return number


def has_split(root: Path, split: str) -> bool:
    """Whether `find_split` would find that split."""
    return (root / f"{split}.csv").is_file() or (root / split).is_dir()


def find_split(
    root: Path, split: str, *, class_names: Sequence[str] | None = None, kind: Kind = VIDEOS
) -> VideoIndex | None:
    """The rows of one split of a Kinetics-style tree, or `None` when the tree has no such split.

    A list `root/<split>.csv` wins over the folders `root/<split>/<class name>/*.mp4`. Class names come from
    the argument, else from `root/classes.txt`, else from what the split itself holds.

    Raises:
        UserError: No such root, an empty split, a class folder without files of that kind, or a malformed list.
    """
    if not root.is_dir():
        raise UserError(f"data root {str(root)!r} is not a directory")
    names = class_names if class_names is not None else read_class_names(root / "classes.txt")
    listed, folder = root / f"{split}.csv", root / split
    if listed.is_file():
        rows = list(read_rows(listed))
    elif folder.is_dir():
        rows = list(scan_class_folders(folder, kind=kind))
    else:
        return None
    if not rows:
        raise UserError(f"{listed if listed.is_file() else folder}: no {kind.noun}s in it")
    return VideoIndex(rows, root=root, class_names=names or class_names_of(rows))


def read_class_names(path: Path) -> list[str]:
    """Class names, one per line in label order; an empty list when there is no such file."""
    if not path.is_file():
        return []
    names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    names = [name for name in names if name]
    repeated = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    if repeated:
        raise UserError(f"{path}: class {sorted(repeated)[0]!r} stands there twice")
    return names


def class_names_of(rows: Sequence[Row]) -> list[str]:
    """The classes that rows speak of: names sorted, or "0".."n-1" when all labels are numbers.

    Raises:
        UserError: A negative number, which would otherwise pass for a name and make names of all numbers.
    """
    labels = {row.label: row.where for row in rows}
    for label, where in labels.items():
        if label.startswith("-") and label[1:].isdecimal():
            raise UserError(f"{where}: label {label} is negative")
    if all(label.isdecimal() for label in labels):
        numbers = {int(label) for label in labels}
        return [str(number) for number in range(max(numbers) + 1)]
    return sorted(labels)


def scan_class_folders(folder: Path, *, kind: Kind = VIDEOS) -> Iterator[Row]:
    """Rows of `folder/<class name>/<file>`, sorted; dot-files and files of another kind are passed over.

    Only directories are read, no file is opened, so a tree of any size is listed quickly.
    """
    expected = f"{folder}/<class name>/<{kind.noun}>"
    classes = sorted(entry.name for entry in _visible(folder) if entry.is_dir())
    if not classes:
        raise UserError(f"{folder}: no class folders in it (expected {expected})")
    for name in classes:
        where = str(folder / name)
        found = False
        for file in _files(where, kind):
            found = True
            yield Row(f"{folder.name}/{name}/{file}", name, where=where)
        if not found:
            looked_for = " ".join(sorted(kind.extensions))
            raise UserError(f"{where}: no {kind.noun}s in this class folder (looked for {looked_for})")


def _files(folder: str, kind: Kind, prefix: str = "") -> Iterator[str]:
    """Names of the files of a kind in a folder, sorted; files in nested folders come after those beside them."""
    files: list[str] = []
    folders: list[str] = []
    for entry in _visible(folder):
        if entry.is_dir():
            folders.append(entry.name)
        elif os.path.splitext(entry.name)[1].lower() in kind.extensions:  # noqa: PTH122 - a Path each costs seconds
            files.append(prefix + entry.name)
    yield from sorted(files)
    for name in sorted(folders) if kind.nested else ():
        yield from _files(f"{folder}/{name}", kind, f"{prefix}{name}/")


def _visible(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not entry.name.startswith("."))


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a list file.

    Two formats: a CSV with a header that names `path` and `label` (and optionally `start`, `end` in seconds),
    where fields may be quoted; or the `path label` lines of SlowFast and mmaction2 without a header, split
    at the last space or comma. Blank lines are passed over.

    Raises:
        UserError: A malformed row, with file and line.
    """
    with path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
        columns = [column.strip().lower() for column in next(csv.reader([file.readline()]), [])]
        if {"path", "label"} <= set(columns):
            file.seek(0)
            yield from _rows_with_header(path, file, columns)
        else:
            file.seek(0)
            yield from _rows_without_header(path, file)


def _rows_with_header(path: Path, file: Iterable[str], columns: list[str]) -> Iterator[Row]:
    lines = csv.reader(file)
    next(lines)
    for fields in lines:
        if not any(field.strip() for field in fields):
            continue
        where = f"{path}:{lines.line_num}"
        if len(fields) != len(columns):
            raise UserError(f"{where}: {len(fields)} fields, the header has {len(columns)}: {','.join(columns)}")
        row = dict(zip(columns, (field.strip() for field in fields), strict=True))
        if not row["path"] or not row["label"]:
            raise UserError(f"{where}: path and label must not be empty")
        start, end = (_seconds(row.get(key, ""), where) for key in ("start", "end"))
        if start >= end:
            raise UserError(f"{where}: start {start:g} s is not before end {end:g} s")
        yield Row(row["path"], row["label"], start, end, where)


def _seconds(text: str, where: str) -> float:
    if not text:
        return math.nan
    try:
        seconds = float(text)
    except ValueError:
        raise UserError(f"{where}: {text!r} is not a number of seconds") from None
    if not (math.isfinite(seconds) and seconds >= 0):
        raise UserError(f"{where}: {text!r} is not a number of seconds from 0 on")
    return seconds


def _rows_without_header(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        where = f"{path}:{number}"
        cut = max(text.rfind(" "), text.rfind(","), text.rfind("\t"))
        name, label = text[:cut].rstrip(", \t"), text[cut + 1 :]
        if not name or cut <= 0 or not label.isdecimal():
            raise UserError(
                f"{where}: expected `path label` with a whole number as label, or a header line `path,label`; "
                f"got {text[:80]!r}"
            )
        yield Row(name, label, where=where)
