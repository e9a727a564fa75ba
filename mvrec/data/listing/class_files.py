"""Files of class names of a data set or a network, in the formats in which others write them."""

import csv
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mvrec.errors import UserError
from mvrec.files import stand_in

# Names of the columns in common tables of classes.
NUMBER_COLUMNS = ("id", "index", "idx", "label", "number", "class_id", "class_index", "class_idx", "label_id")
NAME_COLUMNS = ("name", "class", "class_name", "label_name", "display_name", "action", "category")
SEPARATED = re.compile(r"\s*[,;:\t]\s*|\s+")  # between number and name

FOREIGN = (".yaml", ".yml", ".pbtxt", ".xml", ".pkl", ".npy", ".mat", ".xlsx")

Row = tuple[str, str, str]  # number, name, place in the file


def read_class_names(path: Path) -> list[str]:
    """Return class names in label order; an empty list without such a file.

    Formats: one name per line (`abseiling`); lines with numbers before or after the names that count from 0 or, as in
    `classInd.txt`, from 1 (`0 abseiling`, `abseiling,0`); a table with a header (`id,name`); and in JSON a list of
    names, numbers by name (`{"abseiling": 0}`) or names by number (`{"0": "abseiling"}`).

    Raises:
        UserError: Another format, a repeated name or number, or a missing number.
    """
    if not path.is_file():
        return []
    if path.suffix.lower() in FOREIGN:
        raise UserError(f"{path}: class names are read from text, CSV and JSON files, not from {path.suffix}")
    if (wrong := stand_in(path)) and wrong != "empty":
        raise UserError(f"{path}: the file is {wrong}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8") from None
    if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("{", "["):
        return _of_json(text, path)
    lines = [(f"{path}:{number}", line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    lines = [(where, line) for where, line in lines if line]
    rows = _table(lines) or _numbered_lines(lines)
    return _in_order(rows, path) if rows else _each_once([(line, where) for where, line in lines])


def _of_json(text: str, path: Path) -> list[str]:
    try:
        tree = json.loads(text, object_pairs_hook=_pairs)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    if isinstance(tree, list) and all(isinstance(name, str) for name in tree):
        return _each_once([(name, str(path)) for name in tree])
    if isinstance(tree, _Pairs):
        tree = _without_ids(tree)
        plain = [(key.strip("\"'"), str(value).strip("\"'")) for key, value in tree if isinstance(value, str | int)]
        if len(plain) == len(tree):
            if all(_is_number(value) for _, value in plain):
                return _in_order([(value, key, str(path)) for key, value in plain], path)
            if all(_is_number(key) for key, _ in plain):
                return _in_order([(key, value, str(path)) for key, value in plain], path)
    raise UserError(
        f'{path}: class names in JSON are a list ["a", "b"], numbers by name {{"a": 0}} or names {{"0": "a"}}'
    )


def _without_ids(tree: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return Keras's `{"0": ["n01440764", "tench"]}` as names by number; the WordNet id tells equal names apart."""
    if not all(
        isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value) for _, value in tree
    ):
        return list(tree)
    names = [name for _, (_, name) in tree]
    return [(key, f"{name} ({code})" if names.count(name) > 1 else name) for key, (code, name) in tree]


class _Pairs(list[tuple[str, Any]]):
    """The pairs of a JSON object: a dictionary would silently keep only the last of two equal names."""


def _pairs(pairs: list[tuple[str, Any]]) -> _Pairs:
    return _Pairs(pairs)


def _table(lines: Sequence[tuple[str, str]]) -> list[Row]:
    """Return the rows of a table whose header has a column of numbers and one of names; none for other files."""
    if len(lines) < 2:
        return []
    delimiter = next((sign for sign in ",;\t" if sign in lines[0][1]), None)
    if delimiter is None:
        return []
    header, *cells = csv.reader([line for _, line in lines], delimiter=delimiter)
    titles = [title.strip().lower() for title in header]
    name = next((titles.index(title) for title in NAME_COLUMNS if title in titles), None)
    number = next((titles.index(title) for title in NUMBER_COLUMNS if title in titles), None)
    if name is None or number is None or _is_number(header[number]):
        return []
    rows = []
    for (where, line), row in zip(lines[1:], cells, strict=True):
        if len(row) <= max(name, number) or not _is_number(row[number].strip()):
            raise UserError(f"{where}: {line!r} has no whole number in column {header[number].strip()!r}")
        rows.append((row[number].strip(), row[name].strip(), where))
    return rows


def _numbered_lines(lines: Sequence[tuple[str, str]]) -> list[Row]:
    """Return the rows of lines that all begin, or all end, with a number of their own, together 0..n-1 or 1..n."""
    for at_end in (False, True):
        rows = []
        for where, line in lines:
            parts = SEPARATED.split(line[::-1] if at_end else line, maxsplit=1)
            number, name = (part[::-1] if at_end else part for part in (*parts, "")[:2])
            if not name or not _is_number(number):
                break
            rows.append((number, name.strip("\"'"), where))
        numbers = sorted(int(number) for number, _, _ in rows)
        # Names such as "50 salads" begin with numbers too, but not with consecutive ones.
        tells = not at_end or len({name for _, name, _ in rows}) == len(rows)  # "level 1", "level 2" are names
        if (
            len(rows) == len(lines)
            and rows
            and tells
            and numbers in (list(range(len(rows))), list(range(1, len(rows) + 1)))
        ):
            return rows
    return []


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]+", text) is not None


def _in_order(rows: Sequence[Row], path: Path) -> list[str]:
    """Return names in the order of their numbers, which count from 0 or 1."""
    numbered: dict[int, tuple[str, str]] = {}
    for number, name, where in rows:
        if int(number) in numbered:
            raise UserError(
                f"{where}: number {number} is that of two classes, {numbered[int(number)][0]!r} and {name!r}"
            )
        numbered[int(number)] = (name, where)
    start = 1 if min(numbered, default=0) == 1 else 0
    missing = next((number for number in range(start, start + len(numbered)) if number not in numbered), None)
    if missing is not None:
        raise UserError(
            f"{path}: the {len(numbered)} classes are not numbered from 0 on without gaps: {missing} is missing"
        )
    return _each_once([numbered[number] for number in sorted(numbered)])


def _each_once(names: Iterable[tuple[str, str]]) -> list[str]:
    """Return the names after a check that none repeats; each comes with its place."""
    places: dict[str, str] = {}
    for name, where in names:
        if not name:
            raise UserError(f"{where}: a class has no name")
        if name in places:
            raise UserError(f"{where}: class {name!r} is listed twice")
        places[name] = where
    return list(places)
