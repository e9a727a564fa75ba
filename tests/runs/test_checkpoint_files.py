import os

import pytest
import torch
from run_support import contents, flip_bit

from mvrec.errors import UserError
from mvrec.models.checkpoints.files import read_weights
from mvrec.runs.checkpoint_files import CheckpointFiles, is_whole, newest_checkpoint
from mvrec.runs.resume import check_resume
from mvrec.runs.run_directory import MetricsCsv


def checkpoint(step):
    weights = {"weight": torch.full((5000,), float(step))}
    return {"global_step": step, "state_dict": weights, "optimizer_states": []}


@pytest.fixture
def folder(tmp_path):
    files = CheckpointFiles()
    for step in (1, 2, 3):
        files.save_checkpoint(checkpoint(step), tmp_path / "last.ckpt")
    files.save_checkpoint(checkpoint(1), tmp_path / "best.ckpt")
    return tmp_path


def test_the_one_before_last_is_kept(folder):
    steps = {path.name: torch.load(path, weights_only=True)["global_step"] for path in folder.iterdir()}
    assert steps == {"last.ckpt": 3, "previous.ckpt": 2, "best.ckpt": 1}
    assert newest_checkpoint(folder).path.name == "last.ckpt"


@pytest.mark.parametrize("damage_kind", ["cut", "empty", "bit"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(folder, damage_kind, caplog):
    last = folder / "last.ckpt"
    content = last.read_bytes()
    last.write_bytes(content[: {"cut": len(content) // 2, "empty": 0, "bit": None}[damage_kind]])
    if damage_kind == "bit":
        flip_bit(last)
    assert not is_whole(last)
    with caplog.at_level("WARNING"):
        newest = newest_checkpoint(folder)
    assert (newest.path.name, newest.step) == ("previous.ckpt", 2)
    assert caplog.messages == [f"{last} is damaged: using the one before"]
    flip_bit(folder / "previous.ckpt")
    assert newest_checkpoint(folder).path.name == "best.ckpt"
    flip_bit(folder / "best.ckpt")
    assert newest_checkpoint(folder) is None
    assert newest_checkpoint(folder / "missing") is None


def test_nothing_half_written_stays(folder, monkeypatch):
    before = contents(folder)

    def full_disk(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"No space left on device: '\S+last\.ckpt'"):
        CheckpointFiles().save_checkpoint(checkpoint(4), folder / "last.ckpt")
    assert contents(folder) == before


@pytest.mark.parametrize("limit", [100, 300_000])
def test_the_system_s_error_is_not_hidden_by_torch_s(folder, file_size_limit, limit):
    file_size_limit(limit)
    with pytest.raises(OSError, match=r"File too large: '\S+last\.ckpt'"):
        CheckpointFiles().save_checkpoint({"state_dict": torch.zeros(1_000_000)}, folder / "last.ckpt")


def test_a_disk_that_is_full_in_the_middle_is_one_line(command, tiny, tmp_path, file_size_limit):
    file_size_limit(40_000)  # less than a checkpoint, more than any other file
    limits = ["--data.decode_timeout=null", "--data.decode_memory=null"]  # files in memory have the limit, too
    short = ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=0"]
    code, _, err = command("fit", *tiny, *limits, *short, f"--run_dir={tmp_path / 'run'}")
    checkpoints = tmp_path / "run/checkpoints"
    assert code == 2, err
    last = err.strip().splitlines()[-1]
    assert last.startswith(f"mvrec: error: File too large: {checkpoints}/"), err
    assert last.endswith("nothing half-written is left")
    assert "Traceback" not in err
    assert list(checkpoints.iterdir()) == []


def test_metrics_have_whole_rows_only(tmp_path, file_size_limit):
    logger = MetricsCsv(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=0)
    before = (tmp_path / "metrics.csv").read_bytes()
    file_size_limit(len(before) + 4)  # the next row has seven bytes
    with pytest.raises(OSError, match=r"File too large: '\S+metrics\.csv'"):
        logger.log_metrics({"loss": 12.25}, step=1)
    assert (tmp_path / "metrics.csv").read_bytes() == before
    file_size_limit(10_000)
    (tmp_path / "metrics.csv").write_bytes(before + b"1,1")  # a process was killed there
    MetricsCsv(tmp_path).log_metrics({"loss": 2.0}, step=2)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["step,loss", "0,1.0", "2,2.0"]


@pytest.mark.parametrize("rows", ["1,1.0,2\n", "abc,1.0\n", "1,\0\n", "\ufffd,\n"])
def test_rows_that_a_crash_has_damaged_are_left_out(tmp_path, rows, caplog):
    before = f"step,loss\n0,1.0\n{rows}".replace("\ufffd", "\xe2").encode("latin-1")
    (tmp_path / "metrics.csv").write_bytes(before)
    MetricsCsv(tmp_path).log_metrics({"loss": 2.0}, step=2)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["step,loss", "0,1.0", "2,2.0"]
    assert (tmp_path / "metrics.csv.damaged").read_bytes() == before
    assert "metrics.csv: skipping 1 damaged rows" in caplog.text


def test_a_file_of_weights_alone_is_no_checkpoint_to_go_on_from(folder):
    weights = {name: value for name, value in checkpoint(9).items() if name != "optimizer_states"}
    CheckpointFiles().save_checkpoint(weights, folder / "best.ckpt")
    assert newest_checkpoint(folder).path.name == "last.ckpt"
    with pytest.raises(
        UserError, match=r"best.ckpt has only weights .* To start anew from its weights: --model.weights"
    ):
        check_resume({}, read_weights(folder / "best.ckpt"))
