"""Annotations in the XML of PASCAL VOC, a file per image; http://host.robots.ox.ac.uk/pascal/VOC."""

from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from mvrec.data.listing.objects.labels import Labels
from mvrec.data.listing.objects.media import ImageNames
from mvrec.data.listing.objects.table import Box, ObjectPacking, ObjectTable
from mvrec.errors import UserError

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(files: Iterable[Path], images: ImageNames, source: str) -> ObjectTable:
    """Return the images and objects of files of annotations.

    Pixels count from 1 in these files, and the last pixel is part of the box. Objects that are marked as difficult
    count neither in training nor in a score, like crowds.

    Args:
        files: A file per image.
        images: Finds the images of the files.
        source: The folder, for messages.

    Raises:
        UserError: A file is no XML of this form, or an object has no name or no box, with the file.
    """
    packed, labels = ObjectPacking(source), Labels()
    for path in files:
        annotation = _root(path)
        size = [_number(annotation, f"size/{side}", path, default=0.0) for side in ("height", "width")]
        name = (annotation.findtext("filename") or "").strip()
        image = packed.add_image(images.find(path, name), int(size[0]), int(size[1]))
        for number, element in enumerate(annotation.iter("object"), start=1):
            where = f"{path}: object {number}"
            label = labels.number((element.findtext("name") or "").strip(), where)
            is_difficult = (element.findtext("difficult") or "").strip() in ("1", "true")
            packed.add_object(image, label, _box(element, path, where), crowd=is_difficult)
    return labels.table(packed)


def _root(path: Path) -> ElementTree.Element:
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except ElementTree.ParseError as error:
        raise UserError(f"{path}: not XML, or cut short: {error}") from None
    if root.tag != "annotation":
        raise UserError(f"{path}: the outermost element is <{root.tag}>, VOC's is <annotation>")
    return root


def _box(element: ElementTree.Element, path: Path, where: str) -> Box:
    if element.find("bndbox") is None:
        raise UserError(f"{where} has no <bndbox>")
    left, top, right, bottom = (_number(element, f"bndbox/{name}", path, where=where) for name in _CORNERS)
    return left - 1, top - 1, right - left + 1, bottom - top + 1


def _number(
    element: ElementTree.Element, name: str, path: Path, *, default: float | None = None, where: str = ""
) -> float:
    text = element.findtext(name)
    if text is None and default is not None:
        return default
    try:
        number = float(text or "")
    except ValueError:
        number = float("nan")
    if not abs(number) < 2**31:  # neither nan
        raise UserError(f"{where or path}: <{name.rpartition('/')[2]}> {text!r} is not a number of pixels")
    return number
