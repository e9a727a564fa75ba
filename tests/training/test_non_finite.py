import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from mvrec.tasks import Classification
from mvrec.training.non_finite import total_norm


@pytest.fixture
def broken_at(monkeypatch):
    """Make the loss of some batches, counted from the start, what is given."""

    def install(values):
        step, count = Classification.training_step, iter(range(1000))

        def training_step(self, batch, batch_idx):
            loss = step(self, batch, batch_idx)
            return loss * values.get(next(count), 1.0)

        monkeypatch.setattr(Classification, "training_step", training_step)

    return install


def saved(path):
    return torch.load(path, weights_only=True)


EVERY_STEP = ["--checkpoint.every_n_train_steps=1", "--checkpoint.monitor=null", "--checkpoint.save_top_k=-1"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_without_finite_gradients_changes_nothing_and_is_written_down(command, tiny, tmp_path, broken_at, value):
    broken_at({2: value})
    code, _, err = command("fit", *tiny, *EVERY_STEP, "--checkpoint.filename=step{step}", f"--run_dir={tmp_path}")
    assert code == 0, err
    before, after, end = (saved(tmp_path / f"checkpoints/step{step}.ckpt") for step in (2, 3, 4))
    assert all(torch.equal(before["state_dict"][name], after["state_dict"][name]) for name in before["state_dict"])
    first, second = (checkpoint["optimizer_states"][0]["state"] for checkpoint in (before, after))
    assert all(torch.equal(first[key][name], second[key][name]) for key in first for name in first[key])
    assert any(not torch.equal(after["state_dict"][n], end["state_dict"][n]) for n in end["state_dict"])
    assert err.count("a gradient is not finite, the step is left out") == 1
    (line,) = (tmp_path / "non_finite/rank_0.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert (entry["step"], entry["epoch"], entry["batch"]) == (2, 0, 2)
    assert len(entry["paths"]) == len(entry["sample_ids"]) == len(entry["seeds"]) == 9
    assert all(path.endswith(".mp4") for path in entry["paths"])


def test_too_many_in_a_row_end_the_run_with_the_way_out(command, tiny, tmp_path, broken_at):
    broken_at(dict.fromkeys(range(2, 100), float("nan")))
    code, _, err = command("fit", *tiny, "--trainer.max_epochs=9", f"--run_dir={tmp_path}")
    assert code == 2
    last = err.splitlines()[-1]
    assert last.startswith("mvrec: error: the gradients of 10 steps in a row are not finite, the last of them step 11")
    assert str(tmp_path / "non_finite/rank_0.jsonl") in last
    assert len((tmp_path / "non_finite/rank_0.jsonl").read_text().splitlines()) == 10


def test_with_accumulation_all_batches_of_the_step_are_written(command, tiny, tmp_path, broken_at):
    broken_at({3: float("nan")})
    accumulate = ["--data.batch_size=3", "--trainer.accumulate_grad_batches=2"]
    code, _, err = command("fit", *tiny, *accumulate, f"--run_dir={tmp_path}")
    assert code == 0, err
    lines = [json.loads(line) for line in (tmp_path / "non_finite/rank_0.jsonl").read_text().splitlines()]
    assert [(line["step"], line["batch"], len(line["paths"])) for line in lines] == [(1, 2, 3), (1, 3, 3)]


def test_two_processes_leave_out_the_same_step(tiny, tmp_path):
    """The loss is broken on one of them only; weights and averages of both stay what they were."""
    callbacks = tmp_path / "callbacks.yaml"
    broken = {"class_path": "step_recorder.BreakLoss", "init_args": {"batch": 2, "rank": 1}}
    averages = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.9}}
    callbacks.write_text(yaml.safe_dump({"trainer": {"callbacks": [broken, averages]}}))
    run_dir = tmp_path / "run"
    balance = ["--model.class_weights=balanced", "--data.class_balance=1"]
    arguments = [*tiny, *EVERY_STEP, *balance, "--checkpoint.filename=step{step}", f"--config={callbacks}"]
    two = ["--data.batch_size=4", "--trainer.strategy=ddp", "--trainer.devices=2"]
    result = subprocess.run(
        [sys.executable, "-m", "mvrec", "fit", *arguments, *two, f"--run_dir={run_dir}"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent / "runs")},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    for rank in (0, 1):
        (line,) = (run_dir / f"non_finite/rank_{rank}.jsonl").read_text().splitlines()
        assert json.loads(line)["step"] == 2
    before, after, end = (saved(run_dir / f"checkpoints/step{step}.ckpt") for step in (2, 3, 4))
    names = before["current_model_state"]
    assert all(torch.equal(names[name], after["current_model_state"][name]) for name in names)
    assert all(tensor.isfinite().all() for tensor in end["state_dict"].values())
    assert any(not torch.equal(names[name], end["current_model_state"][name]) for name in names)


def test_total_norm():
    assert total_norm([]) == 0
    assert total_norm([torch.tensor([3.0]), torch.tensor([[4.0]])]) == pytest.approx(5)
    assert total_norm([torch.tensor([float("inf"), 1.0])]).isinf()
