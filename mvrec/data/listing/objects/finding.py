"""The annotations of objects in a root, by names and beginnings of files; needs no torch."""

import os
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from mvrec.data.listing.file_kinds import IMAGE_EXTENSIONS, IMAGE_FOLDERS, SPLIT_FOLDERS
from mvrec.data.listing.objects.forms import (
    is_coco,
    is_labelme,
    is_own,
    is_spoilt_coco,
    is_voc,
    is_yolo,
    read_yaml,
)
from mvrec.errors import UserError

Format = Literal["coco", "voc", "yolo", "labelme", "csv"]
TITLES: dict[Format, str] = {
    "coco": "COCO JSON",
    "voc": "VOC XML",
    "yolo": "YOLO labels",
    "labelme": "LabelMe JSON",
    "csv": "a CSV of objects",
}
WHOLE = ""  # the split of annotations of all images
_STEMS = ("objects", "boxes", "annotations", "labels")  # of a file of all images
_COCO_NAMES = ("instances", "_annotations.coco")  # which begin names of COCO's annotations, whatever the files hold
_FOLDERS = ("", "Annotations", "annotations", "labels", "xml", "xmls", "json", "jsons")  # of files per image
_FEW = 20  # files of a folder that are looked into
_OTHER_TASKS = ("captions", "person_keypoints", "panoptic", "stuff", "image_info")  # of COCO's own files


class Source(NamedTuple):
    """The annotations of a split.

    Attributes:
        format: Their format.
        place: The file, or the folder of a file per image; of YOLO `data.yaml`, or the root without one.
        images: Folders of the images; of YOLO also lists of paths. Empty for formats that name them.
        listed: The list of the names of the split's images, of VOC.
    """

    format: Format
    place: Path
    images: tuple[Path, ...] = ()
    listed: Path | None = None


def find_sources(root: Path) -> dict[str, Source]:
    """Return the annotations of each split, or those of all images with the key `WHOLE`; none for other data.

    Args:
        root: A folder, or a file of annotations.

    Raises:
        UserError: Two files of one split, or a malformed `data.yaml`.
    """
    if root.is_file():
        return _of_file(root)
    if not root.is_dir():
        return {}
    finders: tuple[Callable[[Path], dict[str, Source]], ...] = (_yaml, _json, _csv, _voc_lists, _per_image, _yolo)
    return next((sources for finder in finders if (sources := finder(root))), {})


def has_objects(root: Path) -> bool:
    """Return whether a root has annotations of objects in images, whatever their faults.

    Raises:
        UserError: See `find_sources`.
    """
    return bool(find_sources(root))


def _of_file(path: Path) -> dict[str, Source]:
    ending = path.suffix.lower()
    if ending == ".json":
        return {WHOLE: Source("coco", path)}
    if ending in (".yaml", ".yml"):
        return _of_yaml(path)
    if ending in (".csv", ".tsv") and is_own(path):
        return {WHOLE: Source("csv", path)}
    return {}


def _yaml(root: Path) -> dict[str, Source]:
    files = [path for path in _files(root, (".yaml", ".yml")) if is_yolo(path)]
    if len(files) > 1:
        raise UserError(f"{files[0]} and {files[1]} both name folders of images: remove one, or name one as data.root")
    return _of_yaml(files[0]) if files else {}


def _of_yaml(path: Path) -> dict[str, Source]:
    places = read_yaml(path).places
    whole = {"train": WHOLE} if set(places) == {"train"} or places.get("train") == places.get("val") else {}
    if whole:  # as the smallest examples have it: validation on the training images would tell nothing
        places = {split: images for split, images in places.items() if split != "val"}
    return {whole.get(split, split): Source("yolo", path, images) for split, images in places.items()}


def _json(root: Path) -> dict[str, Source]:
    # Folders are listed once: a glob for each pattern would read a folder of a million images twenty times.
    tops = [list(_files(folder, (".json",))) for folder in (root, root / "annotations", root / "Annotations")]
    sources = {}
    for split, names in SPLIT_FOLDERS.items():
        inside = [list(_files(root / name, (".json",))) for name in names]
        steps = [(tops, pattern) for name in names for pattern in (f"{name}.json", f"instances_{name}*.json")]
        steps.append((inside, "_annotations.coco.json"))
        steps += [(tops, pattern) for name in names for pattern in (f"*_{name}*.json", f"{name}*.json")]
        steps.append((inside, "*.json"))
        if (path := _only_json(steps, split)) is not None:
            sources[split] = Source("coco", path)
    if not sources and (path := _only_json([(tops, "*.json")], "all images")) is not None:
        sources[WHOLE] = Source("coco", path)
    return sources


def _only_json(steps: Sequence[tuple[Sequence[Sequence[Path]], str]], noun: str) -> Path | None:
    """Return the one file of COCO's form that the first step has: a pattern of names, and files by folder."""
    for folders, pattern in steps:
        for files in folders:
            paths = [path for path in files if fnmatch(path.name, pattern) and not path.name.startswith(_OTHER_TASKS)]
            # A folder with a file per image has many, of another form.
            is_few = len(paths) <= _FEW or is_coco(paths[0])
            paths = [path for path in paths if _is_meant(path, pattern)] if is_few else []
            if len(paths) > 1:
                raise UserError(
                    f"{paths[0]} and {paths[1]} are both annotations of {noun}: remove one, or name one as data.root"
                )
            if paths:
                return paths[0]
    return None


def _is_meant(path: Path, pattern: str) -> bool:
    """Return whether a file is of COCO's form, or has a name by which it should be: its reader says the fault."""
    if is_coco(path) or path.name.startswith(_COCO_NAMES):
        return True
    return (pattern != "*.json" or path.stem in _STEMS) and is_spoilt_coco(path)


def _csv(root: Path) -> dict[str, Source]:
    sources = {}
    for split, names in SPLIT_FOLDERS.items():
        stems = [*names, *(f"{name}/_annotations" for name in names), *(f"{name}_labels" for name in names)]
        if (path := _only_csv(root, stems)) is not None:
            sources[split] = Source("csv", path)
    if not sources and (path := _only_csv(root, _STEMS)) is not None:
        sources[WHOLE] = Source("csv", path)
    return sources


def _only_csv(root: Path, stems: Sequence[str]) -> Path | None:
    files = [path for stem in stems for end in (".csv", ".tsv") if (path := root / f"{stem}{end}").is_file()]
    files = [path for path in files if is_own(path)]
    if len(files) > 1:
        raise UserError(f"{files[0]} and {files[1]} are both lists of objects: remove one, or name one as data.root")
    return files[0] if files else None


def _voc_lists(root: Path) -> dict[str, Source]:
    """Return the splits of VOC's own layout: lists of names in `ImageSets/Main`."""
    bases = [root, *sorted(root.glob("VOC20*")), *sorted(root.glob("VOCdevkit/VOC20*"))]
    base = next(
        (base for base in bases if (base / "ImageSets/Main").is_dir() and (base / "Annotations").is_dir()), None
    )
    if base is None:
        return {}
    lists = {split: base / f"ImageSets/Main/{split}.txt" for split in SPLIT_FOLDERS}
    if not lists["train"].is_file():
        lists["train"] = base / "ImageSets/Main/trainval.txt"
    images = (base / "JPEGImages",)
    if not images[0].is_dir():
        raise UserError(f"{base}/ImageSets/Main has lists of images, and there is no {images[0]}: put them there")
    return {
        split: Source("voc", base / "Annotations", images, listed)
        for split, listed in lists.items()
        if listed.is_file()
    }


def _per_image(root: Path) -> dict[str, Source]:
    """Return folders with a file of annotations per image, of splits or of all."""
    sources = {}
    for split, names in SPLIT_FOLDERS.items():
        places = (place for name in names for place in _pairs_of_split(root, name))
        source = next((source for pair in places if (source := _of_pair(*pair)) is not None), None)
        if source is not None:
            sources[split] = source
    whole = None if sources else next((s for pair in _pairs(root) if (s := _of_pair(*pair)) is not None), None)
    return sources if whole is None else {WHOLE: whole}


def _pairs_of_split(root: Path, name: str) -> Iterator[tuple[Path, list[Path]]]:
    """Yield folders of annotations of a split, each with the possible folders of images."""
    yield from _pairs(root / name)
    for folder in _FOLDERS[1:]:
        yield root / folder / name, [root / images / name for images in IMAGE_FOLDERS]


def _pairs(place: Path) -> Iterator[tuple[Path, list[Path]]]:
    for folder in _FOLDERS:
        yield place / folder, [place / folder, *(place / images for images in IMAGE_FOLDERS), place]


def _of_pair(place: Path, images: Sequence[Path]) -> Source | None:
    folders = tuple(dict.fromkeys(folder for folder in images if folder.is_dir()))
    if any(map(is_voc, islice(_files(place, (".xml",)), _FEW))):  # one that is empty must not hide the others
        return Source("voc", place, folders)
    if any(map(is_labelme, islice(_files(place, (".json",)), _FEW))):
        return Source("labelme", place, folders)
    return None


def _yolo(root: Path) -> dict[str, Source]:
    """Return folders `images/` with texts of the same names in `labels/`."""
    sources = {}
    for split, names in SPLIT_FOLDERS.items():
        pairs = [(root / name / "images", root / name / "labels") for name in names]
        pairs += [(root / "images" / name, root / "labels" / name) for name in names]
        if (images := next((images for images, labels in pairs if _is_yolo_pair(images, labels)), None)) is not None:
            sources[split] = Source("yolo", root, (images,))
    if not sources and _is_yolo_pair(root / "images", root / "labels"):
        sources[WHOLE] = Source("yolo", root, (root / "images",))
    return sources


def _is_yolo_pair(images: Path, labels: Path) -> bool:
    if not images.is_dir():
        return False
    stems = islice((path.stem for path in _files(labels, (".txt",)) if path.name != "classes.txt"), _FEW)
    return any((images / f"{stem}{ending}").is_file() for stem in stems for ending in sorted(IMAGE_EXTENSIONS))


def _files(folder: Path, endings: Sequence[str]) -> Iterator[Path]:
    """Yield the files of a folder with some endings, sorted, without hidden ones."""
    if folder.is_dir():
        names = [entry.name for entry in os.scandir(folder) if os.path.splitext(entry.name)[1].lower() in endings]  # noqa: PTH122
        yield from (folder / name for name in sorted(names) if name[0] != ".")
