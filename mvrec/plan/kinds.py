"""The kind of the files in a folder, videos or images, and whether its list has numbers; needs no torch."""

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from mvrec.data.listing.file_kinds import IMAGES, VIDEOS, Kind
from mvrec.data.listing.lists import VALUE
from mvrec.data.listing.root import check_root, lists_column
from mvrec.errors import UserError
from mvrec.messages import counted

DEEPEST = 4  # levels below the root that may hold files: split/class/folder/file
MOST_FILES = 20_000  # so many names tell the kind
FEW = 0.1  # up to this share, files of the other kind are cover pictures and the like, and are skipped
LIST_ENDINGS = (".csv", ".tsv", ".txt")
LISTED = re.compile(r"(\.[A-Za-z0-9]{2,5})(?=[\s,;\"']|$)")
DATA = {VIDEOS: "VideoFolder", IMAGES: "ImageFolder"}
MASKED = "MaskFolder"  # the data module of images with masks
BOXED = "VideoBoxes"  # the data module of videos with boxes
ANNOTATED = "ObjectFolder"  # the data module of images with objects
# What a network works on, by the data module that its weights prescribe.
SUBJECTS = {
    "VideoFolder": "videos",
    "ImageFolder": "images",
    MASKED: "masks of images",
    BOXED: "boxes in videos",
    ANNOTATED: "objects in images",
}


class Counts(NamedTuple):
    """The numbers of files in a folder, as their endings say.

    Attributes:
        videos: Files that only videos are named like.
        images: Files that only images are named like.
        either: GIF files, which are both.
    """

    videos: int = 0
    images: int = 0
    either: int = 0


def kind_of(root: Path) -> Kind:
    """Return the kind of the files in a folder: the one of nine in ten or more.

    Raises:
        UserError: There is no such folder, it holds neither kind, or much of both.
    """
    check_root(root)
    counts = count_files(root)
    if not any(counts):
        raise UserError(
            f"data.root: {str(root)!r} holds no videos and no images: put them into one folder per class, "
            f"{root}/<class name>/<file>"
        )
    videos, images = counts.videos, counts.images
    if videos and images and min(videos, images) > FEW * max(videos, images):
        raise UserError(
            f"data.root: {str(root)!r} holds {counted(videos, 'videos')} and {counted(images, 'images')}: "
            "--data VideoFolder takes the videos and skips the images, --data ImageFolder the other way round"
        )
    return IMAGES if images > videos else VIDEOS


def lists_values(root: Path) -> bool:
    """Return whether the training list of a folder has a column `value`, and none of labels.

    Raises:
        UserError: The list cannot be opened.
    """
    return lists_column(root, "train", VALUE)


def count_files(root: Path) -> Counts:
    """Count the videos and images below a folder; where there are none, those that lists in it name."""
    counts = _count(_names_below(str(root), DEEPEST))
    return counts if any(counts) else _count(name for path in _lists_in(root) for name in _listed(path))


def _count(names: Iterator[str]) -> Counts:
    videos, images, either = 0, 0, 0
    for name in islice(names, MOST_FILES):
        ending = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a Path each costs seconds
        is_video, is_image = ending in VIDEOS.extensions, ending in IMAGES.extensions
        either += is_video and is_image
        videos += is_video and not is_image
        images += is_image and not is_video
    return Counts(videos, images, either)


def _names_below(folder: str, levels: int) -> Iterator[str]:
    """Yield the names of files in a folder and in those below it."""
    folders: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(entry.path)
                else:
                    yield entry.name
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}") from None
    if levels > 1:
        for path in folders:
            yield from _names_below(path, levels - 1)


def _lists_in(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.suffix.lower() in LIST_ENDINGS and path.is_file())


def _listed(path: Path) -> Iterator[str]:
    """Yield the ending of the file that each line of a list names."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            yield from (f"x{ending}" for ending in LISTED.findall(line)[:1])
