"""Lists of files, in the formats that people have them in, and the one that we write."""

import csv
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from mvrec.data.listing.file_kinds import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from mvrec.errors import UserError
from mvrec.files import at_home, atomic_path

DELIMITERS = ",;\t "  # of lists with a header
COLUMNS = ("path", "label", "start", "end", "offset", "size")  # what a header may name, in the order that we write
SEVERAL = "labels"  # the column that stands in for `label` where a file may have several classes, or none
LABEL_SEPARATOR = ";"  # between them
YOUTUBE_COLUMNS = ("youtube_id", "time_start", "time_end")  # of an annotation CSV; a test split may lack `label`
MEDIA_EXTENSIONS = VIDEO_EXTENSIONS | IMAGE_EXTENSIONS
_NUMBERS_BEHIND = re.compile(r"([ ,\t]+\d+)+$")


class Row(NamedTuple):
    """A row as read, before class names have become numbers.

    Attributes:
        path: The file, relative to the data set's root or absolute; for a file in a tar `some.tar/inner/name.JPEG`.
        label: Name or number of its class; in a multi-label list those of all, with `;` between them, or "".
        start_seconds: Where the action starts; nan for the whole file.
        end_seconds: Where it ends; nan for the whole file.
        offset: Where the file's bytes begin in its tar; -1 for a file of its own.
        size: How many bytes it has there; -1 for a file of its own.
        source: The list or folder that the row was read from, for messages.
        line: Its line there; 0 where there are no lines.
        multi_label: Whether a file may have several classes, or none.
        others: The columns that mean nothing to us, name and value.
    """

    path: str
    label: str
    start_seconds: float = math.nan
    end_seconds: float = math.nan
    offset: int = -1
    size: int = -1
    source: str = ""
    line: int = 0
    multi_label: bool = False
    others: tuple[tuple[str, str], ...] = ()

    @property
    def where(self) -> str:
        """`file:line`, as messages begin."""
        return f"{self.source}:{self.line}" if self.line else self.source

    @property
    def labels(self) -> tuple[str, ...]:
        """Names or numbers of its classes: one, or in a multi-label list any number.

        Raises:
            UserError: A separator with nothing before or behind it.
        """
        if not self.multi_label:
            return (self.label,)
        if not self.label:
            return ()
        labels = tuple(label.strip() for label in self.label.split(LABEL_SEPARATOR))
        if not all(labels):
            raise UserError(f"{self.where}: an empty label in {self.label[:80]!r}: one {LABEL_SEPARATOR!r} between two")
        return labels


def read_rows(path: Path) -> Iterator[Row]:
    """Yield rows of a list file.

    Two formats. With a header that names `path` and `label`, in any order, and optionally `start` and `end` in
    seconds, or `offset` and `size` in bytes for files inside a tar; other columns travel along. The delimiter is the
    header's: comma, semicolon, tab or blank; fields may be quoted.

    A column `labels` in the place of `label` makes a multi-label list: a field holds the labels of all classes of the
    file, with semicolons between them, or nothing.

    Without a header, the lines of SlowFast and mmaction2: `path label` or `path frames label`, split at the last
    blanks, commas or tabs. Paths may hold blanks and commas, labels are whole numbers.

    Blank lines are passed over. Bytes that are not UTF-8 stay as they are in paths.

    Raises:
        UserError: No such list, or a malformed row, with file and line.
    """
    with open_text(path) as file:
        header = _header(file.readline())
        file.seek(0)
        yield from _rows_without_header(path, file) if header is None else _rows_with_header(path, file, *header)


def read_files(path: Path) -> Iterator[Row]:
    """Yield rows of a list of files that need not say their classes.

    All that `read_rows` reads; with a header that names `path`, also without labels; without a header also plain paths,
    one per line, or the first field of each line of a `.csv`. Paths are relative to the list.

    Raises:
        UserError: As `read_rows`.
    """
    with open_text(path) as file:
        line = file.readline()
        # A blank does not separate here: a path may hold the word "path".
        header = _header(line) or read_header(line, needed=("path",), delimiters=",;\t")
        file.seek(0)
        if header is not None:
            yield from _rows_with_header(path, file, *header, labelled=False)
            return
        if path.suffix.lower() == ".csv":
            lines = ((number, ",".join(fields), fields[0]) for number, fields in csv_lines(path, file, delimiter=","))
        else:
            lines = ((number, text.strip(), text.strip()) for number, text in enumerate(file, start=1))
        for number, text, otherwise in lines:
            if "\0" in text:
                raise UserError(f"{path}:{number}: there is a NUL byte in it: lists are text in UTF-8")
            name = text if _is_file(path, text) else _without_label(path, text) or otherwise
            if name:
                yield Row(_file_name(name), "", source=str(path), line=number)


def _is_file(listed: Path, name: str) -> bool:
    return (listed.parent / at_home(name)).is_file()


def _without_label(listed: Path, text: str) -> str:
    """Return the path of `path label` or `path frames label`; "" where the line is none of these."""
    name, label = _cut(text)
    if not name or not label.isdecimal():
        return ""
    before, count = _cut(name)
    if count.isdecimal() and _is_media(before.rstrip('"')):
        name = before
    name = _unquoted(name)
    return name if _is_media(name) or _is_file(listed, name) else ""


def _file_name(name: str) -> str:
    return str(at_home(name)) if name[0] == "~" else name


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name[0] == '"' and name[-1] == '"' and len(name) > 2 else name


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a list that `read_rows` reads: a CSV with a header and only the columns that some row needs, also others'.

    The file appears when it is complete.

    Raises:
        UserError: A path or label that is empty (labels of a multi-label list may be), begins or ends with a blank, or
            holds a carriage return; multi-label rows and others in one list.
    """
    kept = list(rows)
    several = any(row.multi_label for row in kept)
    if several and not all(row.multi_label for row in kept):
        raise UserError(f"{path}: rows with one label and multi-label rows do not go into one list")
    spans = any(not (math.isnan(row.start_seconds) and math.isnan(row.end_seconds)) for row in kept)
    members = any(row.offset >= 0 for row in kept)
    columns = ["path", SEVERAL if several else "label"]
    columns += [*(COLUMNS[2:4] if spans else ()), *(COLUMNS[4:] if members else ())]
    others = list(dict.fromkeys(name for row in kept for name, _ in row.others))
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns + others)
        for row in kept:
            for text, may_be_empty in ((row.path, False), (row.label, several)):
                if not (text or may_be_empty) or text != text.strip() or "\r" in text or "\0" in text:
                    raise UserError(f"{path}: {text!r} would not be read back from a list as it is: rename it")
            values = dict(row.others)
            writer.writerow(_fields(row, spans=spans, members=members) + [values.get(name, "") for name in others])


def _fields(row: Row, *, spans: bool, members: bool) -> list[str]:
    fields = [row.path, row.label]
    if spans:
        fields += ["" if math.isnan(second) else repr(second) for second in (row.start_seconds, row.end_seconds)]
    if members:
        fields += ["", ""] if row.offset < 0 else [str(row.offset), str(row.size)]
    return fields


def open_text(path: Path) -> TextIO:
    """Open a list for reading: UTF-8 with or without a byte order mark, other bytes as `os.fsdecode` has them.

    Raises:
        UserError: It cannot be opened.
    """
    try:
        return path.open(encoding="utf-8-sig", newline="", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None


def csv_lines(path: Path, file: Iterable[str], *, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line numbers and stripped fields of a CSV, without its blank lines.

    Raises:
        UserError: What no CSV may hold, such as a NUL byte, with file and line.
    """
    lines = csv.reader(file, delimiter=delimiter, skipinitialspace=delimiter == " ")
    try:
        for fields in lines:
            stripped = [field.strip() for field in fields]
            if any(stripped):
                yield lines.line_num, stripped
    except csv.Error as error:
        raise UserError(f"{path}:{lines.line_num}: {error}") from None


def read_header(line: str, *, needed: Iterable[str], delimiters: str = DELIMITERS) -> tuple[list[str], str] | None:
    """Return lower-case columns and delimiter of a header line; `None` if it lacks a required column."""
    for delimiter in delimiters:
        fields = next(csv.reader([line], delimiter=delimiter), []) if "\0" not in line else []
        columns = [field.strip().lower() for field in fields]
        if set(needed) <= set(columns):
            return columns, delimiter
    return None


def is_youtube_csv(path: Path) -> bool:
    """Return whether a list is an annotation CSV of Kinetics, which names videos by their YouTube ids."""
    with open_text(path) as file:
        return read_header(file.readline(), needed=YOUTUBE_COLUMNS, delimiters=",") is not None


def _header(line: str) -> tuple[list[str], str] | None:
    return read_header(line, needed=("path", "label")) or read_header(line, needed=("path", SEVERAL))


def _rows_with_header(
    path: Path, file: Iterable[str], columns: list[str], delimiter: str, *, labelled: bool = True
) -> Iterator[Row]:
    source, several = str(path), SEVERAL in columns
    place = _places(path, columns)
    at_path, at_label = place["path"], place.get("label")
    needed = labelled and not several
    plain = len(place) == len(columns) == 2
    lines = csv_lines(path, file, delimiter=delimiter)
    others = [(at, name) for at, name in enumerate(next(lines)[1]) if at not in place.values()]
    for line, fields in lines:
        if len(fields) != len(columns):
            raise UserError(
                f"{path}:{line}: {len(fields)} fields, the header has {len(columns)}: {delimiter.join(columns)}"
            )
        name, label = fields[at_path], "" if at_label is None else fields[at_label]
        if not name or (needed and not label):
            what = "path and label" if needed else "path"
            hint = (
                "" if not needed or not name else f" (files without a class: a column {SEVERAL!r} instead of 'label')"
            )
            raise UserError(f"{path}:{line}: {what} must not be empty{hint}")
        name = _file_name(name)
        if plain:
            yield Row(name, label, source=source, line=line, multi_label=several)
        else:
            known = _extras(place, fields, f"{path}:{line}")
            yield Row(name, label, *known, source, line, several, tuple((name, fields[at]) for at, name in others))


def _places(path: Path, columns: list[str]) -> dict[str, int]:
    """Where in a row the columns are that count; `labels` is found as `label`."""
    for name in (*COLUMNS, SEVERAL):
        if columns.count(name) > 1:
            raise UserError(f"{path}:1: the header names {name!r} twice")
    if SEVERAL in columns and "label" in columns:
        raise UserError(f"{path}:1: the header names both 'label' (one class per file) and {SEVERAL!r}: leave one")
    if SEVERAL in columns and "frame_id" in columns:
        raise UserError(f"{path}:1: a list of single frames, which are not read: take a list of the videos")
    place = {name: columns.index(name) for name in COLUMNS if name in columns}
    if SEVERAL in columns:
        place["label"] = columns.index(SEVERAL)
    if ("offset" in place) != ("size" in place):
        raise UserError(f"{path}:1: the columns offset and size come together, the header has one of them")
    return place


def _extras(place: dict[str, int], fields: list[str], where: str) -> tuple[float, float, int, int]:
    """Start, end, offset and size of a row; what is no number of seconds or bytes is an error."""
    values = {name: fields[at] for name, at in place.items()}
    start, end = (read_seconds(values.get(name, ""), where) for name in ("start", "end"))
    if start >= end:
        raise UserError(f"{where}: start {start:g} s is not before end {end:g} s")
    offset, size = (_bytes(values.get(name, ""), where, name) for name in ("offset", "size"))
    if (offset < 0) != (size < 0):
        raise UserError(f"{where}: offset and size come together, one of them is empty")
    return start, end, offset, size


def read_seconds(text: str, where: str) -> float:
    """A number of seconds from 0 on; nan for an empty field.

    Raises:
        UserError: Anything else.
    """
    if not text:
        return math.nan
    try:
        seconds = float(text)
    except ValueError:
        raise UserError(f"{where}: {text!r} is not a number of seconds") from None
    if not (math.isfinite(seconds) and seconds >= 0):
        raise UserError(f"{where}: {text!r} is not a number of seconds from 0 on")
    return seconds


def _bytes(text: str, where: str, name: str) -> int:
    if not text:
        return -1
    if not text.isdecimal() or int(text) >= 2**63:
        raise UserError(f"{where}: {name} {text!r} is not a number of bytes")
    return int(text)


def _rows_without_header(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    source = str(path)
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        name, label = _cut(text)
        if not label.isdecimal() or not name or "\0" in text:
            raise UserError(
                f"{source}:{number}: expected `path label` with a whole number as label, or a header line "
                f"`path,label`; got {text[:80]!r}"
            )
        if name[-1].isdecimal():
            name = _without_frame_count(name, where=f"{source}:{number}")
        yield Row(_file_name(_unquoted(name)), label, source=source, line=number)


def _cut(text: str) -> tuple[str, str]:
    """A line before and after its last separator."""
    cut = max(text.rfind(" "), text.rfind(","), text.rfind("\t"))
    return (text[:cut].rstrip(", \t"), text[cut + 1 :]) if cut > 0 else ("", text)


def _without_frame_count(name: str, *, where: str) -> str:
    """Return the path of `path frames label`, or the whole name where no frame count ends it.

    Raises:
        UserError: The path is a folder, so that the list is one of raw frames.
    """
    before, count = _cut(name)
    if not before or not count.isdecimal():
        return name
    if not _is_media(before.rstrip('"')):
        if _is_media(_NUMBERS_BEHIND.sub("", before)):
            raise UserError(
                f"{where}: several numbers behind the file: more than one label goes into a list with the header "
                f"`path,{SEVERAL}`, as in `x.mp4,3;7`"
            )
        raise UserError(
            f"{where}: {before!r} with {count} frames looks like a folder of single frames; lists of raw frames are "
            "not read, take the list of the videos"
        )
    return before


def _is_media(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in MEDIA_EXTENSIONS  # noqa: PTH122 - a Path each costs seconds
