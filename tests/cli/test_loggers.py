"""Loggers by config: missing packages are named before anything starts, and TensorBoard gets what metrics.csv has."""

import csv
import importlib.util

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mvrec.errors import install_hint


@pytest.mark.parametrize(
    ("name", "package"), [("TensorBoardLogger", "tensorboard"), ("WandbLogger", "wandb"), ("MLFlowLogger", "mlflow")]
)
def test_a_logger_without_its_package_is_refused_with_the_extra(command, monkeypatch, tmp_path, name, package):
    spec = importlib.util.find_spec
    absent = {package, "tensorboardX"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None if module in absent else spec(module))
    lists = tmp_path / "loggers.yaml"
    lists.write_text(
        f"trainer:\n  logger:\n  - class_path: CSVLogger\n  - class_path: lightning.pytorch.loggers.{name}\n"
    )
    for flags, place in (
        (["--trainer.logger", name], "--trainer.logger"),
        (["--trainer.logger={class_path: %s}" % name], "--trainer.logger"),  # noqa: UP031
        (["--config", lists], f"{lists}:4: trainer.logger[1]"),
    ):
        code, _, err = command("fit", "--config=demo", *flags, f"--run_dir={tmp_path}/run")
        assert code == 2
        assert err.splitlines()[-1] == f"mvrec: error: {place}: {name} needs {package}: {install_hint(package)}"
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_the_figures_of_the_run(command, tiny, tmp_path):
    flags = ("--trainer.logger=TensorBoardLogger", f"--trainer.logger.save_dir={tmp_path}/tb")
    code, _, err = command("fit", *tiny, *flags, f"--run_dir={tmp_path}/run", "--trainer.max_epochs=1")
    assert code == 0, err
    (events,) = (tmp_path / "tb").rglob("events.*")
    board = EventAccumulator(str(events)).Reload()
    rows = list(csv.DictReader((tmp_path / "run/metrics.csv").read_text().splitlines()))
    for name in ("train/loss", "val/loss", "val/top1"):
        expected = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        assert [(event.step, event.value) for event in board.Scalars(name)] == [
            (step, pytest.approx(value, rel=1e-4)) for step, value in expected
        ]
        assert expected
