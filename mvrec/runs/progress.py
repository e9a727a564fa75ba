"""What a run says while it runs: how fast it is, how long it waits for data, when it will be done."""

import logging
import math
import time
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, Timer, TQDMProgressBar
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from mvrec.machine import cores_per_process
from mvrec.run_data import data_of

log = logging.getLogger(__name__)


HIGH_WAIT = 0.2  # share of the time waiting for data from which on it is worth a word


def starvation_advice(data_wait: float, *, num_workers: int, cores: int, device_augment: bool) -> str:
    """One line for a run that waits for its data.

    Loader processes that are always busy deliver in proportion to their number, so n of them that keep the device
    waiting for a share w of the time become enough at n / (1 - w). Without loader processes the training process reads
    the data itself, and as many are needed as the reading takes longer than the work.

    Args:
        data_wait: Share of 0..1 of the time that was spent waiting.
        num_workers: Loader processes of this process.
        cores: Cores that this process may count on.
        device_augment: RandAugment is on the device already.
    """
    data_wait = min(data_wait, 0.99)
    needed = math.ceil(num_workers / (1 - data_wait) if num_workers else data_wait / (1 - data_wait))
    text = (
        f"{100 * data_wait:.0f} % of the time goes by waiting for data: about {needed} loader workers per process "
        f"would feed the device, there are {num_workers} (data.num_workers)"
    )
    if needed <= cores:
        return text
    cheaper = ["files made by `mvrec prep resize --preset fastdecode`"]
    if not device_augment:
        cheaper.append("data.augment_on=device")
    return f"{text}; with {cores} cores per process, make reading cheaper: {' or '.join(cheaper)}"


def _log_every(trainer: L.Trainer) -> float:
    """Return steps between two lines; with 0 there are none."""
    return trainer.log_every_n_steps or math.inf  # type: ignore[attr-defined]  # Lightning sets it in a helper class


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
        self._laps = 0
        self._advised = False
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
        self._laps += 1
        if self._laps > 1 and self.data_wait >= HIGH_WAIT and not self._advised:  # the first lap starts the workers
            self._advised = True
            self._advise(trainer)
        mark = self._mark
        self._restart()
        self._mark = mark

    def _advise(self, trainer: L.Trainer) -> None:
        loader: Any = trainer.train_dataloader
        data = data_of(trainer)
        log.info(
            starvation_advice(
                self.data_wait,
                num_workers=getattr(loader, "num_workers", 0),
                cores=cores_per_process(trainer.num_devices),
                device_augment=data.augment_on == "device",
            )
        )


class EndReason(L.Callback):
    """Says in one line why a run ends before its last epoch."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say it once training is over."""
        why = end_reason(trainer)
        if why:  # Lightning has counted the epoch by now, also one that was not finished
            log.info("training stops in epoch %d at step %d: %s", trainer.current_epoch, trainer.global_step, why)


def end_reason(trainer: L.Trainer) -> str:
    """Why a trainer stops before its last epoch, or ""."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    if any((left := timer.time_remaining()) is not None and left <= 0 for timer in timers):
        return "the time of trainer.max_time is up"
    for callback in trainer.early_stopping_callbacks if trainer.should_stop else []:
        if callback is not None and callback.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
            words = (callback.stopping_reason_message or "").replace("Signaling Trainer to stop.", "")
            return f"EarlyStopping: {words.strip()}"
    if 0 < (trainer.max_steps or 0) <= trainer.global_step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        return f"trainer.max_steps={trainer.max_steps} is reached"
    return "a callback asked for it" if trainer.should_stop else ""


class LineProgress(ProgressBar):
    """One line per log step, for output that is no terminal: batch jobs, files, CI.

    Args:
        throughput: Where speed and waiting are measured.
    """

    def __init__(self, throughput: Throughput) -> None:
        super().__init__()
        self.throughput = throughput
        self._enabled = True

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
        if not self._enabled or done % _log_every(trainer):
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
    return f"{data_of(trainer).val_protocol.view_noun}s"


class BarProgress(TQDMProgressBar):
    """Lightning's progress bar, for terminals, with the same figures as the lines.

    Args:
        throughput: Where speed and waiting are measured.
    """

    def __init__(self, throughput: Throughput) -> None:
        super().__init__(leave=True)
        self.throughput = throughput
        self._loss = "-"

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the loss where it is logged only, since reading waits for the device."""
        loss = trainer.callback_metrics.get("train/loss") if (batch_idx + 1) % _log_every(trainer) == 0 else None
        if loss is not None:
            self._loss = f"{float(loss):.4f}"
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """What stands beside the bar."""
        speed = self.throughput
        return {
            "loss": self._loss,
            "lr": f"{trainer.optimizers[0].param_groups[0]['lr']:.3g}" if trainer.optimizers else "-",
            f"{_inputs(trainer)}/s": f"{speed.clips_per_second:.1f}",
            "data wait": f"{100 * speed.data_wait:.0f} %",
        }
