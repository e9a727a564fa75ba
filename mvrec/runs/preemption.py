"""Ending a run when a cluster asks for it, with nothing lost, and having it go on later.

Lightning saves inside the signal handler, where one process may wait for the others in a collective that they never
enter. Here handlers only raise a flag; the processes agree on it from batch to batch, save together, and end.
"""

import logging
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist

from mvrec.lightning_private import leave_sigterm_alone, log_train_step
from mvrec.runs.checkpoint_files import LAST
from mvrec.runs.signals import REQUEUE, STOP_EXIT, requests

REQUEUE_EXIT = 75  # EX_TEMPFAIL of sysexits.h: "try again"
INTERRUPT_EXIT = 130  # what a shell says of a process that Ctrl-C has ended
LEAD_SECONDS = 90.0  # before the end of a job that has sent no signal
SCONTROL_SECONDS = 60

log = logging.getLogger(__name__)


class PreemptedError(Exception):
    """The run was saved and has ended because it was asked to.

    Attributes:
        level: `STOP` or `REQUEUE`.
    """

    def __init__(self, level: int) -> None:
        super().__init__("the run was asked to end")
        self.level = level


class Preemption(L.Callback):
    """Saves and ends when a signal asks for it, at the same batch on all processes.

    The flags are joined by an all-reduce on the CPU that runs beside a batch and is read after the next one, so that
    nothing waits for it and no device is synchronised. A checkpoint between two optimiser steps is turned back to the
    first of them; see `ExactPosition`. It comes after all callbacks that change what is saved.

    Args:
        folder: Where the run's checkpoints are.
        save_every_minutes: Saves `last.ckpt` in this interval, for the loss of a node, of which no signal tells; 0 for
            only where the schedule of checkpoints has one.
        end_time: When the job ends, in seconds of `now`; `None` where nobody says. Shortly before, it is as if the
            signal to requeue had come.
        now: Seconds of a clock that nobody sets.
    """

    def __init__(
        self,
        folder: Path,
        *,
        save_every_minutes: float = 0.0,
        end_time: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.save_every_seconds, self.end_time, self.now = folder, 60 * save_every_minutes, end_time, now
        self._group: Any = None
        self._flags = torch.zeros(2, dtype=torch.int32)
        self._pending: Any = None
        self._saved_at = now()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals back from Lightning, which has put handlers of its own before ours by now."""
        requests.listen(interrupts=True)
        leave_sigterm_alone(trainer)
        if trainer.world_size > 1:  # a group of its own: that of the gradients is on the device
            self._group = dist.new_group(backend="gloo")
        self._saved_at = self.now()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Learn what was agreed, act on it, and ask again.

        Raises:
            PreemptedError: The run is saved and ends here.
        """
        level, save = self._agreed()
        if level:
            log.info("asked to end (%s): saving at step %d", _reason(), trainer.global_step)
            requests.saving()
            log_train_step(trainer)  # what comes after this hook will not
            trainer.save_checkpoint(self.folder / LAST)
            log.info("saved in %s: --resume auto goes on from there", self.folder / LAST)
            requests.ignore()  # what is left to do should not be cut short
            raise PreemptedError(level)
        if save:
            trainer.save_checkpoint(self.folder / LAST)
            self._saved_at = self.now()

    def _agreed(self) -> tuple[int, bool]:
        """What all processes have asked for by the batch before: the most urgent request, and whether to save."""
        request, due = self._request(), self._save_is_due()
        if self._group is None:
            return request, due
        found = (0, False)
        if self._pending is not None:
            self._pending.wait()
            found = int(self._flags[0]), bool(self._flags[1])
        self._flags = torch.tensor([request, int(due)], dtype=torch.int32)
        self._pending = dist.all_reduce(self._flags, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        return found

    def _request(self) -> int:
        if self.end_time is not None and self.now() > self.end_time - LEAD_SECONDS:
            return REQUEUE
        return requests.level

    def _save_is_due(self) -> bool:
        return 0 < self.save_every_seconds <= self.now() - self._saved_at

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Nothing may cut short what is left to do."""
        if self._pending is not None:
            self._pending.wait()
        requests.ignore()


def _reason() -> str:
    return ", ".join(dict.fromkeys(requests.names)) or "by another process, or by the time limit"


def on_own_clock(seconds: float | None) -> float | None:
    """A time since 1970 in seconds of `time.monotonic`, which stays right when somebody sets the machine's clock."""
    return None if seconds is None else seconds - time.time() + time.monotonic()


def stop_exit() -> int:
    """Return the exit code of a run that was asked to stop: as a shell has it for the signal that asked."""
    return INTERRUPT_EXIT if requests.names and requests.names[0] == "SIGINT" else STOP_EXIT


def job_end_time(environ: Mapping[str, str]) -> float | None:
    """When Slurm ends this job, in seconds since 1970, where it says so."""
    text = environ.get("SLURM_JOB_END_TIME", "")
    return float(text) if text.isdecimal() else None


def requeue(environ: Mapping[str, str]) -> int:
    """Have Slurm start the job again where it can; every process calls it when all else is done.

    Returns:
        The exit code of the process: 0 where Slurm was told, `REQUEUE_EXIT` where there is nobody to tell.
    """
    job = environ.get("SLURM_JOB_ID", "")
    if environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{environ['SLURM_ARRAY_JOB_ID']}_{environ.get('SLURM_ARRAY_TASK_ID', '')}"
    possible = re.fullmatch(r"\d+(_\d+)?", job) is not None and shutil.which("scontrol") is not None
    if environ.get("SLURM_PROCID", environ.get("RANK", "0")) != "0":
        return 0 if possible else REQUEUE_EXIT  # the first process speaks for all
    if not possible:
        log.warning("saved; nobody here starts the job again (no scontrol, or no job): exit code %d", REQUEUE_EXIT)
        return REQUEUE_EXIT
    result = subprocess.run(
        ["scontrol", "requeue", job], capture_output=True, text=True, timeout=SCONTROL_SECONDS, check=False
    )
    if result.returncode:
        log.warning("saved, but scontrol requeue %s failed: %s", job, " ".join(result.stderr.split()))
        return REQUEUE_EXIT
    log.info("job %s is queued again and will go on from here", job)
    return 0
