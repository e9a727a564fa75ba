"""Training through the command line: what a run leaves, what it goes on with, bad files."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from run_support import contents, kinetics, logged, stored
from video_files import write_video

from mvrec.tasks import Classification


def losses(run_dir: Path) -> list[tuple[str, ...]]:
    return logged(run_dir, "train/loss")


# -- one run of two epochs, read by several tests --------------------------------------------------------------------


def test_a_run_directory_has_settings_environment_data_metrics_curves_and_checkpoints(digits_run):
    folder, err = digits_run.folder, digits_run.err
    assert {str(path) for path in contents(folder)} == {
        *("config.yaml", "environment.json", "data.json", "parameter_groups.json", "metrics.csv", "curves.png"),
        "validation.json",
        *("checkpoints/best.ckpt", "checkpoints/last.ckpt", "checkpoints/previous.ckpt"),
    }
    assert [float(loss) > 0 for _, loss in losses(folder)] == [True] * 8
    assert len(logged(folder, "val/top1")) == 2
    versions = json.loads((folder / "environment.json").read_text())["packages"]
    assert versions["torch"] == torch.__version__.split("+")[0]
    validation = json.loads((folder / "validation.json").read_text())
    assert f"{validation['metrics']['top1']:.6f}" == f"{float(logged(folder, 'val/top1')[-1][1]):.6f}"
    assert validation["chance"]["top1"] == pytest.approx(1 / 12)
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

    path, saved = digits_run.folder / "checkpoints/last.ckpt", stored(digits_run.folder)
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


def test_the_saved_config_repeats_the_run_in_another_directory(command, digits_run, tmp_path):
    before = contents(digits_run.folder)
    config = digits_run.folder / "config.yaml"
    code, _, err = command("fit", "--config", config, "--run_dir", tmp_path, "--data.augment_on=device")
    assert code == 0, err
    assert contents(digits_run.folder) == before
    # RandAugment on the device makes the choices and the pixels that it makes in the workers.
    assert losses(tmp_path) == losses(digits_run.folder)
    actual, expected = stored(tmp_path)["state_dict"], stored(digits_run.folder)["state_dict"]
    assert not [name for name in expected if not torch.equal(actual[name], expected[name])]


def test_the_saved_config_without_a_run_dir_sets_the_earlier_run_aside_and_ends_at_max_steps(
    command, digits_run, tmp_path
):
    run_dir = Path(shutil.copytree(digits_run.folder, tmp_path / "run"))
    steps = ["--trainer.max_epochs=-1", "--trainer.max_steps=5", "--trainer.limit_val_batches=1"]
    code, _, err = command("fit", "--config", run_dir / "config.yaml", *steps)
    assert code == 0, err
    assert "epoch 2/?  step 1/4" in err
    assert stored(run_dir)["global_step"] == 5
    assert contents(run_dir / "earlier/1") == contents(digits_run.folder)


def test_ckpt_path_last_goes_on_in_the_same_metrics_with_and_without_max_steps(command, digits_run, tmp_path):
    longer = ["--ckpt_path=last", "--trainer.max_epochs=3"]
    longer += ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"]
    for max_steps in (-1, 9):
        run_dir = Path(shutil.copytree(digits_run.folder, tmp_path / str(max_steps)))
        flags = [f"--run_dir={run_dir}", *longer, f"--trainer.max_steps={max_steps}"]
        code, _, err = command("fit", *digits_run.arguments, *flags)
        assert code == 0, err
        assert "epoch 3/3" in err
        assert "epoch 2/3" not in err
        assert [step for step, _ in losses(run_dir)] == [*map(str, range(9))]
        assert not (run_dir / "earlier").exists()
    assert losses(tmp_path / "-1") == losses(tmp_path / "9")


def test_a_fast_dev_run_leaves_no_trace(command, tiny, tmp_path):
    code, _, err = command("fit", *tiny, f"--run_dir={tmp_path / 'run'}", "--trainer.fast_dev_run=true")
    assert code == 0, err
    assert not (tmp_path / "run").exists()


def test_a_run_without_end_is_refused(command, tiny, tmp_path):
    code, _, err = command("fit", *tiny, f"--run_dir={tmp_path}", "--trainer.max_epochs=-1")
    assert code == 2
    assert err.splitlines()[-1].endswith("the schedule needs an end: set trainer.max_epochs or trainer.max_steps")


@pytest.mark.slow  # full size; of a small network: test_finetune.py
def test_a_checkpoint_is_enough_without_the_weights_that_its_run_started_from(command, tiny, tmp_path):
    """First released without pooled keys in two blocks, MViT is known from its weights alone."""
    from mvrec.models import create_model

    start, run = tmp_path / "start.pth", tmp_path / "run"
    knobs = {"num_frames": 4, "image_size": 64}
    torch.save(create_model("mvit_b_16x4", **knobs, unpooled_kv_blocks=(14, 15)).state_dict(), start)
    arguments = [argument for argument in tiny if not argument.startswith("--model.backbone")]
    network = {"name": "mvit_b_16x4", "weights": start, **knobs}
    backbone = ["--model.backbone=mvrec.models.create_model"]
    backbone += [f"--model.backbone.{key}={value}" for key, value in network.items()]
    limits = [f"--trainer.limit_{stage}_batches=1" for stage in ("train", "val", "test")]
    code, _, err = command("fit", *arguments, *backbone, "--run_dir", run, *limits, "--data.batch_size=2")
    assert code == 0, err
    start.unlink()
    code, _, err = command("test", "--ckpt_path", run / "checkpoints/last.ckpt", *limits)
    assert code == 0, err
    assert "mvrec: test: top1" in err


# -- folders of videos, good and bad ---------------------------------------------------------------------------------


@pytest.fixture
def three_classes(small_data, tmp_path) -> Path:
    """A folder tree of three classes without lists: 3 training, 2 validation and 2 test videos of each."""
    return Path(shutil.copytree(small_data, tmp_path / "three"))


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
    (unreadable,) = (tmp_path / "run/unreadable.jsonl").read_text().splitlines()
    assert json.loads(unreadable)["path"] == str(train / "move_left/00000.mp4")
    assert err.count("3/6 videos scored, 3 failed") == 2
    assert not re.search(r"top[2-9]", err)  # of three classes
    for name in bad:
        line = next(line for line in err.splitlines() if str(val / name) in line)
        cause = line.removeprefix(f"mvrec: failed, counted as wrong: {val / name}: ")
        assert cause not in ("", line), line
    saved = stored(tmp_path / "run")["mvrec"]
    assert saved["class_names"] == ["grow", "move_left", "orbit_clockwise"]
    assert saved["protocol"]["clip"]["num_frames"] == 4


@pytest.mark.filterwarnings("ignore:.*there is no last checkpoint available")
def test_training_without_a_validation_split_needs_limit_val_batches_0(command, tiny, three_classes, tmp_path):
    shutil.rmtree(three_classes / "val")
    arguments = [*kinetics(tiny, three_classes, batch_size=3), f"--run_dir={tmp_path / 'run'}", "--ckpt_path=last"]
    code, _, err = command("fit", *arguments)
    assert code == 2
    assert err.splitlines()[-1].endswith("(training without validation: --trainer.limit_val_batches 0)")
    # And 1 is one batch, 1.0 were all of them.
    code, _, err = command("fit", *arguments, "--trainer.limit_val_batches=0", "--trainer.limit_train_batches=1")
    assert code == 0, err
    assert stored(tmp_path / "run")["global_step"] == 1


def test_a_run_that_is_not_above_chance_says_so_with_its_causes_and_records_it(command, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("mvrec.tasks.classification.verdict.LEAST_STEPS", 1)
    arguments = ["--model.optimizer.lr", "1e-12", "--run_dir", str(tmp_path / "run")]
    _, _, err = command("fit", *tiny, *arguments)
    remarks = json.loads((tmp_path / "run" / "validation.json").read_text())["remarks"]
    assert [text.partition(":")[0] for text in remarks] == [
        "this run is not above chance",
        *(f"likely cause {number}" for number in (1, 2, 3)),
    ]
    assert all(f"mvrec: {remark}" in err for remark in remarks)
    assert "24 validation videos: top-1 is known to +-19 points; more of them make scores comparable" in err
