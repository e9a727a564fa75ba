"""Whole runs on folders of JPEGs through the command line."""

import contextlib
import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mvrec.report.page import render_report
from mvrec.report.reading import read_run

ROOT = Path(__file__).parents[2]
CLASSES = ("n01440764", "n02102040", "n03000684")

# Lightning's callback remarks on a hook that every task of ours has, and on its absence where nothing is trained.
pytestmark = [
    pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory) -> Path:
    """An ImageNet-style tree without a test split: three classes of 4 training and 2 validation images."""
    root = tmp_path_factory.mktemp("imagenet") / "data"
    colours = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in CLASSES:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                grid = colours.integers(0, 256, (5, 6, 3), dtype=np.uint8)
                picture = Image.fromarray(grid).resize((120, 90), Image.Resampling.BICUBIC)
                picture.save(folder / f"{name}_{number}.JPEG", quality=90)
    return root


def recipe(name: str, root: Path, run_dir: Path) -> list[str]:
    """Two steps of a recipe at 64 pixels in full precision."""
    small = {
        "data.root": root,
        "data.size": 64,
        "trainer.precision": 32,
        "run_dir": run_dir,
    }
    configs = [ROOT / f"configs/{name}.yaml", *(ROOT / f"configs/overlays/{o}.yaml" for o in ("debug", "cpu"))]
    return [*(f"--config={path}" for path in configs), *(f"--{key}={value}" for key, value in small.items())]


def test_a_recipe_trains_and_its_checkpoint_is_scored(command, jpegs, tmp_path):
    code, _, err = command("fit", *recipe("shunted_t", jpegs, tmp_path))
    assert code == 0, err
    assert "2 images per step: learning rate scaled by 2/1024" in err
    assert "Shunted, 11.04 M parameters, 3 classes, images (C, H, W) = (3, 64, 64)" in err
    assert "4/4 images scored, 0 failed; val images, short side 73, crop 64, bicubic)" in err
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert checkpoint["mvrec"]["class_names"] == list(CLASSES)
    protocol = checkpoint["mvrec"]["protocol"]
    assert {key: protocol[key] for key in ("split", "short_side", "size", "interpolation")} == {
        "split": "val",
        "short_side": 73,
        "size": 64,
        "interpolation": "bicubic",
    }
    assert protocol["normalisation"]["mean"] == (0.485, 0.456, 0.406)

    code, _, err = command("test", f"--ckpt_path={tmp_path / 'checkpoints/last.ckpt'}", "--trainer.accelerator=cpu")
    assert code == 0, err
    assert f"{jpegs} has no test split: reading the images of val instead" in err
    assert "test: top1 " in err
    assert "(6/6 images scored, 0 failed; val images, short side 73, crop 64, bicubic)" in err
    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["path"]).parent.name for row in rows] == [row["label"] for row in rows]
    assert len(rows) == 6


@pytest.mark.slow
def test_sgformer_is_scored_and_saved_with_averaged_weights(command, jpegs, tmp_path):
    code, _, err = command("fit", *recipe("sgformer_s", jpegs, tmp_path))
    assert code == 0, err
    assert "short side 71, crop 64, bicubic" in err
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    averaged, current = checkpoint["state_dict"], checkpoint["current_model_state"]
    name = "backbone.head.weight"
    assert averaged[name].shape == (3, 512)
    assert not torch.equal(averaged[name], current[name])
    code, _, err = command("test", f"--ckpt_path={tmp_path / 'checkpoints/last.ckpt'}", "--trainer.accelerator=cpu")
    assert code == 0, err
    assert "6/6 images scored" in err


@pytest.fixture(scope="module")
def tiny_images(jpegs, no_pictures, tmp_path_factory) -> list[str]:
    """Arguments of a run that takes a second: a two-block network on 32 pixels, three views of each image."""
    network = {"num_classes": 3, "num_frames": None, "image_size": 32, "embed_dim": 8, "num_heads": 1, "depth": 2}
    network |= {
        "dim_mults": {},
        "head_mults": {},
        "q_strides": {1: 2},
        "kv_stride": 2,
        "pool_kernel": [1, 3, 3],
        "drop_path_rate": 0.2,
    }
    data = {"root": str(jpegs), "size": 32, "batch_size": 4, "repeats": 3, "num_workers": 0}
    config = {
        "model": {
            "backbone": {"class_path": "mvrec.models.MViT", "init_args": network},
            "mixing": {"mixup_alpha": 0.8},
        },
        "data": {"class_path": "mvrec.data.ImageNet", "init_args": data},
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "devices": 1, "log_every_n_steps": 1},
    }
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return ["--config", str(path)]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def image_run(tiny_images, tmp_path_factory) -> tuple[Path, str]:
    """A run of two epochs with a checkpoint at every step, whose validation split stands in for a test split."""
    from mvrec.cli.main import main

    folder = tmp_path_factory.mktemp("images") / "run"
    every_step = {"every_n_train_steps": 1, "monitor": "null", "save_top_k": -1, "filename": "step{step}"}
    flags = [f"--checkpoint.{key}={value}" for key, value in every_step.items()]
    with contextlib.redirect_stderr(io.StringIO()) as err:
        main(["fit", *tiny_images, *flags, f"--run_dir={folder}"])
    return folder, err.getvalue()


@pytest.fixture
def trained_on_images(image_run, tmp_path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(image_run[0], tmp_path / "run"))


def test_a_resumed_run_on_images_ends_as_the_uninterrupted_one(command, tiny_images, image_run, tmp_path):
    folder, err = image_run
    assert "epoch 2/2  step 3/3" in err  # 12 images are 12 views an epoch, also with three views of each
    start = folder / "checkpoints/step2.ckpt"
    run = [f"--ckpt_path={start}", f"--run_dir={tmp_path}", "--data.num_workers=1"]
    code, _, err = command("fit", *tiny_images, *run)
    assert code == 0, err
    ours, theirs = (weights(run_dir / "checkpoints/last.ckpt") for run_dir in (tmp_path, folder))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    head = "backbone.head.projection.weight"
    assert not torch.equal(theirs[head], weights(start)[head])


def test_bad_images_are_named_replaced_in_training_and_wrong_in_evaluation(command, tiny_images, jpegs, tmp_path):
    root = tmp_path / "own"
    (root / "train").mkdir(parents=True)
    for name in CLASSES:
        (root / "train" / name).mkdir()
        for path in (jpegs / "train" / name).iterdir():
            (root / "train" / name / path.name).write_bytes(path.read_bytes())
    (root / "val").symlink_to(jpegs / "val")
    good = next(iter(sorted((root / "train" / CLASSES[1]).iterdir())))
    good.write_bytes(good.read_bytes()[:500])
    (root / "classes.txt").write_text("\n".join(CLASSES))
    rows = [f"val/{CLASSES[0]}/{CLASSES[0]}_0.JPEG {0}", "val/missing.JPEG 1"]
    (root / "val.csv").write_text("\n".join(rows))
    arguments = [*tiny_images, f"--data.root={root}", "--data.repeats=1", "--data.max_bad_fraction=0.2"]
    code, _, err = command("fit", *arguments, f"--run_dir={tmp_path / 'run'}")
    assert code == 0, err
    assert err.count(str(good)) == 1
    assert f"unreadable, another image takes its place: {good}: damaged or cut short" in err
    assert f"failed, counted as wrong: {root / 'val/missing.JPEG'}: no such file" in err
    assert "1/2 images scored, 1 failed; val images, short side 36, crop 32, bicubic" in err


def score_of(run_dir: Path) -> dict:
    return json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))


def test_a_score_says_that_it_is_of_the_split_on_which_the_checkpoint_was_chosen(
    command, trained_on_images, jpegs, tmp_path
):
    code, _, err = command("test", trained_on_images)
    assert code == 0, err
    assert "test: top1 " in err
    assert err.rstrip().endswith(") of the validation split, on which best.ckpt was chosen")
    score = score_of(trained_on_images)
    code, _, err = command("predict", trained_on_images)
    assert code == 0, err
    assert "predict: (6/6 images scored, 0 failed; val images" in err
    rows = [(trained_on_images / name).read_text() for name in ("predictions.csv", "predicted.csv")]
    assert rows[0] == rows[1]
    assert rows[0].count("/val/") == 6
    assert (score["split"], score["split_chose_checkpoint"]) == ("val", True)
    report = read_run(trained_on_images)
    assert "the score is of the validation split, on which best.ckpt was chosen: expect less" in report.results.notes[0]
    assert "val of the validation split, on which best.ckpt was chosen" in render_report(report)
    other = tmp_path / "other"  # other files, as a validation split and as a test split
    shutil.copytree(jpegs / "train", other / "val")
    for split, text in (("val", "of the validation split"), ("test", "bicubic)")):
        code, _, err = command("test", trained_on_images, f"--data.root={other}", f"--run_dir={tmp_path / split}")
        assert code == 0, err
        assert err.rstrip().endswith(text)
        assert (score_of(tmp_path / split)["split"], read_run(tmp_path / split).results.score["split"]) == (
            split,
            split,
        )
        shutil.copytree(jpegs / "train", other / "test", dirs_exist_ok=True)


@pytest.mark.parametrize("limit", ["limit_test_batches=0.5", "fast_dev_run=true"])
def test_a_part_of_a_test_is_called_one_everywhere(command, trained_on_images, limit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = command("test", trained_on_images, f"--trainer.{limit}", "--data.eval_batch_size=3")
    assert code == 0, err
    folder = trained_on_images
    if limit == "fast_dev_run=true":
        assert "(only 3 of 6 images: 3/3 images scored" in err
        assert not list(tmp_path.glob("*.csv"))
        assert not (folder / "metrics.json").exists()
        return
    assert "(only 3 of 6 images: 3/3 images scored, 0 failed; " in err
    score = score_of(folder)
    assert (score["expected"], score["of"], score["partial"]) == (3, 6, True)
    with (folder / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["in_split"] for row in rows] == ["2", "2", "2"]
    assert sum(int(row["samples"]) for row in rows) == 3
    report = read_run(folder)
    assert any(note.startswith("only a part of the test: 3 of 6 images") for note in report.results.notes)
    assert "only a part of the test" in render_report(report)
    assert command("test", trained_on_images, "--trainer.limit_test_batches=9")[0] == 0  # more than there are: all
    assert (score_of(folder)["partial"], read_run(folder).results.notes[0][:9]) == (False, "the score")


def test_outputs_that_are_not_finite_fail_and_are_named_by_every_command(command, trained_on_images, tmp_path):
    checkpoint = torch.load(trained_on_images / "checkpoints/best.ckpt", weights_only=True)
    for value in checkpoint["state_dict"].values():
        value.fill_(float("nan"))
    torch.save(checkpoint, tmp_path / "broken.ckpt")
    for verb in ("test", "validate", "predict"):
        code, _, err = command(verb, tmp_path / "broken.ckpt", f"--run_dir={tmp_path / 'out'}")
        assert code == 0, err
        (line,) = (line for line in err.splitlines() if "not finite" in line)
        assert "failed, counted as wrong: the network's outputs are not finite for 6 of 6 images: " in line
        assert "and 3 more" in line
        assert "0/6 images scored, 6 failed" in err.splitlines()[-1]
        assert "loss 0" not in err
    for name in ("predictions.csv", "predicted.csv"):
        assert (tmp_path / "out" / name).read_text().count("not finite") == 6
    score = score_of(tmp_path / "out")
    assert (score["metrics"]["top1"], score["metrics"]["loss"], score["not_finite"]) == (0, None, 6)
    assert "6 gave outputs that are not finite and count as wrong" in render_report(read_run(tmp_path / "out"))


def test_a_network_for_clips_is_refused_on_images(command, tiny_images, tmp_path):
    arguments = [*tiny_images, f"--run_dir={tmp_path / 'run'}", "--model.backbone.num_frames=4"]
    code, _, err = command("fit", *arguments)
    assert code == 2
    assert err.splitlines()[-1] == (
        "mvrec: error: the backbone takes inputs of shape (3, 4, 32, 32) without the batch, the data give (3, 32, 32)"
    )
