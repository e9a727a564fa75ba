"""What a run keeps of itself, and that it never touches another."""

import contextlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from warm import start

from mvrec.errors import UserError
from mvrec.runs.monitors import check_monitors, mode_of
from mvrec.runs.run_checkpoints import BestAndLast, CheckpointSettings, run_checkpoints
from mvrec.runs.run_directory import RunRecord
from mvrec.runs.run_lock import RunLock, lock_run

SCORED = ["--checkpoint.monitor=val/loss", "--trainer.limit_val_batches=1"]
HOLD = "import sys, pathlib; from mvrec.runs.run_lock import RunLock; RunLock(pathlib.Path(sys.argv[1])).acquire(); "


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """A run of three epochs; it is copied, never changed."""
    from mvrec.cli.main import main

    folder = tmp_path_factory.mktemp("finished") / "run"
    main(["fit", *tiny, f"--run_dir={folder}", "--trainer.max_epochs=3", *SCORED])
    return folder


@pytest.fixture
def run_dir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stored(path):
    return torch.load(path, weights_only=True)


# -- a run and another -----------------------------------------------------------------------------------------------


def test_a_start_that_fails_leaves_the_directory_as_it_was(command, tiny, run_dir):
    before = contents(run_dir)
    for wrong in (
        ["--model.backbone=no_such_network"],
        ["--checkpoint.monitor=val/topp1"],
        ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val_top1"],
    ):
        code, _, err = command("fit", *tiny, f"--run_dir={run_dir}", *wrong)
        assert code == 2, (wrong, err)
        assert contents(run_dir) == before, wrong


def test_an_earlier_quarantine_moves_aside_with_its_run_or_stays(tmp_path):
    def start(record):
        trainer = SimpleNamespace(callbacks=[], num_val_batches=[], is_global_zero=True, loggers=[], fast_dev_run=True)
        trainer.strategy = SimpleNamespace(barrier=lambda name: None)
        trainer.lightning_module = SimpleNamespace(score_names=list, run_record={}, name="any", outputs="any")
        record.on_fit_start(trainer, trainer.lightning_module)
        assert not (tmp_path / "quarantine").exists()
        (tmp_path / "quarantine").mkdir()
        (tmp_path / "quarantine/rank_0.csv").write_text("new")
        return trainer

    (tmp_path / "quarantine").mkdir()
    (tmp_path / "quarantine/rank_0.csv").write_text("old")
    RunRecord(tmp_path, fresh=True).on_exception(SimpleNamespace(is_global_zero=True), None, ValueError())
    failing = RunRecord(tmp_path, fresh=True)
    failing.on_exception(start(failing), None, ValueError())
    assert contents(tmp_path) == {Path("quarantine/rank_0.csv"): b"old"}
    start(RunRecord(tmp_path, fresh=True))  # and is killed
    record = RunRecord(tmp_path, fresh=True)
    record.on_train_batch_start(start(record), None, None, 0)
    assert contents(tmp_path) == {
        Path("quarantine/rank_0.csv"): b"new",
        Path("earlier/1/quarantine/rank_0.csv"): b"old",
    }


def test_a_directory_belongs_to_one_process(command, tiny, run_dir):
    before = contents(run_dir)
    holder = start(run_dir, program=HOLD + "sys.stderr.write('held'); sys.stderr.flush(); import time; time.sleep(600)")
    holder.wait_for("held")
    code, _, err = command("fit", *tiny, f"--run_dir={run_dir}", "--trainer.fast_dev_run=false")
    assert code == 2
    assert f"{run_dir}: process {holder.pid} on " in err.splitlines()[-1]
    assert {path: content for path, content in contents(run_dir).items() if path.name != ".lock"} == before


def test_a_lock_whose_process_is_gone_is_free(run_dir):
    start(run_dir, program=HOLD + "import os; os._exit(1)").wait()
    assert (run_dir / ".lock").is_file()
    lock = RunLock(run_dir)
    lock.acquire()
    lock.release()
    assert not (run_dir / ".lock").exists()


def test_a_lock_leaves_no_directory_behind(tmp_path):
    for lock in lock_run(tmp_path / "new/run", tmp_path / "elsewhere", fresh=True):
        lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_can_be_no_directory_is_told_as_such(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/below", Path("/proc/below"), tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match=f"^{folder}: cannot be the directory of a run .*--run_dir"):
            lock_run(folder, folder / "checkpoints", fresh=True)


def test_checkpoints_of_another_run_are_not_written_over(run_dir, tmp_path):
    with pytest.raises(UserError, match=r"holds checkpoints of another run \(best.ckpt\): choose another folder"):
        lock_run(tmp_path / "second", run_dir / "checkpoints", fresh=True)


def test_a_moved_run_keeps_its_best(command, tiny, run_dir):
    best = run_dir / "checkpoints/best.ckpt"
    checkpoint = stored(best)
    state = checkpoint["callbacks"]["ModelCheckpoint of the run"]
    state["best"]["score"] = 0.0  # better than any loss that follows
    torch.save(checkpoint, best)
    before = best.read_bytes()
    moved = run_dir.rename(run_dir.with_name("moved"))
    options = [*SCORED, "--trainer.max_epochs=4", "--resume=auto"]
    code, _, err = command("fit", *tiny, f"--run_dir={moved}", *options)
    assert code == 0, err
    assert "dirpath" not in err
    assert (moved / "checkpoints/best.ckpt").read_bytes() == before
    assert stored(moved / "checkpoints/last.ckpt")["global_step"] == 16
    assert not run_dir.exists()


# -- the best and the last -------------------------------------------------------------------------------------------


def test_the_name_of_a_score_says_which_direction_is_better():
    assert {name: mode_of(name) for name in ("val/loss", "val/top1", "val/map", "val/error")} == {
        "val/loss": "min",
        "val/top1": "max",
        "val/map": "max",
        "val/error": "min",
    }


def test_a_loss_is_kept_at_its_lowest(finished):
    import csv

    with (finished / "metrics.csv").open(newline="") as file:
        losses = {int(row["epoch"]): float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]}
    assert len(losses) == 3
    assert stored(finished / "checkpoints/best.ckpt")["epoch"] == min(losses, key=losses.__getitem__)


class FakeTrainer:
    """Notes the names of what is saved."""

    def __init__(self):
        self.callback_metrics, self.saved, self.global_step = {}, [], 0
        self.strategy = SimpleNamespace(reduce_boolean_decision=bool)
        self.state, self.sanity_checking = SimpleNamespace(fn="fit"), False
        self.check_val_every_n_epoch, self.val_check_interval = 1, 1.0

    def save_checkpoint(self, path, weights_only=False):
        self.saved.append(path.name)


@pytest.mark.parametrize(
    ("epochs", "best"),
    [
        ([(0.5, 1.0), (0.5, 0.9), (0.5, 1.1)], [0, 1]),  # equal scores: the lower loss
        ([(0.5, 1.0), (0.5, 1.0)], [0, 1]),  # all equal: the later one
        ([(0.5, 1.0), (0.4, 0.1), (0.6, 2.0)], [0, 2]),
        ([(0.5, 1.0), (float("nan"), 0.1)], [0]),
        ([(float("nan"), float("nan")), (0.1, 3.0)], [1]),
        ([(0.5, float("nan")), (0.5, 1.0)], [0, 1]),
    ],
)
def test_ties_go_to_the_lower_loss_and_then_to_the_later_epoch(tmp_path, epochs, best):
    keeper, trainer = BestAndLast(CheckpointSettings(monitor="val/top1"), tmp_path), FakeTrainer()
    chosen = []
    for epoch, (score, loss) in enumerate(epochs):
        trainer.callback_metrics = {"val/top1": torch.tensor(score), "val/loss": torch.tensor(loss)}
        trainer.global_step += 1
        keeper.on_validation_end(trainer, None)
        keeper.on_train_epoch_end(trainer, None)
        chosen += [epoch] if "best.ckpt" in trainer.saved else []
        assert trainer.saved[-1] == "last.ckpt"  # improved or not
        trainer.saved.clear()
    assert chosen == best


def test_more_checkpoints_have_names_of_their_own(command, tiny, tmp_path):
    options = ["--checkpoint.every_n_train_steps=2", "--checkpoint.save_top_k=-1", "--trainer.max_epochs=2"]
    options += ["--trainer.limit_val_batches=1"]
    second = ["ModelCheckpoint", "val/top1", "max", "top-{epoch}"]
    names = ("", ".monitor", ".mode", ".filename")
    more = [f"--trainer.callbacks{name}={value}" for name, value in zip(names, second, strict=True)]
    code, _, err = command("fit", *tiny, f"--run_dir={tmp_path}", *options, *more)
    assert code == 0, err
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    steps = {f"epoch{epoch}-step{step}.ckpt" for epoch, step in ((0, 2), (0, 4), (1, 6), (1, 8))}
    assert {"best.ckpt", "last.ckpt", *steps} < names
    assert any(name.startswith("top-") for name in names)
    assert stored(tmp_path / "checkpoints/best.ckpt")["global_step"] in (4, 8)  # of a validation, not of step 6


def test_a_name_that_is_the_runs_own_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"'last'.*the run itself has a file of this name"):
        CheckpointSettings(monitor="val/top1", filename="last")
    settings = CheckpointSettings(monitor="val/top1", every_n_epochs=2)
    assert [type(one) for one in run_checkpoints(settings, tmp_path, [])] == [CheckpointSettings, BestAndLast]


@pytest.mark.parametrize(
    ("filename", "message"),
    [
        ("{epoch", r"'\{epoch': expected '\}' before end of string"),
        ("{epoch:zz}", "checkpoint.filename .*: "),
        ("../../x", "give a name below checkpoint.dirpath"),
        ("{val/topp1:.2f}", r"nothing in this run logs 'val/topp1'; did you mean 'val/top1'\?"),
        ("{epoch:02d}-{step}-{val/top1:.2f}", None),
    ],
)
def test_a_name_shows_only_what_is_logged(filename, message):
    refused = pytest.raises(UserError, match=message) if message else contextlib.nullcontext()
    with refused:
        settings = CheckpointSettings(monitor="val/top1", filename=filename, save_top_k=2)
        check_monitors(SimpleNamespace(callbacks=[settings], num_val_batches=[3]), ["val/top1", "val/loss"])


@pytest.mark.parametrize(
    ("monitor", "mode", "message"),
    [
        (
            "val_top1",
            "max",
            r"EarlyStopping.monitor 'val_top1': nothing .* logs it; did you mean 'val/top1'\?",
        ),
        ("val/topp1", "max", r"did you mean 'val/top1'\?"),
        ("val/loss", "max", "EarlyStopping watches val/loss with mode max, but lower is better"),
        ("val/top1", "min", "EarlyStopping watches val/top1 with mode min, but higher is better"),
        ("val/loss", "min", None),
        ("train/loss", "min", None),
    ],
)
def test_what_callbacks_watch_must_come(monitor, mode, message):
    trainer = SimpleNamespace(callbacks=[EarlyStopping(monitor, mode=mode)], num_val_batches=[3])
    refused = pytest.raises(UserError, match=message) if message else contextlib.nullcontext()
    with refused:
        check_monitors(trainer, ["val/top1", "val/loss", "train/loss"])
