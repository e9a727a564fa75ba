"""A run that is stopped anywhere goes on as if it had not been, with other workers and other processes too."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from step_recorder import steps

HERE = Path(__file__).parent
EMA = "lightning.pytorch.callbacks.EMAWeightAveraging"


def saved(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def losses(run_dir: Path) -> dict[int, str]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]}


def assert_same_end(ours: Path, theirs: Path) -> None:
    """Weights, averages and optimiser state, bit for bit."""
    a, b = saved(ours), saved(theirs)
    assert a["global_step"] == b["global_step"]
    for part in ("state_dict", "current_model_state"):
        assert a[part].keys() == b[part].keys()
        different = [name for name in a[part] if not torch.equal(a[part][name], b[part][name])]
        assert not different, (part, different)
    first, second = (checkpoint["optimizer_states"][0]["state"] for checkpoint in (a, b))
    assert all(torch.equal(first[key][name], second[key][name]) for key in first for name in first[key])


def overlay(folder: Path, callbacks: list[dict]) -> str:
    path = folder / "callbacks.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    return f"--config={path}"


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """Two epochs of six steps of two batches, with everything that is random or has a memory."""
    from mvrec.cli.main import main

    run_dir = tmp_path_factory.mktemp("whole")
    sys.path.insert(0, str(HERE))
    averages = {"class_path": EMA, "init_args": {"decay": 0.9}}
    callbacks = [
        averages,
        {
            "class_path": "step_recorder.SaveAt",
            "init_args": {
                "folder": str(run_dir / "at"),
                "batches": [1, 2, 5, 11, 12, 13, 16, 19],
                "validations": [3, 6, 21],
            },
        },
        {"class_path": "step_recorder.StepRecorder", "init_args": {"folder": str(run_dir / "steps")}},
    ]
    (run_dir / "resumed").mkdir()
    arguments = [
        *tiny,
        "--data.batch_size=3",
        "--data.repeats=2",
        "--trainer.accumulate_grad_batches=2",
        "--trainer.max_epochs=2",
        "--trainer.val_check_interval=3",
        "--data.augment.random_erasing.probability=0.5",
        "--model.mixing={}",
        "--model.backbone.head_dropout=0.3",
    ]
    main(["fit", *arguments, overlay(run_dir, callbacks), f"--run_dir={run_dir / 'run'}"])
    return [*arguments, overlay(run_dir / "resumed", [averages])], run_dir


@pytest.mark.parametrize(
    ("batch", "workers"), [(1, 0), (2, 2), (5, 0), (11, 1), (12, 0), (13, 0), (16, 2), (3, 0), (6, 0), (21, 0)]
)
def test_a_run_stopped_after_any_batch_goes_on_bit_for_bit(command, whole, tmp_path, batch, workers):
    arguments, original = whole
    code, _, err = command(
        "fit",
        *arguments,
        f"--run_dir={tmp_path}",
        f"--ckpt_path={original / f'at/batch{batch}.ckpt'}",
        f"--data.num_workers={workers}",
    )
    assert code == 0, err
    assert_same_end(tmp_path / "checkpoints/last.ckpt", original / "run/checkpoints/last.ckpt")
    expected = {step: loss for step, loss in losses(original / "run").items() if step >= batch // 2}
    assert losses(tmp_path) == expected
    assert len(expected) == 12 - batch // 2


def test_a_checkpoint_between_two_steps_stands_at_the_first(whole):
    _, original = whole
    first, second = (saved(original / f"at/batch{batch}.ckpt") for batch in (12, 13))
    assert first["global_step"] == second["global_step"] == 6
    progress = second["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert progress == {"ready": 0, "started": 0, "processed": 0, "completed": 0}
    assert second["MovingDigits"]["consumed"] == 0


def run_processes(arguments: list[str], devices: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-m", "mvrec", "fit", *arguments, f"--trainer.devices={devices}"]
    result = subprocess.run(
        [*command, "--trainer.strategy=ddp"], capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr


def recorder(folder: Path) -> str:
    folder.mkdir()
    record = {"class_path": "step_recorder.StepRecorder", "init_args": {"folder": str(folder / "steps")}}
    return overlay(folder, [record])


@pytest.fixture(scope="module")
def one_process(tiny, tmp_path_factory):
    """Two epochs of four steps of eight videos on one process, with a checkpoint at every step."""
    from mvrec.cli.main import main

    sys.path.insert(0, str(HERE))
    run_dir = tmp_path_factory.mktemp("one") / "one"
    every_step = {"every_n_train_steps": 1, "monitor": "null", "save_top_k": -1, "filename": "step{step}"}
    arguments = [
        *tiny,
        *(f"--checkpoint.{key}={value}" for key, value in every_step.items()),
        "--trainer.max_epochs=2",
        "--model.backbone.drop_path_rate=0",
        "--trainer.gradient_clip_val=null",
        "--model.optimizer.lr=1e-4",
    ]
    main(["fit", *arguments, recorder(run_dir), "--data.batch_size=8", f"--run_dir={run_dir}"])
    return arguments, run_dir


@pytest.mark.parametrize(
    ("step", "devices", "batch_size", "accumulate"),
    [
        (3, 2, 4, 1),
        pytest.param(6, 2, 2, 2, marks=pytest.mark.slow),
        (1, 1, 2, 4),
        pytest.param(4, 1, 4, 2, marks=pytest.mark.slow),
    ],
)
def test_another_number_of_processes_goes_on_with_the_same_steps(
    one_process, tmp_path, step, devices, batch_size, accumulate
):
    arguments, original = one_process
    sizes = [f"--data.batch_size={batch_size}", f"--trainer.accumulate_grad_batches={accumulate}"]
    run_dir = tmp_path / "resumed"
    start = f"--ckpt_path={original / f'checkpoints/step{step}.ckpt'}"
    run_processes([*arguments, *sizes, start, recorder(run_dir), f"--run_dir={run_dir}"], devices)
    expected = {number: rows for number, rows in steps(original / "steps").items() if number >= step}
    assert steps(run_dir / "steps") == expected
    assert sorted(expected) == list(range(step, 8))
    a, b = (saved(folder / "checkpoints/last.ckpt")["state_dict"] for folder in (run_dir, original))
    for name in a:
        if not name.endswith("attn.norm_k.bias"):  # no effect: its gradient is rounding noise
            torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-5, msg=name)


def test_another_number_of_files_per_step_is_said(command, one_process, tmp_path):
    arguments, original = one_process
    sizes = ["--data.batch_size=4", f"--ckpt_path={original / 'checkpoints/step3.ckpt'}"]
    code, _, err = command("fit", *arguments, *sizes, f"--run_dir={tmp_path}")
    assert code == 0, err
    assert "a step drew 8 files when the checkpoint was saved and draws 4 now" in err
