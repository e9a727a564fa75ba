"""Steps whose gradients are not finite are left out, on all processes together, and written down."""

import json

import pytest
import torch
from run_support import EMA, HERE, SAVE_EVERY_STEP, callback, overlay, stored
from torch.optim import SGD, Adam, AdamW
from warm import run_ranks

from mvrec.errors import UserError
from mvrec.training.non_finite import NonFiniteGuard, total_norm


def test_a_step_that_is_broken_on_one_of_two_processes_changes_nothing_and_is_written_down(tiny, tmp_path):
    """Two batches on two processes make a step; the loss is broken on one process."""
    broken = overlay(tmp_path, callback("BreakLoss", batch=2, rank=1), EMA)
    balance = ["--model.class_weights=balanced", "--data.class_balance=1"]
    sizes = ["--data.batch_size=2", "--trainer.accumulate_grad_batches=2", "--trainer.limit_train_batches=8"]
    arguments = [*tiny, *SAVE_EVERY_STEP, *balance, *sizes, broken, "--trainer.limit_val_batches=1"]
    processes = run_ranks(2, "fit", *arguments, f"--run_dir={tmp_path}", env=HERE)
    for process in processes:
        assert process.returncode == 0, process.stderr
    assert processes[0].stderr.count("a gradient is not finite, the step is skipped") == 1
    for rank in (0, 1):
        lines = (tmp_path / f"non_finite/rank_{rank}.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        assert [(entry["step"], entry["epoch"], entry["batch"]) for entry in entries] == [(2, 0, 4), (2, 0, 5)]
        for entry in entries:
            assert len(entry["paths"]) == len(entry["sample_ids"]) == len(entry["seeds"]) == 2
            assert all(path.endswith(".mp4") for path in entry["paths"])
    before, after, end = (stored(tmp_path, f"step{step}") for step in (2, 3, 4))
    weights, same, moved = (checkpoint["current_model_state"] for checkpoint in (before, after, end))
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    first, second = (checkpoint["optimizer_states"][0]["state"] for checkpoint in (before, after))
    assert all(torch.equal(first[key][name], second[key][name]) for key in first for name in first[key])
    assert all(tensor.isfinite().all() for tensor in end["state_dict"].values())
    assert any(not torch.equal(weights[name], moved[name]) for name in weights)


class Trainer:
    """The part of a trainer that the guard uses."""

    world_size, log_every_n_steps, accumulate_grad_batches, global_rank, current_epoch = 1, 0, 1, 0, 0
    precision_plugin, datamodule, global_step = None, None, 0


def trained(tmp_path, optimizer, broken, *, max_in_a_row=10, **options):
    """Parameters, optimiser state and guard after six steps, of which some have a gradient that is not finite."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    optimiser, trainer = optimizer(network.parameters(), lr=0.1, **options), Trainer()
    guard = NonFiniteGuard(tmp_path, max_in_a_row=max_in_a_row)
    for step in range(6):
        trainer.global_step = step
        if step in broken and broken[step] is None:
            continue
        guard.on_train_batch_start(trainer, None, None, step)
        optimiser.zero_grad()
        inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        (network(inputs).square().mean() * broken.get(step, 1.0)).backward()
        guard.on_before_optimizer_step(trainer, None, optimiser)
        optimiser.step()
    states = [
        value for state in optimiser.state.values() for value in state.values() if isinstance(value, torch.Tensor)
    ]
    guard.on_train_end(trainer, None)
    return [*network.parameters(), *states], guard


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [(AdamW, {}), (Adam, {"amsgrad": True}), (SGD, {"momentum": 0.9, "weight_decay": 0.1}), (SGD, {})],
)
@pytest.mark.parametrize("broken", [(2,), (0, 1), (3, 5), (4, 5)])
def test_a_fused_optimiser_leaves_out_the_step_itself(tmp_path, optimizer, options, broken):
    """Bit for bit what it is without these steps, though nobody has read by then that they are broken."""
    network, guard = trained(tmp_path, optimizer, dict.fromkeys(broken, float("inf")), fused=True, **options)
    expected, _ = trained(tmp_path, optimizer, dict.fromkeys(broken), fused=True, **options)
    assert len(network) == len(expected)
    assert all(torch.equal(actual, reference) for actual, reference in zip(network, expected, strict=True))
    assert guard.skipped == len(broken)
    lines = (tmp_path / "rank_0.jsonl").read_text().splitlines()
    assert tuple(json.loads(line)["step"] for line in lines) == broken


def test_too_many_in_a_row_end_the_run_with_the_way_out(tmp_path):
    broken = {number: float("nan") for number in (0, 1, 3, 4, 5)}
    with pytest.raises(UserError, match=r"3 steps in a row are not finite, the last of them step 5 .*rank_0\.jsonl: "):
        trained(tmp_path, AdamW, broken, max_in_a_row=3)
    assert len((tmp_path / "rank_0.jsonl").read_text().splitlines()) == 5


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


def test_total_norm_is_over_all_gradients():
    assert total_norm([]) == 0
    assert total_norm([torch.tensor([3.0]), torch.tensor([[4.0]])]) == pytest.approx(5)
    assert total_norm([torch.tensor([float("inf"), 1.0])]).isinf()
