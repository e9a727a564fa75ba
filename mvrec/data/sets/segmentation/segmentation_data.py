"""The common part of data modules of images with a class per pixel."""

import logging
from abc import abstractmethod
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from mvrec.data.listing.class_names import known_class_names
from mvrec.data.listing.index import SampleIndex
from mvrec.data.listing.layouts import SPLITS, Layout
from mvrec.data.listing.mask_classes import read_mask_classes
from mvrec.data.listing.root import check_root
from mvrec.data.listing.row_targets import TargetOf
from mvrec.data.loading.mask_samples import EvalMasks, MaskTargets, TrainMasks
from mvrec.data.loading.masks import Colours, MaskCoding, read_mask
from mvrec.data.sets.image_data import ImageFiles
from mvrec.data.sets.recognition_data import Split
from mvrec.data.sets.segmentation.values import ClassList, ValueCounts, count_values, values_text
from mvrec.data.views.geometry import Sides, height_and_width
from mvrec.data.views.mask_augment import MaskAugment
from mvrec.data.views.normalisation import IMAGENET_NORMALISATION, Normalisation
from mvrec.data.views.protocol import NAMED_MASK_PROTOCOLS, MaskProtocol
from mvrec.data.views.protocols.masks import windows_as_large_as
from mvrec.data.views.targets import NOT_LABELLED
from mvrec.data.views.transforms import Augment
from mvrec.errors import UserError, nearest
from mvrec.files import at_home
from mvrec.machine import cores_per_process
from mvrec.ranges import PIXELS, Range, check_range

_MANY = 2000  # masks that take more than a few seconds
SAMPLED = 64  # masks whose values are checked at set-up if the classes have names

log = logging.getLogger(__name__)


class SegmentationData(ImageFiles):
    """Images and a mask for each. A subclass describes its data set on disk; see `RecognitionData.find_layout`.

    Training sees crops of scaled images. Evaluation sees whole images in their own size, one per batch, because
    padding would change a network's features; `protocol` says what the network's input is then.

    The values of the masks are read at set-up and shown: those of all masks if these alone tell the classes, else of
    some. Images are turned as their EXIF block says, and masks must have the size of the turned image.

    Args:
        root: The data set.
        size: Side of the training crops in pixels, or their height and width.
        protocol: How the network sees images in evaluation, by name: "whole" in their own size, "slide" in windows,
            "mmseg-2048x512" and "pvt-align32" as the published figures on ADE20K; each also with "-ms-flip".
        augment: Training augmentation.
        normalisation: Mean and standard deviation.
        test_split: What `test` and `predict` read; by default "test" where there is one, else "val".
        batch_size: Crops per process and training step.
        num_workers: Loader processes per process; "auto" takes the cores there are.
        max_bad_fraction: Training stops when a greater share of the files cannot be read.
        decode_timeout: Seconds that a file may take. After that the process that reads it is killed, and the file is
            treated as one that cannot be read, in this run for good. `None` waits for ever.
        decode_memory: Most memory in GiB that reading a file may take, with the same end. `None` for no limit.
        seed: Root of order and augmentation; `seed_everything`'s by default.
        classes: Class names in label order: themselves, or a file with one name per line.
        ignore: Values of pixels that count neither in training nor in a score. 255 is one of them, unless 0 and 255
            are the only values, which are two classes then.
        reduce_zero_label: Whether the value 0 is not labelled and the first class has the value 1, as in ADE20K.
        fold: Cross-validation, such as "2/5": a fifth of the training files is for validation, and over the folds 1/5
            to 5/5 each file is so once. For data without a validation split of their own.

    Raises:
        UserError: A number that is out of range, with its key; from `setup`: a missing or empty root or split, a mask
            that holds no class numbers, or a value that is of no class.
    """

    def __init__(
        self,
        root: str,
        *,
        size: Sides = 512,
        protocol: str = "mmseg-2048x512",
        augment: MaskAugment = MaskAugment(),  # noqa: B008 - frozen, and shown in --help
        normalisation: Normalisation = IMAGENET_NORMALISATION,
        test_split: Literal["val", "test"] | None = None,
        batch_size: int = 16,
        num_workers: int | Literal["auto"] = "auto",
        max_bad_fraction: float = 0.01,
        decode_timeout: float | None = 60.0,
        decode_memory: float | None = 8.0,
        seed: int | None = None,
        classes: str | list[str] | None = None,
        ignore: int | list[int] | None = None,
        reduce_zero_label: bool = False,
        fold: str | None = None,
    ) -> None:
        for side in height_and_width(size):
            check_range("data.size", side, PIXELS)
        super().__init__(
            root,
            test_split=test_split,
            size=max(height_and_width(size)),
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
        if protocol not in NAMED_MASK_PROTOCOLS:
            raise UserError(
                f"data.protocol: there is no protocol {protocol!r}, only {', '.join(NAMED_MASK_PROTOCOLS)}"
                f"{nearest(protocol, NAMED_MASK_PROTOCOLS)}"
            )
        self.crop_size, self.mask_augment, self.protocol_name = size, augment, protocol
        self.ignored = (ignore,) if isinstance(ignore, int) else tuple(ignore or ())
        for value in self.ignored:
            check_range("data.ignore", value, Range(0, NOT_LABELLED))
        self.reduce_zero_label = reduce_zero_label
        self._targets: MaskTargets | None = None

    # -- what a subclass may say --------------------------------------------------------------------------------

    def class_list(self) -> ClassList:
        """Return the classes of the arguments, else of `classes.txt`; without them the masks tell."""
        path = self.root / "classes.txt" if self.classes is None else None
        if isinstance(self.classes, str) and at_home(self.classes).is_file():
            path = at_home(self.classes)
        names, values = (known_class_names(self.classes or []), None) if path is None else read_mask_classes(path)
        return ClassList(names or None, values, self.ignored, self.reduce_zero_label)

    def colours(self) -> Colours | None:
        """Return the number of each colour of the masks; `None` for masks of numbers."""
        return None

    @abstractmethod
    def find_layout(self) -> Layout:
        """Inspect the disk for the layout of the data set; the labels of its rows are the paths of masks."""

    # -- common to all ------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """List the files of a stage, and read the values of masks."""
        if self._targets is None:
            self._targets = self._find_targets()
        super().setup(stage)

    def _find_targets(self) -> MaskTargets:
        classes, masks, colours = self.class_list(), self._masks(), self.colours()
        if not classes.needs_all_masks:
            masks = masks[:: max(len(masks) // SAMPLED, 1)]
        if classes.needs_all_masks and len(masks) > _MANY:
            text = "%s: reading all %d masks for their values; mvrec prep index writes them to classes.txt, once"
            log.info(text, self.root, len(masks))
        read = partial(read_mask, colours=colours)
        counts = count_values(masks, read, threads=cores_per_process(self._processes_here))
        coding = classes.coding(counts, where=str(self.root))
        log.info("%s: values in %s: %s", self.root, self._counted_text(counts), values_text(counts, coding))
        number, mask = counts.unlabelled(coding)
        if number:
            log.warning("%s: %d of %d masks have no labelled pixel, such as %s", self.root, number, counts.count, mask)
        return MaskTargets(self.root, coding, colours)

    def _masks(self) -> list[Path]:
        files = self.files
        return [self.root / row.label for split in SPLITS if files.has(split) for row in files.rows(split)]

    def _counted_text(self, counts: ValueCounts) -> str:
        failures = counts.unreadable
        failed = f", {len(failures)} unreadable (such as {failures[0].path})" if failures else ""
        return f"{counts.count} mask{'' if counts.count == 1 else 's'}{failed}"

    @cached_property
    def files(self) -> Layout:
        """The layout of the data set on disk, without folds."""
        check_root(self.root)
        return self.find_layout()

    @property
    def coding(self) -> MaskCoding:
        """The class of each value of masks; available after `setup`."""
        assert self._targets is not None
        return self._targets.coding

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in label order; available after `setup`."""
        return () if self._targets is None else self.coding.names

    def record(self) -> dict[str, Any]:
        """Return the facts for a run's record; see `RecognitionData.record`."""
        coding = self.coding
        values = dict(zip(coding.names, coding.values, strict=True))
        return {**super().record(), "mask_values": values, "not_labelled": list(coding.ignored)}

    @property
    def class_counts(self) -> list[int]:
        """An empty list: an image has many classes."""
        return []

    @property
    def target_of(self) -> TargetOf:
        """The function that reads the masks of rows; it holds no data module, whose loaders a process would end."""
        assert self._targets is not None
        return self._targets

    def train_dataset(self, index: SampleIndex, *, seed: int) -> TrainMasks:
        """Return random crops of the images of an index, with their classes."""
        red, green, blue = (round(255 * mean) for mean in self.normalisation.mean)
        return TrainMasks(index, self.crop_size, augment=self.mask_augment, seed=seed, padding=(red, green, blue))

    def eval_dataset(self, split: Split) -> EvalMasks:
        """Return the whole images of a split, with the classes of their masks."""
        return EvalMasks(self.index(split), self.protocol(split))

    def protocol(self, split: Split) -> MaskProtocol:
        """Return how the network sees the images of "val" or "test", with the split's name."""
        return MaskProtocol.named(
            self.protocol_name,
            split="val" if split == "val" else self.test_split,
            size=self.crop_size,
            **windows_as_large_as(self.crop_size),
            normalisation=self.normalisation,
        )

    @property
    def worker_augment(self) -> Augment:
        """No augmentation of pictures: `mask_augment` takes its place."""
        return Augment(rand_augment=None, random_erasing=None)

    @property
    def device_augment(self) -> Augment:
        """The part that the device applies to whole batches; it moves no pixel."""
        augment = self.mask_augment
        return Augment(rand_augment=None, random_erasing=augment.random_erasing, on_device=augment.on_device)
