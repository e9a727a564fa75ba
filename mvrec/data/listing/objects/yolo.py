"""Labels of YOLO, a text per image, and the file `data.yaml`; https://docs.ultralytics.com/datasets."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from mvrec.data.listing.class_files import read_class_names
from mvrec.data.listing.file_kinds import IMAGES, SPLIT_FOLDERS
from mvrec.data.listing.layouts import files_below
from mvrec.data.listing.lists import open_text
from mvrec.data.listing.objects.media import SizeOf, relative
from mvrec.data.listing.objects.shapes import box_of_polygons, polygon_area
from mvrec.data.listing.objects.table import ObjectPacking, ObjectTable
from mvrec.errors import DecodeError, UserError
from mvrec.messages import counted

_READERS = 8  # threads that read the sizes of images
_ROUNDING = 0.01  # by which shares may be above 1
_BOX = 5  # fields


def names_without_yaml(root: Path) -> tuple[str, ...]:
    """Return the classes of `classes.txt` in a root or its folder of labels, as labelImg writes it; () without."""
    for place in (root, root / "labels", *(root / name / "labels" for name in SPLIT_FOLDERS["train"])):
        if names := read_class_names(place / "classes.txt"):
            return tuple(names)
    return ()


def label_file(image: Path) -> Path:
    """Return the file of an image's labels: below `labels/` in place of the last `images/`, else next to it."""
    parts = list(image.with_suffix(".txt").parts)
    places = [number for number, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts)


def read_yolo(
    root: Path, places: Sequence[Path], names: Sequence[str], size_of: SizeOf, notes: list[str], *, source: str
) -> ObjectTable:
    """Return the images of folders or lists, and their objects, in pixels.

    Boxes and polygons are shares of the image in these files, so the header of every image is read. An image without a
    file of labels has no objects.

    Args:
        root: The folder to which paths are relative.
        places: Folders of images, and lists of their paths.
        names: Names of the classes; without them the classes are the numbers.
        size_of: Returns height and width of an image, turned as its EXIF block says.
        notes: Receives remarks.
        source: The file or folder, for messages.

    Raises:
        UserError: A list or file of labels is malformed, with file and line, or there are no images.
    """
    by_place = {place: [*_images(place)] for place in places}
    images = [image for of_place in by_place.values() for image in of_place]
    if not images:
        raise UserError(f"{source}: no images in {', '.join(map(str, places))}")
    with ThreadPoolExecutor(_READERS) as threads:
        sizes = list(threads.map(lambda image: _size(image, size_of), images))
    packed, highest, unlabelled = ObjectPacking(source), -1, 0
    for image, size in zip(images, sizes, strict=True):
        number = packed.add_image(relative(image, root), *(size if isinstance(size, tuple) else (0, 0)))
        height, width = size if isinstance(size, tuple) else (1, 1)  # its truth counts as missed, wherever it is
        file = label_file(image)
        if not file.is_file():
            unlabelled += 1
            continue
        for where, fields in _lines(file):
            label, values = _fields(fields, where)
            if names and label >= len(names):
                raise UserError(f"{where}: there is no class {label}: {source} names {len(names)}, from 0 on")
            highest = max(highest, label)
            pixels = [value * side for value, side in zip(values, [width, height] * (len(values) // 2), strict=True)]
            if len(values) + 1 == _BOX:
                x, y, box_width, box_height = pixels
                packed.add_object(number, label, (x - box_width / 2, y - box_height / 2, box_width, box_height))
            else:
                area = polygon_area([pixels])
                packed.add_object(number, label, box_of_polygons([pixels]), area=area, polygons=[pixels])
    if unlabelled == len(images):
        raise UserError(f"{source}: no image has labels, such as {label_file(images[0])} for {images[0]}")
    notes += [note for place, of_place in by_place.items() if place.is_dir() for note in _orphans(place, of_place)]
    faults = [size for size in sizes if not isinstance(size, tuple)]
    if faults:
        notes.append(f"{source}: {len(faults)} of {len(images)} images cannot be read, such as {faults[0]}")
    return packed.table(names or [str(number) for number in range(highest + 1)])


def yolo_line(root: Path, table: ObjectTable, number: int) -> str:
    """Return the file and line of an object of a whole table from `read_yolo`."""
    image = int(np.searchsorted(table.starts, number, side="right")) - 1
    lines = _lines(label_file(root / table.path(image)))
    return next(islice((where for where, _ in lines), number - int(table.starts[image]), None), table.where(number))


def _orphans(folder: Path, images: Iterable[Path]) -> Iterator[str]:
    """Yield a remark about the labels of a folder of images that are of no image."""
    labels = {label_file(image) for image in images}
    below = label_file(folder / "x.jpg").parent
    if below == folder or not below.is_dir():
        return
    texts = (Path(place) / name for place, _, names in os.walk(below) for name in names if name.endswith(".txt"))
    orphans = sorted(path for path in texts if path not in labels and path.name != "classes.txt")
    if orphans:
        yield f"{counted(len(orphans), 'files of labels')} without an image, such as {orphans[0]}; left out"


def _size(image: Path, size_of: SizeOf) -> tuple[int, int] | str:
    try:
        return size_of(image)
    except DecodeError as error:
        return str(error)


def _images(place: Path) -> Iterator[Path]:
    """Yield the images of a folder or of a list of paths."""
    if place.is_dir():
        yield from (place / name for name in files_below(str(place), IMAGES))
        return
    with open_text(place) as file:
        for line in file:
            if name := line.strip():
                yield Path(os.path.normpath(place.parent / name))


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if fields := line.split():
                yield f"{path}:{number}", fields


def _fields(fields: Sequence[str], where: str) -> tuple[int, list[float]]:
    """Return class and shares of a line."""
    if len(fields) < _BOX or (len(fields) != _BOX and len(fields) % 2 == 0):
        raise UserError(
            f"{where}: {len(fields)} fields; expected a class and x, y, width and height, or a class and x and y of "
            "each point"
        )
    try:
        label, values = float(fields[0]), [float(field) for field in fields[1:]]
    except ValueError:
        raise UserError(f"{where}: {' '.join(fields)[:60]!r} are not numbers") from None
    if not label.is_integer() or label < 0:
        raise UserError(f"{where}: {fields[0]!r} is not the number of a class")
    if not all(map(math.isfinite, values)):
        raise UserError(f"{where}: {' '.join(fields)[:60]!r} are not finite numbers")
    if max(values) > 1 + _ROUNDING or min(values) < -_ROUNDING:
        raise UserError(f"{where}: {' '.join(fields)[:60]!r}: expected shares of the image, in 0..1, not pixels")
    return int(label), values
