"""Ending a run without loss when a cluster asks for it, and resuming it later.

Lightning saves inside the signal handler, where one process may wait for the others in a collective that they never
enter. Here handlers only set a flag; the processes agree on it from batch to batch, save together, and end.
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
INTERRUPT_EXIT = 130  # a shell's code of a process that Ctrl-C has ended
LEAD_SECONDS = 90.0  # before the end of a job that has received no signal
SCONTROL_SECONDS = 60

log = logging.getLogger(__name__)


class PreemptedError(Exception):
    """The end of a run that was saved upon request.

    Attributes:
        level: `STOP` or `REQUEUE`.
    """

    def __init__(self, level: int) -> None:
        super().__init__("the run was asked to end")
        self.level = level


class Preemption(L.Callback):
    """Saves and ends the run upon a signal, at the same batch on all processes.

    An all-reduce of the flags on the CPU runs during a batch and is read after the next one, so nothing waits for it
    and no device is synchronised. A checkpoint between two optimiser steps is reset to the first of them; see
    `ExactPosition`. This callback comes after all callbacks that change the saved state.

    Args:
        folder: The folder of the run's checkpoints.
        save_every_minutes: Interval in which `last.ckpt` is saved, because the loss of a node gives no signal; 0 saves
            only by the schedule of checkpoints.
        end_time: The end of the job in seconds of `now`; `None` if unknown. Shortly before, the run ends as upon the
            signal to requeue.
        now: Returns the seconds of a monotonic clock.
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
        """Reinstall our signal handlers; Lightning has replaced them."""
        requests.listen(interrupts=True)
        leave_sigterm_alone(trainer)
        if trainer.world_size > 1:  # a group on the CPU, because the gradients' group is on the device
            self._group = dist.new_group(backend="gloo")
        self._saved_at = self.now()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read what the processes agreed on, act on it, and start the next all-reduce.

        Raises:
            PreemptedError: The run was saved and ends here.
        """
        level, save = self._agreed()
        if level:
            log.info("asked to end (%s): saving at step %d", _reason(), trainer.global_step)
            requests.saving()
            log_train_step(trainer)  # this hook ends the run before Lightning logs the step
            trainer.save_checkpoint(self.folder / LAST)
            log.info("saved in %s: --resume auto continues from there", self.folder / LAST)
            requests.ignore()  # no signal should interrupt the rest
            raise PreemptedError(level)
        if save:
            trainer.save_checkpoint(self.folder / LAST)
            self._saved_at = self.now()

    def _agreed(self) -> tuple[int, bool]:
        """Return the most urgent request of any process at the batch before, and whether one wants to save."""
        request, due = self._request(), self._save_is_due()
        if self._group is None:
            return request, due
        agreed = (0, False)
        if self._pending is not None:
            self._pending.wait()
            agreed = int(self._flags[0]), bool(self._flags[1])
        self._flags = torch.tensor([request, int(due)], dtype=torch.int32)
        self._pending = dist.all_reduce(self._flags, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        return agreed

    def _request(self) -> int:
        if self.end_time is not None and self.now() > self.end_time - LEAD_SECONDS:
            return REQUEUE
        return requests.level

    def _save_is_due(self) -> bool:
        return 0 < self.save_every_seconds <= self.now() - self._saved_at

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ignore signals: nothing should interrupt the rest."""
        if self._pending is not None:
            self._pending.wait()
        requests.ignore()


def _reason() -> str:
    return ", ".join(dict.fromkeys(requests.names)) or "by another process, or by the time limit"


def on_own_clock(seconds: float | None) -> float | None:
    """Convert a time since 1970 to seconds of `time.monotonic`, which ignores changes of the machine's clock."""
    return None if seconds is None else seconds - time.time() + time.monotonic()


def stop_exit() -> int:
    """Return the exit code of a stopped run: a shell's code for the signal."""
    return INTERRUPT_EXIT if requests.names and requests.names[0] == "SIGINT" else STOP_EXIT


def job_end_time(environ: Mapping[str, str]) -> float | None:
    """Return the end of this Slurm job in seconds since 1970; `None` if Slurm does not say it."""
    text = environ.get("SLURM_JOB_END_TIME", "")
    return float(text) if text.isdecimal() else None


def requeue(environ: Mapping[str, str]) -> int:
    """Ask Slurm to start the job again; every process calls this last.

    Returns:
        The exit code of the process: 0 after the request, `REQUEUE_EXIT` without Slurm.
    """
    job = environ.get("SLURM_JOB_ID", "")
    if environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{environ['SLURM_ARRAY_JOB_ID']}_{environ.get('SLURM_ARRAY_TASK_ID', '')}"
    possible = re.fullmatch(r"\d+(_\d+)?", job) is not None and shutil.which("scontrol") is not None
    if environ.get("SLURM_PROCID", environ.get("RANK", "0")) != "0":
        return 0 if possible else REQUEUE_EXIT  # rank 0 asks for all
    if not possible:
        log.warning("saved; nothing starts the job again (no scontrol, or no job): exit code %d", REQUEUE_EXIT)
        return REQUEUE_EXIT
    result = subprocess.run(
        ["scontrol", "requeue", job], capture_output=True, text=True, timeout=SCONTROL_SECONDS, check=False
    )
    if result.returncode:
        log.warning("saved, but scontrol requeue %s failed: %s", job, " ".join(result.stderr.split()))
        return REQUEUE_EXIT
    log.info("job %s is queued again and will resume from here", job)
    return 0
