"""Callbacks for tests: what every step of a run was trained on, and checkpoints at any batch."""

import json
import os
import signal
import time
from pathlib import Path

import lightning as L

from mvrec.errors import UserError
from mvrec.lightning_private import log_train_step


class StepRecorder(L.Callback):
    """Appends a line per batch to `folder/rank_<r>.jsonl`: optimiser step, epoch, batch, rows of the samples."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.folder.mkdir(parents=True, exist_ok=True)
        entry = {"step": trainer.global_step, "epoch": trainer.current_epoch, "batch": batch_idx}
        entry |= {"ids": batch.sample_ids.tolist(), "seeds": batch.seeds.tolist()}
        with (self.folder / f"rank_{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")


class SaveAt(L.Callback):
    """Saves a checkpoint after some batches, counted from the start, and at the end of validations after others."""

    def __init__(self, folder: str, batches: list[int], validations: list[int]) -> None:
        self.folder, self.batches, self.validations, self.done = Path(folder), batches, validations, 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.done += 1
        if self.done in self.batches:
            trainer.save_checkpoint(self.folder / f"batch{self.done}.ckpt")

    def on_validation_end(self, trainer, pl_module):
        if self.done in self.validations:
            trainer.save_checkpoint(self.folder / f"batch{self.done}.ckpt")


class BreakLoss(L.Callback):
    """Makes the loss of one batch on one process not a number."""

    def __init__(self, batch: int, rank: int) -> None:
        self.batch, self.rank = batch, rank

    def on_before_backward(self, trainer, pl_module, loss):
        if (trainer.global_step, trainer.global_rank) == (self.batch, self.rank):
            loss.mul_(float("nan"))


def steps(folder: Path) -> dict[int, list[int]]:
    """The rows that each optimiser step of all processes was trained on, sorted."""
    steps: dict[int, list[int]] = {}
    for path in sorted(folder.glob("rank_*.jsonl")):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            steps.setdefault(entry["step"], []).extend(entry["ids"])
    return {step: sorted(rows) for step, rows in steps.items()}


class Slow(L.Callback):
    """Takes its time over every batch on one process, or on all."""

    def __init__(self, seconds: float, rank: int | None = None) -> None:
        self.seconds, self.rank = seconds, rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.rank in (None, trainer.global_rank):
            time.sleep(self.seconds)


class Stand(L.Callback):
    """Hangs at a batch on one process, which writes its id to `folder/standing`."""

    def __init__(self, batch: int, rank: int, folder: str, *, stop: bool, seconds: float = 3600.0) -> None:
        self.batch, self.rank, self.folder, self.stop, self.seconds = batch, rank, Path(folder), stop, seconds

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.fit_loop.total_batch_idx + 1, trainer.global_rank) == (self.batch, self.rank):
            (self.folder / "standing").write_text(str(os.getpid()))
            if self.stop:
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(self.seconds)


class EndAt(L.Callback):
    """Ends a run after a batch that is counted from the start: at once, at the next batch, or in a validation.

    The ways: "stop" (`should_stop`), "signal", "save" (an error of ours right after saving), "interrupt" (Ctrl-C),
    "error" and "error in validation" (errors of others). A signal goes to one of the processes, as from a cluster.
    """

    def __init__(self, batch: int, way: str, rank: int = 0) -> None:
        self.batch, self.way, self.rank, self.done = batch, way, rank, 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.done += 1
        if self.done != self.batch:
            return
        if self.way == "stop":
            trainer.should_stop = True
        elif self.way == "signal" and trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.way == "save":
            log_train_step(trainer)
            trainer.save_checkpoint(Path(trainer.loggers[0].save_dir) / "checkpoints/last.ckpt")
            raise UserError("the test ends the run here")

    def on_train_batch_start(self, *args):
        if self.done == self.batch and self.way in ("interrupt", "error"):
            raise KeyboardInterrupt if self.way == "interrupt" else ZeroDivisionError

    def on_validation_batch_start(self, *args):
        if self.done == self.batch and self.way == "error in validation":
            raise ZeroDivisionError
