"""Annotations in COCO's JSON, read object by object; https://cocodataset.org/#format-data."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from mvrec.data.listing.objects.json_cursor import JsonCursor
from mvrec.data.listing.objects.shapes import box_of_polygons, box_of_runs, compressed, polygon_area, run_lengths
from mvrec.data.listing.objects.table import Box, ObjectPacking, ObjectTable
from mvrec.errors import UserError
from mvrec.files import atomic_path, json_text

_MOST_ID = 2**31 - 1  # of a category
_LONGEST = 60  # characters of a value in a message


def read_coco(path: Path) -> ObjectTable:
    """Return the images and objects of a file in COCO's form, with its categories in the order of their ids.

    Boxes and polygons stay as they are in the file. Polygons, run lengths and compressed run lengths are shapes.

    Raises:
        UserError: The file is missing, cut short or in another form; an id is there twice, or refers to nothing; a box
            or a shape is malformed; with the file and the id.
    """
    return _Reader(path).table()


class _Reader:
    """The parts of a file, from which a table is packed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.packed = ObjectPacking(str(path))
        self.images: dict[Any, int] = {}  # numbers by id
        self.ids: set[int] = set()  # of objects
        self.categories: Any = None

    def table(self) -> ObjectTable:
        cursor = JsonCursor(self.path)
        if cursor.peek() != "{":
            self._fail(
                "it is a list, as detections are, not COCO's annotations with images, annotations and categories"
                if cursor.peek() == "["
                else "it is no JSON object with images, annotations and categories"
            )
        early = self._read(cursor)
        if self.categories is None:
            self._fail("it has no 'categories': COCO's annotations have images, annotations and categories")
        names, ids = self._classes()
        if not self.images:
            self._fail("it has no images")
        if early is not None:
            cursor.place = early
            self._add_objects(cursor)
        return self._with_labels(self.packed.table(names, ids))

    def _read(self, cursor: JsonCursor) -> int | None:
        """Read all members, and return the place of annotations in front of their images, which are left out."""
        early: int | None = None
        for name in cursor.members():
            if name == "images":
                for entry in cursor.entries():
                    self._add_image(entry)
            elif name == "annotations" and self.images:
                self._add_objects(cursor)
            elif name == "categories":
                self.categories = cursor.value()
            else:
                early = cursor.place if name == "annotations" else early
                cursor.value()
        return early

    def _add_objects(self, cursor: JsonCursor) -> None:
        for entry in cursor.entries():
            self._add_object(entry)

    def _with_labels(self, table: ObjectTable) -> ObjectTable:
        """Return the table with numbers of classes in place of the ids of categories."""
        ids = np.array(table.class_ids, np.int64)
        labels = np.searchsorted(ids, table.labels).clip(max=len(ids) - 1)
        if len(strange := np.flatnonzero(ids[labels] != table.labels)):
            number = int(strange[0])
            listed = ", ".join(map(str, table.class_ids[:10])) + (", ..." if len(ids) > 10 else "")
            raise UserError(f"{table.where(number)}: there is no category {table.labels[number]}, only {listed}")
        return replace(table, labels=labels.astype(np.int32))

    def _fail(self, problem: str) -> NoReturn:
        raise UserError(f"{self.path}: {problem}")

    def _classes(self) -> tuple[list[str], list[int]]:
        """Return names and ids of the categories, by id."""
        names: dict[int, str] = {}
        entries = self.categories if isinstance(self.categories, list) else [self.categories]
        for number, entry in enumerate(entries, start=1):
            name = entry.get("name") if isinstance(entry, dict) else None
            if not isinstance(name, str) or not name.strip() or not _is_whole(entry.get("id")):
                self._fail(f"category {number} of the list has no name, or no whole number as id: {_short(entry)}")
            if entry["id"] in names:
                self._fail(f"category {entry['id']} is there twice, as {names[entry['id']]!r} and as {name!r}")
            if name in names.values():
                other = next(other for other, same in names.items() if same == name)
                self._fail(f"the category {name!r} is there twice, with the ids {other} and {entry['id']}: rename one")
            names[entry["id"]] = name
        if not names:
            self._fail("it has no categories")
        ids = sorted(names)
        return [names[category] for category in ids], ids

    def _add_image(self, entry: Any) -> None:
        if not isinstance(entry, dict) or not _is_whole(entry.get("id")):
            self._fail(f"image {len(self.images) + 1} of the list has no whole number as id: {_short(entry)}")
        where = f"image {entry['id']}"
        if entry["id"] in self.images:
            self._fail(f"{where} is there twice")
        name = entry.get("file_name") or "/".join(str(entry.get("coco_url") or "").split("/")[-2:])  # LVIS has no names
        if not name or not isinstance(name, str) or "\0" in name:
            self._fail(f"{where} has no file_name")
        height, width = (entry.get(side) or 0 for side in ("height", "width"))
        if not (_is_whole(height) and _is_whole(width) and 0 <= min(height, width) <= max(height, width) < 2**31):
            self._fail(f"{where} ({name}): its size {width!r} x {height!r} is no number of pixels")
        self.images[entry["id"]] = self.packed.add_image(name, height, width, entry["id"])

    def _add_object(self, entry: Any) -> None:
        number = self.packed.num_objects + 1
        if not isinstance(entry, dict):
            self._fail(f"annotation {number} of the list is no object: {_short(entry)}")
        object_id = entry.get("id", number)
        where = f"annotation {object_id}"
        if not _is_whole(object_id):
            self._fail(f"annotation {number} of the list has no whole number as id: {_short(object_id)}")
        if object_id in self.ids:
            self._fail(f"{where} is there twice")
        self.ids.add(object_id)
        image, category = _looked_up(self.images, entry.get("image_id")), _whole(entry.get("category_id"))
        if image is None:
            self._fail(f"{where}: there is no image {_short(entry.get('image_id'))}")
        where = f"{where} of image {entry['image_id']}"
        if category is None or abs(category) > _MOST_ID:
            self._fail(f"{where}: the category {_short(entry.get('category_id'))} is no whole number")
        polygons, runs = self._shape(entry.get("segmentation"), image, where)
        box = self._box(entry, polygons, runs, image, where)
        area = entry.get("area")
        if area is None and polygons:
            area = polygon_area(polygons)
        elif area is None and runs:
            lengths = run_lengths(runs)
            assert lengths is not None
            area = float(lengths[1::2].sum())
        if area is not None and not _is_number(area):
            self._fail(f"{where}: the area {_short(area)} is no number")
        self.packed.add_object(
            image,
            category,
            box,
            area=area,
            crowd=bool(entry.get("iscrowd")),
            object_id=object_id,
            polygons=polygons,
            runs=runs,
        )

    def _box(self, entry: Mapping[str, Any], polygons: list[list[float]], runs: bytes, image: int, where: str) -> Box:
        box = entry.get("bbox")
        if box is None or box == []:
            if polygons:
                return box_of_polygons(polygons)
            if runs:
                return box_of_runs(runs, *self.packed.size_of(image))
            self._fail(f"{where} has neither a bbox nor a segmentation: add one, or remove the annotation")
        if not isinstance(box, list) or len(box) != 4 or not _are_numbers(box):
            self._fail(f"{where}: the bbox {_short(box)} is not x, y, width and height")
        return box[0], box[1], box[2], box[3]

    def _shape(self, shape: Any, image: int, where: str) -> tuple[list[list[float]], bytes]:
        """Return polygons and compressed run lengths of an object."""
        if not shape:
            return [], b""
        if isinstance(shape, dict):
            return [], self._runs(shape, image, where)
        if not isinstance(shape, list):
            self._fail(f"{where}: the segmentation {_short(shape)} is neither polygons nor run lengths")
        polygons = shape if isinstance(shape[0], list) else [shape]  # some tools write the one polygon itself
        for polygon in polygons:
            if not isinstance(polygon, list) or len(polygon) % 2 or not _are_numbers(polygon):
                self._fail(f"{where}: the polygon {_short(polygon)} is not x and y in turn")
        return [polygon for polygon in polygons if polygon], b""

    def _runs(self, shape: Mapping[str, Any], image: int, where: str) -> bytes:
        """Return the compressed run lengths of a mask, which must have the size of its image."""
        size, counts = shape.get("size"), shape.get("counts")
        if not isinstance(size, list) or len(size) != 2 or not all(map(_is_whole, size)) or min(size) < 1:
            self._fail(f"{where}: its run lengths have the size {_short(size)}, not [height, width]")
        height, width = self.packed.size_of(image)
        if not height:
            self.packed.set_size(image, *size)
        elif [height, width] != size:
            self._fail(
                f"{where}: its run lengths are of a mask of {size[1]}x{size[0]} pixels, the image has {width}x{height}"
                ": write the mask again at this size, or correct the size of the image"
            )
        if isinstance(counts, list) and all(_is_whole(count) and count >= 0 for count in counts):
            total = sum(counts)
        else:
            lengths = run_lengths(counts.encode("ascii", "replace")) if isinstance(counts, str) else None
            total = -1 if lengths is None or (lengths < 0).any() else int(lengths.sum())
        if total != size[0] * size[1]:
            pixels = "are malformed" if total < 0 else f"cover {total} of the {size[0] * size[1]} pixels"
            self._fail(f"{where}: its run lengths {pixels}")
        return counts.encode() if isinstance(counts, str) else compressed(counts or [], *size)


def _looked_up(numbers: Mapping[Any, int], key: Any) -> int | None:
    return numbers.get(key) if _is_whole(key) else None


def _whole(value: Any) -> int | None:
    return value if _is_whole(value) else None


def _is_whole(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**63


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _are_numbers(values: list[Any]) -> bool:
    """Return whether all values are finite numbers: their sum tells it, at a tenth of the time of a look at each."""
    try:
        return math.isfinite(sum(values))
    except (TypeError, OverflowError):
        return False


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def write_coco(path: Path, table: ObjectTable, paths: Sequence[str]) -> None:
    """Write a table as COCO's JSON, from which `read_coco` reads the same table.

    Args:
        path: The file, which appears once it is complete.
        table: The images and their objects.
        paths: The file_name of each image.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"images": [')
        file.writelines(_listed(_images(table, paths)))
        file.write('],\n"annotations": [')
        file.writelines(_listed(_annotations(table)))
        classes = zip(table.class_ids, table.class_names, strict=True)
        file.write('],\n"categories": [')
        file.writelines(_listed({"id": number, "name": name} for number, name in classes))
        file.write("]}\n")


def _listed(entries: Iterable[dict[str, Any]]) -> Iterator[str]:
    for number, entry in enumerate(entries):
        yield f"{',' if number else ''}\n{json_text(entry)}"


def _images(table: ObjectTable, paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    columns = (table.image_ids.tolist(), paths, table.heights.tolist(), table.widths.tolist())
    for image_id, path, height, width in zip(*columns, strict=True):
        yield {"id": image_id, "file_name": path, "height": height, "width": width}


def _annotations(table: ObjectTable) -> Iterator[dict[str, Any]]:
    for image in range(len(table)):
        objects = table.objects(image)
        for number in range(len(objects)):
            shape: dict[str, Any] = {}
            if runs := objects.shapes.compressed(number):
                size = [objects.height, objects.width]
                shape["segmentation"] = {"size": size, "counts": runs.decode("ascii")}
            elif polygons := objects.polygons(number):
                shape["segmentation"] = [polygon.ravel().tolist() for polygon in polygons]
            yield {
                "id": int(objects.ids[number]),
                "image_id": objects.image_id,
                "category_id": table.class_ids[objects.labels[number]],
                "bbox": objects.boxes[number].tolist(),
                "area": float(objects.areas[number]),
                "iscrowd": int(objects.crowd[number]),
                **shape,
            }
