"""Whole runs through the command line: training, resuming, several processes, bad files."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from video_files import write_video

from mvrec.tasks import Classification


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def test_a_runs_checkpoint_is_weights_like_any_other(command, tiny, tmp_path):
    from mvrec.models import MViT, load_weights

    code, _, err = command("fit", *tiny, "--run_dir", tmp_path / "run")
    assert code == 0, err
    checkpoint = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["mvrec"]["image_size"] == [64, 64]
    assert checkpoint["mvrec"]["position_grid"] == [2, 16, 16]
    arguments = checkpoint["hyper_parameters"]["backbone"]["init_args"]
    model = MViT(**(arguments | {"num_classes": 12, "q_strides": {1: 2}}))
    report = load_weights(model, tmp_path / "run/checkpoints/last.ckpt")
    assert (report.layout, report.entry, report.complete) == ("mvrec", "state_dict", True)
    assert torch.equal(model.norm.weight, checkpoint["state_dict"]["backbone.norm.weight"])


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
    limits = ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1"]
    code, _, err = command(
        "fit", *arguments, "--model.backbone=mvrec.models.create_model", *backbone, "--run_dir", run, *limits
    )
    assert code == 0, err
    start.unlink()
    code, _, err = command("test", "--ckpt_path", run / "checkpoints/last.ckpt", *limits)
    assert code == 0, err
    assert "mvrec: test: top1" in err


def assert_same_weights(ours: Path, theirs: Path) -> None:
    a, b = weights(ours), weights(theirs)
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different, different


def test_a_run_leaves_everything_in_its_directory(command, tiny, tmp_path):
    run_dir = tmp_path / "run"
    code, _, err = command("fit", *tiny, "--run_dir", run_dir)
    assert code == 0, err
    assert {path.name for path in run_dir.iterdir()} == {
        "config.yaml",
        "environment.json",
        "data.json",
        "parameter_groups.json",
        "metrics.csv",
        "curves.png",
        "checkpoints",
    }
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    rows = read_csv(run_dir / "metrics.csv")
    assert [float(row["train/loss"]) > 0 for row in rows if row.get("train/loss")] == [True] * 4
    assert len([row for row in rows if row.get("val/top1")]) == 1
    assert (
        json.loads((run_dir / "environment.json").read_text())["packages"]["torch"] == torch.__version__.split("+")[0]
    )
    saved = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert saved["model"]["backbone"]["init_args"]["embed_dim"] == 8
    assert "24/24 videos scored, 0 failed; 4x4 at own fps" in err
    # Nobody listens on a terminal here, so progress is lines.
    lines = [line for line in err.splitlines() if "clips/s" in line]
    assert len(lines) == 4
    assert all(word in lines[-1] for word in ("epoch 1/1", "step 4/4", "loss", "lr", "data wait", "ETA"))


def test_the_saved_config_runs_again_in_the_same_directory(command, tiny, tmp_path):
    run_dir = tmp_path / "run"
    assert command("fit", *tiny, "--run_dir", run_dir)[0] == 0
    first = (run_dir / "checkpoints" / "last.ckpt").read_bytes()
    code, _, err = command("fit", "--config", run_dir / "config.yaml")
    assert code == 0, err
    assert (run_dir / "earlier/1/checkpoints/last.ckpt").read_bytes() == first
    assert (run_dir / "earlier/1/metrics.csv").is_file()
    assert_same_weights(run_dir / "checkpoints/last.ckpt", run_dir / "earlier/1/checkpoints/last.ckpt")


def test_a_saved_config_leads_to_no_directory_of_its_own_run(command, tiny, tmp_path):
    first, second = tmp_path / "run", tmp_path / "second"
    assert command("fit", *tiny, "--run_dir", first)[0] == 0
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    assert str(first) not in (first / "config.yaml").read_text()
    code, _, err = command("fit", "--config", first / "config.yaml", "--run_dir", second, "--seed_everything", "1")
    assert code == 0, err
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
    assert (second / "checkpoints/best.ckpt").is_file()
    assert (second / "checkpoints/last.ckpt").is_file()


@pytest.fixture(scope="module")
def interrupted(tiny, tmp_path_factory):
    """An uninterrupted run of two epochs of four steps, with a checkpoint after every step."""
    from mvrec.cli.main import main

    run_dir = tmp_path_factory.mktemp("interrupted") / "whole"
    every_step = {"every_n_train_steps": 1, "monitor": "null", "save_top_k": -1, "filename": "step{step}"}
    arguments = [
        *tiny,
        *(f"--checkpoint.{key}={value}" for key, value in every_step.items()),
        "--trainer.max_epochs=2",
        "--data.augment.random_erasing.probability=0.5",
        "--model.mixing={}",
        "--model.backbone.head_dropout=0.3",
    ]
    main(["fit", *arguments, f"--run_dir={run_dir}"])
    return arguments, run_dir


@pytest.mark.parametrize(("step", "workers"), [(1, 0), (3, 2), (4, 1), (6, 0)])
def test_a_resumed_run_ends_as_the_uninterrupted_one(command, interrupted, tmp_path, step, workers):
    arguments, whole = interrupted
    code, _, err = command(
        "fit",
        *arguments,
        f"--run_dir={tmp_path / 'resumed'}",
        f"--ckpt_path={whole / f'checkpoints/step{step}.ckpt'}",
        f"--data.num_workers={workers}",
    )
    assert code == 0, err
    assert_same_weights(tmp_path / "resumed/checkpoints/last.ckpt", whole / "checkpoints/last.ckpt")

    def losses(run_dir: Path) -> dict[int, str]:
        rows = read_csv(run_dir / "metrics.csv")
        return {int(row["step"]): row["train/loss"] for row in rows if row["train/loss"]}

    resumed = losses(tmp_path / "resumed")
    assert resumed == {number: loss for number, loss in losses(whole).items() if number >= step}


def test_resuming_in_place_goes_on_in_the_same_metrics(command, interrupted, tmp_path):
    arguments, whole = interrupted
    shutil.copytree(whole, tmp_path / "run")
    checkpoint = tmp_path / "run/checkpoints/step5.ckpt"
    assert command("fit", *arguments, f"--ckpt_path={checkpoint}", f"--run_dir={tmp_path / 'run'}")[0] == 0
    steps = [row["step"] for row in read_csv(tmp_path / "run/metrics.csv") if row["train/loss"]]
    assert steps == [str(number) for number in range(8)]
    assert not (tmp_path / "run/earlier").exists()


@pytest.mark.filterwarnings("ignore:.*there is no last checkpoint available")
def test_last_means_the_newest_checkpoint_of_the_run_directory(command, tiny, tmp_path):
    arguments = [*tiny, f"--run_dir={tmp_path / 'run'}", "--ckpt_path=last"]
    code, _, err = command("fit", *arguments)  # there is none yet: a fresh start
    assert code == 0, err
    code, _, err = command("fit", *arguments, "--trainer.max_epochs=2")
    assert code == 0, err
    assert "epoch 2/2" in err
    assert "epoch 1/2" not in err


@pytest.mark.parametrize(("limit", "batches"), [("1", 1), ("1.0", 4), ("2", 2), ("0.5", 2)])
def test_one_batch_is_not_all_of_them(command, tiny, tmp_path, limit, batches):
    limits = [f"--trainer.limit_train_batches={limit}", "--trainer.limit_val_batches=1"]
    code, _, err = command("fit", *tiny, f"--run_dir={tmp_path}", *limits)
    assert code == 0, err
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == batches


def test_a_fast_dev_run_leaves_no_trace(command, tiny, tmp_path):
    code, _, err = command("fit", *tiny, f"--run_dir={tmp_path / 'run'}", "--trainer.fast_dev_run=true")
    assert code == 0, err
    assert not (tmp_path / "run").exists()


def test_a_run_may_be_measured_in_steps(command, tiny, tmp_path):
    steps = ["--trainer.max_epochs=-1", "--trainer.max_steps=6"]
    code, _, err = command("fit", *tiny, f"--run_dir={tmp_path}", *steps)
    assert code == 0, err
    assert "epoch 2/?  step 2/4" in err
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 6


def test_a_run_without_end_is_refused(command, tiny, tmp_path):
    code, _, err = command("fit", *tiny, f"--run_dir={tmp_path}", "--trainer.max_epochs=-1")
    assert code == 2
    expected = "mvrec: error: the schedule needs an end: set trainer.max_epochs or trainer.max_steps"
    assert err.splitlines()[-1] == expected


def run_processes(arguments: list[str], devices: int) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "mvrec", *arguments, "--trainer.strategy=ddp", f"--trainer.devices={devices}"],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stderr


def test_two_processes_train_and_score_as_one(tiny, tmp_path):
    # Normalisation layers see single samples only, so half the batch on each of two processes is the same step.
    arguments = ["fit", *tiny, "--model.backbone.drop_path_rate=0", "--trainer.gradient_clip_val=null"]
    one = run_processes([*arguments, f"--run_dir={tmp_path / 'one'}", "--data.batch_size=6"], devices=1)
    two = run_processes([*arguments, f"--run_dir={tmp_path / 'two'}", "--data.batch_size=3"], devices=2)
    a, b = weights(tmp_path / "one/checkpoints/last.ckpt"), weights(tmp_path / "two/checkpoints/last.ckpt")
    for name in a:
        if name.endswith("attn.norm_k.bias"):
            continue  # no effect on the softmax: its gradient is rounding noise, which AdamW blows up
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-5, msg=name)
    assert "Grad strides do not match" not in two  # else every gradient is copied once more
    # The score line is printed once and counts every video once.
    assert two.count("24/24 videos scored") == 1
    assert one.count("24/24 videos scored") == 1


def test_predict_and_test_write_predictions(command, tiny, tmp_path):
    run_dir = tmp_path / "run"
    assert command("fit", *tiny, f"--run_dir={run_dir}")[0] == 0
    # The checkpoint alone knows the model and the data.
    code, _, err = command("test", f"--ckpt_path={run_dir / 'checkpoints/best.ckpt'}")
    assert code == 0, err
    rows = read_csv(run_dir / "predictions.csv")
    assert len(rows) == 24
    assert all(Path(row["path"]).parent.name == row["label"] for row in rows)
    assert all(float(row["probability_1"]) >= float(row["probability_2"]) for row in rows)
    (run_dir / "predictions.csv").unlink()
    code, _, err = command("predict", f"--ckpt_path={run_dir / 'checkpoints/best.ckpt'}")
    assert code == 0, err
    assert read_csv(run_dir / "predicted.csv") == rows
    assert not (run_dir / "predictions.csv").exists()


def test_a_checkpoint_loads_without_the_command_line(command, tiny, tmp_path):
    assert command("fit", *tiny, f"--run_dir={tmp_path}")[0] == 0
    task = Classification.load_from_checkpoint(tmp_path / "checkpoints/last.ckpt")
    assert task.backbone.num_classes == 12
    assert task(torch.zeros(1, 3, 4, 64, 64)).shape == (1, 12)


@pytest.fixture
def three_classes(digits, tmp_path) -> Path:
    """A folder tree of three classes without lists."""
    root = tmp_path / "three"
    for split in ("train", "val", "test"):
        for name in ("grow", "move_left", "orbit_clockwise"):
            shutil.copytree(digits / split / name, root / split / name)
    return root


def kinetics(tiny: list[str], root: Path, **more: object) -> list[str]:
    """The arguments of `tiny` for a tree that is not generated."""
    kept = [argument for argument in tiny if "clips_per_class" not in argument and "data.root" not in argument]
    own = {"size": 64, "val_views.short_side": 64, "test_views.short_side": 64, "decoder": "auto", **more}
    return [*kept, "--data=mvrec.data.Kinetics", f"--data.root={root}", *(f"--data.{k}={v}" for k, v in own.items())]


def test_the_number_of_classes_comes_from_the_data(command, tiny, three_classes, tmp_path):
    code, _, err = command("fit", *kinetics(tiny, three_classes), f"--run_dir={tmp_path / 'run'}")
    assert code == 0, err
    assert "3 classes" in err
    assert "top3 100.00 %" in err  # top-5 of three classes
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["mvrec"]
    assert saved["class_names"] == ["grow", "move_left", "orbit_clockwise"]
    assert saved["protocol"]["clip"]["num_frames"] == 4


def test_short_videos_are_trained_and_scored(command, tiny, three_classes, tmp_path):
    for split in ("train", "val"):
        write_video(three_classes / split / "grow/00000.mp4", num_frames=1, size=(64, 80))
        write_video(three_classes / split / "grow/00001.mp4", num_frames=3, size=(80, 64))
    code, _, err = command("fit", *kinetics(tiny, three_classes), f"--run_dir={tmp_path / 'run'}")
    assert code == 0, err
    assert "6/6 videos scored, 0 failed" in err
    assert "unreadable" not in err


@pytest.mark.parametrize("content", [b"", b"text, not video", None], ids=["zero bytes", "text", "cut short"])
def test_each_kind_of_unreadable_file_is_named_with_its_cause(command, tiny, three_classes, tmp_path, content):
    bad = three_classes / "val/grow/00001.mp4"
    bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2] if content is None else content)
    code, _, err = command("fit", *kinetics(tiny, three_classes), f"--run_dir={tmp_path / 'run'}")
    assert code == 0, err
    line = next(line for line in err.splitlines() if str(bad) in line)
    assert line.startswith(f"mvrec: failed, counted as wrong: {bad}: ")
    assert len(line) > len(f"mvrec: failed, counted as wrong: {bad}: ")
    assert "5/6 videos scored, 1 failed" in err


def test_training_without_a_validation_split(command, tiny, three_classes, tmp_path):
    shutil.rmtree(three_classes / "val")
    arguments = [*kinetics(tiny, three_classes), f"--run_dir={tmp_path / 'run'}"]
    code, _, err = command("fit", *arguments)
    assert code == 2
    assert err.splitlines()[-1].endswith("(training without validation: --trainer.limit_val_batches 0)")
    code, _, err = command("fit", *arguments, "--trainer.limit_val_batches=0")
    assert code == 0, err
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()


def test_a_video_shorter_than_its_clip_can_be_refused_by_name(command, tiny, three_classes, tmp_path):
    short = three_classes / "val/grow/00000.mp4"
    write_video(short, num_frames=5, size=(64, 80))
    arguments = kinetics(tiny, three_classes, **{"clip.short_video": "error"})
    code, _, err = command("fit", *arguments, f"--run_dir={tmp_path / 'run'}")
    assert code == 0, err
    assert f"failed, counted as wrong: {short}: a clip of 16 frames does not fit in 5 frames" in err


def test_a_bad_training_file_is_replaced_and_named_once(command, tiny, three_classes, tmp_path):
    bad = three_classes / "train/grow/00000.mp4"
    bad.write_bytes(b"no video")
    arguments = kinetics(tiny, three_classes, max_bad_fraction=0.2, batch_size=3)
    code, _, err = command("fit", *arguments, "--trainer.max_epochs=2", f"--run_dir={tmp_path / 'run'}")
    assert code == 0, err
    assert err.count(str(bad)) == 1
    assert "unreadable, another video takes its place" in err


def test_too_many_bad_training_files_stop_the_run(command, tiny, three_classes, tmp_path):
    for path in sorted((three_classes / "train").rglob("*.mp4"))[:4]:
        path.write_bytes(b"no video")
    arguments = kinetics(tiny, three_classes, max_bad_fraction=0.2, batch_size=3)
    code, _, err = command("fit", *arguments, f"--run_dir={tmp_path / 'run'}")
    assert code == 2
    assert "max_bad_fraction=0.2" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_when_the_first_files_all_fail_the_run_stops_with_their_cause(command, tiny, three_classes, tmp_path):
    for path in (three_classes / "train").rglob("*.mp4"):
        path.write_bytes(b"no video")
    arguments = kinetics(tiny, three_classes, max_bad_fraction=1.0)
    code, _, err = command("fit", *arguments, f"--run_dir={tmp_path / 'run'}", "--trainer.num_sanity_val_steps=0")
    assert code == 2
    assert "10 files in a row could not be read" in err.splitlines()[-1]


def test_a_bad_file_in_evaluation_counts_as_wrong(command, tiny, three_classes, tmp_path):
    bad = three_classes / "val/grow/00001.mp4"
    bad.write_bytes(bad.read_bytes()[:300])
    code, _, err = command("fit", *kinetics(tiny, three_classes), f"--run_dir={tmp_path / 'run'}")
    assert code == 0, err
    assert "5/6 videos scored, 1 failed" in err
    assert f"failed, counted as wrong: {bad}" in err
    assert "top3 83.33 %" in err


def test_augmentation_on_the_device_is_the_same_training(tiny, command, tmp_path):
    """RandAugment moved out of the workers changes nothing: same choices, same pixels, same losses."""
    losses = {}
    for name, where, augment in (
        ("worker", "worker", ["--data.augment.rand_augment={num_ops: 2, magnitude: 9}"]),
        ("device", "device", ["--data.augment.rand_augment={num_ops: 2, magnitude: 9}"]),
        ("without", "device", []),
    ):
        run_dir = tmp_path / name
        code, _, err = command("fit", *tiny, f"--run_dir={run_dir}", f"--data.augment_on={where}", *augment)
        assert code == 0, err
        with (run_dir / "metrics.csv").open() as file:
            losses[name] = [row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]]
    assert losses["worker"] == losses["device"] != losses["without"]
    assert len(losses["worker"]) == 4
