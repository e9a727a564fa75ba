"""The common part of data modules: splits, loaders, the position in them, pixels on the device."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L

from mvrec.data.listing.class_names import ClassNames, known_class_names
from mvrec.data.listing.file_kinds import Kind
from mvrec.data.listing.folds import Fold, Folds
from mvrec.data.listing.groups.rules import NONE
from mvrec.data.listing.index import SampleIndex
from mvrec.data.listing.layouts import Layout, ListsAndFolders
from mvrec.data.listing.lists import Row
from mvrec.data.listing.root import check_root
from mvrec.data.listing.row_targets import TargetOf, row_values, value_columns, value_names
from mvrec.data.loading.batch import ClipBatch
from mvrec.data.loading.guard import reading_limits
from mvrec.data.loading.loader import ClipLoader, EvalBatches, TrainBatches, Unwrapped, worker_count
from mvrec.data.loading.samples import EvalSamples, TrainSamples
from mvrec.data.sets.whole_signature import WholeSignature
from mvrec.data.views.normalisation import Normalisation
from mvrec.data.views.protocol import Protocol
from mvrec.data.views.targets import ClassIndex, NoTarget, Target, Values
from mvrec.data.views.transforms import Augment, batch_pixels
from mvrec.errors import UserError
from mvrec.files import at_home
from mvrec.lightning_private import collective_timeout
from mvrec.processes import Limits
from mvrec.ranges import check_ranges

Split = Literal["train", "val", "test"]

log = logging.getLogger(__name__)


class RecognitionData(WholeSignature, L.LightningDataModule):
    """Labelled files of `root/<split>/<class name>/` or of the lists `root/<split>.csv`, split = train, val, test.

    A subclass sets the kind of the files, how they become views and how many of these make a step.

    Args:
        root: The data set.
        size: Side of the square views that the model sees, in pixels.
        augment: Training augmentation.
        repeats: Augmented views per decoded training file.
        normalisation: Mean and standard deviation.
        batch_size: See the subclass.
        eval_batch_size: Files per process and evaluation step; by default as many as keep the number of views
            at that of a training step.
        num_workers: Loader processes per process; "auto" takes the cores there are.
        max_bad_fraction: Training stops when a greater share of the files cannot be read.
        decode_timeout: Seconds that a file may take. After that the process that reads it is killed, and the file is
            treated as one that cannot be read, in this run for good. `None` waits for ever.
        decode_memory: Most memory in GiB that reading a file may take, with the same end. `None` for no limit.
        augment_on: Where RandAugment is applied: in the loader's "worker" or on the "device". The choices are the same.
        class_balance: How far training evens out classes of unequal size, 0..1: a class of n files is drawn in
            proportion to `n ** (1 - class_balance)`. With 0 each file is drawn once per epoch, with 1 all classes
            equally often. The same on one process or many.
        split_views: Whether processes share the views of a file in evaluation. The score is the same; it evens out the
            work where there are few files with many views, and costs each process the opening of files.
        seed: Root of order and augmentation.
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

    kind: ClassVar[Kind]
    group: str = NONE  # files that folds keep together; see `groups`

    def __init__(
        self,
        root: str,
        *,
        size: int,
        augment: Augment,
        repeats: int,
        normalisation: Normalisation,
        batch_size: int,
        eval_batch_size: int | None,
        num_workers: int | Literal["auto"],
        max_bad_fraction: float,
        decode_timeout: float | None,
        decode_memory: float | None,
        augment_on: Literal["worker", "device"],
        class_balance: float,
        split_views: bool,
        seed: int | None,
        classes: str | list[str] | None = None,
        fold: str | None = None,
        values: str | list[str] | None = None,
    ) -> None:
        super().__init__()
        check_ranges(
            "data.",
            {
                **{"size": size, "repeats": repeats, "batch_size": batch_size, "eval_batch_size": eval_batch_size},
                **{"num_workers": num_workers, "max_bad_fraction": max_bad_fraction, "class_balance": class_balance},
                **{"decode_timeout": decode_timeout, "decode_memory": decode_memory},
            },
        )
        self.root = at_home(root)
        self.size, self.augment, self.repeats = size, augment, repeats
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.normalisation, self.max_bad_fraction, self.seed = normalisation, max_bad_fraction, seed
        self.decode_timeout, self.decode_memory, self.augment_on = decode_timeout, decode_memory, augment_on
        self.class_balance, self.split_views, self.classes = class_balance, split_views, classes
        self.fold = None if fold is None else Fold.parse(fold)
        self.values = value_columns(values)
        self._layout: Layout | None = None
        self._splits: dict[Split, SampleIndex] = {}
        self._classes: ClassNames | None = None
        self._train_loader: ClipLoader | None = None
        self._position: dict[str, Any] = {}

    # -- what a subclass says -----------------------------------------------------------------------------------

    @property
    @abstractmethod
    def clips_per_step(self) -> int:
        """Views per step on which this process trains."""

    @property
    def draws_per_sample(self) -> int:
        """Draws in a row of the same file in the training order; see `TrainBatches`."""
        return 1

    @property
    def test_split(self) -> Split:
        """The split of `test` and `predict`; of cross-validation without a test split the fold's files."""
        return "val" if self.fold is not None and not self.layout.has("test") else "test"

    def target(self, row: Row) -> Target | None:
        """Return the target of a file: here the numbers of `values`, or `None` for the class or classes of its row.

        A subclass with other targets makes them here from its list: `row.label` is then any text, and `row.others` are
        the columns unknown to mvrec. All rows must give the same type. It is called for every row at set-up, to find
        faults before the first step, and again when the file is read.

        Raises:
            UserError: The row has no valid target; begin with `row.where`. A `ValueError` becomes one.
        """
        return row_values(row, self.values)

    @property
    def target_of(self) -> TargetOf:
        """The function that makes the targets of rows, which loader processes get."""
        return self.target

    def find_layout(self) -> Layout:
        """Inspect the disk for the layout of the data set; once, after `prepare_data`."""
        return ListsAndFolders(self.root, self.kind)

    @abstractmethod
    def train_dataset(self, index: SampleIndex, *, seed: int) -> TrainSamples:
        """Return random views of the files of an index."""

    @abstractmethod
    def eval_dataset(self, split: Split) -> EvalSamples:
        """Return the views of "val" or "test" for scoring."""

    @abstractmethod
    def protocol(self, split: Split) -> Protocol:
        """Return how the files of "val" or "test" become views."""

    # -- common to all ------------------------------------------------------------------------------------------

    @property
    def val_protocol(self) -> Protocol:
        """The protocol of validation during training."""
        return self.protocol("val")

    @property
    def test_protocol(self) -> Protocol:
        """The protocol of `test` and `predict`."""
        return self.protocol("test")

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """The shape of the model's input without the batch: (C, T, H, W) of clips, (C, H, W) of images."""
        return self.val_protocol.view_shape

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in label order; available after `setup`."""
        return self._classes.names if self._classes is not None else ()

    @property
    def num_classes(self) -> int:
        """The number of classes; available after `setup`."""
        return len(self.class_names)

    @property
    def target_type(self) -> type[Target]:
        """The type of the files' targets; available after `setup`."""
        return next((index.target_type for index in self._splits.values()), NoTarget)

    @property
    def value_names(self) -> list[str]:
        """The names of the numbers to be predicted; available after `setup`, empty for other targets."""
        index = next(iter(self._splits.values()), None)
        return value_names(self.values, index.target(0)) if index and index.target_type is Values else []

    @property
    def layout(self) -> Layout:
        """The layout of the data set on disk.

        Raises:
            UserError: The root is missing, or holds no known layout, or one with a validation split although a fold
                is asked for.
        """
        if self._layout is None:
            check_root(self.root)
            layout = self.find_layout()
            self._layout = layout
            if self.fold is not None:
                self._layout = Folds(layout, self.fold, target_of=self.target_of, group=self.group)
        return self._layout

    def index(self, split: Split) -> SampleIndex:
        """Return the rows of a split that `setup` has read.

        Raises:
            UserError: The data set has no such split.
        """
        if split == "test":
            split = self.test_split
        if split not in self._splits:
            raise UserError(
                f"{self.root} has no split {split!r}: {self.layout.missing(split)}"
                + (" (training without validation: --trainer.limit_val_batches 0)" if split == "val" else "")
            )
        return self._splits[split]

    def setup(self, stage: str) -> None:
        """Read the lists or folders of a stage; no file is opened."""
        splits: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",)}
        named: Sequence[str] = ()
        if self._classes is None:
            named = known_class_names(self.classes) if self.classes is not None else self.layout.class_names()
        for split in ("train", *splits.get(stage, (self.test_split,))):
            if split in self._splits:
                continue
            classes = self._classes if self._classes is not None and self._classes.names else None
            index = self.layout.index(split, class_names=classes or named or None, target_of=self.target_of)
            if index is None:
                continue
            if self._splits and index.target_type is not self.target_type:
                noun, others = index.target_type.noun, self.target_type.noun
                raise UserError(f"{self.layout.place(split)}: gives {noun} per file, the other splits give {others}")
            self._splits[split] = index
            self._classes = self._classes or index.classes
        if not self._splits:
            raise UserError(f"{self.root}: no {self.kind.noun}s in it; expected {self.layout.expected()}")
        self._check_classes()
        if stage == "fit":
            self._check_training(self.index("train"))

    def _check_classes(self) -> None:
        """Refuse data with nothing to tell apart."""
        if self.num_classes == 1:
            raise UserError(f"{self.root}: it has only the class {self.class_names[0]!r}, training needs two")

    def _check_training(self, index: SampleIndex) -> None:
        """Warn before the first step of data with which training will suffer."""
        draws = self.draws_per_batch * self._accumulate
        if draws > len(index):
            log.warning(
                "a step takes %d %ss and the training split has %d: it sees some of them several times; lower "
                "data.batch_size",
                draws,
                self.kind.noun,
                len(index),
            )
        single = [self.class_names[label] for label, count in enumerate(self.class_counts) if count == 1]
        if single:
            more = f" and {len(single) - 3} more" if len(single) > 3 else ""
            named = ", ".join(map(repr, single[:3]))
            log.warning("classes with a single training %s: %s%s", self.kind.noun, named, more)
        if self.class_balance and self.target_type is not ClassIndex:
            raise UserError("data.class_balance is for data with one class per file")

    @property
    def class_counts(self) -> list[int]:
        """Return the number of training files of each class, in label order; available after `setup`."""
        return [int(count) for count in self.index("train").class_counts()]

    @property
    def most_folds(self) -> int:
        """The number of folds into which `fold` could split the data; 0 if they have their own validation split."""
        if not self.layout.splits_files:
            return 0
        counts = [self._splits[split].class_counts() for split in ("train", "val") if split in self._splits]
        return min((int(sum(of_class)) for of_class in zip(*counts, strict=True)), default=0)

    def record(self) -> dict[str, Any]:
        """Return the facts for a run's record: the splits so far with sizes and hashes, and the classes."""
        splits = {
            split: {"files": len(index), "sha256": index.digest()} for split, index in sorted(self._splits.items())
        }
        return {
            "module": type(self).__name__,
            "root": str(self.root),
            "layout": self.layout.title,
            **({} if self.fold is None else {"fold": str(self.fold)}),
            "splits": splits,
            "class_names": list(self.class_names),
            "protocol": self.test_protocol.as_dict(),
        }

    def train_dataloader(self) -> ClipLoader:
        """Return random views, in an order that depends on the seed and the epoch alone."""
        index, seed = self.index("train"), self.seed or 0
        batches = TrainBatches(
            len(index),
            batch_size=self.batch_size,
            seed=seed,
            rank=self._rank,
            world_size=self._world_size,
            accumulate=self._accumulate,
            repeats=self.draws_per_sample,
            labels=index.labels if self.class_balance else None,
            balance=self.class_balance,
            same_epoch=self.trainer is not None and self.trainer.overfit_batches > 0,  # type: ignore[attr-defined]
        )
        dataset = self.train_dataset(index, seed=seed)
        self._train_loader = self._loader(dataset, batches, max_bad_fraction=self.max_bad_fraction)
        self._train_loader.load_state_dict(self._position)
        return self._train_loader

    def val_dataloader(self) -> ClipLoader:
        """Return every validation file once over all processes."""
        return self._eval_loader("val")

    def test_dataloader(self) -> ClipLoader:
        """Return every test file once over all processes."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> Unwrapped:
        """Return the files of the test split."""
        return Unwrapped(self.test_dataloader())

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the training data, for checkpoints.

        Lightning restores the state of loaders itself, but not of those that it has requested early, to count steps for
        the learning-rate schedule.
        """
        return self._train_loader.state_dict() if self._train_loader is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue in the training data where a checkpoint was saved."""
        self._position = state_dict
        before, now = state_dict.get("draws_per_step"), self.draws_per_batch * self._accumulate
        training = self.trainer is None or self.trainer.state.fn == "fit"  # other commands do not resume
        if training and before not in (None, now):
            log.warning(
                "a step drew %d files when the checkpoint was saved and draws %d now: the order of the files "
                "continues, the steps differ (files per step = "
                "data.batch_size x processes x trainer.accumulate_grad_batches)",
                before,
                now,
            )

    def on_after_batch_transfer(self, batch: ClipBatch, dataloader_idx: int) -> ClipBatch:
        """Normalise uint8 pixels to float on the device; in training also augment what is left to it."""
        training = self.trainer is not None and self.trainer.training
        augment = self.device_augment if training else None
        return batch.with_clips(batch_pixels(batch.clips, batch.seeds, augment, normalisation=self.normalisation))

    @property
    def worker_augment(self) -> Augment:
        """The part of the augmentation that loader workers apply."""
        return self.augment if self.augment_on == "worker" else replace(self.augment, rand_augment=None)

    @property
    def device_augment(self) -> Augment:
        """The part that the device applies to whole batches."""
        return self.augment if self.augment_on == "device" else replace(self.augment, rand_augment=None)

    def _eval_loader(self, split: Split) -> ClipLoader:
        dataset = self.eval_dataset(split)
        size = self.eval_batch_size or max(1, self.clips_per_step // self.protocol(split).num_views)
        batches = EvalBatches(
            len(dataset),
            batch_size=size,
            rank=self._rank,
            world_size=self._world_size,
            shared_views=self.protocol(split).num_views if self.split_views else 0,
        )
        return self._loader(dataset, batches)

    def _loader(
        self,
        dataset: TrainSamples | EvalSamples,
        batches: TrainBatches | EvalBatches,
        max_bad_fraction: float | None = None,
    ) -> ClipLoader:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return ClipLoader(
            dataset,
            batches,
            num_workers=worker_count(self.num_workers, processes=self._processes_here),
            pin_memory=on_gpu,
            max_bad_fraction=max_bad_fraction,
            noun=self.kind.noun,
            limits=self._limits(),
            quarantine=self._quarantine(),
        )

    def _limits(self) -> Limits | None:
        timeout = collective_timeout(self.trainer.strategy) if self.trainer is not None else None
        patience = timeout.total_seconds() if timeout is not None and self._world_size > 1 else None
        return reading_limits(self.decode_timeout, self.decode_memory, patience=patience)

    def _quarantine(self) -> Path | None:
        loggers = self.trainer.loggers if self.trainer is not None else []
        return Path(loggers[0].save_dir) / "quarantine" if loggers and loggers[0].save_dir else None

    @property
    def _processes_here(self) -> int:
        return max(self.trainer.num_devices, 1) if self.trainer is not None else 1

    @property
    def draws_per_batch(self) -> int:
        """Draws from the training order per batch, over all processes."""
        return self.batch_size * self._world_size

    @property
    def _accumulate(self) -> int:
        return self.trainer.accumulate_grad_batches if self.trainer is not None else 1

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1
