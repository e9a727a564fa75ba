"""The run directory: all files of a run in one folder that can be moved.

`CONTENTS` lists its files; a new run in the same folder moves them to `earlier/<n>/` just before its first step.
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
from mvrec.runs.forms import agreed_forms
from mvrec.runs.monitors import check_monitors
from mvrec.runs.weights_origin import weights_record

CONTENTS = (
    "config.yaml",
    "environment.json",
    "data.json",
    "parameter_groups.json",
    "resumes.json",
    "validation.json",
    "unreadable.jsonl",
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
    "precision_recall.csv",
    "detections.json",
    "detections.csv",
    "worst.json",
    "worst.npz",
    "images.npz",
    "claims.npz",
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
    """Return a resolved configuration without the paths of its own run, for use in another run.

    Args:
        config: The configuration of a sub-command.
        run_dir: The run's directory.
    """
    config = config.clone()
    config.run_dir = config.checkpoint.dirpath = None
    for node, key in ((config, "ckpt_path"), (config.trainer, "default_root_dir")):
        if lies_in(node.get(key), run_dir):
            node[key] = None
    return config


def is_run(folder: Path) -> bool:
    """Return whether a run has begun in a folder."""
    return (folder / "environment.json").is_file()


def lies_in(path: Any, folder: Path) -> bool:
    """Return whether a path is a folder or lies in it; links are followed."""
    return isinstance(path, (str, Path)) and Path(path).resolve().is_relative_to(folder.resolve())


def set_aside_earlier_run(run_dir: Path) -> Path | None:
    """Move the files of an earlier run in a run directory to `earlier/<n>/`.

    Returns:
        Their new folder, or `None` if there were none.
    """
    paths = [run_dir / name for name in CONTENTS if (run_dir / name).exists()]
    if not paths:
        return None
    number = 1
    while (run_dir / "earlier" / str(number)).exists():
        number += 1
    target = run_dir / "earlier" / str(number)
    target.mkdir(parents=True)
    for path in paths:
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
        "git_revision": git_revision(),
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


def git_revision(folder: Path = Path(__file__).parent) -> str | None:
    """Return the commit of a folder's repository, with "-dirty" if tracked files differ from it.

    The repository stays as it is: `git describe --dirty` alone would write its index, and leave a lock if that fails.
    """
    revision = _git(folder, "describe", "--always", "--abbrev=40")
    is_dirty = revision and _git(folder, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    return f"{revision}-dirty" if is_dirty else revision


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


class RunRecord(L.Callback):
    """Writes the facts that explain a result before the first step, and draws the curves at the end.

    Nothing in the run directory changes before that, so a failed start leaves an earlier run as it was.

    The files are `environment.json`, `data.json` and `parameter_groups.json`; every checkpoint has the same under
    `mvrec.environment`, `mvrec.data` and `mvrec.parameter_groups`.

    Args:
        run_dir: The run directory.
        fresh: Whether a new run starts: an earlier one in the directory moves to `earlier/`.
    """

    def __init__(self, run_dir: Path, *, fresh: bool = False) -> None:
        self.run_dir, self.fresh = run_dir, fresh
        self._quarantine, self._hidden = run_dir / "quarantine", run_dir / ".quarantine"
        self._reading = self._written = False
        self._unreadable = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let all processes agree on the forms of operations, before the first of them computes."""
        task: Any = pl_module
        task.run_record["forms"] = agreed_forms(trainer, task.backbone)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that watched scores will be logged, and hide an earlier run's quarantine from the loaders.

        The loaders write their own before the first batch, when the earlier run moves to `earlier/`.
        """
        task: Any = pl_module
        check_monitors(trainer, [*task.score_names(), *TRAINING_VALUES])
        self._reading = self.fresh
        if trainer.is_global_zero:
            if self._hidden.exists():  # left by a start that was killed before its first batch
                self._restore_quarantine()
            if self.fresh and self._quarantine.exists():
                self._quarantine.rename(self._hidden)
        trainer.strategy.barrier("earlier quarantine")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Restore the quarantine of an earlier run if this one has not begun."""
        if self._reading and not self._written and trainer.is_global_zero:
            self._restore_quarantine()

    def _restore_quarantine(self) -> None:
        shutil.rmtree(self._quarantine, ignore_errors=True)
        if self._hidden.exists():
            self._hidden.rename(self._quarantine)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write the record once the first batch was read; every process takes part, the first one writes."""
        self._write(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Append training files that could not be read to `unreadable.jsonl`, from every process."""
        files = getattr(trainer.train_dataloader, "bad_files", None)
        if files is None or len(files.bad) == self._unreadable or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        entries = list(files.bad.values())[self._unreadable :]
        self._unreadable = len(files.bad)
        lines = [json_text({"path": str(entry.path), "cause": str(entry.cause)}) + "\n" for entry in entries]
        append_whole(self.run_dir / "unreadable.jsonl", "".join(lines))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the record if a resumed run begins with an owed validation."""
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
        record = {"task": task.name, "outputs": task.outputs, **environment(), "forms": task.run_record.get("forms")}
        if task.start.weights is not None and trainer.is_global_zero:
            record["weights"] = weights_record(task.start.weights)
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
        """Write on the first process; the others wait."""
        if self.already_saved:
            return
        if stage != "fit":  # fit writes nothing before its first step
            self._write(trainer, f"config_{TrainerFn(stage).value}.yaml")
            trainer.strategy.barrier("save config")

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Write just before the first step, after an earlier run has moved."""
        if not self.already_saved and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._write(trainer, "config.yaml")

    def _write(self, trainer: L.Trainer, name: str) -> None:
        self.already_saved = True
        if trainer.is_global_zero:
            task: Any = trainer.lightning_module
            parser: Any = self.parser
            write_atomically(Path(trainer.loggers[0].save_dir or ".") / name, parser.as_yaml(task.run_record["config"]))


class MetricsCsv(Logger):
    """Logger that appends every logged step to a CSV file, also across restarts.

    Lightning's CSV logger deletes the file when a run is resumed; this one continues it and drops only the steps after
    the checkpoint, which the resumed run repeats.

    Args:
        run_dir: The run directory.
        filename: Name of the file in the run directory.
    """

    def __init__(self, run_dir: Path, filename: str = "metrics.csv") -> None:
        super().__init__()
        self.run_dir, self.path = run_dir, run_dir / filename
        self._columns: list[str] = []
        self._opened = False

    @property
    def name(self) -> str:
        """The folder's name, required by Lightning."""
        return self.run_dir.name

    @property
    def version(self) -> str:
        """A constant, required by Lightning: there is one run per folder."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run directory, which Lightning takes as the trainer's log directory."""
        return str(self.run_dir)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `config.yaml` has them."""

    @rank_zero_only
    def go_on_from(self, step: int) -> None:
        """Drop the rows from `step` on, which a run that resumes there writes again."""
        self._rewrite(lambda row: int(row["step"]) < step)
        self._opened = True

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one row and flush the file."""
        row = {"step": -1 if step is None else step, **metrics}
        if not self._opened:
            self._rewrite(lambda earlier: int(earlier["step"]) < row["step"])
            self._opened = True
        if any(column not in self._columns for column in row):
            self._columns += [column for column in row if column not in self._columns]
            self._rewrite(lambda earlier: True)
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
        """Return the rows of the file; copy a file in which a crash of the machine has damaged rows."""
        text = self.path.read_text(encoding="utf-8", errors="replace")
        whole, end, _ = text.rpartition("\n")  # without a row that a kill has cut
        reader = csv.DictReader(io.StringIO(whole + end))
        table = list(reader)
        rows = [row for row in table if _is_of_numbers(row)]
        if "step" in (reader.fieldnames or ()):
            self._columns = list(dict.fromkeys([*(reader.fieldnames or []), *self._columns]))
        if len(rows) < len(table):
            copy = self.path.with_name(f"{self.path.name}.damaged")
            shutil.copyfile(self.path, copy)
            log.warning(
                "%s: skipping %d damaged rows; the original is kept in %s", self.path, len(table) - len(rows), copy
            )
        return rows


def _is_of_numbers(row: dict[str, str]) -> bool:
    try:
        return isinstance(int(row["step"]), int) and all(isinstance(float(text or 0), float) for text in row.values())
    except (KeyError, TypeError, ValueError):  # csv gives a row that is too long a list
        return False
