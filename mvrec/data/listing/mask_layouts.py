"""Layouts of images with a mask each: the rows' labels are the paths of the masks."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, Self

from mvrec.data.listing.file_kinds import (
    IMAGE_EXTENSIONS,
    IMAGE_FOLDERS,
    IMAGES,
    MASK_FOLDERS,
    SPLIT_FOLDERS,
    Kind,
)
from mvrec.data.listing.folds import usual_val_fraction
from mvrec.data.listing.groups.splits import path_share
from mvrec.data.listing.layouts import SPLITS, Layout, files_below, skipped_text
from mvrec.data.listing.lists import Row, open_text, read_rows
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
        folder: The folder of these folders.
        naming: How files are paired.
        val_fraction: The share of val if there are no splits.
        root: The folder to which rows' paths are relative; `folder` by default.
        image_folders: Names of the folder of images, the first existing counts.
        mask_folders: Names of the folder of masks.
    """

    title = "images and masks"

    def __init__(
        self,
        folder: Path,
        naming: Naming,
        *,
        val_fraction: float = 0.0,
        root: Path | None = None,
        image_folders: Sequence[str] = IMAGE_FOLDERS,
        mask_folders: Sequence[str] = MASK_FOLDERS,
    ) -> None:
        super().__init__(root or folder, IMAGES)
        self.folder, self.naming, self.val_fraction = folder, naming, val_fraction
        self._image_folders, self._mask_folders = image_folders, mask_folders
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
        root, images, masks = self.folder, self._image_folders[0], self._mask_folders[0]
        ends = f"<name>{self.naming.image_suffix}.jpg", f"<name>{self.naming.mask_suffix}.png"
        return (
            f"{root}/{images}/{ends[0]} and {root}/{masks}/{ends[1]}, with splits {root}/{images}/train/ and "
            f"{root}/{masks}/train/ or {root}/train/{images}/ and {root}/train/{masks}/"
        )

    def class_names(self) -> list[str]:
        """Return no names: the data module reads them, because classes of masks may have values of their own."""
        return []

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
        for images in self._image_folders:
            for masks in self._mask_folders:
                yield self.folder / above / images / below, self.folder / above / masks / below

    def named_folders(self) -> tuple[Path, Path] | None:
        """Return the folders of images and masks below which lists name files; `None` without them."""
        return self._first(self._pairs_of_folders("", ""))

    @staticmethod
    def _first(candidates: Iterator[tuple[Path, Path]]) -> tuple[Path, Path] | None:
        return next((pair for pair in candidates if all(folder.is_dir() for folder in pair)), None)


class MaskLists(Layout):
    """Lists of images and masks: `train.csv` with the columns path and mask, or `train.txt` with a name per line.

    A line of a text file is an image's name without or with its ending, or the paths of image and mask with a blank
    between them.

    Args:
        root: The folder to which rows' paths are relative.
        lists: The list of each split; those that do not exist are missing splits.
        naming: How names of images and masks differ.
        folders: The folders of images and masks in which names are looked for; `None` if lists have paths.
    """

    title = "lists of images and masks"

    def __init__(
        self, root: Path, lists: Mapping[str, Path], naming: Naming, *, folders: tuple[Path, Path] | None
    ) -> None:
        super().__init__(root, IMAGES)
        self.lists, self.naming, self._folders = lists, naming, folders
        self._rows_of_name: dict[str, Row] | None = None

    @classmethod
    def found(cls, root: Path, naming: Naming, *, folders: tuple[Path, Path] | None) -> Self | None:
        """Return the lists `<split>.csv`, `.tsv` or `.txt` of a root; `None` without any.

        Raises:
            UserError: A split has two lists.
        """
        lists: dict[str, Path] = {}
        for split in SPLITS:
            candidates = [root / f"{split}{ending}" for ending in (".csv", ".tsv", ".txt")]
            paths = [path for path in candidates if path.is_file()]
            if len(paths) > 1:
                raise UserError(f"{paths[0]} and {paths[1]} are both lists of {split}: remove one of them")
            if paths:
                lists[split] = paths[0]
        return cls(root, lists, naming, folders=folders) if lists else None

    def has(self, split: str) -> bool:
        """Return whether the split has a list."""
        return split in self.lists and self.lists[split].is_file()

    def place(self, split: str) -> str:
        """Return the list of a split."""
        return str(self.lists[split])

    def expected(self) -> str:
        """Return the expected lists."""
        lists = ", ".join(str(path) for path in self.lists.values())
        return f"the lists {lists}, and {IMAGES.noun}s and masks in the folders next to them"

    def class_names(self) -> list[str]:
        """Return no names: the data module reads them."""
        return []

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the images of a list in its order; their labels are the masks.

        Raises:
            UserError: A malformed list, or a name without an image or a mask.
        """
        path = self.lists[split]
        if path.suffix.lower() != ".txt":
            yield from map(_with_mask, read_rows(path))
            return
        with open_text(path) as file:
            for number, text in enumerate(file, start=1):
                if line := text.strip():
                    yield self._row(line, path, number)

    def _row(self, line: str, path: Path, number: int) -> Row:
        names = self._names()
        name = line if line in names else line.rpartition(".")[0]
        if name in names:
            return names[name]._replace(source=str(path), line=number)
        image, _, mask = line.partition(" ")
        if mask:
            return Row(image, mask.strip(), source=str(path), line=number)
        images, masks = self._folders or (self.root, self.root)
        missing = masks if any((images / f"{line}{end}").is_file() for end in ("", ".jpg", ".png")) else images
        noun = "mask" if missing is masks else "image"
        raise UserError(f"{path}:{number}: there is no {noun} {line!r} in {missing}")

    def _names(self) -> dict[str, Row]:
        """Return the rows of the folders by the names of the images, read once."""
        if self._rows_of_name is None:
            self._rows_of_name = {}
            if self._folders is not None and all(folder.is_dir() for folder in self._folders):
                naming = replace(self.naming, unpaired="skip")
                for row in paired_rows(self.root, *self._folders, naming, []):
                    name = Path(row.path).relative_to(self._folders[0].relative_to(self.root)).with_suffix("")
                    self._rows_of_name[name.as_posix().removesuffix(self.naming.image_suffix)] = row
        return self._rows_of_name


def _with_mask(row: Row) -> Row:
    """Return a row of a list whose label is its mask."""
    columns = {name.lower(): value for name, value in row.others}
    if not columns.get("mask"):
        problem = "mask must not be empty" if "mask" in columns else "the header has no column 'mask'"
        raise UserError(f"{row.where}: {problem}; expected the columns path and mask")
    others = tuple((name, value) for name, value in row.others if name.lower() != "mask")
    return row._replace(label=columns["mask"], others=others, multi_label=False)


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
    pairing = pair_files(images, masks, naming)
    if pairing.skipped:
        notes.append((logging.WARNING, skipped_text(images, pairing.skipped, IMAGES.noun)))
    for folder, noun, files in ((images, "image", pairing.images), (masks, "mask", pairing.masks)):
        if not pairing.pairs and not files:
            raise UserError(f"{folder}: no {noun}s in it, which are files such as <name>{_end_of(noun, naming)}")
    if not pairing.pairs:
        raise UserError(
            f"{images}: no image has a mask of the same name in {masks}, such as {pairing.images[0]} and "
            f"{pairing.masks[0]}: rename them, or set data.mask_suffix"
        )
    _judge("image", images, pairing.images, masks, naming, notes)
    _judge("mask", masks, pairing.masks, images, naming, notes)
    above, source = (_relative(images, root), _relative(masks, root)), str(images)
    return [Row(f"{above[0]}{image}", f"{above[1]}{mask}", source=source) for image, mask in pairing.pairs]


def _end_of(noun: str, naming: Naming) -> str:
    return f"{naming.image_suffix}.jpg" if noun == "image" else f"{naming.mask_suffix}.png"


class Pairing(NamedTuple):
    """The files of a folder of images and a folder of masks, relative to these.

    Attributes:
        pairs: Image and mask of the same name.
        images: Images without a mask.
        masks: Masks without an image.
        skipped: Other files next to the images.
    """

    pairs: list[tuple[str, str]]
    images: list[str]
    masks: list[str]
    skipped: list[str]


def pair_files(images: Path, masks: Path, naming: Naming) -> Pairing:
    """Return the files of two folders by their names.

    Raises:
        UserError: Two images, or two masks, have one name.
    """
    skipped: list[str] = []
    of_image = _by_name(images, IMAGES, naming.image_suffix, skipped)
    of_mask = _by_name(masks, MASKS, naming.mask_suffix, [])
    return Pairing(
        [(file, of_mask[name]) for name, file in of_image.items() if name in of_mask],
        [file for name, file in of_image.items() if name not in of_mask],
        [file for name, file in of_mask.items() if name not in of_image],
        skipped,
    )


def find_mask_layout(root: Path, naming: Naming, *, val_fraction: float | None) -> MaskLists | MaskFolders:
    """Return the splits of a root by its lists, else by its folders, else by a hash of the paths.

    Args:
        root: The data set.
        naming: How files are paired.
        val_fraction: Share of val if there are no splits; `None` for that of `usual_val_fraction`.

    Raises:
        UserError: A split has two lists.
    """
    folders = MaskFolders(root, naming, val_fraction=val_fraction or 0.0)
    if lists := MaskLists.found(root, naming, folders=folders.named_folders()):
        return lists
    if val_fraction is None and folders.splits_files:
        folders.val_fraction = usual_val_fraction(sum(1 for _ in folders.rows("train")))
        folders.notes.clear()  # of the files that were listed for their number
    return folders


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
    count = f"{len(alone)} {noun}s have" if len(alone) > 1 else f"1 {noun} has"
    text = f"{folder}: {count} no {counterpart} of the same name in {other}, such as {alone[0]}"
    if naming.unpaired == "refuse":
        raise UserError(
            f"{text}: add the {counterpart}, remove the {noun}, or leave such files out with data.unpaired skip"
        )
    notes.append((logging.WARNING, f"{text}; skipped"))
