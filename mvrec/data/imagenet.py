"""ImageNet, and images of any classes that lie as it does."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from mvrec.data.archive import read_tar_listing
from mvrec.data.image_data import IMAGENET_AUGMENT, ImageData
from mvrec.data.imagenet_devkit import validation_wnids
from mvrec.data.kinds import IMAGES
from mvrec.data.layouts import Layout, ListsAndFolders, class_folders, files_below
from mvrec.data.lists import Row
from mvrec.data.transforms import IMAGENET_NORMALISATION, Augment, Interpolation, Normalisation
from mvrec.errors import UserError

_VAL_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)


class ImageNet(ImageData):
    """Images of `root/<split>/<class name>/<image>` or of the lists `root/<split>.csv`, split = train, val, test.

    Images may lie deeper in their class folder. Instead of folders there may be the tars as they are published,
    `ILSVRC2012_img_train.tar` and `ILSVRC2012_img_val.tar`: images are then read in them, in place. The validation
    images have no labels; they come from the development kit, which is beside them or named by `devkit`.

    The classes come from `classes`, else from `root/classes.txt`, else from the training split. With
    `classes: imagenet1k` the WordNet ids of folders and tars stand for readable names.

    Args:
        root: The data set.
        devkit: `ILSVRC2012_devkit_t12.tar.gz` or the folder that it unpacks to; by default that in the root.
        size: Side of the square images that the model sees, in pixels.
        crop_fraction: Share of the scaled short side that the centre crop of an evaluation keeps: the short side is
            `int(size / crop_fraction)`, 256 pixels for 224 and 0.875.
        interpolation: How images are scaled in evaluation (antialiased).
        augment: Training augmentation.
        repeats: Augmented views of the same image in a batch, from one decode where a process has all of them
            (Hoffer et al. 2020, repeated augmentation).
        normalisation: Mean and standard deviation.
        test_split: What `test` and `predict` read; by default "test" where there is one, else "val".
        batch_size: Views per process and training step.
        eval_batch_size: Images per process and evaluation step; `batch_size` by default.
        num_workers: Loader processes per process; "auto" takes the cores there are.
        max_bad_fraction: Training stops when a greater share of the images cannot be read.
        decode_timeout: Seconds that a file may take. After that the process that reads it is killed, and the file is
            treated as one that cannot be read, in this run for good. `None` waits for ever.
        decode_memory: Most memory in GiB that reading a file may take, with the same end. `None` for no limit.
        augment_on: Where RandAugment is applied: in the loader's "worker" or on the "device". The choices are the same.
        seed: Root of order and augmentation; `seed_everything`'s by default.
        classes: Class names in label order: "kinetics400", "imagenet1k" (both as torchvision has them), or a file with
            one name per line. By default the data say.

    Raises:
        UserError: A number that is out of range, with its key; from `setup`: a missing or empty root, split or class
            folder, or no labels for the validation images.
    """

    def __init__(
        self,
        root: str,
        *,
        devkit: str | None = None,
        size: int = 224,
        crop_fraction: float = 0.875,
        interpolation: Interpolation = "bicubic",
        augment: Augment = IMAGENET_AUGMENT,
        repeats: int = 1,
        normalisation: Normalisation = IMAGENET_NORMALISATION,
        test_split: Literal["val", "test"] | None = None,
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        num_workers: int | Literal["auto"] = "auto",
        max_bad_fraction: float = 0.01,
        decode_timeout: float | None = 60.0,
        decode_memory: float | None = 8.0,
        augment_on: Literal["worker", "device"] = "worker",
        seed: int | None = None,
        classes: str | None = None,
    ) -> None:
        shared: dict[str, Any] = dict(locals())
        for name in ("self", "__class__", "root", "devkit"):
            shared.pop(name)
        super().__init__(root, **shared)
        self._devkit = Path(devkit).expanduser() if devkit is not None else None

    def prepare_data(self) -> None:
        """List the tars where that has not been done, in one process."""
        if self.root.is_dir():
            for split in ("train", "val"):
                if (archive := ImageNetLayout(self.root, devkit=self._devkit).tar_of(split)) is not None:
                    read_tar_listing(archive)

    def find_layout(self) -> Layout:
        """Lists, folders or tars."""
        return ImageNetLayout(self.root, devkit=self._devkit)


class ImageNetLayout(ListsAndFolders):
    """Lists and folders, and for a split without either its tar; see `ImageNet`."""

    title = "ImageNet"

    def __init__(self, root: Path, *, devkit: Path | None = None) -> None:
        super().__init__(root, IMAGES)
        self._devkit = devkit

    def tar_of(self, split: str) -> Path | None:
        """The published tar of a split, where it has neither list nor folder. Test images have no labels."""
        archive = self.root / f"ILSVRC2012_img_{split}.tar"
        return archive if split != "test" and not super().has(split) and archive.is_file() else None

    def has(self, split: str) -> bool:
        """Whether there is a list, a folder or a tar."""
        return super().has(split) or self.tar_of(split) is not None

    def place(self, split: str) -> str:
        """The list, the folder or the tar."""
        return str(self.tar_of(split) or super().place(split))

    def expected(self) -> str:
        """The folders, the lists and the tars."""
        return f"{super().expected()} or ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar"

    def rows(self, split: str) -> Iterable[Row]:
        """The rows of the list, the folder or the tar."""
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
            if above:  # the tar of a class, or in a tar made anew its folder
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
        """The WordNet ids of the validation images in their order."""
        beside = [self.root / name for name in ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12")]
        devkit = self._devkit or next((path for path in beside if path.exists()), None)
        if devkit is None:
            raise UserError(
                f"{images}: its images have no labels: put ILSVRC2012_devkit_t12.tar.gz beside it, name it with "
                "data.devkit, or sort the images into class folders"
            )
        return validation_wnids(devkit)


def _label_of(name: str, wnids: list[str], *, where: str) -> str:
    found = _VAL_NUMBER.fullmatch(name)
    number = int(found[1]) if found is not None else 0
    if not 1 <= number <= len(wnids):
        raise UserError(f"{where}: {name!r} is not one of ILSVRC2012_val_00000001.JPEG .. {len(wnids):08d}.JPEG")
    return wnids[number - 1]
