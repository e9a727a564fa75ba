"""Videos in the layout of Kinetics, for any number of classes."""

from pathlib import Path
from typing import Any, Literal

import lightning as L

from mvrec.data.batch import ClipBatch
from mvrec.data.clips import EvalClips, TrainClips
from mvrec.data.index import VideoIndex, find_split
from mvrec.data.loader import ClipLoader, EvalBatches, TrainBatches, Unwrapped, worker_count
from mvrec.data.protocol import Protocol, Views
from mvrec.data.sampling import ClipSpec
from mvrec.data.transforms import Augment, Normalisation, erase
from mvrec.data.video import Decoder
from mvrec.errors import UserError

Split = Literal["train", "val", "test"]


class Kinetics(L.LightningDataModule):
    """Clips of `root/<split>/<class name>/<video>` or of the lists `root/<split>.csv`, split = train, val, test.

    The number of classes comes from `root/classes.txt`, else from the training split.

    Args:
        root: The data set.
        clip: Frames of a clip.
        size: Side of the square clips that the model sees, in pixels.
        augment: Training augmentation.
        repeats: Augmented views per decoded training clip.
        normalisation: Mean and standard deviation.
        val_views: Views per video while training goes on.
        test_views: Views per video for `test` and `predict`.
        batch_size: Videos per process and training step; the model sees `batch_size * repeats` clips.
        eval_batch_size: Videos per process and evaluation step; by default as many as keep the number of clips
            at that of a training step.
        num_workers: Loader processes per process; "auto" takes the cores there are.
        decoder: What reads the files.
        max_bad_fraction: Training stops when a greater share of the videos cannot be read.
        seed: Root of order and augmentation; `seed_everything`'s by default.

    Raises:
        UserError: From `setup`: a missing or empty root, split or class folder.
    """

    def __init__(
        self,
        root: str,
        *,
        clip: ClipSpec = ClipSpec(),  # noqa: B008 - frozen dataclasses, and jsonargparse shows them in --help
        size: int = 224,
        augment: Augment = Augment(),  # noqa: B008
        repeats: int = 1,
        normalisation: Normalisation = Normalisation(),  # noqa: B008
        val_views: Views = Views(num_clips=1),  # noqa: B008
        test_views: Views = Views(),  # noqa: B008
        batch_size: int = 8,
        eval_batch_size: int | None = None,
        num_workers: int | Literal["auto"] = "auto",
        decoder: Decoder = "auto",
        max_bad_fraction: float = 0.05,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in {"size": size, "repeats": repeats, "batch_size": batch_size}.items():
            if value < 1:
                raise UserError(f"data.{name} must be at least 1, got {value}")
        if not 0 <= max_bad_fraction <= 1:
            raise UserError(f"data.max_bad_fraction must lie in 0..1, got {max_bad_fraction}")
        self.root = Path(root).expanduser()
        self.clip, self.size, self.augment, self.repeats = clip, size, augment, repeats
        self.normalisation = normalisation
        self.val_protocol = Protocol(clip, val_views, size, normalisation)
        self.test_protocol = Protocol(clip, test_views, size, normalisation)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.decoder = num_workers, decoder
        self.max_bad_fraction, self.seed = max_bad_fraction, seed
        self._splits: dict[Split, VideoIndex] = {}
        self._class_names: tuple[str, ...] = ()
        self._train_loader: ClipLoader | None = None
        self._position: dict[str, Any] = {}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in label order; known after `setup`."""
        return self._class_names

    @property
    def num_classes(self) -> int:
        """How many classes there are; known after `setup`."""
        return len(self._class_names)

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """(C, T, H, W) of the clips that the model sees."""
        return 3, self.clip.num_frames, self.size, self.size

    @property
    def clips_per_step(self) -> int:
        """Clips that this process trains on per step."""
        return self.batch_size * self.repeats

    def index(self, split: Split) -> VideoIndex:
        """The rows of a split that `setup` has read.

        Raises:
            UserError: The data set has no such split.
        """
        if split not in self._splits:
            raise UserError(
                f"{self.root} has no split {split!r}: neither a list {split}.csv nor a folder {split}/"
                + (" (training without validation: --trainer.limit_val_batches 0)" if split == "val" else "")
            )
        return self._splits[split]

    def setup(self, stage: str) -> None:
        """Read the lists or folders that a stage needs; no video is opened."""
        wanted: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",)}
        for split in ("train", *wanted.get(stage, ("test",))):
            if split in self._splits:
                continue
            index = find_split(self.root, split, class_names=self._class_names or None)
            if index is None:
                continue
            self._splits[split] = index
            self._class_names = self._class_names or index.class_names
        if not self._splits:
            raise UserError(
                f"{self.root}: no videos found; expected {self.root}/train/<class name>/<video> and the same for "
                "val and test, or the lists train.csv, val.csv and test.csv"
            )
        if self.num_classes < 2:
            raise UserError(f"{self.root}: only the class {self.class_names[0]!r} was found, training needs two")
        if stage == "fit":
            self.index("train")

    def train_dataloader(self) -> ClipLoader:
        """Random clips, in an order that only the seed and the epoch decide."""
        index, seed = self.index("train"), self.seed or 0
        batches = TrainBatches(
            len(index), batch_size=self.batch_size, seed=seed, rank=self._rank, world_size=self._world_size
        )
        dataset = TrainClips(
            index, self.clip, self.size, self.augment, repeats=self.repeats, decoder=self.decoder, seed=seed
        )
        self._train_loader = self._loader(dataset, batches, max_bad_fraction=self.max_bad_fraction)
        self._train_loader.load_state_dict(self._position)
        return self._train_loader

    def val_dataloader(self) -> ClipLoader:
        """Every validation video once over all processes."""
        return self._eval_loader("val", self.val_protocol)

    def test_dataloader(self) -> ClipLoader:
        """Every test video once over all processes."""
        return self._eval_loader("test", self.test_protocol)

    def predict_dataloader(self) -> Unwrapped:
        """The videos of the test split."""
        return Unwrapped(self.test_dataloader())

    def state_dict(self) -> dict[str, Any]:
        """The position in the training data, for checkpoints.

        Lightning restores the state of loaders by itself, but not of those that it has asked for early, to count steps
        for the learning-rate schedule.
        """
        return self._train_loader.state_dict() if self._train_loader is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have the training data go on where a checkpoint was saved."""
        self._position = state_dict

    def on_after_batch_transfer(self, batch: ClipBatch, dataloader_idx: int) -> ClipBatch:
        """uint8 clips to normalised float on the device, with random erasing in training."""
        clips = self.normalisation(batch.clips)
        if self.trainer is not None and self.trainer.training and self.augment.random_erasing is not None:
            clips = erase(clips, batch.seeds, self.augment.random_erasing)
        return batch.with_clips(clips)

    def _eval_loader(self, split: Split, protocol: Protocol) -> ClipLoader:
        index = self.index(split)
        size = self.eval_batch_size or max(1, self.clips_per_step // protocol.num_views)
        batches = EvalBatches(len(index), batch_size=size, rank=self._rank, world_size=self._world_size)
        return self._loader(EvalClips(index, protocol, self.decoder), batches)

    def _loader(
        self,
        dataset: TrainClips | EvalClips,
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
        )

    @property
    def _processes_here(self) -> int:
        return max(self.trainer.num_devices, 1) if self.trainer is not None else 1

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1
