"""The common part of data modules of images: views, and how they are scored."""

import logging
from typing import Any, ClassVar, Literal

from mvrec.data.listing.file_kinds import IMAGES, Kind
from mvrec.data.listing.index import SampleIndex
from mvrec.data.loading.images import EvalImages, TrainImages
from mvrec.data.sets.recognition_data import RecognitionData, Split
from mvrec.data.views.geometry import Interpolation
from mvrec.data.views.normalisation import IMAGENET_NORMALISATION, Normalisation
from mvrec.data.views.protocol import ImageProtocol
from mvrec.data.views.rand_augment import RandAugment
from mvrec.data.views.transforms import Augment
from mvrec.ranges import check_ranges

# rand-m9-mstd0.5-inc1, the string of the ImageNet recipes: without a number it means two operations.
IMAGENET_AUGMENT = Augment(
    interpolation="bicubic", rand_augment=RandAugment(num_ops=2, magnitude=9.0, magnitude_std=0.5)
)

log = logging.getLogger(__name__)


class ImageFiles(RecognitionData):
    """Images with targets of any kind.

    Most image data sets have no labelled test split; `test` and `predict` then read val, and say so next to the
    score.

    Args:
        root: The data set.
        test_split: What `test` and `predict` read; by default "test" where there is one, else "val".
        knobs: See `RecognitionData`.
    """

    kind: ClassVar[Kind] = IMAGES

    def __init__(self, root: str, *, test_split: Literal["val", "test"] | None = None, **knobs: Any) -> None:
        super().__init__(root, **knobs)
        self._wanted_test_split = test_split

    @property
    def clips_per_step(self) -> int:
        """Images per step on which this process trains."""
        return self.batch_size

    @property
    def test_split(self) -> Literal["val", "test"]:
        """The split of `test` and `predict`."""
        return self._wanted_test_split or ("test" if self.layout.has("test") else "val")

    def setup(self, stage: str) -> None:
        """Read the lists or folders of a stage; no image is opened."""
        super().setup(stage)
        if stage in ("test", "predict") and self._wanted_test_split is None and self.test_split == "val":
            log.info("%s has no test split: reading the images of val instead", self.root)


class ImageData(ImageFiles):
    """Images. A subclass describes its data set on disk; see `RecognitionData.find_layout`.

    An epoch has as many views as there are training images, whatever `repeats` is; see `TrainBatches`.

    Args:
        root: The data set.
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
        class_balance: How far training evens out classes of unequal size, 0..1: a class of n files is drawn in
            proportion to `n ** (1 - class_balance)`. With 0 each file is drawn once per epoch, with 1 all classes
            equally often. The same on one process or many.
        split_views: Whether processes share the views of a file in evaluation. The score is the same; it evens out the
            work where there are few files with many views, and costs each process the opening of files.
        seed: Root of order and augmentation; `seed_everything`'s by default.
        classes: Class names in label order: themselves, "kinetics400", "imagenet1k" (both as torchvision has them), or
            a file with one name per line. By default the data say.
        fold: Cross-validation, such as "2/5": a fifth of the training files of each class is for validation, and over
            the folds 1/5 to 5/5 each file is so once. For data without a validation split of their own.
        values: Columns of the lists whose numbers are to be predicted instead of a class, such as `[age, angle]`. By
            default the column "value" of lists without labels.

    Raises:
        UserError: A number that is out of range, with its key; from `setup`: a missing or empty root, split or class
            folder.
    """

    upright: ClassVar[bool] = False  # whether EXIF rotations apply; the published recipes ignore them

    def __init__(
        self,
        root: str,
        *,
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
        class_balance: float = 0.0,
        split_views: bool = False,
        seed: int | None = None,
        classes: str | list[str] | None = None,
        fold: str | None = None,
        values: str | list[str] | None = None,
    ) -> None:
        super().__init__(
            root,
            test_split=test_split,
            size=size,
            augment=augment,
            repeats=repeats,
            normalisation=normalisation,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            max_bad_fraction=max_bad_fraction,
            decode_timeout=decode_timeout,
            decode_memory=decode_memory,
            augment_on=augment_on,
            class_balance=class_balance,
            split_views=split_views,
            seed=seed,
            classes=classes,
            fold=fold,
            values=values,
        )
        check_ranges("data.", {"crop_fraction": crop_fraction})
        self.crop_fraction, self.interpolation = crop_fraction, interpolation

    @property
    def draws_per_sample(self) -> int:
        """Draws in a row of the same file: repeats are draws of the training order."""
        return self.repeats

    def train_dataset(self, index: SampleIndex, *, seed: int) -> TrainImages:
        """Return random views of the images of an index."""
        return TrainImages(index, self.size, self.worker_augment, repeats=self.repeats, seed=seed, upright=self.upright)

    def eval_dataset(self, split: Split) -> EvalImages:
        """Return the centre views of the images of a split."""
        return EvalImages(self.index(split), self.protocol(split))

    def protocol(self, split: Split) -> ImageProtocol:
        """Return how the images of "val" or "test" become views, with the split's name."""
        return ImageProtocol(
            split="val" if split == "val" else self.test_split,
            short_side=int(self.size / self.crop_fraction),
            size=self.size,
            interpolation=self.interpolation,
            normalisation=self.normalisation,
            upright=self.upright,
        )
