"""Layouts of images with a mask each: the rows' labels are the paths of the masks."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mvrec.data.listing.file_kinds import (
    IMAGE_EXTENSIONS,
    IMAGE_FOLDERS,
    IMAGES,
    MASK_FOLDERS,
    SPLIT_FOLDERS,
    Kind,
)
from mvrec.data.listing.folds import path_share
from mvrec.data.listing.layouts import SPLITS, Layout, files_below, skipped_text
from mvrec.data.listing.lists import Row
from mvrec.errors import UserError

MASKS = Kind("mask", IMAGE_EXTENSIONS, nested=True)
Unpaired = Literal["refuse", "skip"]


@dataclass(frozen=True)
class Naming:
    """The pairing of images and masks: by the same name, without suffixes and endings.

    Attributes:
        image_suffix: End of the images' names before the ending, such as "_leftImg8bit"; images without it are skipped.
        mask_suffix: The same of masks, such as "_gtFine_labelIds".
        unpaired: Whether an image without a mask, or a mask without an image, is a fault.
    """

    image_suffix: str = ""
    mask_suffix: str = ""
    unpaired: Unpaired = "refuse"


class MaskFolders(Layout):
    """`images/<split>/<name>` with `masks/<split>/<name>.png`, or `<split>/images/` with `<split>/masks/`.

    Without splits `images/` with `masks/`; then a share of the files is for validation, those with the lowest hashes of
    their paths.

    Args:
        root: The folder of the data set.
        naming: How files are paired.
        val_fraction: The share of val if there are no splits.
    """

    title = "images and masks"

    def __init__(self, root: Path, naming: Naming, *, val_fraction: float) -> None:
        super().__init__(root, IMAGES)
        self.naming, self.val_fraction = naming, val_fraction
        self._folders = {split: folders for split in SPLITS if (folders := self._folders_of(split)) is not None}
        self._whole = None if self._folders else self._first(self._pairs_of_folders("", ""))
        self.splits_files = self._whole is not None  # type: ignore[misc]  # of this object

    def has(self, split: str) -> bool:
        """Return whether the split has folders, or gets a share of the files."""
        if self._whole is None:
            return split in self._folders
        return split == "train" or (split == "val" and self.val_fraction > 0)

    def place(self, split: str) -> str:
        """Return the folder of the split's images."""
        return str(self.folders(split)[0])

    def folders(self, split: str) -> tuple[Path, Path]:
        """Return the folders of images and of masks of an existing split."""
        folders = self._folders[split] if self._whole is None else self._whole
        assert folders is not None
        return folders

    def expected(self) -> str:
        """Return the expected folders."""
        root = self.root
        return (
            f"{root}/images/<name>.jpg and {root}/masks/<name>.png, with splits {root}/images/train/ and "
            f"{root}/masks/train/ or {root}/train/images/ and {root}/train/masks/"
        )

    def missing(self, split: str) -> str:
        """Return why the split is missing: the fraction, or the folders."""
        if self._whole is not None and split == "val" and not self.val_fraction:
            return "data.val_fraction is 0"
        return super().missing(split)

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the images of a split, sorted; their labels are the masks.

        Raises:
            UserError: An image without a mask, a mask without an image, or two files of one name.
        """
        rows = paired_rows(self.root, *self.folders(split), self.naming, self.notes)
        if self._whole is None:
            yield from rows
            return
        number = round(self.val_fraction * len(rows))
        number = min(max(number, 1), len(rows) - 1) if self.val_fraction else 0
        ordered = sorted((row.path for row in rows), key=lambda path: (path_share(path), path))
        validated = set(ordered[: max(number, 0)])
        if split == "val" and not validated:
            raise UserError(f"{self.root}: it has a single image, none is left for validation: add some")
        yield from (row for row in rows if (row.path in validated) == (split == "val"))

    def _folders_of(self, split: str) -> tuple[Path, Path] | None:
        for name in SPLIT_FOLDERS[split]:
            for above, below in (("", name), (name, "")):
                if (folders := self._first(self._pairs_of_folders(above, below))) is not None:
                    return folders
        return None

    def _pairs_of_folders(self, above: str, below: str) -> Iterator[tuple[Path, Path]]:
        for images in IMAGE_FOLDERS:
            for masks in MASK_FOLDERS:
                yield self.root / above / images / below, self.root / above / masks / below

    @staticmethod
    def _first(candidates: Iterator[tuple[Path, Path]]) -> tuple[Path, Path] | None:
        return next((pair for pair in candidates if all(folder.is_dir() for folder in pair)), None)


def paired_rows(root: Path, images: Path, masks: Path, naming: Naming, notes: list[tuple[int, str]]) -> list[Row]:
    """Return a row per image, whose label is the path of its mask, both relative to the root.

    Args:
        root: The folder of the data set.
        images: A folder of images, at any depth.
        masks: A folder of masks in the same subfolders.
        naming: How files are paired.
        notes: Receives log messages, with their levels.

    Raises:
        UserError: An image without a mask, a mask without an image, or two files of one name.
    """
    skipped: list[str] = []
    of_image = _by_name(images, IMAGES, naming.image_suffix, skipped)
    of_mask = _by_name(masks, MASKS, naming.mask_suffix, [])
    if skipped:
        notes.append((logging.WARNING, skipped_text(images, skipped, IMAGES.noun)))
    both = [name for name in of_image if name in of_mask]
    if of_image and of_mask and not both:
        raise UserError(
            f"{images}: no image has a mask of the same name in {masks}, such as {next(iter(of_image.values()))} and "
            f"{next(iter(of_mask.values()))}: rename them, or set data.mask_suffix"
        )
    _judge("image", images, [file for name, file in of_image.items() if name not in of_mask], masks, naming, notes)
    _judge("mask", masks, [file for name, file in of_mask.items() if name not in of_image], images, naming, notes)
    above = {folder: _relative(folder, root) for folder in (images, masks)}
    return [
        Row(f"{above[images]}{of_image[name]}", f"{above[masks]}{of_mask[name]}", source=str(images)) for name in both
    ]


def _relative(folder: Path, root: Path) -> str:
    name = folder.relative_to(root).as_posix()
    return "" if name == "." else f"{name}/"


def _by_name(folder: Path, kind: Kind, suffix: str, skipped: list[str]) -> dict[str, str]:
    """Return the files of a folder by their names without suffix and ending."""
    files: dict[str, str] = {}
    for file in files_below(str(folder), kind, skipped=skipped):
        stem = file.rpartition(".")[0]
        if not stem.endswith(suffix):
            continue
        name = stem.removesuffix(suffix)
        if name in files:
            raise UserError(f"{folder}: {files[name]} and {file} are two {kind.noun}s of one name: remove one of them")
        files[name] = file
    return files


def _judge(
    noun: str, folder: Path, alone: Sequence[str], other: Path, naming: Naming, notes: list[tuple[int, str]]
) -> None:
    """Refuse or note files without their counterparts."""
    if not alone:
        return
    counterpart = "mask" if noun == "image" else "image"
    count = f"{len(alone)} {noun}s have" if len(alone) > 1 else f"a {noun} has"
    text = f"{folder}: {count} no {counterpart} of the same name in {other}, such as {alone[0]}"
    if naming.unpaired == "refuse":
        raise UserError(
            f"{text}: add the {counterpart}, remove the {noun}, or leave such files out with data.unpaired skip"
        )
    notes.append((logging.WARNING, f"{text}; skipped"))
