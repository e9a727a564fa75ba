"""A run that ends anywhere in an epoch goes on with the next step of that epoch, and owes no validation."""

import csv
from pathlib import Path

import pytest
import torch

SIZES = ["--data.batch_size=6", "--trainer.max_epochs=2", "--trainer.num_sanity_val_steps=0"]


def rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def steps(run_dir: Path) -> list[tuple[str, ...]]:
    """What every step was: its number, epoch, loss and learning rate."""
    return [tuple(r[k] for k in ("step", "epoch", "train/loss", "train/lr")) for r in rows(run_dir) if r["train/loss"]]


def validations(run_dir: Path) -> list[tuple[str, ...]]:
    return [tuple(r[k] for k in ("step", "epoch", "val/top1", "val/loss")) for r in rows(run_dir) if r.get("val/loss")]


def weights(run_dir: Path) -> dict:
    return torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """Two epochs of six steps, validated after every second one."""
    from mvrec.cli.main import main

    run_dir = tmp_path_factory.mktemp("whole")
    arguments = [*tiny, *SIZES, "--trainer.val_check_interval=2"]
    main(["fit", *arguments, f"--run_dir={run_dir}"])
    assert len(steps(run_dir)) == 12
    return arguments, run_dir


def assert_same_run(run_dir: Path, original: Path) -> None:
    assert steps(run_dir) == steps(original)
    assert validations(run_dir) == validations(original)
    ours, theirs = weights(run_dir), weights(original)
    assert not [name for name in theirs if not torch.equal(ours[name], theirs[name])]


@pytest.mark.parametrize(
    ("way", "batches"),
    [
        *(("stop", batch) for batch in (1, 3)),
        ("signal", 3),
        ("save", 6),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("stop", 4), ("stop", 6), ("signal", 6), ("save", 1), ("save", 4))
        ),
    ],
)
def test_a_run_ended_at_any_step_goes_on_there(command, whole, tmp_path, way, batches):
    arguments, original = whole
    callback = [
        "--trainer.callbacks=step_recorder.EndAt",
        f"--trainer.callbacks.batch={batches}",
        f"--trainer.callbacks.way={way}",
    ]
    code, _, err = command("fit", *arguments, *callback, f"--run_dir={tmp_path}")
    assert code == {"stop": 0, "save": 2, "signal": 143}[way], err
    code, _, err = command("fit", *arguments, f"--run_dir={tmp_path}", "--resume=auto")
    assert code == 0, err
    if way == "stop" and batches % 2:  # an early stop validates at once, which is one validation more
        extra = [row for row in validations(tmp_path) if row not in validations(original)]
        assert [int(row[0]) for row in extra] == [batches - 1]
        assert steps(tmp_path) == steps(original)
    else:
        assert_same_run(tmp_path, original)
