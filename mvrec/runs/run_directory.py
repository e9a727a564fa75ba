"""The run directory: everything about a run in one folder that can be moved.

What it holds stands in `CONTENTS`; a second run started afresh in the same folder moves it to `earlier/<n>/` when its
first step is about to be made.
"""

import csv
import io
import logging
import os
import platform
import shutil
import socket
import subprocess
import sys
from argparse import Namespace
from importlib import metadata
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from mvrec import __version__
from mvrec.files import append_whole, json_text, write_atomically
from mvrec.run_data import data_of
from mvrec.runs.curves import draw_curves
from mvrec.runs.monitors import check_monitors

CONTENTS = (
    "config.yaml",
    "environment.json",
    "data.json",
    "parameter_groups.json",
    "resumes.json",
    "metrics.csv",
    "metrics.csv.damaged",
    "curves.png",
    "metrics_test.csv",
    "metrics_validate.csv",
    "config_test.yaml",
    "config_validate.yaml",
    "config_predict.yaml",
    "predictions.csv",
    "predicted.csv",
    "per_class.csv",
    "confusion.csv",
    "metrics.json",
    "report.html",
    "report",
    "non_finite",
    ".quarantine",  # see `RunRecord.on_fit_start`
    "checkpoints",
)
TRAINING_VALUES = ("train/loss", "train/lr", "train/grad_norm")
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "decord", "av", "numpy")


log = logging.getLogger(__name__)


def without_own_paths(config: Any, run_dir: Path) -> Any:
    """A resolved configuration without what leads to its own run, so that it can be used for another one.

    Args:
        config: Of a sub-command.
        run_dir: The run's directory.
    """
    config = config.clone()
    config.run_dir = config.checkpoint.dirpath = None
    for node, key in ((config, "ckpt_path"), (config.trainer, "default_root_dir")):
        if lies_in(node.get(key), run_dir):
            node[key] = None
    return config


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run directory in which a run has begun."""
    return (folder / "environment.json").is_file()


def lies_in(path: Any, folder: Path) -> bool:
    """Return whether a path is a folder, or something in it; links are followed."""
    return isinstance(path, (str, Path)) and Path(path).resolve().is_relative_to(folder.resolve())


def set_aside_earlier_run(run_dir: Path) -> Path | None:
    """Move what an earlier run left in a run directory to `earlier/<n>/`.

    Returns:
        Where it went, or `None` when there was nothing.
    """
    found = [run_dir / name for name in CONTENTS if (run_dir / name).exists()]
    if not found:
        return None
    number = 1
    while (run_dir / "earlier" / str(number)).exists():
        number += 1
    target = run_dir / "earlier" / str(number)
    target.mkdir(parents=True)
    for path in found:
        path.rename(target / path.name.removeprefix("."))
    return target


def environment() -> dict[str, Any]:
    """Return versions, hosts and source revision for `environment.json`; all processes of a run must call it."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "mvrec": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hosts": _hosts(),
        "devices": _devices(),
        "command": sys.argv,
        "git_revision": _git_revision(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "packages": versions,
    }


def _hosts() -> list[str]:
    """Return the host of each process, by rank."""
    if not (dist.is_available() and dist.is_initialized()):
        return [socket.gethostname()]
    hosts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(hosts, socket.gethostname())
    return hosts


def _devices() -> list[str]:
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def _git_revision() -> str | None:
    folder = Path(__file__).parent
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


class RunRecord(L.Callback):
    """Writes what a result cannot be judged without, before the first step, and the curves at the end.

    Until then nothing in the run directory changes, so that a start that fails leaves an earlier run as it was.

    `environment.json`, `data.json` and `parameter_groups.json`; the same goes into every checkpoint, where
    `mvrec.environment`, `mvrec.data` and `mvrec.parameter_groups` are.

    Args:
        run_dir: The run directory.
        fresh: Whether the run begins here: an earlier one in the directory moves aside.
    """

    def __init__(self, run_dir: Path, *, fresh: bool = False) -> None:
        self.run_dir, self.fresh = run_dir, fresh
        self._quarantine, self._hidden = run_dir / "quarantine", run_dir / ".quarantine"
        self._reading = self._written = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """See that what callbacks watch will be logged, and let files be read without an earlier run's quarantine.

        Those who read write theirs before the first batch, which is when the earlier run moves aside.
        """
        task: Any = pl_module
        check_monitors(trainer, [*task.score_names(), *TRAINING_VALUES])
        self._reading = self.fresh
        if trainer.is_global_zero:
            if self._hidden.exists():  # by a start that was killed before its first batch
                self._restore_quarantine()
            if self.fresh and self._quarantine.exists():
                self._quarantine.rename(self._hidden)
        trainer.strategy.barrier("earlier quarantine")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the quarantine of an earlier run as it was when this one has not begun."""
        if self._reading and not self._written and trainer.is_global_zero:
            self._restore_quarantine()

    def _restore_quarantine(self) -> None:
        shutil.rmtree(self._quarantine, ignore_errors=True)
        if self._hidden.exists():
            self._hidden.rename(self._quarantine)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write the record at the first batch, which could be read; every process takes part, the first one writes."""
        self._write(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The same where a resumed run begins with a validation that it owes."""
        if not trainer.sanity_checking:
            self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        if self._written:
            return
        self._written = True
        if self.fresh and trainer.is_global_zero and (moved := set_aside_earlier_run(self.run_dir)) is not None:
            log.info("the earlier run in %s is now in %s", self.run_dir, moved)
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCsv):
                logger.go_on_from(trainer.global_step)
        task: Any = trainer.lightning_module
        record = {"task": task.name, "outputs": task.outputs, **environment()}
        task.run_record["environment"] = record
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        data = data_of(trainer)
        files = {"environment": record, "data": data.record(), "parameter_groups": task.parameter_groups}
        for name, content in files.items():
            write_atomically(self.run_dir / f"{name}.json", json_text(content, indent=2) + "\n")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the curves."""
        metrics = self.run_dir / "metrics.csv"
        if trainer.is_global_zero and metrics.is_file():
            draw_curves(metrics, self.run_dir / "curves.png")


class SaveConfig(SaveConfigCallback):
    """Writes the resolved configuration and the environment into the run directory."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write on the first process, and let no process go on before."""
        if self.already_saved:
            return
        if stage != "fit":  # which writes nothing before its first step
            self._write(trainer, f"config_{TrainerFn(stage).value}.yaml")
            trainer.strategy.barrier("save config")

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Write when the first step is about to be made, an earlier run having moved aside."""
        if not self.already_saved and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._write(trainer, "config.yaml")

    def _write(self, trainer: L.Trainer, name: str) -> None:
        self.already_saved = True
        if trainer.is_global_zero:
            run_dir = Path(trainer.loggers[0].save_dir or ".")
            write_atomically(run_dir / name, self.parser.dump(without_own_paths(self.config, run_dir), skip_none=False))


class MetricsCsv(Logger):
    """Appends every logged step to a CSV file, also across restarts.

    Lightning's CSV logger deletes the file when a run is resumed; this one goes on in it and drops only the steps
    after the checkpoint, which the resumed run does again.

    Args:
        run_dir: The run directory.
        filename: Name of the file in it.
    """

    def __init__(self, run_dir: Path, filename: str = "metrics.csv") -> None:
        super().__init__()
        self.run_dir, self.path = run_dir, run_dir / filename
        self._columns: list[str] = []
        self._opened = False

    @property
    def name(self) -> str:
        """Lightning asks for it; the folder's name."""
        return self.run_dir.name

    @property
    def version(self) -> str:
        """Lightning asks for it; there is one run per folder."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run directory, which Lightning takes as the trainer's log directory."""
        return str(self.run_dir)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: `config.yaml` has them."""

    @rank_zero_only
    def go_on_from(self, step: int) -> None:
        """Drop the rows that a run going on from a checkpoint at `step` will write again."""
        self._rewrite(lambda known: int(known["step"]) < step)
        self._opened = True

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one row and flush it."""
        row = {"step": -1 if step is None else step, **metrics}
        if not self._opened:
            self._rewrite(lambda known: int(known["step"]) < row["step"])
            self._opened = True
        if any(column not in self._columns for column in row):
            self._columns += [column for column in row if column not in self._columns]
            self._rewrite(lambda known: True)
        text = io.StringIO()
        csv.DictWriter(text, self._columns, lineterminator="\n").writerow(row)
        append_whole(self.path, text.getvalue())

    def _rewrite(self, keep: Any) -> None:
        rows = []
        if self.path.is_file():
            rows = [row for row in self._rows() if keep(row)]
        if not self._columns:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path, text.getvalue())

    def _rows(self) -> list[dict[str, str]]:
        """Return the rows of the file; where a crash of the machine has left others than ours, a copy of it is kept."""
        text = self.path.read_text(encoding="utf-8", errors="replace")
        whole, end, _ = text.rpartition("\n")  # no row that a kill has cut
        reader = csv.DictReader(io.StringIO(whole + end))
        found = list(reader)
        rows = [row for row in found if _is_of_numbers(row)]
        if "step" in (reader.fieldnames or ()):
            self._columns = list(dict.fromkeys([*(reader.fieldnames or []), *self._columns]))
        if len(rows) < len(found):
            copy = self.path.with_name(f"{self.path.name}.damaged")
            shutil.copyfile(self.path, copy)
            log.warning("%s: %d damaged rows are left out; as it was it is %s", self.path, len(found) - len(rows), copy)
        return rows


def _is_of_numbers(row: dict[str, str]) -> bool:
    try:
        return isinstance(int(row["step"]), int) and all(isinstance(float(text or 0), float) for text in row.values())
    except (KeyError, TypeError, ValueError):  # a row that is too long has a list in it
        return False
