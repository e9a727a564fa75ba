"""The images of annotations, by their names."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from mvrec.data.listing.file_kinds import IMAGE_EXTENSIONS, IMAGE_FOLDERS, IMAGES, SPLIT_FOLDERS
from mvrec.data.listing.layouts import PROBED, files_below
from mvrec.errors import UserError

SizeOf = Callable[[Path], tuple[int, int]]  # height and width of an image file; raises DecodeError


def relative(path: Path, root: Path) -> str:
    """Return a path relative to a root if it is below it, else absolute."""
    base, absolute = os.path.abspath(root), os.path.abspath(path)  # noqa: PTH100 - without following links
    return absolute.removeprefix(os.path.join(base, ""))  # noqa: PTH118


class ImageNames:
    """The images of annotation files, a file per image.

    Args:
        root: The folder to which paths are relative.
        folders: The folders of the images.
    """

    def __init__(self, root: Path, folders: Sequence[Path]) -> None:
        self.root, self.folders = root, folders
        self._by_stem: dict[str, str] | None = None

    def find(self, annotation: Path, name: str) -> str:
        """Return the path of the image of an annotation file, by the file's own name or by the one that it gives.

        Without an image it is the path where it should be, which the loader reports.
        """
        by_stem = self._names().get(annotation.stem)
        if by_stem is not None:
            return by_stem
        name = PureWindowsPath(name).name  # tools on Windows write their paths
        places = [folder / name for folder in (*self.folders, annotation.parent)] if name else []
        place = next((place for place in places if place.is_file()), None)
        return relative(
            place or (self.folders or [annotation.parent])[0] / (name or f"{annotation.stem}.jpg"), self.root
        )

    def unnamed(self, annotations: Iterable[Path]) -> list[str]:
        """Return the images without an annotation file."""
        stems = {path.stem for path in annotations}
        return [path for stem, path in self._names().items() if stem not in stems]

    def _names(self) -> dict[str, str]:
        if self._by_stem is None:
            self._by_stem = {
                os.path.splitext(name)[0]: relative(folder / name, self.root)  # noqa: PTH122 - a Path each costs seconds
                for folder in self.folders
                for name in (entry.name for entry in os.scandir(folder) if entry.is_file())
                if os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS  # noqa: PTH122
            }
        return self._by_stem


def placed_paths(root: Path, source: Path, split: str, names: Sequence[str]) -> tuple[list[str], str]:
    """Return the paths of images that a file names, below the root or absolute, and a remark about the folder.

    The folder is the first of the usual ones in which any of the first images is; without one the images are looked for
    by their names below the root.

    Args:
        root: The data set.
        source: The file that names them.
        split: Its split; "" for a file of all.
        names: The names of the images.

    Raises:
        UserError: None of the first images exists.
    """
    probed = [name for name in names[:PROBED] if not name.startswith("/")]
    if not probed:
        return list(names), ""
    for folder in _folders(root, source, split):
        if any((folder / name).is_file() for name in probed):
            return _below(root, folder, names), ""
    by_name: dict[str, str] = {}
    repeated = set()
    for path in files_below(str(root), IMAGES):
        name = PurePosixPath(path).name
        repeated.update([name] if by_name.setdefault(name, path) != path else [])
    paths = [by_name.get(PureWindowsPath(name).name, name) for name in names]
    if not any(path in by_name.values() for path in paths[:PROBED]):
        raise UserError(
            f"{source}: no image {probed[0]} is in {root}, and none of the other first {len(probed)}: put the images "
            f"into {root}/images or next to this file"
        )
    if twice := repeated & {PureWindowsPath(name).name for name in names}:
        raise UserError(
            f"{source}: {min(twice)} is the name of two images below {root}: give their folders in the file"
        )
    return paths, f"{source}: its images are found by their names below {root}"


def _below(root: Path, folder: Path, names: Sequence[str]) -> list[str]:
    prefix = relative(folder, root) if folder != root else ""
    prefix = f"{prefix}/" if prefix else ""
    return [name if name.startswith("/") else os.path.normpath(f"{prefix}{name}") for name in names]


def _folders(root: Path, source: Path, split: str) -> list[Path]:
    """Return the folders in which a file's images usually are, the likeliest first."""
    splits = [*SPLIT_FOLDERS.get(split, ()), *([f"{split}2017", f"{split}2014"] if split else [])]
    bases = [source.parent, root]
    folders = [base / name for base in bases for name in splits]
    folders += [base / name / below for base in bases for name in IMAGE_FOLDERS for below in (*splits, "")]
    folders += [base / name / below for base in bases for name in splits for below in IMAGE_FOLDERS]
    return list(dict.fromkeys([source.parent, root, *folders]))
