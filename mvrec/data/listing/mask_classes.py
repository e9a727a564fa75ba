"""Classes of masks by their values or colours, in the files in which tools write them."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mvrec.data.listing.class_files import read_class_names
from mvrec.data.listing.lists import open_text
from mvrec.errors import UserError

# CVAT writes labelmap.txt, CamVid label_colors.txt, and tables of Kaggle's data sets are named class_dict.csv.
PALETTE_FILES = ("palette.txt", "palette.csv", "labelmap.txt", "label_colors.txt", "class_dict.csv")
_HIGHEST = 255
_NUMBERED = re.compile(r"(\d{1,3})(?:\s*[,;:\t]\s*|\s+)(.+)")
_COLOUR = r"(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})"
_COLOUR_FIRST = re.compile(rf"{_COLOUR}[\s,;]+(\S.*)")
_NAME_FIRST = re.compile(rf"(\S.*?)[\s,;:]+{_COLOUR}[\s,;:]*")


class MaskClasses(NamedTuple):
    """Classes as a file names them.

    Attributes:
        names: In label order.
        values: The value of each class; `None` for 0, 1, 2 and so on.
    """

    names: list[str]
    values: list[int] | None


def read_mask_classes(path: Path) -> MaskClasses:
    """Return the classes of a file of names, which may give the value of each before its name.

    Formats: lines `7 road`, whose numbers are the values in the masks, with gaps or not; else those of
    `read_class_names`, whose classes have the values 0, 1, 2 and so on. Without such a file there are no names.

    Raises:
        UserError: Another format, or a repeated name or number.
    """
    if not path.is_file():
        return MaskClasses([], None)
    with open_text(path) as file:
        lines = [line.strip() for line in file]
    matches = [_NUMBERED.fullmatch(line) for line in lines if line]
    numbers = [int(match[1]) for match in matches if match is not None]
    if not matches or len(numbers) < len(matches) or max(numbers) > _HIGHEST:
        return MaskClasses(read_class_names(path), None)
    names = [match[2].strip("\"' ") for match in matches if match is not None]
    for kind, entries in (("number", numbers), ("class", names)):
        repeated = next((entry for place, entry in enumerate(entries) if entry in entries[:place]), None)
        if repeated is not None:
            raise UserError(f"{path}: {kind} {repeated!r} is listed twice")
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    return MaskClasses([names[place] for place in order], [numbers[place] for place in order])


def find_palette(root: Path) -> Path | None:
    """Return the file of a data set that names the colours of its classes; `None` without one."""
    return next((root / name for name in PALETTE_FILES if (root / name).is_file()), None)


def read_palette(path: Path) -> dict[str, tuple[int, int, int]]:
    """Return the RGB colour of each class, in the order of the file, which is the label order.

    Formats: lines `R G B name` or `name R G B`, separated by blanks, commas or tabs; CVAT's `name:R,G,B::`; tables with
    the columns name, r, g and b. Lines that begin with `#` are comments.

    Raises:
        UserError: There is no such file, a line has another format, or a name or colour is listed twice.
    """
    colours: dict[str, tuple[int, int, int]] = {}
    for where, name, colour in _entries(path):
        if max(colour) > _HIGHEST:
            raise UserError(f"{where}: colours are three numbers of 0..255, got {colour}")
        if name in colours:
            raise UserError(f"{where}: class {name!r} is listed twice")
        if colour in colours.values():
            other = next(other for other, same in colours.items() if same == colour)
            raise UserError(f"{where}: {name!r} has the colour {colour} of {other!r}")
        colours[name] = colour
    if not colours:
        raise UserError(f"{path}: no colours of classes in it; expected lines 'name R G B'")
    return colours


def _entries(path: Path) -> Iterator[tuple[str, str, tuple[int, int, int]]]:
    """Yield place, name and colour of each line."""
    with open_text(path) as file:
        lines = [(f"{path}:{number}", line.strip()) for number, line in enumerate(file, start=1)]
    lines = [(where, line) for where, line in lines if line and not line.startswith("#")]
    columns = [field.strip().lower() for field in next(csv.reader([lines[0][1]]), [])] if lines else []
    if {"name", "r", "g", "b"} <= set(columns):
        order = [columns.index(name) for name in ("r", "g", "b", "name")]
        lines = [(where, _reordered(line, order, where)) for where, line in lines[1:]]
    for where, line in lines:
        if (match := _COLOUR_FIRST.fullmatch(line)) is not None:
            red, green, blue, name = match.groups()
        elif (match := _NAME_FIRST.fullmatch(line)) is not None:
            name, red, green, blue = match.groups()
        else:
            raise UserError(f"{where}: {line[:80]!r} is no class with a colour; expected 'name R G B'")
        yield where, name.strip("\"' "), (int(red), int(green), int(blue))


def _reordered(line: str, order: list[int], where: str) -> str:
    fields = next(csv.reader([line]))
    if len(fields) <= max(order):
        raise UserError(f"{where}: {len(fields)} fields, the header has more")
    return ",".join(fields[place].strip() for place in order)
