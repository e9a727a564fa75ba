"""A run that ends anywhere and in any way goes on as if it had not, with other workers and other processes too."""

import csv
from pathlib import Path

import pytest
import torch
import yaml
from step_recorder import steps
from warm import run, run_ranks

from mvrec.runs.preemption import REQUEUE_EXIT
from mvrec.runs.signals import STOP_EXIT

HERE = {"PYTHONPATH": str(Path(__file__).parent)}
EMA = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.9}}
RANDOM = [  # everything that is random or has a memory
    *("--data.augment.random_erasing.probability=0.5", "--model.mixing={}", "--model.backbone.head_dropout=0.3"),
    *("--data.batch_size=3", "--data.repeats=2", "--trainer.accumulate_grad_batches=2", "--trainer.max_epochs=2"),
]
NO_EFFECT = "attn.norm_k.bias"  # a constant before a softmax: its gradient is rounding noise


def callback(kind: str, **arguments: object) -> dict:
    return {"class_path": f"step_recorder.{kind}", "init_args": arguments}


def overlay(folder: Path, *callbacks: dict) -> str:
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / "callbacks.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": list(callbacks)}}))
    return f"--config={path}"


def last(run_dir: Path) -> dict:
    return torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)


def logged(run_dir: Path, *columns: str, since: int = 0) -> list[tuple[str, ...]]:
    """Return step and columns of the rows of metrics.csv that have the first of them, from a step on."""
    with (run_dir / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get(columns[0]) and int(row["step"]) >= since]
    return [tuple(row[name] for name in ("step", *columns)) for row in rows]


def trained(run_dir: Path, since: int = 0) -> list[tuple[str, ...]]:
    return logged(run_dir, "train/loss", "train/lr", since=since)


def validated(run_dir: Path) -> list[tuple[str, ...]]:
    return logged(run_dir, "val/loss", "val/top1")


def assert_same_end(ours: Path, theirs: Path) -> None:
    """Weights, averages and optimiser state are the same, bit for bit."""
    a, b = last(ours), last(theirs)
    assert a["global_step"] == b["global_step"]
    for part in ("state_dict", "current_model_state"):
        assert a.get(part, {}).keys() == b.get(part, {}).keys()
        different = [name for name in a.get(part, {}) if not torch.equal(a[part][name], b[part][name])]
        assert not different, (part, different)
    first, second = (checkpoint["optimizer_states"][0]["state"] for checkpoint in (a, b))
    assert all(torch.equal(first[key][name], second[key][name]) for key in first for name in first[key])


# -- at any batch ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """Two epochs of six steps of two batches, validated every third batch, with checkpoints after many batches."""
    from mvrec.cli.main import main

    folder = tmp_path_factory.mktemp("whole")
    save = callback("SaveAt", folder=str(folder / "at"), batches=[1, 2, 5, 11, 12, 13, 16, 19], validations=[3, 6, 21])
    arguments = [*tiny, *RANDOM, "--trainer.val_check_interval=3", "--trainer.limit_val_batches=1"]
    main(["fit", *arguments, overlay(folder, EMA, save), f"--run_dir={folder / 'run'}"])
    return [*arguments, overlay(folder / "resumed", EMA)], folder


@pytest.mark.parametrize(
    ("batch", "workers"),
    [
        *((5, 0), (16, 2)),  # between two steps; in the second epoch
        *(pytest.param(batch, batch % 3, marks=pytest.mark.slow) for batch in (1, 2, 3, 6, 11, 12, 13, 19, 21)),
    ],
)
def test_a_checkpoint_of_any_batch_goes_on_bit_for_bit(command, whole, tmp_path, batch, workers):
    arguments, original = whole
    start = [f"--ckpt_path={original / f'at/batch{batch}.ckpt'}", f"--data.num_workers={workers}"]
    code, _, err = command("fit", *arguments, *start, f"--run_dir={tmp_path}")
    assert code == 0, err
    assert_same_end(tmp_path, original / "run")
    assert trained(tmp_path) == trained(original / "run", since=batch // 2)
    assert len(trained(tmp_path)) == 12 - batch // 2


def test_a_checkpoint_between_two_steps_stands_at_the_first(whole):
    first, second = (torch.load(whole[1] / f"at/batch{batch}.ckpt", weights_only=True) for batch in (12, 13))
    assert first["global_step"] == second["global_step"] == 6
    progress = second["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert progress == {"ready": 0, "started": 0, "processed": 0, "completed": 0}
    assert second["MovingDigits"]["consumed"] == 0


# -- in any way ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(tiny, tmp_path_factory):
    """Two epochs of six steps, validated after every second one."""
    from mvrec.cli.main import main

    folder = tmp_path_factory.mktemp("unbroken")
    sizes = ["--data.batch_size=6", "--trainer.max_epochs=2", "--trainer.num_sanity_val_steps=0"]
    arguments = [*tiny, *sizes, "--trainer.val_check_interval=2", "--trainer.limit_val_batches=1"]
    main(["fit", *arguments, f"--run_dir={folder}"])
    assert len(trained(folder)) == 12
    return arguments, folder


# The exit code of every way to end; None for an error that is not the user's.
WAYS = {"stop": 0, "save": 2, "signal": STOP_EXIT, "interrupt": 130, "error": None, "error in validation": None}


@pytest.mark.parametrize(
    ("way", "batches"),
    [
        *(("signal", 3), ("interrupt", 5), ("error", 3), ("error in validation", 12)),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                *(("stop", 1), ("stop", 3), ("stop", 4), ("stop", 6), ("error", 6), ("signal", 6)),
                *(("save", 1), ("save", 4), ("save", 6)),
            )
        ),
    ],
)
def test_a_run_that_ends_in_any_way_loses_no_step_and_goes_on_bit_for_bit(command, unbroken, tmp_path, way, batches):
    arguments, original = unbroken
    end = overlay(tmp_path, callback("EndAt", batch=batches, way=way))
    arguments = [*arguments, f"--run_dir={tmp_path / 'run'}"]
    if WAYS[way] is None:
        with pytest.raises(ZeroDivisionError):
            command("fit", *arguments, end)
    else:
        code, _, err = command("fit", *arguments, end)
        assert code == WAYS[way], err
        assert f"interrupted at step {batches}: saved in {tmp_path}" in err or way != "interrupt"
    assert last(tmp_path / "run")["global_step"] == batches
    code, _, err = command("fit", *arguments, "--resume=auto")
    assert code == 0, err
    assert_same_end(tmp_path / "run", original)
    assert trained(tmp_path / "run") == trained(original)
    extra = set(validated(tmp_path / "run")) - set(validated(original))
    assert set(validated(original)) <= set(validated(tmp_path / "run"))
    # An early stop validates at once, which is one validation more.
    assert [int(row[0]) for row in extra] == ([batches - 1] if way == "stop" and batches % 2 else [])


# -- on several processes --------------------------------------------------------------------------------------------


def fit(count: int, tiny: list[str], folder: Path, *callbacks: dict, more: tuple[str, ...] = ()) -> list:
    """Run `mvrec fit` on some processes, with steps recorded."""
    config = overlay(folder, EMA, *callbacks, callback("StepRecorder", folder=str(folder / "steps")))
    arguments = [*tiny, *RANDOM, "--data.num_workers=1", config, f"--run_dir={folder / 'run'}", "--resume=auto", *more]
    if count == 1:
        return [run("fit", *arguments, env=HERE)]
    return run_ranks(count, "fit", *arguments, env=HERE)


@pytest.mark.parametrize(
    ("batch", "name", "count", "rank", "code"),
    [
        (3, "TERM", 2, 1, STOP_EXIT),  # Lightning would broadcast in its handler, and wait for ever
        pytest.param(12, "USR1", 1, 0, REQUEUE_EXIT, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_one_process_ends_all_at_the_same_step(tiny, tmp_path, batch, name, count, rank, code):
    full, broken = tmp_path / "full", tmp_path / "broken"
    for process in fit(count, tiny, full):
        assert process.returncode == 0, process.stderr
    signalled = fit(count, tiny, broken, callback("SignalAt", batch=batch, name=name, rank=rank))
    assert [process.returncode for process in signalled] == [code] * count, signalled[0].stderr
    assert f"asked to end (SIG{name})" in signalled[0].stderr or rank > 0
    assert "Traceback" not in signalled[0].stderr
    assert "val:" not in signalled[0].stderr.split("asked to end")[1]  # no validation that nobody has time for
    stopped = last(broken / "run")["global_step"]
    assert 0 < stopped < last(full / "run")["global_step"]
    resumed = fit(count, tiny, broken)
    assert resumed[0].returncode == 0, resumed[0].stderr
    assert f"going on from {broken / 'run/checkpoints/last.ckpt'} at step {stopped}" in resumed[0].stderr
    assert_same_end(broken / "run", full / "run")
    assert trained(broken / "run") == trained(full / "run")
    assert validated(broken / "run") == validated(full / "run")
    # Also the samples; those of the step that the signal came in are read twice.
    ours, theirs = steps(broken / "steps"), steps(full / "steps")
    assert {step: rows for step, rows in ours.items() if step != stopped} == {
        step: rows for step, rows in theirs.items() if step != stopped
    }


@pytest.fixture(scope="module")
def one_process(tiny, tmp_path_factory):
    """Two epochs of four steps of eight videos on one process, with a checkpoint at every step."""
    from mvrec.cli.main import main

    folder = tmp_path_factory.mktemp("one")
    every_step = {"every_n_train_steps": 1, "monitor": "null", "save_top_k": -1, "filename": "step{step}"}
    plain = ["--model.backbone.drop_path_rate=0", "--trainer.gradient_clip_val=null", "--model.optimizer.lr=1e-4"]
    arguments = [*tiny, *(f"--checkpoint.{key}={value}" for key, value in every_step.items()), *plain]
    arguments += ["--trainer.max_epochs=2"]
    record = overlay(folder, callback("StepRecorder", folder=str(folder / "steps")))
    main(["fit", *arguments, record, "--data.batch_size=8", f"--run_dir={folder}"])
    return arguments, folder


@pytest.mark.parametrize(
    ("step", "count", "batch_size", "accumulate"),
    [
        (3, 2, 4, 1),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((6, 2, 2, 2), (1, 1, 2, 4), (4, 1, 4, 2))),
    ],
)
def test_another_number_of_processes_or_batches_goes_on_with_the_same_steps(
    one_process, tmp_path, step, count, batch_size, accumulate
):
    arguments, original = one_process
    sizes = [f"--data.batch_size={batch_size}", f"--trainer.accumulate_grad_batches={accumulate}"]
    start = f"--ckpt_path={original / f'checkpoints/step{step}.ckpt'}"
    record = overlay(tmp_path, callback("StepRecorder", folder=str(tmp_path / "steps")))
    processes = run_ranks(count, "fit", *arguments, *sizes, start, record, f"--run_dir={tmp_path}", env=HERE)
    for process in processes:
        assert process.returncode == 0, process.stderr
    expected = {number: rows for number, rows in steps(original / "steps").items() if number >= step}
    assert steps(tmp_path / "steps") == expected
    assert sorted(expected) == list(range(step, 8))
    ours, theirs = last(tmp_path)["state_dict"], last(original)["state_dict"]
    for name in theirs:
        if not name.endswith(NO_EFFECT):
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-5, msg=name)
    said = "".join(process.stderr for process in processes)
    assert "Grad strides do not match" not in said  # else every gradient is copied once more
    # The score line is printed once per epoch and counts every video once.
    assert said.count("24/24 videos scored") == 2 - step // 4


def test_another_number_of_files_per_step_is_said(command, one_process, tmp_path):
    arguments, original = one_process
    sizes = ["--data.batch_size=4", f"--ckpt_path={original / 'checkpoints/step7.ckpt'}"]
    code, _, err = command("fit", *arguments, *sizes, f"--run_dir={tmp_path}", "--trainer.limit_val_batches=1")
    assert code == 0, err
    assert "a step drew 8 files when the checkpoint was saved and draws 4 now" in err
