"""Progress of a run: its speed, its time waiting for data, its expected end."""

import logging
import math
import time
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, Timer, TQDMProgressBar
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from torch.optim import Optimizer

from mvrec.machine import cores_per_process
from mvrec.run_data import data_of

log = logging.getLogger(__name__)


HIGH_WAIT = 0.2  # share of the time waiting for data from which advice is given


def starvation_advice(data_wait: float, *, num_workers: int, cores: int, device_augment: bool) -> str:
    """Return one line of advice for a run that waits for its data.

    Busy loader workers deliver in proportion to their number, so n workers that keep the device waiting for a share w
    of the time would suffice at n / (1 - w). Without workers the training process reads the data itself, and their
    number is the ratio of reading to work.

    Args:
        data_wait: Share (0..1) of the time spent waiting.
        num_workers: Loader workers of this process.
        cores: Cores of this process.
        device_augment: Whether RandAugment runs on the device already.
    """
    data_wait = min(data_wait, 0.99)
    needed = math.ceil(num_workers / (1 - data_wait) if num_workers else data_wait / (1 - data_wait))
    text = (
        f"{100 * data_wait:.0f} % of the time is spent waiting for data: about {needed} loader workers per process "
        f"would feed the device, there are {num_workers} (data.num_workers)"
    )
    if needed <= cores:
        return text
    cheaper = ["files made by `mvrec prep resize --preset fastdecode`"]
    if not device_augment:
        cheaper.append("data.augment_on=device")
    return f"{text}; with {cores} cores per process, make reading cheaper: {' or '.join(cheaper)}"


def _log_every(trainer: L.Trainer) -> float:
    """Return the number of steps between two lines; with 0 there are none."""
    return trainer.log_every_n_steps or math.inf  # type: ignore[attr-defined]  # Lightning sets it in a helper class


def is_logged(trainer: L.Trainer) -> bool:
    """Return whether Lightning writes the values of the present training step to the loggers."""
    return (trainer.global_step + 1) % _log_every(trainer) == 0


class Throughput(L.Callback):
    """Measures clips per second and the share of time spent waiting for data, and logs both.

    Time of validation and checkpointing between steps is excluded from both.

    Attributes:
        clips_per_second: Clips or images over all processes, since the last log step.
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
        """Start the clock, also in the middle of a resumed epoch; log each epoch, however short, once at least."""
        self._mark = time.perf_counter()
        trainer.log_every_n_steps = min(trainer.log_every_n_steps, trainer.num_training_batches)  # type: ignore

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock: the wait for the first batch begins."""
        self._mark = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restart the clock: validation is neither waiting nor training."""
        self._mark = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop the time of waiting: the batch is here."""
        self._waited += self._lap()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the time of work: the batch is done."""
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
            values = {
                f"train/{_inputs(trainer)}_per_second": self.clips_per_second,
                "train/data_wait": self.data_wait,
            }
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
    """Logs one line about the reason why a run ends before its last epoch."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log it once training is over."""
        reason = end_reason(trainer)
        if reason:  # Lightning has counted the epoch by now, even an unfinished one
            log.info("training stops in epoch %d at step %d: %s", trainer.current_epoch, trainer.global_step, reason)


def end_reason(trainer: L.Trainer) -> str:
    """Return why a trainer stops before its last epoch, or ""."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    if any((left := timer.time_remaining()) is not None and left <= 0 for timer in timers):
        return "trainer.max_time is over"
    for callback in trainer.early_stopping_callbacks if trainer.should_stop else []:
        if callback is not None and callback.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
            words = (callback.stopping_reason_message or "").replace("Signaling Trainer to stop.", "")
            return f"EarlyStopping: {words.strip()}"
    if 0 < (trainer.max_steps or 0) <= trainer.global_step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        return f"trainer.max_steps={trainer.max_steps} is reached"
    return "a callback asked for it" if trainer.should_stop else ""


class LineProgress(ProgressBar):
    """One line per log step, for output outside a terminal: batch jobs, files, CI.

    Args:
        throughput: Measures speed and waiting.
    """

    def __init__(self, throughput: Throughput) -> None:
        super().__init__()
        self.throughput = throughput
        self._enabled = True

    def disable(self) -> None:
        """Turn the progress off; Lightning does so on all ranks but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Turn the progress on; Lightning does so on the first rank."""
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
            f"lr {rates_text(trainer.optimizers[0])}",
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
    """Return the noun of the network's inputs."""
    return f"{data_of(trainer).val_protocol.view_noun}s"


def rates(optimizer: Optimizer) -> dict[str, float]:
    """Return the present rates that a run logs: the head's, and with layer decay that of the first trained layer."""
    shares = [group.get("lr_scale", 1.0) for group in optimizer.param_groups]
    first, head = (optimizer.param_groups[shares.index(pick(shares))]["lr"] for pick in (min, max))
    return {"lr": head} if min(shares) == max(shares) else {"lr": head, "lr_first_layer": first}


def rates_text(optimizer: Optimizer) -> str:
    """Return the present rates, with the names of their groups if they differ."""
    values = rates(optimizer)
    if len(values) == 1:
        return f"{values['lr']:.3g}"
    return f"{values['lr']:.3g} (head), {values['lr_first_layer']:.3g} (first layer)"


class BarProgress(TQDMProgressBar):
    """Lightning's progress bar, for terminals, with the same figures as the lines.

    Args:
        throughput: Measures speed and waiting.
    """

    def __init__(self, throughput: Throughput) -> None:
        super().__init__(leave=True)
        self.throughput = throughput
        self._loss = "-"

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the loss only where it is logged, because reading waits for the device."""
        loss = trainer.callback_metrics.get("train/loss") if (batch_idx + 1) % _log_every(trainer) == 0 else None
        if loss is not None:
            self._loss = f"{float(loss):.4f}"
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return the figures next to the bar."""
        speed = self.throughput
        return {
            "loss": self._loss,
            "lr": f"{rates(trainer.optimizers[0])['lr']:.3g}" if trainer.optimizers else "-",
            f"{_inputs(trainer)}/s": f"{speed.clips_per_second:.1f}",
            "data wait": f"{100 * speed.data_wait:.0f} %",
        }
