"""Every setting that is changed at a resume takes effect and is recorded, or is refused in one line."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

EMA = "lightning.pytorch.callbacks.EMAWeightAveraging"
SIZES = ["--data.batch_size=9", "--trainer.max_epochs=2", "--trainer.num_sanity_val_steps=0"]
SIZES += ["--trainer.limit_val_batches=1"]


def rates(run_dir: Path) -> dict[int, float]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): float(row["train/lr"]) for row in csv.DictReader(file) if row["train/lr"]}


def saved(run_dir: Path) -> dict:
    return torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)


def group(run_dir: Path) -> dict:
    return saved(run_dir)["optimizer_states"][0]["param_groups"][0]


@pytest.fixture(scope="module")
def stopped(tiny, tmp_path_factory):
    """Two epochs of four steps, stopped in the first one after two."""
    from mvrec.cli.main import main

    run_dir = tmp_path_factory.mktemp("stopped")
    arguments = [*tiny, *SIZES]
    stop = [f"--trainer.callbacks{value}" for value in ("=step_recorder.EndAt", ".batch=2", ".way=signal")]
    with pytest.raises(SystemExit):
        main(["fit", *arguments, *stop, f"--run_dir={run_dir}"])
    return arguments, run_dir / "checkpoints/last.ckpt"


def go_on(command, stopped, run_dir, *more):
    arguments, checkpoint = stopped
    return command("fit", *arguments, f"--ckpt_path={checkpoint}", f"--run_dir={run_dir}", *more)


# Settings that are changed together: their flags, what the line about them has, and how each shows in the run.
CHANGES = {
    "optimiser, data and network": (
        [
            *("--model.optimizer.lr=1e-6", "--model.optimizer.weight_decay=0.5", "--model.optimizer.betas=[0.5, 0.6]"),
            *("--data.augment.random_erasing.probability=0.5", "--data.clip.stride_frames=2"),
            *("--model.backbone.drop_path_rate=0.4", "--trainer.precision=bf16-mixed"),
        ],
        {
            "model.optimizer.lr 0.002 -> 1e-06": lambda run: max(rates(run).values()) <= 1e-6,
            "model.optimizer.weight_decay 0.05 -> 0.5": lambda run: group(run)["weight_decay"] == 0.5,
            "model.optimizer.betas [0.9, 0.999] -> [0.5, 0.6]": lambda run: tuple(group(run)["betas"]) == (0.5, 0.6),
            "data.augment.random_erasing": lambda run: saved(run)["global_step"] == 8,
            "data.clip.stride_frames": lambda run: saved(run)["mvrec"]["protocol"]["clip"]["stride_frames"] == 2,
            "model.backbone.drop_path_rate 0.2 -> 0.4": lambda run: backbone(run)["drop_path_rate"] == 0.4,
            "bf16-mixed": lambda run: saved(run)["mvrec"]["facts"]["precision"] == "bf16-mixed",
        },
    ),
    "schedule and length": (
        ["--model.schedule.end_factor=0.5", "--trainer.max_epochs=3"],
        {
            "model.schedule.end_factor 0.01 -> 0.5": lambda run: rates(run)[11] > 0.5 * 0.002,
            "trainer.max_epochs 2 -> 3": lambda run: len(rates(run)) == 10 and rates(run)[11] < 0.6 * highest(run),
        },
    ),
    "batch size and accumulation": (
        ["--data.batch_size=4", "--trainer.accumulate_grad_batches=2"],
        {
            "data.batch_size 9 -> 4": lambda run: saved(run)["global_step"] == 2 + 2 + 4,
            "trainer.accumulate_grad_batches 1 -> 2": lambda run: rates(run)[7] < 0.2 * highest(run),
        },
    ),
}


def highest(run_dir: Path) -> float:
    return max(rates(run_dir).values())


def backbone(run_dir: Path) -> dict:
    return saved(run_dir)["hyper_parameters"]["backbone"]["init_args"]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_settings_take_effect_and_are_recorded(command, stopped, tmp_path, change):
    flags, effects = CHANGES[change]
    code, _, err = go_on(command, stopped, tmp_path, *flags)
    assert code == 0, err
    line = next(line for line in err.splitlines() if "resume: changed from step 2 on: " in line)
    (entry,) = json.loads((tmp_path / "resumes.json").read_text())
    assert (entry["step"], entry["checkpoint"]) == (2, str(stopped[1]))
    for text, shows in effects.items():
        assert text in line
        assert shows(tmp_path), (text, rates(tmp_path))
        assert any(text.startswith(one["setting"]) or text == one["now"] for one in entry["changed"]), text


def test_a_changed_number_of_workers_is_no_changed_setting(command, stopped, tmp_path):
    code, _, err = go_on(command, stopped, tmp_path, "--data.num_workers=1")
    assert code == 0, err
    assert "changed from step 2 on: trainer.callbacks\n" in err  # the one that stopped the run, and nothing else
    (entry,) = json.loads((tmp_path / "resumes.json").read_text())
    assert [change["setting"] for change in entry["changed"]] == ["trainer.callbacks"]


REFUSALS = {
    "model.optimizer.class_path": ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"],
    "model.freeze": ["--model.freeze=1"],
    "model.layer_decay": ["--model.layer_decay=0.5"],
    "seed_everything": ["--seed_everything=5"],
    "trainer.limit_train_batches": ["--trainer.limit_train_batches=2"],
    "backbone.": ["--model.backbone.embed_dim=16"],
    "model.backbone.class_path": ["--model.backbone=mvrec.models.mvit_b_16x4"],
}


@pytest.mark.parametrize("setting", REFUSALS)
def test_what_cannot_be_changed_is_refused_in_one_line(command, stopped, tmp_path, setting):
    arguments, checkpoint = stopped
    if setting == "model.backbone.class_path":
        stopped = [argument for argument in arguments if "backbone" not in argument], checkpoint
    code, _, err = go_on(command, stopped, tmp_path, *REFUSALS[setting])
    assert code == 2, err
    message = err.splitlines()[-1]
    assert setting in message
    assert f"--model.weights {checkpoint} with a new --run_dir" in message
    assert "Traceback" not in err


def callbacks(folder: Path) -> str:
    path = folder / "averages.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": [{"class_path": EMA, "init_args": {"decay": 0.9}}]}}))
    return f"--config={path}"


def test_without_averaging_training_goes_on_from_the_weights_and_not_from_their_averages(command, tiny, tmp_path):
    run = tmp_path / "run"
    code, _, err = command("fit", *tiny, callbacks(tmp_path), f"--run_dir={run}")
    assert code == 0, err
    rate = ["--model.optimizer.lr=1e-12", "--trainer.max_epochs=2"]  # at which no weight moves
    code, _, err = command("fit", *tiny, *rate, f"--run_dir={run}", "--resume=auto")
    assert code == 0, err
    assert "changed from step 4 on: " in err
    assert "trainer.callbacks" in err
    first = torch.load(run / "checkpoints/previous.ckpt", weights_only=True)
    second = saved(run)
    assert "current_model_state" not in second
    name = next(name for name in first["state_dict"] if name.startswith("backbone.head"))
    assert not torch.equal(first["state_dict"][name], first["current_model_state"][name])
    torch.testing.assert_close(second["state_dict"][name], first["current_model_state"][name], rtol=0, atol=1e-6)


def test_a_finished_run_says_that_nothing_is_left(command, digits_run, tmp_path):
    run_dir = shutil.copytree(digits_run.folder, tmp_path / "run")
    arguments = [*digits_run.arguments, f"--run_dir={run_dir}", "--resume=auto"]
    code, _, err = command("fit", *arguments)
    assert code == 0, err
    lines = [line for line in err.splitlines() if "nothing is left to train at step 8" in line]
    assert len(lines) == 1
    assert "trainer.max_epochs=2 is reached; a larger --trainer.max_epochs trains longer" in lines[0]
    code, _, err = command("fit", *arguments, "--trainer.max_epochs=1")
    assert code == 2, err
    assert "nothing is left to train" in err.splitlines()[-1]


def test_other_training_files_are_said_and_recorded(command, tiny, small_run, small_data, tmp_path):
    run_dir, root = shutil.copytree(small_run, tmp_path / "run"), shutil.copytree(small_data, tmp_path / "data")
    folder = root / "train/grow"
    shutil.copy(next(folder.iterdir()), folder / "another.mp4")
    flags = [f"--config={run_dir / 'config.yaml'}", f"--run_dir={run_dir}", f"--data.root={root}", "--resume=auto"]
    code, _, err = command("fit", *flags, "--trainer.max_epochs=4", "--data.batch_size=3")
    assert code == 0, err
    assert "the training split had 9 files when the checkpoint was saved and has 10 now" in err
    (entry,) = json.loads((run_dir / "resumes.json").read_text())
    (change,) = [one for one in entry["changed"] if one["setting"] == "data of the training split"]
    assert (change["before"]["files"], change["now"]["files"]) == (9, 10)


@pytest.mark.parametrize(
    ("value", "workers", "batches"), [pytest.param("1", 0, 1, marks=pytest.mark.slow), ("0.5", 2, 2)]
)
def test_overfitting_repeats_the_same_batches_also_after_a_resume(command, tiny, tmp_path, value, workers, batches):
    def shown(folder: Path) -> list[tuple]:
        entries = [json.loads(line) for line in (folder / "rank_0.jsonl").read_text().splitlines()]
        return [(tuple(entry["ids"]), tuple(entry["seeds"])) for entry in entries]

    recorder = ["--trainer.callbacks=step_recorder.StepRecorder", f"--trainer.callbacks.folder={tmp_path / 'steps'}"]
    arguments = [*tiny, *SIZES, *recorder, f"--trainer.overfit_batches={value}", f"--data.num_workers={workers}"]
    code, _, err = command("fit", *arguments, f"--run_dir={tmp_path / 'run'}")
    assert code == 0, err
    longer = ["--trainer.max_epochs=3", "--resume=auto"]
    code, _, err = command("fit", *arguments, *longer, f"--run_dir={tmp_path / 'run'}")
    assert code == 0, err
    found = shown(tmp_path / "steps")
    assert len(found) == 3 * batches
    assert found == 3 * found[:batches]
