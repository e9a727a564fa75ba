"""The files of AVA: boxes, the label map, and excluded key frames; https://arxiv.org/abs/1705.08421."""

import csv
import math
import re
from collections.abc import Iterator
from pathlib import Path

from mvrec.data.listing.boxes.rows import NO_BOX, BoxRow, Unit, read_number
from mvrec.data.listing.lists import open_text
from mvrec.errors import UserError

FIELDS = (7, 8)  # video, second, x1, y1, x2, y2, action and, of some lists, person or score
NO_ACTION = ("", "-1")
_ITEM = re.compile(r"\b(?:item|label)\s*\{(.*?)\}", re.DOTALL)
_NAME = re.compile(r"\bname\s*:\s*(\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')")
_ID = re.compile(r"\b(?:label_)?id\s*:\s*(\d+)")


def is_ava(line: str) -> bool:
    """Return whether a first line is a row of boxes without a header: a video, a second and four corners."""
    fields = next(csv.reader([line]), []) if "\0" not in line else []
    if len(fields) not in FIELDS:
        return False
    try:
        return math.isfinite(sum(map(float, fields[1:6])))
    except ValueError:
        return False


def read_ava(path: Path) -> Iterator[BoxRow]:
    """Yield the rows of a list in AVA's form: `video,second,x1,y1,x2,y2,action,person`, without a header.

    A detector's list has no action, or -1, and a score in place of the person: the last field counts as a score if it
    is not a whole number. A row of video and second names a key frame without boxes.

    Raises:
        UserError: A malformed row, with file and line.
    """
    source, unit = str(path), Unit()
    with open_text(path) as file:
        lines = csv.reader(file)
        try:
            for fields in lines:
                if fields:
                    yield _row(fields, unit, source, lines.line_num)
        except csv.Error as error:
            raise UserError(f"{path}:{lines.line_num}: {error}") from None


def _row(fields: list[str], unit: Unit, source: str, line: int) -> BoxRow:
    where = f"{source}:{line}"
    if len(fields) == 2:
        return BoxRow(fields[0], _second(fields[1], where), NO_BOX, True, "", "", math.nan, source, line)
    if len(fields) not in FIELDS:
        raise UserError(f"{where}: {len(fields)} fields, expected video,second,x1,y1,x2,y2,action,person")
    try:  # a million rows: checks in detail only of wrong ones
        seconds, x1, y1, x2, y2 = map(float, fields[1:6])
    except ValueError:
        seconds = x1 = y1 = x2 = y2 = math.nan
    if not (math.isfinite(x1 + y1 + x2 + y2) and 0 <= seconds < math.inf):
        seconds = _second(fields[1], where)
        names = ("x1", "y1", "x2", "y2")
        x1, y1, x2, y2 = (read_number(text, name, where) for text, name in zip(fields[2:6], names, strict=True))
    label = fields[6].strip()
    label = "" if label in NO_ACTION else label
    person, score = fields[7].strip() if len(fields) == 8 else "", math.nan
    if person and not person.isdecimal():
        person, score = "", _score(person, where)
    corners = (x1, y1, x2, y2)
    return BoxRow(fields[0].strip(), seconds, corners, unit.of(corners, where), label, person, score, source, line)


def _score(text: str, where: str) -> float:
    try:
        return read_number(text, "the score", where)
    except UserError as error:
        raise UserError(f"{error}; a list of one's own begins with the line path,time,x1,y1,x2,y2,label") from None


def _second(text: str, where: str) -> float:
    seconds = read_number(text, "the second", where)
    if seconds < 0:
        raise UserError(f"{where}: the second {text!r} is negative")
    return seconds


def read_label_map(path: Path) -> dict[str, str]:
    """Return the names of actions by their ids, in the order of a `.pbtxt` file.

    Raises:
        UserError: The file cannot be read, or has no items with a name and an id each, once.
    """
    with open_text(path) as file:
        text = re.sub(r"^\s*#.*$", "", file.read(), flags=re.MULTILINE)
    names: dict[str, str] = {}
    for item in _ITEM.finditer(text):
        where = f"{path}:{text.count(chr(10), 0, item.start()) + 1}"
        name, number = _NAME.search(item[1]), _ID.search(_NAME.sub("", item[1]))
        if name is None or number is None:
            raise UserError(f"{where}: an item without a name and an id")
        plain = re.sub(r"\\(.)", r"\1", name[1][1:-1])
        if number[1] in names or plain in names.values():
            raise UserError(f"{where}: the action {plain!r} with the id {number[1]} repeats a name or an id")
        names[number[1]] = plain
    if not names:
        raise UserError(f'{path}: it has no actions; expected items such as item {{ name: "sit" id: 11 }}')
    return names


def read_key_frame_list(path: Path) -> set[tuple[str, float]]:
    """Return the key frames of a list `video,second`, such as those that AVA excludes from its score.

    Raises:
        UserError: A malformed row, with file and line.
    """
    frames = set()
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            video, comma, second = line.strip().partition(",")
            if not comma:
                raise UserError(f"{path}:{number}: expected video,second, got {line.strip()[:80]!r}")
            frames.add((video, _second(second, f"{path}:{number}")))
    return frames
