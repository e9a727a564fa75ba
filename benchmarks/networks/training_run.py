"""Steps of mvrec's own training loop on random clips, to count how often they wait for the device."""

import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from mvrec.data.loading.batch import ClipBatch
from mvrec.data.views.normalisation import Normalisation
from mvrec.data.views.rand_augment import RandAugment
from mvrec.data.views.targets import ClassIndex
from mvrec.data.views.transforms import Augment, RandomErasing, batch_pixels
from mvrec.models.backbone import Backbone
from mvrec.tasks import Classification
from mvrec.tasks.classification.mixing import Mixing
from mvrec.training.non_finite import NonFiniteGuard

FIRST, LAST = 4, 9  # the counted steps: earlier ones create states, fill caches and choose kernels
SYNCHRONISES = "synchronizing CUDA operation"  # of torch's warning


class RandomClips(L.LightningDataModule):
    """Random clips in memory, with the augmentation that mvrec's data modules run on the device (`RecognitionData`)."""

    seed, augment_on, target_type, draws_per_batch, test_split = 0, "device", ClassIndex, 1, "val"
    normalisation = Normalisation()
    augment = Augment(rand_augment=RandAugment(probability=1.0), random_erasing=RandomErasing(probability=1.0))

    def __init__(self, shape: tuple[int, ...], num_classes: int, batch: int) -> None:
        super().__init__()
        self.clip_shape, self.clips_per_step, self.batch = shape, batch, batch
        self.class_names = [str(number) for number in range(num_classes)]

    def record(self) -> dict[str, Any]:
        return {"root": "random clips"}

    def index(self, split: str) -> range:
        return range(self.batch)

    def on_after_batch_transfer(self, batch: ClipBatch, dataloader_idx: int) -> ClipBatch:
        pixels = batch_pixels(batch.clips, batch.seeds, self.augment, normalisation=self.normalisation)
        return batch.with_clips(pixels)

    def train_dataloader(self) -> DataLoader[ClipBatch]:
        return DataLoader([self._batch(number) for number in range(LAST + 1)], batch_size=None, collate_fn=_pinned)

    def _batch(self, number: int) -> ClipBatch:
        draws = torch.Generator().manual_seed(number)
        clips = torch.randint(0, 256, (self.batch, *self.clip_shape), dtype=torch.uint8, generator=draws)
        rows = torch.arange(self.batch)
        return ClipBatch(clips, rows % len(self.class_names), rows, torch.zeros_like(rows), rows + number)


def _pinned(batch: ClipBatch) -> ClipBatch:
    return batch.pin_memory() if torch.cuda.is_available() else batch


class CountWaits(L.Callback):
    """Counts torch's warnings about operations that wait for the device, in the steps from `FIRST` to `LAST`."""

    def __init__(self) -> None:
        self.places: list[str] = []
        self._stack = ExitStack()
        self._seen: list[warnings.WarningMessage] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == FIRST - 1:
            self._set("warn")
            self._seen = self._stack.enter_context(warnings.catch_warnings(record=True)) or []
            warnings.simplefilter("always")
        elif batch_idx == LAST - 1:  # the last batch of an epoch is logged, which reads the loss
            self._set("default")
            self._stack.close()
            waits = [entry for entry in self._seen if SYNCHRONISES in str(entry.message)]
            self.places = [f"{'/'.join(Path(entry.filename).parts[-2:])}:{entry.lineno}" for entry in waits]

    def _set(self, mode: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode(mode)


def waits_per_step(network: Backbone, device: str, folder: Path, *, batch: int) -> tuple[float, list[str]]:
    """Train a network for a few steps; return the waits per step, and the files and lines that wait.

    On a CPU nothing waits, so there it only tries that the steps run.
    """
    counter = CountWaits()
    task = Classification(network, mixing=Mixing(), label_smoothing=0.1)
    trainer = L.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed",
        max_epochs=1,
        limit_val_batches=0,
        log_every_n_steps=100,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[NonFiniteGuard(folder), counter],
    )
    trainer.fit(task, RandomClips(network.input_shape, network.num_classes, batch))
    return len(counter.places) / (LAST - FIRST), sorted(set(counter.places))
