"""Runs of `mvrec fit` in processes of their own, which end with this one."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mvrec.machine import visible_cores

_TICK_SECONDS = 0.2
LOG = "sweep.log"  # what a run has printed, next to its other files


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        name: The name of its folder.
        flags: Its flags.
        folder: Its run directory.
    """

    name: str
    flags: tuple[str, ...]
    folder: Path


class Children:
    """Processes of `mvrec fit`.

    Args:
        config: The configuration of all.
        flags: Flags of all, after those of each.
        jobs: The most that run at a time; they share cores and GPUs.
    """

    def __init__(self, config: str, flags: Sequence[str], *, jobs: int) -> None:
        self.config, self.flags, self.jobs = config, list(flags), jobs
        self._running: dict[subprocess.Popen[bytes], int] = {}  # with the share that each has
        self._lock = threading.RLock()
        self._free = list(range(jobs))
        self.is_ending = False

    def run(self, trial: Trial, *, watch: Callable[[], bool] = lambda: False) -> int | None:
        """Run a trial to its end; a run that was interrupted goes on.

        Args:
            trial: The run.
            watch: Called now and then; once it returns true, the run is asked to end.

        Returns:
            The exit status; `None` if it was asked to end.
        """
        trial.folder.mkdir(parents=True, exist_ok=True)
        command = self.command(trial)
        with (trial.folder / LOG).open("ab") as log:
            child = self._start(command, log.fileno())
            is_stopped = False
            try:
                while child.poll() is None:
                    if not is_stopped and watch():
                        is_stopped = True
                        child.send_signal(signal.SIGTERM)
                    time.sleep(_TICK_SECONDS)
            finally:
                self._finished(child)
        return None if is_stopped or self.is_ending else child.returncode

    def command(self, trial: Trial) -> list[str]:
        """Return the command of a run."""
        start = [sys.executable, "-m", "mvrec", "fit", "--config", self.config, "--run_dir", str(trial.folder)]
        return [*start, "--resume", "auto", *trial.flags, *self.flags]

    def end(self) -> None:
        """Ask all runs to write a checkpoint and end, and start none any more."""
        with self._lock:
            self.is_ending = True
            for child in self._running:
                child.send_signal(signal.SIGTERM)

    def _start(self, command: Sequence[str], log: int) -> "subprocess.Popen[bytes]":
        with self._lock:
            place = self._free.pop()
            # In a session of its own, because Ctrl-C reaches all processes of a terminal's.
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._share(place),
                start_new_session=True,
            )
            self._running[child] = place
            if self.is_ending:
                child.send_signal(signal.SIGTERM)
            return child

    def _finished(self, child: "subprocess.Popen[bytes]") -> None:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            child.wait()
        with self._lock:
            self._free.append(self._running.pop(child))

    def _share(self, place: int) -> Mapping[str, str]:
        """Return the environment of one of several runs at a time, with its share of the cores and GPUs."""
        share = dict(os.environ)
        if self.jobs == 1:
            return share
        share.setdefault("OMP_NUM_THREADS", str(max(1, visible_cores() // self.jobs)))
        gpus = share.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(_num_gpus())))
        if gpus and self.flags.count("--trainer.devices") == 0:
            names = gpus.split(",")
            share["CUDA_VISIBLE_DEVICES"] = names[place % len(names)]
        return share


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def last_error(trial: Trial) -> str:
    """Return the last error that a run has printed; else its last line."""
    lines = (trial.folder / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
    lines = [line.rpartition("\r")[2].strip() for line in lines]
    errors = [line for line in lines if line.startswith("mvrec: error:")]
    return (errors or [line for line in lines if line] or ["it printed nothing"])[-1].removeprefix("mvrec: error: ")
