"""Checks of a launch in its first minute, before a collective would wait for half an hour."""

import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch.distributed as dist

from mvrec.cluster.launch import launch_of
from mvrec.cluster.launch_check import check_launch
from mvrec.errors import UserError
from mvrec.run_data import data_of

SECONDS = 50.0
VARIABLE = "MVREC_PREFLIGHT_SECONDS"


def check_processes(environ: Mapping[str, str]) -> None:
    """Check that the processes of a launch by srun or torchrun find each other and are equal; all must call it.

    Args:
        environ: `os.environ`. `MVREC_PREFLIGHT_SECONDS` limits the duration: 50 by default, 0 skips the check.

    Raises:
        UserError: The first fault, with rank, host and remedy.
    """
    # Lightning's own children have some of these variables and run on this machine: no check.
    if "TORCHELASTIC_RUN_ID" not in environ and "SLURM_PROCID" not in environ:
        return
    text = environ.get(VARIABLE, str(SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        raise UserError(f"{VARIABLE}={text!r} is not a number of seconds") from None
    launch = launch_of(environ)
    if launch is None or seconds <= 0:
        return
    problems = list(launch.problems)
    if not problems and launch.world_size > 1:
        problems = list(check_launch(launch, timeout_seconds=seconds).problems)
    if problems:
        raise UserError(f"{problems[0].text}; {problems[0].fix}")


class SharedState(L.Callback):
    """Checks at the start of training that all processes share the data and one run directory.

    Args:
        run_dir: The run directory.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare; every process takes part.

        Raises:
            UserError: The first process that differs from rank 0, with its host and the difference.
        """
        if trainer.world_size == 1:
            return
        data = data_of(trainer)
        token = [secrets.token_hex(8)]
        dist.broadcast_object_list(token, src=0)
        mark = self.run_dir / f".shared-{token[0]}"
        problem = self._write(mark) if trainer.is_global_zero else ""
        dist.barrier()
        facts = {
            "host": socket.gethostname(),
            "splits": data.record()["splits"],
            "problem": problem or ("" if mark.exists() else f"does not see what rank 0 writes in {self.run_dir}"),
        }
        everyone: list[Any] = [None] * trainer.world_size
        dist.all_gather_object(everyone, facts)
        if trainer.is_global_zero and not problem:
            mark.unlink()
        if difference := first_difference(everyone):
            raise UserError(difference)

    def _write(self, mark: Path) -> str:
        try:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        except OSError as error:
            return f"cannot write in {self.run_dir}: {error.strerror}"
        return ""


def first_difference(everyone: list[dict[str, Any]]) -> str:
    """Return one line about the first process that differs from rank 0; "" if all are equal."""
    for rank, process in enumerate(everyone):
        where = f"rank {rank} on {process['host']}"
        if process["problem"]:
            return f"{where} {process['problem']}: the run directory must be on a file system that all nodes share"
        for split, facts in everyone[0]["splits"].items():
            other = process["splits"].get(split)
            if other != facts:
                return (
                    f"{where} has other data than rank 0 on {everyone[0]['host']}: split {split!r} has "
                    f"{other and other['files']} files there and {facts['files']} here, or other paths or labels"
                )
    return ""
