"""The record that a run keeps of itself, and that it never touches another."""

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from run_support import contents, stored
from warm import start

from mvrec.errors import UserError
from mvrec.runs.monitors import check_monitors, mode_of
from mvrec.runs.run_checkpoints import BestAndLast, CheckpointSettings, run_checkpoints
from mvrec.runs.run_directory import RunRecord, git_revision
from mvrec.runs.run_lock import RunLock, lock_run

HOLD = "import sys, pathlib; from mvrec.runs.run_lock import RunLock; RunLock(pathlib.Path(sys.argv[1])).acquire(); "


@pytest.fixture
def run_dir(digits_run, tmp_path):
    """A copy of a run of two epochs."""
    return shutil.copytree(digits_run.folder, tmp_path / "run")


def test_a_start_that_fails_leaves_the_directory_as_it_was(command, tiny, run_dir):
    before = contents(run_dir)
    code, _, err = command("fit", *tiny, f"--run_dir={run_dir}", "--checkpoint.monitor=val/topp1")
    assert code == 2, err
    assert contents(run_dir) == before


def test_an_earlier_quarantine_moves_aside_with_its_run_or_stays(tmp_path):
    def start(record):
        trainer = SimpleNamespace(callbacks=[], num_val_batches=[], is_global_zero=True, loggers=[], fast_dev_run=True)
        trainer.strategy = SimpleNamespace(barrier=lambda name: None)
        trainer.lightning_module = SimpleNamespace(score_names=list, run_record={}, name="any", outputs="any")
        trainer.lightning_module.start = SimpleNamespace(weights=None)
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


def test_a_directory_belongs_to_one_process_while_it_lives(command, tiny, run_dir):
    before = contents(run_dir)
    holder = start(run_dir, program=HOLD + "sys.stderr.write('held'); sys.stderr.flush(); import time; time.sleep(600)")
    holder.wait_for("held")
    code, _, err = command("fit", *tiny, f"--run_dir={run_dir}")
    assert code == 2
    assert f"{run_dir}: process {holder.pid} on " in err.splitlines()[-1]
    assert {path: content for path, content in contents(run_dir).items() if path.name != ".lock"} == before
    holder.kill()
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


def test_a_moved_run_keeps_its_best(command, digits_run, run_dir):
    """The run of which `run_dir` is a copy stands for the place where it was."""
    earlier = contents(digits_run.folder)
    best = run_dir / "checkpoints/best.ckpt"
    checkpoint = stored(run_dir, "best")
    checkpoint["callbacks"]["ModelCheckpoint of the run"]["best"]["score"] = 2.0  # better than any that follows
    torch.save(checkpoint, best)
    before = best.read_bytes()
    options = [f"--trainer.limit_{stage}_batches=1" for stage in ("train", "val")]
    options += ["--trainer.max_epochs=3", "--resume=auto", f"--run_dir={run_dir}"]
    code, _, err = command("fit", *digits_run.arguments, *options)
    assert code == 0, err
    assert "dirpath" not in err
    assert best.read_bytes() == before
    assert stored(run_dir)["global_step"] == 9
    assert contents(digits_run.folder) == earlier


def test_the_name_of_a_score_says_which_direction_is_better():
    modes = {"val/loss": "min", "val/top1": "max", "val/map": "max", "val/error": "min"}
    assert {name: mode_of(name) for name in modes} == modes


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
    ("monitor", "epochs", "best"),  # score and loss of every epoch, and those that become best.ckpt
    [
        ("val/top1", [(0.5, 1.0), (0.5, 0.9), (0.5, 1.1)], [0, 1]),  # equal scores: the lower loss
        ("val/top1", [(0.5, 1.0), (0.5, 1.0)], [0, 1]),  # all equal: the later one
        ("val/top1", [(0.5, 1.0), (0.4, 0.1), (0.6, 2.0)], [0, 2]),
        ("val/top1", [(float("nan"), 0.1), (0.1, 3.0), (float("nan"), 0.1)], [1]),
        ("val/top1", [(0.5, float("nan")), (0.5, 1.0)], [0, 1]),
        ("val/loss", [(0.1, 3.0), (0.9, 4.0), (0.1, 2.0)], [0, 2]),
    ],
)
def test_the_best_score_is_kept_and_ties_go_to_the_lower_loss_and_then_to_the_later_epoch(
    tmp_path, monitor, epochs, best
):
    keeper, trainer = BestAndLast(CheckpointSettings(monitor=monitor), tmp_path), FakeTrainer()
    best_epochs = []
    for epoch, (score, loss) in enumerate(epochs):
        trainer.callback_metrics = {"val/top1": torch.tensor(score), "val/loss": torch.tensor(loss)}
        trainer.global_step += 1
        keeper.on_validation_end(trainer, None)
        keeper.on_train_epoch_end(trainer, None)
        best_epochs += [epoch] if "best.ckpt" in trainer.saved else []
        assert trainer.saved[-1] == "last.ckpt"  # improved or not
        trainer.saved.clear()
    assert best_epochs == best


def test_more_checkpoints_have_names_of_their_own(command, tiny, tmp_path):
    options = ["--checkpoint.every_n_train_steps=3", "--checkpoint.save_top_k=-1", "--trainer.limit_val_batches=1"]
    second = {"": "ModelCheckpoint", ".monitor": "val/top1", ".mode": "max", ".filename": "top-{epoch}"}
    more = [f"--trainer.callbacks{name}={value}" for name, value in second.items()]
    code, _, err = command("fit", *tiny, f"--run_dir={tmp_path}", *options, *more)
    assert code == 0, err
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"best.ckpt", "last.ckpt", "epoch0-step3.ckpt", "top-epoch=0.ckpt"}
    assert stored(tmp_path, "best")["global_step"] == 4  # of the validation, not of step 3


def test_a_name_that_is_the_runs_own_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"'last'.*the run itself has a file of this name"):
        CheckpointSettings(monitor="val/top1", filename="last")
    settings = CheckpointSettings(monitor="val/top1", every_n_epochs=2)
    assert [type(callback) for callback in run_checkpoints(settings, tmp_path, [])] == [CheckpointSettings, BestAndLast]


def test_names_and_monitors_of_what_is_not_logged_are_refused():
    scores = ["val/top1", "val/loss", "train/loss"]

    def check(callback):
        check_monitors(SimpleNamespace(callbacks=[callback], num_val_batches=[3]), scores)

    for filename, message in (
        ("{epoch", r"'\{epoch': expected '\}' before end of string"),
        ("{epoch:zz}", "checkpoint.filename .*: "),
        ("../../x", "give a name below checkpoint.dirpath"),
        ("{val/topp1:.2f}", r"nothing in this run logs 'val/topp1'; did you mean 'val/top1'\?"),
    ):
        with pytest.raises(UserError, match=message):
            check(CheckpointSettings(monitor="val/top1", filename=filename, save_top_k=2))
    for monitor, mode, message in (
        ("val_top1", "max", r"EarlyStopping.monitor 'val_top1': nothing .* logs it; did you mean 'val/top1'\?"),
        ("val/loss", "max", "EarlyStopping watches val/loss with mode max, but lower is better"),
        ("val/top1", "min", "EarlyStopping watches val/top1 with mode min, but higher is better"),
    ):
        with pytest.raises(UserError, match=message):
            check(EarlyStopping(monitor, mode=mode))
    check(CheckpointSettings(monitor="val/top1", filename="{epoch:02d}-{step}-{val/top1:.2f}", save_top_k=2))
    check(EarlyStopping("train/loss", mode="min"))


def test_the_revision_tells_of_changes_and_leaves_the_repository_alone(tmp_path):
    assert git_revision(tmp_path) is None
    author = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    (tmp_path / "a.py").write_text("1")
    for words in (("init", "-q"), ("add", "a.py"), (*author, "commit", "-qm", "a")):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    os.utime(tmp_path / "a.py", (0, 0))  # git would write the new time into its index
    index = (tmp_path / ".git/index").read_bytes()
    clean = git_revision(tmp_path)
    (tmp_path / "a.py").write_text("2")
    assert git_revision(tmp_path) == f"{clean}-dirty"
    assert (tmp_path / ".git/index").read_bytes() == index
