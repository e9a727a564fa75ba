import json

import pytest
import torch

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


def test_total_norm():
    assert total_norm([]) == 0
    assert total_norm([torch.tensor([3.0]), torch.tensor([[4.0]])]) == pytest.approx(5)
    assert total_norm([torch.tensor([float("inf"), 1.0])]).isinf()
