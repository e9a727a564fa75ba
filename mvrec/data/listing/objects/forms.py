"""The formats of annotations of objects, told by the beginnings of files; needs no torch."""

import codecs
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mvrec.data.listing.file_kinds import SPLIT_FOLDERS
from mvrec.data.listing.lists import open_text, read_header
from mvrec.errors import UserError
from mvrec.files import stand_in

CORNERS = ("x1", "y1", "x2", "y2")
NEEDED = ("path", *CORNERS, "label")  # columns of a CSV
# Other tools' names for these columns, of which a header has all.
OTHER_NAMES = ("filename", "xmin", "ymin", "xmax", "ymax", "class")
_DELIMITERS = ",;\t"
_YOLO_KEYS = frozenset({"names", "nc", "path", *SPLIT_FOLDERS})
_YOLO_FILES = ("data.yaml", "data.yml")  # which are YOLO's, whatever they hold
_FIRST_BYTES = 1 << 16  # of a file that tell its format
_COCO_LISTS = re.compile(rb'"(images|annotations|categories|licenses)"\s*:\s*\[|"info"\s*:\s*\{')


def is_coco(path: Path) -> bool:
    """Return whether a file begins like COCO's annotations, a JSON object with one of its lists."""
    head = _head(path)
    return head[:1] == b"{" and _COCO_LISTS.search(head) is not None and b'"shapes"' not in head


def is_spoilt_coco(path: Path) -> bool:
    """Return whether a file that is named like annotations has none: it is empty, cut, UTF-16, or of detections."""
    head = _head(path)
    is_bare = b"".join(head.split()) in (b"{}", b"[]") or bool(stand_in(path))
    is_cut = head[:1] == b"{" and len(head) < _FIRST_BYTES // 2 and not head.rstrip().endswith(b"}")
    return (
        is_bare
        or is_cut
        or head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        or (head[:1] == b"[" and b'"bbox"' in head)
    )


def is_voc(path: Path) -> bool:
    """Return whether a file is XML of VOC's form; CVAT's outermost element has another name."""
    head = _head(path)
    return any(b"<annotation" + end in head for end in (b">", b" "))


def is_labelme(path: Path) -> bool:
    """Return whether a file is JSON of LabelMe's form, whose shapes may come behind the content of the image."""
    return _head(path)[:1] == b"{" and b'"shapes"' in path.read_bytes()


def is_own(path: Path) -> bool:
    """Return whether a file is a CSV of objects, also one that lacks a column; lists of videos have a time too."""
    with open_text(path) as file:
        line = file.readline()
    columns = {field.strip(' "\r\n').lower() for field in re.split(f"[{_DELIMITERS}]", line)}
    if own_header(line) is None and path.stem == "boxes":  # of videos
        return False
    if "time" not in columns and path.stem == "objects":  # whatever it holds
        return True
    return "time" not in columns and any(len(columns & {*names}) > 1 for names in (CORNERS, OTHER_NAMES[1:5]))


def own_header(line: str) -> tuple[list[str], str] | None:
    """Return columns, by our names, and delimiter of a CSV's first line; `None` for another one."""
    if (header := read_header(line, needed=OTHER_NAMES, delimiters=_DELIMITERS)) is not None:
        names = dict(zip(OTHER_NAMES, NEEDED, strict=True))
        return [names.get(column, column) for column in header[0]], header[1]
    return read_header(line, needed=NEEDED, delimiters=_DELIMITERS)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_FIRST_BYTES).lstrip(b"\xef\xbb\xbf \t\n\r")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None


class YoloData(NamedTuple):
    """The content of a file `data.yaml`.

    Attributes:
        names: Names of classes in label order.
        places: Folders of images, and lists of their paths, of each split.
    """

    names: tuple[str, ...]
    places: dict[str, tuple[Path, ...]]


def is_yolo(path: Path) -> bool:
    """Return whether a YAML file is `data.yaml`, or has its keys, the first of which begin their lines."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    keys = {line.partition(":")[0].strip() for line in text.splitlines() if ":" in line and line[:1] not in " \t#-"}
    if path.name in _YOLO_FILES:
        return not keys or bool(keys & _YOLO_KEYS)
    return bool(keys & {"names", "nc"}) and bool(keys & SPLIT_FOLDERS.keys())


def read_yaml(path: Path) -> YoloData:
    """Return the classes and splits of a file `data.yaml`.

    Raises:
        UserError: It is malformed, its names are no list, or a folder is missing.
    """
    tree = _tree(path)
    names = _names(tree.get("names"), path)
    if "nc" in tree and tree["nc"] != len(names):
        raise UserError(f"{path}: nc is {tree['nc']!r}, but it names {len(names)} classes: correct nc or names")
    base = Path(str(tree.get("path") or "."))
    bases = [base, path.parent] if base.is_absolute() else [path.parent / base, path.parent]
    places = {}
    for split in SPLIT_FOLDERS:
        entries = tree.get(split)
        entries = [entries] if isinstance(entries, str) else entries or []
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise UserError(f"{path}: {split} must be a folder of images, or a list of folders, got {entries!r}")
        if entries:
            places[split] = tuple(_place(entry, bases, f"{path}: {split}") for entry in entries)
    if not places:
        raise UserError(f"{path}: it names no images: add their folder, such as train: images/train")
    return YoloData(names, places)


def _tree(path: Path) -> dict[Any, Any]:
    import yaml

    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8: save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: it has no keys such as names and train")
    return tree


def _names(names: Any, path: Path) -> tuple[str, ...]:
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[number] for number in range(len(names))]
    if names is None:
        raise UserError(f"{path}: it names no classes: add names: [FIRST, SECOND], in the order of their numbers")
    if not isinstance(names, list) or not names:
        raise UserError(f"{path}: names must be a list, or numbers from 0 on with names, got {str(names)[:60]!r}")
    texts = [str(name) for name in names]
    if repeated := next((name for number, name in enumerate(texts) if name in texts[:number]), None):
        raise UserError(f"{path}: the class {repeated!r} is named twice")
    return tuple(texts)


def _place(entry: str, bases: Sequence[Path], where: str) -> Path:
    """Return a folder or list of a file; some exports write one `../` too much."""
    texts = [entry, entry.removeprefix("../")]
    place = next((place for base in bases for text in texts if (place := base / text).exists()), None)
    if place is None:
        raise UserError(f"{where}: there is no {bases[0] / entry}: correct the folder, relative to this file")
    return Path(os.path.normpath(place))
