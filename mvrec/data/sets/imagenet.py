"""ImageNet, and images of any classes in its layout."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mvrec.data.listing.archive import read_tar_listing
from mvrec.data.listing.file_kinds import IMAGES
from mvrec.data.listing.layouts import Layout, ListsAndFolders, class_folders, files_below
from mvrec.data.listing.lists import Row
from mvrec.data.sets.image_data import ImageData
from mvrec.data.sets.imagenet_devkit import validation_wnids
from mvrec.errors import UserError
from mvrec.files import at_home

_VAL_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)


class ImageNet(ImageData):
    """Images of `root/<split>/<class name>/<image>` or of the lists `root/<split>.csv`, split = train, val, test.

    Images may lie deeper in their class folder. Instead of folders there may be the published tars,
    `ILSVRC2012_img_train.tar` and `ILSVRC2012_img_val.tar`, whose images are read in place. The validation images have
    no labels; these come from the development kit, in the root or named by `devkit`.

    The classes come from `classes`, else from `root/classes.txt`, else from the training split. With
    `classes: imagenet1k` the WordNet ids of folders and tars get readable names.

    Args:
        root: The data set.
        devkit: `ILSVRC2012_devkit_t12.tar.gz` or its unpacked folder; by default in the root.
        **knobs: See `ImageData`.

    Raises:
        UserError: A number that is out of range, with its key; from `setup`: a missing or empty root, split or class
            folder, or no labels for the validation images.
    """

    def __init__(
        self,
        root: str,
        *,
        devkit: str | None = None,
        **knobs: Any,
    ) -> None:
        super().__init__(root, **knobs)
        self._devkit = at_home(devkit) if devkit is not None else None

    def prepare_data(self) -> None:
        """List the tars, in one process, unless that is done."""
        if self.root.is_dir():
            for split in ("train", "val"):
                if (archive := ImageNetLayout(self.root, devkit=self._devkit).tar_of(split)) is not None:
                    read_tar_listing(archive)

    def find_layout(self) -> Layout:
        """Return lists, folders or tars."""
        return ImageNetLayout(self.root, devkit=self._devkit)


class ImageNetLayout(ListsAndFolders):
    """Lists and folders, and for a split without either its tar; see `ImageNet`."""

    title = "ImageNet"

    def __init__(self, root: Path, *, devkit: Path | None = None) -> None:
        super().__init__(root, IMAGES)
        self._devkit = devkit

    def tar_of(self, split: str) -> Path | None:
        """Return the published tar of a split without list or folder. Test images have no labels."""
        archive = self.root / f"ILSVRC2012_img_{split}.tar"
        return archive if split != "test" and not super().has(split) and archive.is_file() else None

    def has(self, split: str) -> bool:
        """Return whether the split has a list, a folder or a tar."""
        return super().has(split) or self.tar_of(split) is not None

    def place(self, split: str) -> str:
        """Return the path of the list, the folder or the tar."""
        return str(self.tar_of(split) or super().place(split))

    def expected(self) -> str:
        """Return the expected folders, lists and tars."""
        return f"{super().expected()} or ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar"

    def rows(self, split: str) -> Iterable[Row]:
        """Return the rows of the list, the folder or the tar."""
        archive, folder = self.tar_of(split), self.folder_of(split)
        if archive is not None:
            return self._tar_rows(archive)
        if self.list_of(split) is None and split == "val" and folder is not None and not class_folders(folder):
            return self._unlabelled_rows(folder)
        return super().rows(split)

    def _tar_rows(self, archive: Path) -> Iterator[Row]:
        names, source = None, str(archive)
        for member in read_tar_listing(archive):
            above, _, name = member.name.rpartition("/")
            if not name.lower().endswith(tuple(IMAGES.extensions)) or name.startswith("."):
                continue
            if above:  # the tar of a class, or its folder in a repacked tar
                label = above.rpartition("/")[2].removesuffix(".tar")
            else:
                names = names or self._val_names(archive)
                label = _label_of(name, names, where=source)
            yield Row(f"{archive.name}/{member.name}", label, offset=member.offset, size=member.size, source=source)

    def _unlabelled_rows(self, folder: Path) -> Iterator[Row]:
        files = list(files_below(str(folder), IMAGES))
        names = self._val_names(folder) if files else []
        for name in files:
            yield Row(f"{folder.name}/{name}", _label_of(name, names, where=str(folder)), source=str(folder))

    def _val_names(self, images: Path) -> list[str]:
        """Return the WordNet ids of the validation images in their order."""
        candidates = [self.root / name for name in ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12")]
        devkit = self._devkit or next((path for path in candidates if path.exists()), None)
        if devkit is None:
            raise UserError(
                f"{images}: its images have no labels: put ILSVRC2012_devkit_t12.tar.gz next to it, set data.devkit, "
                "or sort the images into class folders"
            )
        return validation_wnids(devkit)


def _label_of(name: str, wnids: list[str], *, where: str) -> str:
    match = _VAL_NUMBER.fullmatch(name)
    number = int(match[1]) if match is not None else 0
    if not 1 <= number <= len(wnids):
        raise UserError(f"{where}: {name!r} is not one of ILSVRC2012_val_00000001.JPEG .. {len(wnids):08d}.JPEG")
    return wnids[number - 1]
