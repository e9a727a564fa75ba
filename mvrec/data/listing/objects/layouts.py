"""Layouts of images with objects: the annotations of each split as a packed table."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from mvrec.data.listing.class_files import read_class_names
from mvrec.data.listing.file_kinds import IMAGES
from mvrec.data.listing.folds import usual_val_fraction
from mvrec.data.listing.groups.splits import path_share
from mvrec.data.listing.layouts import SPLITS, Layout
from mvrec.data.listing.lists import Row, open_text
from mvrec.data.listing.objects.coco import read_coco
from mvrec.data.listing.objects.faults import HARMLESS, BadBoxes, Fault, without_faults
from mvrec.data.listing.objects.finding import TITLES, WHOLE, Source, find_sources
from mvrec.data.listing.objects.forms import read_yaml
from mvrec.data.listing.objects.labelme import read_labelme
from mvrec.data.listing.objects.media import ImageNames, SizeOf, placed_paths
from mvrec.data.listing.objects.own import read_own
from mvrec.data.listing.objects.table import ObjectTable
from mvrec.data.listing.objects.voc import read_voc
from mvrec.data.listing.objects.yolo import names_without_yaml, read_yolo, yolo_line
from mvrec.errors import UserError


class ObjectLayout(Layout):
    """Images with objects: a table per split.

    Classes are those of `classes.txt` in the root, else of the training annotations; other splits are matched with them
    by name.

    Args:
        root: The folder to which paths are relative.
        sources: The annotations of each split, or of all images.
        size_of: Returns height and width of an image, turned as its EXIF block says.
        val_fraction: The share of the images for val if there are no splits, those with the lowest hashes of their
            paths; `None` for that of `usual_val_fraction`.
        bad_boxes: Whether objects without area, outside the image or of fewer than three points are a fault, or are
            left out.

    Attributes:
        keeps_empty: Whether training has images without objects to learn from; crowds are none.
        faults: The faults of the annotations that were read so far.
    """

    def __init__(
        self,
        root: Path,
        sources: Mapping[str, Source],
        size_of: SizeOf,
        *,
        val_fraction: float | None = None,
        bad_boxes: BadBoxes = "refuse",
    ) -> None:
        super().__init__(root, IMAGES)
        self.sources, self.size_of, self.val_fraction, self.bad_boxes = sources, size_of, val_fraction, bad_boxes
        self.splits_files = WHOLE in sources  # type: ignore[misc]  # of this object
        formats = dict.fromkeys(TITLES[source.format] for source in sources.values())
        self.title = " and ".join(formats)  # type: ignore[misc]  # of this object
        self.keeps_empty = True
        self.faults: list[Fault] = []
        self._tables: dict[str, ObjectTable] = {}

    def has(self, split: str) -> bool:
        """Return whether the split has annotations, or gets a share of the images."""
        if split in self.sources:
            return True
        return WHOLE in self.sources and (split == "train" or (split == "val" and self.val_fraction != 0))

    def place(self, split: str) -> str:
        """Return the annotations of a split."""
        source = self.sources[split if split in self.sources else WHOLE]
        return str(source.images[0] if source.format == "yolo" else source.listed or source.place)

    def expected(self) -> str:
        """Return where annotations may be."""
        root = self.root
        return (
            f"COCO's {root}/annotations/instances_train.json or {root}/train.json, YOLO's {root}/data.yaml, "
            f"{root}/train.csv (path,x1,y1,x2,y2,label), or a file of VOC or LabelMe for each image in {root}/train/"
        )

    def missing(self, split: str) -> str:
        """Return why the split is missing."""
        return "data.val_fraction is 0" if split == "val" and WHOLE in self.sources else super().missing(split)

    def table(self, split: str) -> ObjectTable:
        """Return the images and objects of an existing split, read once, with the classes of all splits.

        Raises:
            UserError: Malformed annotations, a fault that is not left out, an object of an unknown class, or no object
                to train on.
        """
        if split not in self._tables:
            if split not in self.sources:
                self._split()
            else:
                table = self._checked(self._read(split), split)
                self._tables[split] = table if split == self._first_split() else table.with_classes(self.class_names())
        return self._tables[split]

    def rows(self, split: str) -> Iterator[Row]:
        """Yield a row per image; its label is the split, and its line the number in the split's table, from 1 on."""
        table = self.table(split)
        drops = split == "train" and not self.keeps_empty
        for number in np.flatnonzero(table.learned_counts).tolist() if drops else range(len(table)):
            yield Row(table.path(number), split, source=table.source, line=number + 1)

    def class_names(self) -> list[str]:
        """Return the classes in label order."""
        return list(self.table(self._first_split()).class_names)

    def class_ids(self) -> list[int]:
        """Return the number of each class in the training annotations, such as COCO's category id."""
        return list(self.table(self._first_split()).class_ids)

    def _first_split(self) -> str:
        return next(split for split in SPLITS if self.has(split))

    def _checked(self, table: ObjectTable, split: str) -> ObjectTable:
        """Return a table without faults, with the classes of `classes.txt`."""
        if split in ("train", WHOLE) and not table.num_objects:
            raise UserError(f"{table.source}: none of its {len(table)} images has an object: there is nothing to learn")
        is_yolo = self.sources[split].format == "yolo"
        table, faults = without_faults(table, self.bad_boxes, partial(yolo_line, self.root, table) if is_yolo else None)
        for fault in faults:
            level, verdict = (logging.INFO, "cut there") if fault.kind in HARMLESS else (logging.WARNING, "left out")
            self.notes.append((level, f"{fault.text}; {verdict}"))
        self.faults += faults
        if names := read_class_names(self.root / "classes.txt"):
            table = table.with_classes(names)
        return table

    def _split(self) -> None:
        """Split the images of one source by the hashes of their paths."""
        table = self._checked(self._read(WHOLE), WHOLE)
        if self.val_fraction is None:
            self.val_fraction = usual_val_fraction(len(table))
        mask = np.zeros(len(table), np.bool_)
        if self.val_fraction:
            if len(table) < 2:
                raise UserError(
                    f"{table.source}: it has a single image, none is left for validation: add some, or set "
                    "data.val_fraction 0"
                )
            paths = table.paths()
            number = min(max(round(self.val_fraction * len(paths)), 1), len(paths) - 1)
            mask[sorted(range(len(paths)), key=lambda at: (path_share(paths[at]), paths[at]))[:number]] = True
            self._tables["val"] = table.only_images(mask)
        self._tables["train"] = table.only_images(~mask)

    def _read(self, split: str) -> ObjectTable:
        source = self.sources[split]
        if source.format == "yolo":
            return self._read_yolo(source)
        if source.format in ("voc", "labelme"):
            return self._read_files(source)
        table = read_coco(source.place) if source.format == "coco" else read_own(source.place)
        paths, remark = placed_paths(self.root, source.place, split, table.paths())
        if remark:
            self.notes.append((logging.INFO, remark))
        if repeated := _repeated(paths):
            raise UserError(f"{source.place}: the image {repeated} is there twice: keep one, with the objects of both")
        return table.renamed(paths)

    def _read_yolo(self, source: Source) -> ObjectTable:
        is_yaml = source.place.is_file()
        names = read_yaml(source.place).names if is_yaml else names_without_yaml(self.root)
        remarks: list[str] = []
        table = read_yolo(self.root, source.images, names, self.size_of, remarks, source=str(source.place))
        if not names:
            remarks.append(f"{source.place}: the classes have no names but their numbers: name them in classes.txt")
        self.notes += [(logging.WARNING, remark) for remark in remarks]
        return table

    def _read_files(self, source: Source) -> ObjectTable:
        """Return the table of a file of annotations per image."""
        images = ImageNames(self.root, source.images)
        if source.listed is not None:
            files = [source.place / f"{name}.xml" for name in _listed_names(source.listed)]
        else:
            ending = ".xml" if source.format == "voc" else ".json"
            files = sorted(path for path in source.place.iterdir() if path.suffix.lower() == ending)
            if unnamed := images.unnamed(files):
                count = "1 image has" if len(unnamed) == 1 else f"{len(unnamed)} images have"
                text = f"{source.place}: {count} no file of annotations, such as {unnamed[0]}; left out"
                self.notes.append((logging.WARNING, text))
        read = read_voc if source.format == "voc" else read_labelme
        return read(files, images, str(source.listed or source.place))


def _listed_names(path: Path) -> list[str]:
    """Return the names of a list of VOC, whose lists of a class have a number behind each."""
    with open_text(path) as file:
        return [fields[0] for line in file if (fields := line.split())]


def _repeated(paths: list[str]) -> str | None:
    """Return the first path that is there twice."""
    counts = Counter(paths)
    return next((path for path in paths if counts[path] > 1), None) if len(counts) < len(paths) else None


def find_object_layout(
    root: Path, size_of: SizeOf, *, val_fraction: float | None = None, bad_boxes: BadBoxes = "refuse"
) -> ObjectLayout:
    """Return the layout of a folder of images with objects, or of a file of annotations.

    Args:
        root: The folder or file.
        size_of: See `ObjectLayout`.
        val_fraction: See `ObjectLayout`.
        bad_boxes: See `ObjectLayout`.

    Raises:
        UserError: There are no annotations, or two of a split.
    """
    sources = find_sources(root)
    folder = root.parent if root.is_file() else root
    layout = ObjectLayout(folder, sources, size_of, val_fraction=val_fraction, bad_boxes=bad_boxes)
    if not sources:
        raise UserError(f"{root}: there are no annotations of objects in it; expected {layout.expected()}")
    return layout
