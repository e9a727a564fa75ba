"""Annotations of LabelMe, a JSON per image; https://github.com/wkentaro/labelme."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mvrec.data.listing.objects.labels import Labels
from mvrec.data.listing.objects.media import ImageNames
from mvrec.data.listing.objects.shapes import box_of_polygons, polygon_area
from mvrec.data.listing.objects.table import ObjectPacking, ObjectTable
from mvrec.errors import UserError

_CIRCLE_POINTS = 64


def read_labelme(files: Iterable[Path], images: ImageNames, source: str) -> ObjectTable:
    """Return the images and objects of files of annotations.

    Polygons, rectangles and circles are objects. Those of one label and group are one object.

    Args:
        files: A file per image.
        images: Finds the images of the files.
        source: The folder, for messages.

    Raises:
        UserError: A file is no JSON of this form, or a shape is malformed or of another kind, with the file.
    """
    packed, labels = ObjectPacking(source), Labels()
    for path in files:
        tree = _tree(path)
        size = [value if type(value := tree.get(f"image{side}")) is int else 0 for side in ("Height", "Width")]
        name = tree.get("imagePath")
        image = packed.add_image(images.find(path, name if isinstance(name, str) else ""), *size)
        objects: dict[Any, list[list[float]]] = {}
        for number, shape in enumerate(tree["shapes"], start=1):
            where = f"{path}: shape {number}"
            if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
                raise UserError(f"{where} has no label")
            label = labels.number(shape["label"].strip(), where)
            group = shape.get("group_id")
            key = (label, number if group is None else f"group {group}")
            objects.setdefault(key, []).append(_polygon(shape, where))
        for (label, _), polygons in objects.items():
            packed.add_object(image, label, box_of_polygons(polygons), area=polygon_area(polygons), polygons=polygons)
    return labels.table(packed)


def _tree(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8: save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON, or cut short: {error.msg}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("shapes"), list):
        raise UserError(f"{path}: it has no shapes as LabelMe writes them")
    return tree


def _polygon(shape: Mapping[str, Any], where: str) -> list[float]:
    """Return the outline of a shape, x and y in turn."""
    points, kind = shape.get("points"), shape.get("shape_type") or "polygon"
    if not isinstance(points, list) or not points or not all(map(_is_point, points)):
        raise UserError(f"{where}: its points are no list of [x, y]")
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points
        return [left, top, right, top, right, bottom, left, bottom]
    if kind == "circle" and len(points) == 2:
        (x, y), (edge_x, edge_y) = points
        radius = math.hypot(edge_x - x, edge_y - y)
        angles = [2 * math.pi * number / _CIRCLE_POINTS for number in range(_CIRCLE_POINTS)]
        return [value for angle in angles for value in (x + radius * math.cos(angle), y + radius * math.sin(angle))]
    if kind not in ("polygon", "rectangle", "oriented_rectangle"):
        raise UserError(f"{where}: a {kind} of {len(points)} points is no object: draw polygons, rectangles or circles")
    return [float(value) for point in points for value in point]


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 2
        and all(type(value) in (int, float) and math.isfinite(value) for value in point)
    )
