"""The root of a data set: whether it is there, and whether its images have masks; needs no torch."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mvrec.data.listing.file_kinds import IMAGE_EXTENSIONS, IMAGE_FOLDERS, MASK_FOLDERS, SPLIT_FOLDERS
from mvrec.data.listing.lists import open_text, read_header
from mvrec.errors import UserError, nearest_path

_LIST_ENDINGS = (".csv", ".tsv", ".txt")


def check_root(root: Path) -> None:
    """Raise `UserError` if the root of a data set is not a folder, or an empty one."""
    if not root.exists():
        raise UserError(f"data.root: {str(root)!r} does not exist{nearest_path(root, folders_only=True)}")
    if not root.is_dir():
        raise UserError(f"data.root: {str(root)!r} is a file, a directory is needed")
    if not any(root.iterdir()):
        raise UserError(
            f"data.root: {str(root)!r} is empty: put files into it as <class name>/<file>, or name another folder"
        )


def has_masks(root: Path, *, splits: Sequence[str] = tuple(SPLIT_FOLDERS)) -> bool:
    """Return whether a data set has images with masks: a list of both, or folders of both.

    Folders of these names without image files, as of boxes, are none.

    Args:
        root: The folder of the data set.
        splits: The splits of which one is enough.

    Raises:
        UserError: A list cannot be opened.
    """
    return any(lists_column(root, split, "mask") for split in splits) or any(
        _holds_images(folder) for folder in _mask_folders(root, splits)
    )


def lists_column(root: Path, split: str, column: str) -> bool:
    """Return whether the list of a split has a column, and none of labels.

    Raises:
        UserError: The list cannot be opened.
    """
    path = next((path for ending in _LIST_ENDINGS if (path := root / f"{split}{ending}").is_file()), None)
    if path is None:
        return False
    with open_text(path) as file:
        header = read_header(file.readline(), needed=("path", column), delimiters=",;\t")
    return header is not None and not {"label", "labels"} & {*header[0]}


def _mask_folders(root: Path, splits: Sequence[str]) -> Iterator[Path]:
    """Yield the folders of masks next to those of images, of the whole set or of a split."""
    for place in (root, *(root / name for split in splits for name in SPLIT_FOLDERS[split])):
        if any((place / name).is_dir() for name in IMAGE_FOLDERS):
            yield from (place / name for name in MASK_FOLDERS if (place / name).is_dir())


def _holds_images(folder: Path) -> bool:
    return any(
        os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS  # noqa: PTH122 - a Path each costs seconds
        for _, _, names in os.walk(folder)
        for name in names
    )
