"""The common part of data modules of images with objects."""

import logging
from abc import abstractmethod
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mvrec.data.listing.class_names import known_class_names, spelt_alike
from mvrec.data.listing.index import SampleIndex
from mvrec.data.listing.layouts import SPLITS, Layout
from mvrec.data.listing.objects.faults import BadBoxes
from mvrec.data.listing.objects.layouts import ObjectLayout
from mvrec.data.listing.objects.table import ObjectTable
from mvrec.data.listing.root import check_root
from mvrec.data.loading.images import image_size
from mvrec.data.loading.loader import ClipLoader, TrainBatches
from mvrec.data.loading.objects.samples import EvalObjects, TrainObjects
from mvrec.data.loading.objects.targets import ObjectTargets
from mvrec.data.sets.image_data import ImageFiles
from mvrec.data.sets.recognition_data import Split
from mvrec.data.views.normalisation import IMAGENET_NORMALISATION, Normalisation
from mvrec.data.views.objects import Objects
from mvrec.data.views.objects.augment import ObjectAugment
from mvrec.data.views.protocol import NAMED_DETECTION_PROTOCOLS, DetectionProtocol
from mvrec.data.views.targets import Target
from mvrec.data.views.transforms import Augment
from mvrec.errors import UserError, nearest

_NAMED = 3  # classes that a warning names

log = logging.getLogger(__name__)


class DetectionData(ImageFiles):
    """Images with objects: boxes, classes and, where there are, outlines. A subclass finds the annotations on disk.

    Training sees views of several sizes, padded to the largest of a batch, whose images are upright or wide alike.
    Evaluation sees one whole image per batch, because padding would change a network's features. Crowds, of which an
    evaluation takes no account, are not learned.

    Args:
        root: The data set, or its file of annotations.
        protocol: How the network sees images in evaluation, by name: "whole" in their own size, or a framework's rule
            with the most pixels of the long and of the short side, such as "mmdetection-1333x800",
            "detectron2-1333x800" or "torchvision-640x480".
        augment: Training augmentation, with the sizes of training views.
        masks: Whether outlines are learned and scored. Detectors with boxes alone load faster without.
        empty: Whether training keeps images without objects ("keep") or leaves them out ("drop"), as the recipes for
            COCO do.
        bad_boxes: Whether boxes without area, or outside the image, and outlines of two points end the run ("refuse")
            or are left out ("drop").
        upright: Whether images are turned as their EXIF block says. False suits annotations of pictures as they are
            stored.
        normalisation: Mean and standard deviation.
        test_split: What `test` and `predict` read; by default "test" where there is one, else "val".
        batch_size: Images per process and training step.
        num_workers: Loader processes per process; "auto" takes the cores there are.
        max_bad_fraction: Training stops when a greater share of the files cannot be read.
        decode_timeout: Seconds that a file may take. After that the process that reads it is killed, and the file is
            treated as one that cannot be read, in this run for good. `None` waits for ever.
        decode_memory: Most memory in GiB that reading a file may take, with the same end. `None` for no limit.
        seed: Root of order and augmentation; `seed_everything`'s by default.
        classes: Class names in label order: themselves, or a file with one name per line. By default the annotations
            say.
        fold: Cross-validation, such as "2/5": a fifth of the training files is for validation, and over the folds 1/5
            to 5/5 each file is so once. For data without a validation split of their own.

    Raises:
        UserError: A number that is out of range, with its key; a protocol that does not exist; from `setup`: a missing
            or empty root or split, a malformed annotation, or rotation of objects without outlines.
    """

    def __init__(
        self,
        root: str,
        *,
        protocol: str = "mmdetection-1333x800",
        augment: ObjectAugment = ObjectAugment(),  # noqa: B008 - frozen, and shown in --help
        masks: bool = True,
        empty: Literal["keep", "drop"] = "keep",
        bad_boxes: BadBoxes = "refuse",
        upright: bool = True,
        normalisation: Normalisation = IMAGENET_NORMALISATION,
        test_split: Literal["val", "test"] | None = None,
        batch_size: int = 2,
        num_workers: int | Literal["auto"] = "auto",
        max_bad_fraction: float = 0.01,
        decode_timeout: float | None = 60.0,
        decode_memory: float | None = 8.0,
        seed: int | None = None,
        classes: str | list[str] | None = None,
        fold: str | None = None,
    ) -> None:
        try:
            size = DetectionProtocol.named(protocol).size
        except ValueError as error:
            raise UserError(f"data.protocol: {error}{nearest(protocol, NAMED_DETECTION_PROTOCOLS)}") from None
        super().__init__(
            root,
            test_split=test_split,
            size=size,
            augment=augment,
            repeats=1,
            normalisation=normalisation,
            batch_size=batch_size,
            eval_batch_size=1,
            num_workers=num_workers,
            max_bad_fraction=max_bad_fraction,
            decode_timeout=decode_timeout,
            decode_memory=decode_memory,
            augment_on="worker",
            class_balance=0.0,
            split_views=False,
            seed=seed,
            classes=classes,
            fold=fold,
        )
        self.place = self.root  # of the annotations
        if self.root.is_file():
            self.root = self.root.parent
        if fold is not None and empty == "drop":
            raise UserError("data.fold: images without objects count in a score: set data.empty keep")
        self.object_augment, self.protocol_name, self.upright = augment, protocol, upright
        self.with_masks, self.keeps_empty, self.bad_boxes = masks, empty == "keep", bad_boxes
        self._names: tuple[str, ...] = ()
        self._tables: dict[str, ObjectTable] = {}
        self._targets = ObjectTargets(self.root, {})

    # -- what a subclass says -----------------------------------------------------------------------------------

    @abstractmethod
    def find_objects(self) -> ObjectLayout:
        """Inspect the disk for the annotations of each split; once."""

    # -- common to all ------------------------------------------------------------------------------------------

    @cached_property
    def files(self) -> ObjectLayout:
        """The layout of the data set on disk, without folds."""
        check_root(self.root)
        files = self.find_objects()
        files.keeps_empty = self.keeps_empty
        return files

    def find_layout(self) -> Layout:
        """Return `files`, which keeps the annotations that it has read."""
        return self.files

    def setup(self, stage: str) -> None:
        """Read the annotations of a stage; no image is opened."""
        self._read({"fit": ("train", "val"), "validate": ("train", "val")}.get(stage, ("train", self.test_split)))
        super().setup(stage)

    def size_of(self, path: Path) -> tuple[int, int]:
        """Return (height, width) of an image file in pixels."""
        return image_size(path, upright=self.upright)

    def _read(self, splits: Collection[str]) -> None:
        """Read the tables of splits, each once, with the classes of the arguments or of the training annotations."""
        if not any(self.files.has(split) for split in SPLITS):
            raise UserError(f"{self.root}: no objects in it; expected {self.files.expected()}")
        for split in SPLITS:
            if split not in splits or split in self._tables or not self.files.has(split):
                continue
            table = self.files.table(split)
            if not self._names:
                self._names = tuple(known_class_names(self.classes)) if self.classes is not None else table.class_names
                self._check_names()
            ids = self.class_ids if self._tables else None
            self._tables[split] = table.with_classes(self._names, ids)
        self._targets = ObjectTargets(self.root, self._tables, masks=self.with_masks)

    def _check_names(self) -> None:
        if not self._names:
            raise UserError(f"{self.root}: its annotations have no classes: name them in data.classes")
        if alike := spelt_alike(self._names):
            first, second = map(ascii, alike)
            text = f"{self.root}: {first} and {second} are two classes that differ only in spelling"
            self.files.notes.append((logging.WARNING, text))

    def _check_classes(self) -> None:
        """Accept a single class: objects of it are told from the background."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in label order; available after `setup`."""
        return self._names

    @property
    def class_ids(self) -> tuple[int, ...]:
        """The number of each class in annotation files, such as COCO's category ids; available after `setup`."""
        return next(iter(self._tables.values())).class_ids

    def table(self, split: str) -> ObjectTable:
        """Return the annotations of a split that `setup` has read; of a fold's validation those of training.

        Raises:
            UserError: The data set has no such split.
        """
        split = self.test_split if split == "test" else split
        if split in self._tables:
            return self._tables[split]
        if split == "val" and self.fold is not None:
            return self._tables["train"]
        raise UserError(f"{self.root} has no split {split!r}: {self.files.missing(split)}")

    def table_rows(self, split: Split) -> npt.NDArray[np.int64]:
        """Return the row in `table` of each row of a split's index: int64 (rows,)."""
        index, table = self.index(split), self.table(split)
        if len(index) == len(table):
            return np.arange(len(table))
        return np.fromiter((index.row(row).line - 1 for row in range(len(index))), np.int64, len(index))

    @property
    def class_counts(self) -> list[int]:
        """The number of training objects of each class without crowds, in label order; available after `setup`."""
        table = self._tables["train"]
        return np.bincount(table.labels[~table.crowd], minlength=len(self._names)).tolist()

    @property
    def target_of(self) -> ObjectTargets:
        """The function that makes the objects of rows; it holds no data module, whose loaders a process would end."""
        return self._targets

    @property
    def target_type(self) -> type[Target]:
        """The type of the targets."""
        return Objects

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """The shape (C, H, W) of the largest view of a wide image; in their own size that of the largest image."""
        sizes = [(int(table.heights.max()), int(table.widths.max())) for table in self._tables.values() if len(table)]
        if DetectionProtocol.named(self.protocol_name).scale is None and sizes and min(min(size) for size in sizes) > 0:
            return 3, max(size[0] for size in sizes), max(size[1] for size in sizes)
        return self.val_protocol.view_shape

    def _check_training(self, index: SampleIndex) -> None:
        """Tell what training will learn from, and refuse what it cannot."""
        table = self._tables["train"]
        counts = table.learned_counts
        if not counts.any():
            raise UserError(f"{self.files.place('train')}: all objects of its {len(table)} images are crowds")
        if empty := int((counts == 0).sum()):
            verdict = "learned as background" if self.keeps_empty else "left out, because data.empty is drop"
            log.info("%s: %d of %d images have no object; %s", self.files.place("train"), empty, len(table), verdict)
        missing = [name for name, count in zip(self._names, self.class_counts, strict=True) if not count]
        if missing:
            more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            log.warning("classes without a training object: %s%s", ", ".join(map(repr, missing[:_NAMED])), more)
        bare = int((~table.shapes.present & ~table.crowd).sum())
        if bare and self.object_augment.rotation:
            raise UserError(
                f"data.augment.rotation: {bare} of {table.num_objects} objects have no outline, and a turned box would "
                "not be tight: set it to 0"
            )
        if bare and self.with_masks and table.shapes.present.any():
            text = "%s: %d of %d objects have no outline: their masks are their boxes; data.masks false learns none"
            log.warning(text, self.files.place("train"), bare, table.num_objects)

    def record(self) -> dict[str, Any]:
        """Return the facts for a run's record; see `RecognitionData.record`."""
        tables = sorted(self._tables.items())
        return {
            **super().record(),
            "class_ids": list(self.class_ids),
            "objects": {split: table.num_objects for split, table in tables},
            "images_without_objects": {split: int((table.learned_counts == 0).sum()) for split, table in tables},
        }

    @property
    def ratios(self) -> npt.NDArray[np.float64]:
        """Height over width of the training images; 1 where the annotations do not say the size."""
        table, rows = self._tables["train"], self.table_rows("train")
        heights, widths = table.heights[rows].astype(np.float64), table.widths[rows]
        return np.where((heights > 0) & (widths > 0), heights / np.maximum(widths, 1), 1.0)

    def train_dataloader(self) -> ClipLoader:
        """Return random views, in an order that depends on the seed and the epoch alone; see `grouped_order`."""
        loader = super().train_dataloader()
        assert isinstance(loader.batches, TrainBatches)
        loader.batches.ratios = self.ratios
        return loader

    def train_dataset(self, index: SampleIndex, *, seed: int) -> TrainObjects:
        """Return random views of the images of an index, with their objects."""
        red, green, blue = (round(255 * mean) for mean in self.normalisation.mean)
        padding = red, green, blue
        return TrainObjects(index, augment=self.object_augment, seed=seed, upright=self.upright, padding=padding)

    def eval_dataset(self, split: Split) -> EvalObjects:
        """Return the whole images of a split, with their objects."""
        return EvalObjects(self.index(split), self.protocol(split))

    def protocol(self, split: Split) -> DetectionProtocol:
        """Return how the network sees the images of "val" or "test", with the split's name."""
        return DetectionProtocol.named(
            self.protocol_name,
            split="val" if split == "val" else self.test_split,
            normalisation=self.normalisation,
            upright=self.upright,
        )

    @property
    def worker_augment(self) -> Augment:
        """No augmentation of pictures: `object_augment` takes its place."""
        return Augment(rand_augment=None, random_erasing=None)

    @property
    def device_augment(self) -> Augment:
        """No augmentation on the device."""
        return self.worker_augment
