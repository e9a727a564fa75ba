"""Every setting that is changed at a resume takes effect and is recorded, or is refused in one line."""

import copy
import functools
import json
import shutil
from pathlib import Path

import pytest
from run_support import kinetics, logged, stored

from mvrec.errors import UserError
from mvrec.models.checkpoints.files import read_weights
from mvrec.runs.resume import changes_since, check_resume


@pytest.fixture(scope="module")
def stopped(tiny, small_data, tmp_path_factory):
    """Two epochs of four steps of two videos, stopped in the first one after two."""
    from mvrec.cli.main import main

    run_dir = tmp_path_factory.mktemp("stopped")
    sizes = ["--data.batch_size=2", "--trainer.max_epochs=2", "--trainer.num_sanity_val_steps=0"]
    arguments = [*kinetics(tiny, small_data), *sizes, "--trainer.limit_val_batches=1"]
    stop = [f"--trainer.callbacks{value}" for value in ("=step_recorder.EndAt", ".batch=2", ".way=signal")]
    with pytest.raises(SystemExit):
        main(["fit", *arguments, *stop, f"--run_dir={run_dir}"])
    return arguments, run_dir / "checkpoints/last.ckpt"


# What is changed: the flags, and what the line about them has.
CHANGES = {
    "model.optimizer.lr=1e-6": "model.optimizer.lr 0.002 -> 1e-06",
    "model.optimizer.weight_decay=0.5": "model.optimizer.weight_decay 0.05 -> 0.5",
    "model.optimizer.betas=[0.5, 0.6]": "model.optimizer.betas [0.9, 0.999] -> [0.5, 0.6]",
    "model.schedule.end_factor=0.5": "model.schedule.end_factor 0.01 -> 0.5",
    "model.backbone.drop_path_rate=0.4": "model.backbone.drop_path_rate 0.2 -> 0.4",
    "data.augment.random_erasing.probability=0.5": "data.augment.random_erasing",
    "data.clip.stride_frames=2": "data.clip.stride_frames",
    "data.batch_size=1": "data.batch_size 2 -> 1",
    "trainer.accumulate_grad_batches=4": "trainer.accumulate_grad_batches 1 -> 4",
    "trainer.max_epochs=3": "trainer.max_epochs 2 -> 3",
    "trainer.precision=bf16-mixed": "bf16-mixed",
}


def test_changed_settings_and_files_take_effect_and_are_recorded(command, stopped, small_data, tmp_path):
    arguments, checkpoint = stopped
    root = Path(shutil.copytree(small_data, tmp_path / "data"))
    shutil.copy(next((root / "train/grow").iterdir()), root / "train/grow/another.mp4")
    run_dir = tmp_path / "run"
    flags = [*(f"--{flag}" for flag in CHANGES), f"--data.root={root}", "--data.num_workers=1"]
    code, _, err = command("fit", *arguments, f"--ckpt_path={checkpoint}", f"--run_dir={run_dir}", *flags)
    assert code == 0, err
    line = next(line for line in err.splitlines() if "resume: changed from step 2 on: " in line)
    (entry,) = json.loads((run_dir / "resumes.json").read_text())
    assert (entry["step"], entry["checkpoint"]) == (2, str(checkpoint))
    changed = {change.pop("setting"): change for change in entry["changed"]}
    for flag, text in CHANGES.items():
        assert text in line
        assert any(flag.startswith(setting) for setting in changed), flag
    assert "num_workers" not in line  # no step depends on it
    assert "the training split had 9 files when the checkpoint was saved and has 10 now" in err
    files = changed["data of the training split"]
    assert (files["before"]["files"], files["now"]["files"]) == (9, 10)
    assert "a step drew 2 files when the checkpoint was saved and draws 4 now" in err
    saved = stored(run_dir)
    assert saved["global_step"] == 2 + 1 + 2 * 2
    group = saved["optimizer_states"][0]["param_groups"][0]
    assert (group["weight_decay"], tuple(group["betas"])) == (0.5, (0.5, 0.6))
    assert saved["hyper_parameters"]["backbone"]["init_args"]["drop_path_rate"] == 0.4
    assert saved["mvrec"]["protocol"]["clip"]["stride_frames"] == 2
    assert saved["mvrec"]["facts"]["precision"] == "bf16-mixed"
    # The schedule has two steps per epoch by now, goes on at the same part of its first one and reaches its end.
    factors = {2: 0.505, 3: 1.0, 4: 0.9268, 5: 0.75, 6: 0.5732}
    rates = {int(step): float(rate) for step, rate in logged(run_dir, "train/lr")}
    assert rates == pytest.approx({step: 1e-6 * factor for step, factor in factors.items()}, rel=1e-3)


def changed(config: dict, key: str, value: object) -> dict:
    """Return a configuration with another value, as a resume has it."""
    config = copy.deepcopy(config)
    *path, name = key.split(".")
    functools.reduce(dict.__getitem__, path, config)[name] = value
    return config


def test_what_cannot_be_changed_is_refused_with_the_way_to_start_anew(digits_run):
    weights = read_weights(digits_run.folder / "checkpoints/last.ckpt")
    config = weights.content["mvrec"]["config"]
    for key in ("data.init_args.num_workers", "data.init_args.root"):
        assert changes_since(weights.content, changed(config, key, 3), path="x") == []
    for key, value in (
        ("model.optimizer.class_path", "torch.optim.SGD"),
        ("model.backbone.class_path", "mvrec.models.mvit_b_16x4"),
        ("model.freeze", 1),
        ("model.layer_decay", 0.5),
        ("trainer.max_epochs", 0),
    ):
        message = "nothing is left to train" if key == "trainer.max_epochs" else f"{key} .*--model.weights \\S+ with a"
        with pytest.raises(UserError, match=message):
            check_resume(changed(config, key, value), weights)


@pytest.mark.parametrize(
    ("flag", "name"),
    [
        ("--seed_everything=5", "seed_everything"),  # before anything is built
        ("--trainer.limit_train_batches=1", "trainer.limit_train_batches"),
        ("--model.backbone.embed_dim=16", "backbone."),
    ],
)
def test_a_refused_change_is_one_line(command, stopped, tmp_path, flag, name):
    arguments, checkpoint = stopped
    code, _, err = command("fit", *arguments, f"--ckpt_path={checkpoint}", f"--run_dir={tmp_path}", flag)
    assert code == 2, err
    message = err.splitlines()[-1]
    assert name in message
    assert f"--model.weights {checkpoint} with a new --run_dir" in message
    assert "Traceback" not in err


def test_a_finished_run_says_that_nothing_is_left(command, digits_run, tmp_path):
    run_dir = shutil.copytree(digits_run.folder, tmp_path / "run")
    code, _, err = command("fit", *digits_run.arguments, f"--run_dir={run_dir}", "--resume=auto")
    assert code == 0, err
    (line,) = (line for line in err.splitlines() if "nothing is left to train at step 8" in line)
    assert "trainer.max_epochs=2 is reached; a larger --trainer.max_epochs trains longer" in line


def test_overfitting_repeats_the_same_batches_also_after_a_resume(command, tiny, tmp_path):
    recorder = ["--trainer.callbacks=step_recorder.StepRecorder", f"--trainer.callbacks.folder={tmp_path / 'steps'}"]
    more = ["--trainer.overfit_batches=0.5", "--resume=auto", "--trainer.limit_val_batches=1"]
    for epochs in (1, 3):
        arguments = [*tiny, *recorder, *more, f"--trainer.max_epochs={epochs}", f"--run_dir={tmp_path / 'run'}"]
        code, _, err = command("fit", *arguments)
        assert code == 0, err
    entries = [json.loads(line) for line in (tmp_path / "steps/rank_0.jsonl").read_text().splitlines()]
    shown = [(entry["ids"], entry["seeds"]) for entry in entries]
    assert len(shown) == 3 * 2
    assert shown == 3 * shown[:2]
