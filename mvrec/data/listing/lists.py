"""Lists of files, in the common formats, and in the one that mvrec writes."""

import codecs
import csv
import io
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO, cast

from mvrec.data.listing.file_kinds import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from mvrec.errors import UserError
from mvrec.files import at_home, atomic_path

DELIMITERS = ",;\t "  # of lists with a header
COLUMNS = ("path", "label", "start", "end", "offset", "size")  # columns of a header, in the order of writing
SEVERAL = "labels"  # the column in place of `label` if a file may have several classes, or none
VALUE = "value"  # the column of the numbers to predict, in a list without labels
LABEL_SEPARATOR = ";"  # between labels
YOUTUBE_COLUMNS = ("youtube_id", "time_start", "time_end")  # of an annotation CSV; a test split may lack `label`
MEDIA_EXTENSIONS = VIDEO_EXTENSIONS | IMAGE_EXTENSIONS
_NUMBERS_BEHIND = re.compile(r"([ ,\t]+\d+)+$")


class Row(NamedTuple):
    """A row as read, before class names have become numbers.

    Attributes:
        path: The file, relative to the data set's root or absolute; for a file in a tar `some.tar/inner/name.JPEG`.
        label: Name or number of its class; in a multi-label list those of all its classes, joined by `;`, or "".
        start_seconds: Start of the action; nan for the whole file.
        end_seconds: End of the action; nan for the whole file.
        offset: First byte of the file in its tar; -1 for a plain file.
        size: Bytes in the tar; -1 for a plain file.
        source: The list or folder of the row, for messages.
        line: Its line in the list; 0 without lines.
        multi_label: Whether a file may have several classes, or none.
        others: The columns unknown to mvrec, name and value.
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
        """`file:line`, the beginning of messages."""
        return f"{self.source}:{self.line}" if self.line else self.source

    @property
    def labels(self) -> tuple[str, ...]:
        """Names or numbers of its classes: one, or in a multi-label list any number.

        Raises:
            UserError: A separator with an empty label.
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
    seconds, or `offset` and `size` in bytes for files inside a tar; other columns are kept. The delimiter is the
    header's: comma, semicolon, tab or blank; fields may be quoted.

    A column `labels` instead of `label` makes a multi-label list: a field holds the labels of all classes of the
    file, separated by semicolons, or nothing. A header with `path` and other columns but without labels makes a list of
    values; its rows have the label "".

    Without a header, lines as in SlowFast and mmaction2: `path label` or `path frames label`, split at the last
    blanks, commas or tabs. Paths may contain blanks and commas, labels are whole numbers.

    Blank lines are skipped. Bytes that are not UTF-8 stay as they are in paths.

    Raises:
        UserError: The list is missing, or a row is malformed, with file and line.
    """
    with open_text(path) as file:
        header = _header(line := file.readline()) or _header_of_values(line)
        file.seek(0)
        yield from _rows_without_header(path, file) if header is None else _rows_with_header(path, file, *header)


def read_files(path: Path) -> Iterator[Row]:
    """Yield rows of a list of files whose classes are optional.

    Reads the formats of `read_rows`; with a header that names `path`, also without labels; without a header also plain
    paths, one per line, or the first field of each line of a `.csv`. Paths are relative to the list.

    Raises:
        UserError: As `read_rows`.
    """
    with open_text(path) as file:
        line = file.readline()
        # A blank does not separate here: a path may contain the word "path".
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
                raise UserError(f"{path}:{number}: contains a NUL byte: lists must be text in UTF-8")
            name = text if _is_file(path, text) else _without_label(path, text) or otherwise
            if name:
                yield Row(_file_name(name), "", source=str(path), line=number)


def _is_file(listed: Path, name: str) -> bool:
    return (listed.parent / at_home(name)).is_file()


def _without_label(listed: Path, text: str) -> str:
    """Return the path of `path label` or `path frames label`; "" for any other line."""
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
    """Write a list that `read_rows` reads: a CSV with a header and only the columns that some row uses.

    The file appears once it is complete. If no row has a label, it is a list of values, without that column.

    Raises:
        UserError: A path or label that is empty (labels may be in lists of several or of values), begins or ends with a
            blank, or contains a carriage return; multi-label rows and others in one list.
    """
    saved = list(rows)
    several = any(row.multi_label for row in saved)
    if several and not all(row.multi_label for row in saved):
        raise UserError(f"{path}: a list cannot mix rows with one label and multi-label rows")
    spans = any(not (math.isnan(row.start_seconds) and math.isnan(row.end_seconds)) for row in saved)
    members = any(row.offset >= 0 for row in saved)
    unlabelled = not several and not any(row.label for row in saved) and any(row.others for row in saved)
    columns = ["path", *([] if unlabelled else [SEVERAL if several else "label"])]
    columns += [*(COLUMNS[2:4] if spans else ()), *(COLUMNS[4:] if members else ())]
    others = list(dict.fromkeys(name for row in saved for name, _ in row.others))
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns + others)
        for row in saved:
            for text, may_be_empty in ((row.path, False), (row.label, several or unlabelled)):
                if not (text or may_be_empty) or text != text.strip() or "\r" in text or "\0" in text:
                    raise UserError(f"{path}: a list would not read {text!r} back unchanged: rename it")
            values = dict(row.others)
            fields = _fields(row, spans=spans, members=members)
            fields[1:2] = [] if unlabelled else fields[1:2]
            writer.writerow(fields + [values.get(name, "") for name in others])


def _fields(row: Row, *, spans: bool, members: bool) -> list[str]:
    fields = [row.path, row.label]
    if spans:
        fields += ["" if math.isnan(second) else repr(second) for second in (row.start_seconds, row.end_seconds)]
    if members:
        fields += ["", ""] if row.offset < 0 else [str(row.offset), str(row.size)]
    return fields


def open_text(path: Path) -> TextIO:
    """Open a list for reading: UTF-8 with or without a byte order mark, other bytes as in `os.fsdecode`.

    Raises:
        UserError: The file cannot be opened, or is UTF-16, as spreadsheets write "Unicode text".
    """
    try:
        file = path.open(encoding="utf-8-sig", newline="", errors="surrogateescape")
        if cast("io.BufferedReader", file.buffer).peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            file.close()
            raise UserError(f"{path}: it is UTF-16: save it as UTF-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    return file


def csv_lines(path: Path, file: Iterable[str], *, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line numbers and stripped fields of a CSV, without its blank lines.

    Raises:
        UserError: Content that no CSV may have, such as a NUL byte, with file and line.
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
    """Return whether a list is an annotation CSV of Kinetics, which names videos by YouTube ids."""
    with open_text(path) as file:
        return read_header(file.readline(), needed=YOUTUBE_COLUMNS, delimiters=",") is not None


def _header(line: str) -> tuple[list[str], str] | None:
    return read_header(line, needed=("path", "label")) or read_header(line, needed=("path", SEVERAL))


def _header_of_values(line: str) -> tuple[list[str], str] | None:
    """Return columns and delimiter of a header without labels; a blank does not separate, as paths may contain it."""
    header = read_header(line, needed=("path",), delimiters=",;\t")
    return header if header is not None and len(header[0]) > 1 else None


def _rows_with_header(
    path: Path, file: Iterable[str], columns: list[str], delimiter: str, *, labelled: bool = True
) -> Iterator[Row]:
    source, several = str(path), SEVERAL in columns
    place = _places(path, columns)
    at_path, at_label = place["path"], place.get("label")
    needed = labelled and at_label is not None and not several
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
            required = "path and label" if needed else "path"
            hint = (
                "" if not needed or not name else f" (files without a class: a column {SEVERAL!r} instead of 'label')"
            )
            raise UserError(f"{path}:{line}: {required} must not be empty{hint}")
        name = _file_name(name)
        if plain:
            yield Row(name, label, source=source, line=line, multi_label=several)
        else:
            extras = _extras(place, fields, f"{path}:{line}")
            yield Row(name, label, *extras, source, line, several, tuple((name, fields[at]) for at, name in others))


def _places(path: Path, columns: list[str]) -> dict[str, int]:
    """Return the places of the known columns in a row; `labels` counts as `label`."""
    for name in (*COLUMNS, SEVERAL):
        if columns.count(name) > 1:
            raise UserError(f"{path}:1: the header names {name!r} twice")
    if SEVERAL in columns and "label" in columns:
        raise UserError(f"{path}:1: the header names both 'label' (one class per file) and {SEVERAL!r}: remove one")
    if SEVERAL in columns and "frame_id" in columns:
        raise UserError(
            f"{path}:1: this is a list of single frames, which mvrec does not read: use a list of the videos"
        )
    place = {name: columns.index(name) for name in COLUMNS if name in columns}
    if SEVERAL in columns:
        place["label"] = columns.index(SEVERAL)
    if ("offset" in place) != ("size" in place):
        raise UserError(f"{path}:1: the columns offset and size come together, the header has one of them")
    return place


def _extras(place: dict[str, int], fields: list[str], where: str) -> tuple[float, float, int, int]:
    """Return start, end, offset and size of a row, after checks.

    Raises:
        UserError: A value that is not a number of seconds or bytes.
    """
    values = {name: fields[at] for name, at in place.items()}
    start, end = (read_seconds(values.get(name, ""), where) for name in ("start", "end"))
    if start >= end:
        raise UserError(f"{where}: start {start:g} s is not before end {end:g} s")
    offset, size = (_bytes(values.get(name, ""), where, name) for name in ("offset", "size"))
    if (offset < 0) != (size < 0):
        raise UserError(f"{where}: offset and size come together, one of them is empty")
    return start, end, offset, size


def read_seconds(text: str, where: str) -> float:
    """Return a number of seconds from 0 on; nan for an empty field.

    Raises:
        UserError: Any other text.
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
                f"`path,label`, or for numbers to predict `path,value`; got {text[:80]!r}"
            )
        if name[-1].isdecimal():
            name = _without_frame_count(name, where=f"{source}:{number}")
        yield Row(_file_name(_unquoted(name)), label, source=source, line=number)


def _cut(text: str) -> tuple[str, str]:
    """Return a line before and after its last separator."""
    cut = max(text.rfind(" "), text.rfind(","), text.rfind("\t"))
    return (text[:cut].rstrip(", \t"), text[cut + 1 :]) if cut > 0 else ("", text)


def _without_frame_count(name: str, *, where: str) -> str:
    """Return the path of `path frames label`, or the whole name if it has no frame count at its end.

    Raises:
        UserError: The path is a folder: the list is one of raw frames.
    """
    before, count = _cut(name)
    if not before or not count.isdecimal():
        return name
    if not _is_media(before.rstrip('"')):
        if _is_media(_NUMBERS_BEHIND.sub("", before)):
            raise UserError(
                f"{where}: several numbers after the file: write several labels into a list with the header "
                f"`path,{SEVERAL}`, as in `x.mp4,3;7`"
            )
        raise UserError(
            f"{where}: {before!r} with {count} frames looks like a folder of single frames, which mvrec does not "
            "read: use the list of the videos"
        )
    return before


def _is_media(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in MEDIA_EXTENSIONS  # noqa: PTH122 - a Path each costs seconds
