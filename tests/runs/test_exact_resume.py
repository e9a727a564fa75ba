"""A run that ends anywhere and in any way goes on as if it had not, with other workers and other processes too."""

from pathlib import Path

import pytest
import torch
from run_support import EMA, HERE, SAVE_EVERY_STEP, callback, flip_bit, logged, overlay, stored
from step_recorder import steps
from warm import run_ranks

from mvrec.runs.checkpoint_files import newest_checkpoint
from mvrec.runs.signals import STOP_EXIT

RANDOM = [  # everything that is random or has a memory
    *("--data.augment.random_erasing.probability=0.5", "--model.mixing={}", "--model.backbone.head_dropout=0.3"),
    *("--data.batch_size=3", "--data.repeats=2", "--trainer.accumulate_grad_batches=2", "--trainer.max_epochs=2"),
]


def trained(run_dir: Path, since: int = 0) -> list[tuple[str, ...]]:
    return logged(run_dir, "train/loss", "train/lr", since=since)


def validated(run_dir: Path) -> list[tuple[str, ...]]:
    return logged(run_dir, "val/loss", "val/top1")


def assert_same_end(actual: Path, reference: Path) -> None:
    """Weights, averages and optimiser state are the same, bit for bit."""
    a, b = stored(actual), stored(reference)
    assert a["global_step"] == b["global_step"]
    for part in ("state_dict", "current_model_state"):
        assert a.get(part, {}).keys() == b.get(part, {}).keys()
        different = [name for name in a.get(part, {}) if not torch.equal(a[part][name], b[part][name])]
        assert not different, (part, different)
    first, second = (checkpoint["optimizer_states"][0]["state"] for checkpoint in (a, b))
    assert all(torch.equal(first[key][name], second[key][name]) for key in first for name in first[key])


# -- on one process --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """Two epochs of six steps of two batches, validated every third batch, with checkpoints after many batches."""
    from mvrec.cli.main import main

    folder = tmp_path_factory.mktemp("whole")
    save = callback("SaveAt", folder=str(folder / "at"), batches=[1, 2, 5, 11, 12, 13, 16, 19], validations=[3, 6, 21])
    validation = ["--trainer.val_check_interval=3", "--trainer.limit_val_batches=1", "--data.eval_batch_size=2"]
    arguments = [*tiny, *RANDOM, *validation]
    main(["fit", *arguments, overlay(folder, save), f"--run_dir={folder / 'run'}"])
    return arguments, folder


@pytest.mark.parametrize(
    "batch", [5, *(pytest.param(batch, marks=pytest.mark.slow) for batch in (1, 2, 3, 6, 11, 12, 13, 16, 19, 21))]
)
def test_a_checkpoint_of_any_batch_goes_on_bit_for_bit(command, whole, tmp_path, batch):
    arguments, original = whole
    start = [f"--ckpt_path={original / f'at/batch{batch}.ckpt'}", f"--data.num_workers={(batch + 1) % 3}"]
    code, _, err = command("fit", *arguments, *start, f"--run_dir={tmp_path}")
    assert code == 0, err
    assert_same_end(tmp_path, original / "run")
    assert trained(tmp_path) == trained(original / "run", since=batch // 2)
    assert len(trained(tmp_path)) == 12 - batch // 2


# The exit code of every way to end; None for an error that is not the user's.
WAYS = {"stop": 0, "save": 2, "signal": STOP_EXIT, "interrupt": 130, "error": None, "error in validation": None}


@pytest.mark.parametrize(
    "ends",  # way, batches until then, and the step that the run stands at
    [
        [("signal", 3, 1), ("interrupt", 4, 3), ("error", 5, 5), ("error in validation", 2, 6)],
        pytest.param([("stop", 1, 0), ("save", 4, 2), ("stop", 9, 6), ("save", 1, 6)], marks=pytest.mark.slow),
    ],
)
def test_a_run_that_ends_again_and_again_loses_no_step_and_goes_on_bit_for_bit(command, whole, tmp_path, ends):
    """At last its newest checkpoint is damaged, and it goes on from the one before."""
    arguments, original, run_dir = whole[0], whole[1] / "run", tmp_path / "run"
    arguments, stderr = [*arguments, f"--run_dir={run_dir}", "--resume=auto"], []
    for way, batches, step in ends:
        broken = [*arguments, overlay(tmp_path, callback("EndAt", batch=batches, way=way))]
        if WAYS[way] is None:
            with pytest.raises(ZeroDivisionError):
                command("fit", *broken)
        else:
            code, _, err = command("fit", *broken)
            assert code == WAYS[way], (way, err)
            stderr.append(err)
        assert stored(run_dir)["global_step"] == step, way
    assert f"resume: nothing to go on from in {run_dir / 'checkpoints'}, a fresh start" in stderr[0]
    flip_bit(run_dir / "checkpoints/last.ckpt")
    newest = newest_checkpoint(run_dir / "checkpoints")
    code, _, err = command("fit", *arguments)
    assert code == 0, err
    assert "last.ckpt is damaged: using the one before" in err
    assert f"resume: going on from {newest.path} at step {newest.step}" in err
    assert_same_end(run_dir, original)
    assert trained(run_dir) == trained(original)
    assert set(validated(original)) <= set(validated(run_dir))
    assert not (run_dir / "earlier").exists()


# -- on several processes --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_process(tiny, tmp_path_factory):
    """Two epochs of four steps of eight videos on one process, with averages and a checkpoint at every step."""
    from mvrec.cli.main import main

    folder = tmp_path_factory.mktemp("one")
    plain = ["--model.backbone.drop_path_rate=0", "--trainer.gradient_clip_val=null", "--model.optimizer.lr=1e-4"]
    erasing = "--data.augment.random_erasing.probability=0.5"
    arguments = [*tiny, *SAVE_EVERY_STEP, *plain, erasing, "--trainer.max_epochs=2"]
    record = overlay(folder, EMA, callback("StepRecorder", folder=str(folder / "steps")))
    main(["fit", *arguments, record, "--data.batch_size=8", f"--run_dir={folder / 'run'}"])
    return arguments, folder


def test_two_processes_go_on_with_the_steps_of_one_also_after_a_signal_to_one_of_them(one_process, tmp_path):
    arguments, original = one_process
    run_dir = tmp_path / "run"

    def fit(start: str, *callbacks: dict) -> list:
        config = overlay(tmp_path, EMA, *callbacks, callback("StepRecorder", folder=str(tmp_path / "steps")))
        sizes = ["--data.batch_size=4", "--data.num_workers=1"]
        return run_ranks(2, "fit", *arguments, *sizes, start, config, f"--run_dir={run_dir}", env=HERE)

    # Lightning would broadcast in its handler, and wait for ever.
    signalled = fit(
        f"--ckpt_path={original / 'run/checkpoints/step3.ckpt'}", callback("EndAt", batch=2, way="signal", rank=1)
    )
    stderr = signalled[0].stderr
    assert [process.returncode for process in signalled] == [STOP_EXIT] * 2, stderr
    assert "Traceback" not in stderr
    assert "val:" not in stderr.split("asked to end")[1]  # no validation that nobody has time for
    stopped = stored(run_dir)["global_step"]
    assert 4 < stopped < 8
    resumed = fit("--resume=auto")
    assert [process.returncode for process in resumed] == [0, 0], resumed[0].stderr
    assert f"going on from {run_dir / 'checkpoints/last.ckpt'} at step {stopped}" in resumed[0].stderr
    expected = {step: rows for step, rows in steps(original / "steps").items() if step >= 3}
    assert steps(tmp_path / "steps") == expected
    assert sorted(expected) == list(range(3, 8))
    actual, reference = stored(run_dir), stored(original / "run")
    for part in ("state_dict", "current_model_state"):
        for name in reference[part]:
            if not name.endswith("attn.norm_k.bias"):  # a constant before a softmax: its gradient is rounding noise
                torch.testing.assert_close(actual[part][name], reference[part][name], rtol=1e-3, atol=1e-5, msg=name)
    stderr = "".join(process.stderr for process in (*signalled, *resumed))
    assert "Grad strides do not match" not in stderr  # else every gradient is copied once more
    assert stderr.count("24/24 videos scored") == 2  # once per epoch
    assert sorted(step for step, _, _ in trained(run_dir)) == [str(step) for step in range(3, 8)]


def test_without_averaging_training_goes_on_from_the_weights_and_not_from_their_averages(
    command, one_process, tmp_path
):
    arguments, original = one_process
    start = f"--ckpt_path={original / 'run/checkpoints/step7.ckpt'}"
    still = ["--data.batch_size=8", "--model.optimizer.lr=1e-12", "--trainer.limit_val_batches=1"]  # no weight moves
    code, _, err = command("fit", *arguments, *still, start, f"--run_dir={tmp_path}")
    assert code == 0, err
    assert "trainer.callbacks" in next(line for line in err.splitlines() if "changed from step 7 on: " in line)
    before, after = stored(original / "run", "step7"), stored(tmp_path)
    assert "current_model_state" not in after
    name = next(name for name in before["state_dict"] if name.startswith("backbone.head"))
    assert not torch.equal(before["state_dict"][name], before["current_model_state"][name])
    torch.testing.assert_close(after["state_dict"][name], before["current_model_state"][name], rtol=0, atol=1e-6)
