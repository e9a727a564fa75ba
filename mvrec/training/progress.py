"""What a run says while it runs: how fast it is, how long it waits for data, when it will be done."""

import logging
import time
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar

log = logging.getLogger(__name__)


def _log_every(trainer: L.Trainer) -> int:
    return trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it in a helper class


class Throughput(L.Callback):
    """Measures clips per second and the share of time spent waiting for data, and logs both.

    Time in validation and checkpointing between steps is left out of both.

    Attributes:
        clips_per_second: Over all processes, since the last log step.
        data_wait: Share of 0..1 of the time that this process waited for its next batch.
        seconds_per_step: Mean since the last log step.
    """

    def __init__(self) -> None:
        self.clips_per_second = 0.0
        self.data_wait = 0.0
        self.seconds_per_step = 0.0
        self._restart()

    def _restart(self) -> None:
        self._clips = self._steps = 0
        self._waited = self._worked = 0.0
        self._mark: float | None = None

    def _lap(self) -> float:
        now = time.perf_counter()
        lap = 0.0 if self._mark is None else now - self._mark
        self._mark = now
        return lap

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, also of an epoch that is resumed in its middle."""
        self._mark = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock: the first batch is waited for from here."""
        self._mark = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validation is neither waiting nor training."""
        self._mark = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The batch is here: waiting ends."""
        self._waited += self._lap()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The batch is done: work ends."""
        self._worked += self._lap()
        self._clips += len(batch) * trainer.world_size
        self._steps += 1
        if (batch_idx + 1) % _log_every(trainer):
            return
        seconds = self._waited + self._worked
        if seconds > 0:
            self.clips_per_second = self._clips / seconds
            self.data_wait = self._waited / seconds
            self.seconds_per_step = seconds / self._steps
            values = {"train/clips_per_second": self.clips_per_second, "train/data_wait": self.data_wait}
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step - 1)
        mark = self._mark
        self._restart()
        self._mark = mark


class LineProgress(ProgressBar):
    """One line per log step, for output that is no terminal: batch jobs, files, CI.

    Args:
        throughput: Where speed and waiting are measured.
    """

    def __init__(self, throughput: Throughput) -> None:
        super().__init__()
        self.throughput = throughput

    def disable(self) -> None:
        """Lightning turns the progress of all ranks but the first off."""
        self._enabled = False

    def enable(self) -> None:
        """And the first one's on."""
        self._enabled = True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print every `log_every_n_steps` batches."""
        done = batch_idx + 1
        if not getattr(self, "_enabled", True) or done % _log_every(trainer):
            return
        speed = self.throughput
        loss = trainer.callback_metrics.get("train/loss")
        parts = [
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs if (trainer.max_epochs or -1) > 0 else '?'}",
            f"step {done}/{int(trainer.num_training_batches)}",
            f"loss {float(loss):.4f}" if loss is not None else "",
            f"lr {trainer.optimizers[0].param_groups[0]['lr']:.3g}",
            f"{speed.clips_per_second:.1f} {_inputs(trainer)}/s",
            f"data wait {100 * speed.data_wait:.0f} %",
            f"ETA {self._eta(trainer)}",
        ]
        log.info("  ".join(part for part in parts if part))

    def _eta(self, trainer: L.Trainer) -> str:
        total = int(trainer.estimated_stepping_batches)
        batches = max(total - trainer.global_step, 0) * trainer.accumulate_grad_batches
        return str(timedelta(seconds=round(batches * self.throughput.seconds_per_step)))


def _inputs(trainer: L.Trainer) -> str:
    """What the network is fed with."""
    shape = getattr(trainer.datamodule, "clip_shape", None)  # type: ignore[attr-defined]
    return "images" if shape is not None and len(shape) == 3 else "clips"


class BarProgress(TQDMProgressBar):
    """Lightning's progress bar, for terminals, with the same figures as the lines.

    Args:
        throughput: Where speed and waiting are measured.
    """

    def __init__(self, throughput: Throughput) -> None:
        super().__init__(leave=True)
        self.throughput = throughput

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """What stands beside the bar."""
        speed = self.throughput
        loss = trainer.callback_metrics.get("train/loss")
        return {
            "loss": f"{float(loss):.4f}" if loss is not None else "-",
            "lr": f"{trainer.optimizers[0].param_groups[0]['lr']:.3g}" if trainer.optimizers else "-",
            f"{_inputs(trainer)}/s": f"{speed.clips_per_second:.1f}",
            "data wait": f"{100 * speed.data_wait:.0f} %",
        }
