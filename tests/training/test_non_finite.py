import json
from pathlib import Path

import pytest
import torch
import yaml
from torch.optim import SGD, Adam, AdamW
from warm import run_ranks

from mvrec.tasks import Classification
from mvrec.training.non_finite import NonFiniteGuard, total_norm


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


@pytest.mark.parametrize("value", [float("inf"), pytest.param(float("nan"), marks=pytest.mark.slow)])
def test_a_step_without_finite_gradients_changes_nothing_and_is_written_down(command, tiny, tmp_path, broken_at, value):
    broken_at({2: value})
    code, _, err = command("fit", *tiny, *EVERY_STEP, "--checkpoint.filename=step{step}", f"--run_dir={tmp_path}")
    assert code == 0, err
    before, after, end = (saved(tmp_path / f"checkpoints/step{step}.ckpt") for step in (2, 3, 4))
    assert all(torch.equal(before["state_dict"][name], after["state_dict"][name]) for name in before["state_dict"])
    first, second = (checkpoint["optimizer_states"][0]["state"] for checkpoint in (before, after))
    assert all(torch.equal(first[key][name], second[key][name]) for key in first for name in first[key])
    assert any(not torch.equal(after["state_dict"][n], end["state_dict"][n]) for n in end["state_dict"])
    assert err.count("a gradient is not finite, the step is skipped") == 1
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
    arguments += ["--data.batch_size=4", "--trainer.limit_val_batches=1", f"--run_dir={run_dir}"]
    recorder = Path(__file__).parent.parent / "runs"
    for process in run_ranks(2, "fit", *arguments, env={"PYTHONPATH": recorder}):
        assert process.returncode == 0, process.stderr
    for rank in (0, 1):
        (line,) = (run_dir / f"non_finite/rank_{rank}.jsonl").read_text().splitlines()
        assert json.loads(line)["step"] == 2
    before, after, end = (saved(run_dir / f"checkpoints/step{step}.ckpt") for step in (2, 3, 4))
    names = before["current_model_state"]
    assert all(torch.equal(names[name], after["current_model_state"][name]) for name in names)
    assert all(tensor.isfinite().all() for tensor in end["state_dict"].values())
    assert any(not torch.equal(names[name], end["current_model_state"][name]) for name in names)


class Trainer:
    """As much of a trainer as the guard asks for."""

    world_size, log_every_n_steps, accumulate_grad_batches, global_rank, current_epoch = 1, 0, 1, 0, 0
    precision_plugin, datamodule, global_step = None, None, 0


def trained(tmp_path, optimizer, broken=(), **options):
    """Parameters, optimiser state and guard after six steps, of which some have a gradient that is not finite."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    made, trainer, guard = optimizer(network.parameters(), lr=0.1, **options), Trainer(), NonFiniteGuard(tmp_path)
    for step in range(6):
        trainer.global_step = step
        if step in broken and broken[step] is None:
            continue
        guard.on_train_batch_start(trainer, None, None, step)
        made.zero_grad()
        inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        (network(inputs).square().mean() * broken.get(step, 1.0)).backward()
        guard.on_before_optimizer_step(trainer, None, made)
        made.step()
    states = [value for state in made.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    guard.on_train_end(trainer, None)
    return [*network.parameters(), *states], guard


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [(AdamW, {}), (Adam, {"amsgrad": True}), (SGD, {"momentum": 0.9, "weight_decay": 0.1}), (SGD, {})],
)
@pytest.mark.parametrize("broken", [(2,), (0, 1), (3, 5), (4, 5)])
def test_a_fused_optimiser_leaves_out_the_step_itself(tmp_path, optimizer, options, broken):
    """Bit for bit what it is without these steps, though nobody has read by then that they are broken."""
    found, guard = trained(tmp_path, optimizer, dict.fromkeys(broken, float("inf")), fused=True, **options)
    expected, _ = trained(tmp_path, optimizer, dict.fromkeys(broken), fused=True, **options)
    assert len(found) == len(expected)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    assert guard.skipped == len(broken)
    lines = (tmp_path / "rank_0.jsonl").read_text().splitlines()
    assert tuple(json.loads(line)["step"] for line in lines) == broken


def test_a_broken_step_is_read_one_step_later_or_with_the_checkpoint(tmp_path):
    broken = dict.fromkeys((1, 2, 3), float("nan"))
    guard = NonFiniteGuard(tmp_path, max_in_a_row=3)
    read = []
    guard._left_out = lambda step: read.append((step.number, trainer.global_step))
    network, trainer = torch.nn.Linear(3, 2), Trainer()
    optimizer = AdamW(network.parameters(), fused=True)
    for trainer.global_step in range(5):
        guard.on_train_batch_start(trainer, None, None, 0)
        optimizer.zero_grad()
        (network(torch.ones(1, 3)).sum() * broken.get(trainer.global_step, 1.0)).backward()
        guard.on_before_optimizer_step(trainer, None, optimizer)
        optimizer.step()
        if trainer.global_step == 2:
            guard.state_dict()
    assert read == [(1, 2), (2, 2), (3, 4)]
    assert all(parameter.isfinite().all() for parameter in network.parameters())


def test_only_torchs_own_optimisers_decide_by_themselves(tmp_path):
    class Mine(AdamW):
        def step(self, closure=None):
            raise AssertionError

    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([1.0, float("nan")])
    guard = NonFiniteGuard(tmp_path)
    guard._seen = {id(parameter)}
    guard.on_before_optimizer_step(Trainer(), None, Mine([parameter], fused=True))
    assert guard.skipped == 1
    assert parameter.grad is None


def test_total_norm():
    assert total_norm([]) == 0
    assert total_norm([torch.tensor([3.0]), torch.tensor([[4.0]])]) == pytest.approx(5)
    assert total_norm([torch.tensor([float("inf"), 1.0])]).isinf()
