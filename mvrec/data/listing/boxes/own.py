"""Anybody's boxes: a CSV with the header `path,time,x1,y1,x2,y2,label[,person][,score]`."""

import math
from collections.abc import Iterator
from pathlib import Path

from mvrec.data.listing.boxes.rows import NO_BOX, BoxRow, Unit, read_number
from mvrec.data.listing.lists import LABEL_SEPARATOR, SEVERAL, csv_lines, open_text, read_header, read_seconds
from mvrec.errors import UserError, nearest

CORNERS = ("x1", "y1", "x2", "y2")
NEEDED = ("path", "time", *CORNERS)
COLUMNS = (*NEEDED, "label", SEVERAL, "person", "score")
DELIMITERS = ",;\t"


def is_own(line: str) -> bool:
    """Return whether a first line is the header of such a list."""
    return read_header(line, needed=NEEDED, delimiters=DELIMITERS) is not None


def read_own(path: Path) -> Iterator[BoxRow]:
    """Yield the rows of a list with a header, in any order of the columns.

    A box with several labels has several rows, or a column `labels` with semicolons between them. A row without corners
    names a key frame without boxes.

    Raises:
        UserError: A missing column, or a malformed row, with file and line.
    """
    with open_text(path) as file:
        line = file.readline()
        header = read_header(line, needed=NEEDED, delimiters=DELIMITERS)
        if header is None:
            raise UserError(f"{path}:1: {_missing(line)}")
        columns, delimiter = header
        file.seek(0)
        place = _places(path, columns)
        lines, unit = csv_lines(path, file, delimiter=delimiter), Unit()
        next(lines)
        for number, fields in lines:
            where = f"{path}:{number}"
            if len(fields) != len(columns):
                names = delimiter.join(columns)
                raise UserError(f"{where}: {len(fields)} fields, the header has {len(columns)}: {names}")
            values = {name: fields[at] for name, at in place.items()}
            row = _row(values, unit, where)._replace(source=str(path), line=number)
            yield from (row._replace(label=label) for label in _labels(values, where))


def _row(values: dict[str, str], unit: Unit, where: str) -> BoxRow:
    """Return a row without its label and place."""
    if not values["path"]:
        raise UserError(f"{where}: path must not be empty")
    seconds = read_seconds(values["time"], where)
    if math.isnan(seconds):
        raise UserError(f"{where}: time must not be empty: give the seconds from the start of the video")
    texts = [values[name] for name in CORNERS]
    person, score = values.get("person", ""), values.get("score", "")
    confidence = read_number(score, "score", where) if score else math.nan
    if not any(texts):
        return BoxRow(values["path"], seconds, NO_BOX, unit.relative is not False, "", person, confidence)
    x1, y1, x2, y2 = (read_number(text, name, where) for text, name in zip(texts, CORNERS, strict=True))
    corners = (x1, y1, x2, y2)
    return BoxRow(values["path"], seconds, corners, unit.of(corners, where), "", person, confidence)


def _labels(values: dict[str, str], where: str) -> list[str]:
    """Return the labels of a row, [""] without any."""
    if SEVERAL not in values:
        labels = [values.get("label", "")]
    else:
        labels = [label.strip() for label in values[SEVERAL].split(LABEL_SEPARATOR)]
        if len(labels) > 1 and not all(labels):
            raise UserError(f"{where}: an empty label in {values[SEVERAL][:80]!r}")
    if any(labels) and not any(values[name] for name in CORNERS):
        raise UserError(f"{where}: the label {labels[0]!r} has no box: give x1,y1,x2,y2")
    return labels


def _places(path: Path, columns: list[str]) -> dict[str, int]:
    twice = next((name for name in COLUMNS if columns.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path}:1: the header names {twice!r} twice")
    if "label" in columns and SEVERAL in columns:
        raise UserError(f"{path}:1: the header names both 'label' and {SEVERAL!r}: remove one")
    return {name: columns.index(name) for name in COLUMNS if name in columns}


def _missing(line: str) -> str:
    """Return which column a header lacks."""
    if not line.strip():
        return f"it is empty: a list of boxes begins with the line {','.join(NEEDED)},label"
    delimiter = max(DELIMITERS, key=line.count)
    columns = [name.strip().lower() for name in line.strip().split(delimiter)]
    missing = next((name for name in NEEDED if name not in columns), "path")
    return (
        f"a list of boxes needs the columns {','.join(NEEDED)},label, its first line has no {missing!r}"
        f"{nearest(missing, columns)}"
    )
