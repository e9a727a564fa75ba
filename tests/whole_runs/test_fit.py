"""Training through the command line: what a run leaves, what it goes on with, bad files."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from video_files import write_video

from mvrec.tasks import Classification


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def checkpoint(run_dir: Path) -> dict:
    return torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)


def losses(run_dir: Path) -> list[str]:
    return [row["train/loss"] for row in read_csv(run_dir / "metrics.csv") if row["train/loss"]]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- one run of two epochs, read by several tests --------------------------------------------------------------------


def test_a_run_directory_has_settings_environment_data_metrics_curves_and_checkpoints(digits_run):
    folder, err = digits_run.folder, digits_run.err
    assert {str(path) for path in contents(folder)} == {
        *("config.yaml", "environment.json", "data.json", "parameter_groups.json", "metrics.csv", "curves.png"),
        *("checkpoints/best.ckpt", "checkpoints/last.ckpt", "checkpoints/previous.ckpt"),
    }
    assert [float(loss) > 0 for loss in losses(folder)] == [True] * 8
    assert len([row for row in read_csv(folder / "metrics.csv") if row.get("val/top1")]) == 2
    versions = json.loads((folder / "environment.json").read_text())["packages"]
    assert versions["torch"] == torch.__version__.split("+")[0]
    config = (folder / "config.yaml").read_text()
    assert yaml.safe_load(config)["model"]["backbone"]["init_args"]["embed_dim"] == 8
    assert str(folder) not in config
    assert "24/24 videos scored, 0 failed; 4x4 at own fps" in err
    # Nobody listens on a terminal here, so progress is lines.
    lines = [line for line in err.splitlines() if "clips/s" in line]
    assert len(lines) == 8
    assert all(word in lines[-1] for word in ("epoch 2/2", "step 4/4", "loss", "lr", "data wait", "ETA"))


def test_a_checkpoint_of_a_run_loads_as_weights_and_as_a_task(digits_run):
    from mvrec.models import MViT, load_weights

    path, saved = digits_run.folder / "checkpoints/last.ckpt", checkpoint(digits_run.folder)
    assert saved["mvrec"]["image_size"] == [64, 64]
    assert saved["mvrec"]["position_grid"] == [2, 16, 16]
    arguments = saved["hyper_parameters"]["backbone"]["init_args"]
    model = MViT(**(arguments | {"num_classes": 12, "q_strides": {1: 2}}))
    report = load_weights(model, path)
    assert (report.layout, report.entry, report.complete) == ("mvrec", "state_dict", True)
    assert torch.equal(model.norm.weight, saved["state_dict"]["backbone.norm.weight"])
    task = Classification.load_from_checkpoint(path)
    assert task.backbone.num_classes == 12
    assert task(torch.zeros(1, 3, 4, 64, 64)).shape == (1, 12)


def test_test_and_predict_write_the_same_predictions_from_a_checkpoint_alone(command, digits_run, tmp_path):
    best = digits_run.folder / "checkpoints/best.ckpt"
    for verb in ("test", "predict"):
        code, _, err = command(verb, f"--ckpt_path={best}", f"--run_dir={tmp_path / verb}")
        assert code == 0, err
    rows = read_csv(tmp_path / "test/predictions.csv")
    assert len(rows) == 24
    assert all(Path(row["path"]).parent.name == row["label"] for row in rows)
    assert all(float(row["probability_1"]) >= float(row["probability_2"]) for row in rows)
    assert read_csv(tmp_path / "predict/predicted.csv") == rows
    assert not (tmp_path / "predict/predictions.csv").exists()


def test_the_saved_config_repeats_the_run_in_another_directory(command, digits_run, tmp_path):
    before = contents(digits_run.folder)
    config = digits_run.folder / "config.yaml"
    code, _, err = command("fit", "--config", config, "--run_dir", tmp_path, "--data.augment_on=device")
    assert code == 0, err
    assert contents(digits_run.folder) == before
    # RandAugment on the device makes the choices and the pixels that it makes in the workers.
    assert losses(tmp_path) == losses(digits_run.folder)
    ours, theirs = checkpoint(tmp_path)["state_dict"], checkpoint(digits_run.folder)["state_dict"]
    assert not [name for name in theirs if not torch.equal(ours[name], theirs[name])]


def test_the_saved_config_without_a_run_dir_sets_the_earlier_run_aside(command, digits_run, tmp_path):
    run_dir = Path(shutil.copytree(digits_run.folder, tmp_path / "run"))
    code, _, err = command("fit", "--config", run_dir / "config.yaml", "--trainer.max_steps=1")
    assert code == 0, err
    assert checkpoint(run_dir)["global_step"] == 1
    assert contents(run_dir / "earlier/1") == contents(digits_run.folder)


def test_ckpt_path_last_goes_on_in_the_same_metrics(command, digits_run, tmp_path):
    run_dir = Path(shutil.copytree(digits_run.folder, tmp_path / "run"))
    longer = ["--ckpt_path=last", "--trainer.max_epochs=3", "--trainer.limit_val_batches=1"]
    code, _, err = command("fit", *digits_run.arguments, f"--run_dir={run_dir}", *longer)
    assert code == 0, err
    assert "epoch 3/3" in err
    assert "epoch 2/3" not in err
    assert [row["step"] for row in read_csv(run_dir / "metrics.csv") if row["train/loss"]] == [*map(str, range(12))]
    assert not (run_dir / "earlier").exists()


# -- how long a run is -----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*there is no last checkpoint available")
def test_one_batch_is_not_all_of_them_and_last_without_a_checkpoint_starts_anew(command, tiny, tmp_path):
    limits = ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", "--ckpt_path=last"]
    code, _, err = command("fit", *tiny, f"--run_dir={tmp_path}", *limits)
    assert code == 0, err
    assert checkpoint(tmp_path)["global_step"] == 1


def test_a_fast_dev_run_leaves_no_trace(command, tiny, tmp_path):
    code, _, err = command("fit", *tiny, f"--run_dir={tmp_path / 'run'}", "--trainer.fast_dev_run=true")
    assert code == 0, err
    assert not (tmp_path / "run").exists()


def test_max_steps_without_max_epochs_ends_the_run_at_that_step(command, tiny, tmp_path):
    steps = ["--trainer.max_epochs=-1", "--trainer.max_steps=6", "--trainer.limit_val_batches=1"]
    code, _, err = command("fit", *tiny, f"--run_dir={tmp_path}", *steps)
    assert code == 0, err
    assert "epoch 2/?  step 2/4" in err
    assert checkpoint(tmp_path)["global_step"] == 6


def test_a_run_without_end_is_refused(command, tiny, tmp_path):
    code, _, err = command("fit", *tiny, f"--run_dir={tmp_path}", "--trainer.max_epochs=-1")
    assert code == 2
    expected = "mvrec: error: the schedule needs an end: set trainer.max_epochs or trainer.max_steps"
    assert err.splitlines()[-1] == expected


@pytest.mark.slow  # full size; of a small network: test_finetune.py
@pytest.mark.parametrize("network", ["mvit_b_16x4", "torchvision/r3d_18"])
def test_a_checkpoint_is_enough_without_the_weights_that_its_run_started_from(command, tiny, tmp_path, network):
    """First released without pooled keys in two blocks, the network is known from its weights alone."""
    from mvrec.models import create_model

    start = tmp_path / "start.pth"
    knobs = {"num_frames": 4, "image_size": 64}
    unusual = {"unpooled_kv_blocks": (14, 15)} if network == "mvit_b_16x4" else {"num_classes": 12}
    torch.save(create_model(network, **knobs, **unusual).state_dict(), start)
    arguments = [argument for argument in tiny if not argument.startswith("--model.backbone")]
    backbone = [
        f"--model.backbone.{key}={value}" for key, value in {"name": network, "weights": start, **knobs}.items()
    ]
    run = tmp_path / "run"
    limits = [f"--trainer.limit_{stage}_batches=1" for stage in ("train", "val", "test")]
    limits += ["--data.batch_size=2", "--data.eval_batch_size=1", "--trainer.num_sanity_val_steps=0"]
    code, _, err = command(
        "fit", *arguments, "--model.backbone=mvrec.models.create_model", *backbone, "--run_dir", run, *limits
    )
    assert code == 0, err
    start.unlink()
    code, _, err = command("test", "--ckpt_path", run / "checkpoints/last.ckpt", *limits[:3])
    assert code == 0, err
    assert "mvrec: test: top1" in err


# -- folders of videos, good and bad ---------------------------------------------------------------------------------


@pytest.fixture
def three_classes(small_data, tmp_path) -> Path:
    """A folder tree of three classes without lists: 3 training, 2 validation and 2 test videos of each."""
    return Path(shutil.copytree(small_data, tmp_path / "three"))


def kinetics(tiny: list[str], root: Path, **more: object) -> list[str]:
    """The arguments of `tiny` for a tree that is not generated."""
    kept = [argument for argument in tiny if "clips_per_class" not in argument and "data.root" not in argument]
    own = {"size": 64, "val_views.short_side": 64, "test_views.short_side": 64, "decoder": "auto", **more}
    return [*kept, "--data=mvrec.data.Kinetics", f"--data.root={root}", *(f"--data.{k}={v}" for k, v in own.items())]


def test_classes_come_from_the_folders_and_short_and_bad_videos_do_not_end_a_run(
    command, tiny, three_classes, tmp_path
):
    """In training a bad video is replaced and named once, in evaluation it counts as wrong with its cause."""
    train, val = three_classes / "train", three_classes / "val"
    for folder in (train, val):
        write_video(folder / "grow/00000.mp4", num_frames=1, size=(64, 80))
    write_video(train / "grow/00001.mp4", num_frames=3, size=(80, 64))
    whole = (val / "move_left/00000.mp4").read_bytes()
    bad = {"grow/00001.mp4": b"", "move_left/00000.mp4": whole[: len(whole) // 2], "move_left/00001.mp4": b"text"}
    for name, content in bad.items():
        (val / name).write_bytes(content)
    (train / "move_left/00000.mp4").write_bytes(b"no video")
    arguments = [*kinetics(tiny, three_classes, max_bad_fraction=0.2, batch_size=3), f"--run_dir={tmp_path / 'run'}"]
    code, _, err = command("fit", *arguments, "--trainer.max_epochs=2", "--trainer.num_sanity_val_steps=0")
    assert code == 0, err
    assert "3 classes" in err
    assert err.count(str(train / "move_left/00000.mp4")) == 1
    assert "unreadable, another video takes its place" in err
    assert err.count("3/6 videos scored, 3 failed") == 2
    assert err.count("top3 50.00 %") == 2  # top-5 of three classes, half of the files failed
    for name in bad:
        line = next(line for line in err.splitlines() if str(val / name) in line)
        cause = line.removeprefix(f"mvrec: failed, counted as wrong: {val / name}: ")
        assert cause not in ("", line), line
    saved = checkpoint(tmp_path / "run")["mvrec"]
    assert saved["class_names"] == ["grow", "move_left", "orbit_clockwise"]
    assert saved["protocol"]["clip"]["num_frames"] == 4


def test_training_without_a_validation_split_needs_limit_val_batches_0(command, tiny, three_classes, tmp_path):
    shutil.rmtree(three_classes / "val")
    arguments = [*kinetics(tiny, three_classes), f"--run_dir={tmp_path / 'run'}"]
    code, _, err = command("fit", *arguments)
    assert code == 2
    assert err.splitlines()[-1].endswith("(training without validation: --trainer.limit_val_batches 0)")
    code, _, err = command("fit", *arguments, "--trainer.limit_val_batches=0")
    assert code == 0, err
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()


def test_too_many_bad_training_files_stop_the_run_in_one_line(command, tiny, three_classes, tmp_path):
    for path in sorted((three_classes / "train").rglob("*.mp4"))[:4]:
        path.write_bytes(b"no video")
    arguments = kinetics(tiny, three_classes, max_bad_fraction=0.2, batch_size=3)
    code, _, err = command("fit", *arguments, f"--run_dir={tmp_path / 'run'}", "--trainer.num_sanity_val_steps=0")
    assert code == 2
    assert "max_bad_fraction=0.2" in err.splitlines()[-1]
    assert "Traceback" not in err
