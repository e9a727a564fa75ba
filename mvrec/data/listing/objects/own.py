"""Anybody's objects: a CSV with the header `path,x1,y1,x2,y2,label`."""

from pathlib import Path

from mvrec.data.listing.boxes.rows import read_number
from mvrec.data.listing.lists import csv_lines, open_text
from mvrec.data.listing.objects.forms import CORNERS, NEEDED, OTHER_NAMES, own_header
from mvrec.data.listing.objects.labels import Labels
from mvrec.data.listing.objects.table import ObjectPacking, ObjectTable
from mvrec.errors import UserError


def read_own(path: Path) -> ObjectTable:
    """Return the images and objects of a list, whose corners are pixels.

    A row with empty corners names an image without objects. The columns `width` and `height` are optional: the size of
    the image.

    Raises:
        UserError: A missing column, or a malformed row, with file and line.
    """
    packed, labels = ObjectPacking(str(path)), Labels()
    images: dict[str, int] = {}
    largest, first = 0.0, ""
    with open_text(path) as file:
        header = own_header(file.readline())
        if header is None:
            raise UserError(
                f"{path}:1: expected the columns {','.join(NEEDED)} (or {','.join(OTHER_NAMES)}) in the first line"
            )
        columns, delimiter = header
        file.seek(0)
        lines = csv_lines(path, file, delimiter=delimiter)
        next(lines)
        for line, fields in lines:
            where = f"{path}:{line}"
            if len(fields) != len(columns):
                names = delimiter.join(columns)
                raise UserError(f"{where}: {len(fields)} fields, the header has {len(columns)}: {names}")
            row = dict(zip(columns, (field.strip() for field in fields), strict=True))
            if not row["path"]:
                raise UserError(f"{where}: path must not be empty")
            if row["path"] not in images:
                sides = (_side(row.get(name, ""), name, where) for name in ("height", "width"))
                images[row["path"]] = packed.add_image(row["path"], *sides)
            if not any(row[name] for name in CORNERS):
                continue
            x1, y1, x2, y2 = (read_number(row[name], name, where) for name in CORNERS)
            largest, first = max(largest, x2, y2), first or where
            # A corner on the wrong side is an object without area, which is named with all others.
            packed.add_object(images[row["path"]], labels.number(row["label"], where), (x1, y1, x2 - x1, y2 - y1))
    if not images:
        raise UserError(f"{path}: there are no images in it")
    if first and largest <= 1:
        raise UserError(f"{first}: corners are pixels, and none of this list is above 1: multiply shares by the size")
    return labels.table(packed)


def _side(text: str, name: str, where: str) -> int:
    if text and not (text.isdecimal() and int(text) < 2**31):
        raise UserError(f"{where}: {name} {text!r} is no number of pixels")
    return int(text or 0)
