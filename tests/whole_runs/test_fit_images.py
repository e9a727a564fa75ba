"""Whole runs on folders of JPEGs through the command line."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from run_support import read_csv, stored

from mvrec.report.page import render_report
from mvrec.report.reading import read_run
from mvrec.tasks.score_text import split_text

ROOT = Path(__file__).parents[2]
CLASSES = ("n01440764", "n02102040", "n03000684")
CUT = f"train/{CLASSES[1]}/{CLASSES[1]}_2.JPEG"


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory) -> Path:
    """An ImageNet-style tree without a test split: three classes of 4 training and 2 validation images, one cut."""
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
    (root / CUT).write_bytes((root / CUT).read_bytes()[:500])
    return root


def recipe(name: str, root: Path, run_dir: Path) -> list[str]:
    """Two steps of a recipe at 64 pixels in full precision."""
    small = {"data.root": root, "data.size": 64, "data.max_bad_fraction": 0.2, "trainer.precision": 32}
    configs = [ROOT / f"configs/{name}.yaml", *(ROOT / f"configs/overlays/{o}.yaml" for o in ("debug", "cpu"))]
    flags = [*(f"--config={path}" for path in configs), *(f"--{key}={value}" for key, value in small.items())]
    return [*flags, f"--run_dir={run_dir}"]


def test_a_recipe_trains_and_its_checkpoint_has_the_protocol(command, jpegs, tmp_path):
    code, _, err = command("fit", *recipe("shunted_t", jpegs, tmp_path))
    assert code == 0, err
    assert "2 images per step: learning rate scaled by 2/1024" in err
    assert "Shunted, 11.04 M parameters, 3 classes, images (C, H, W) = (3, 64, 64)" in err
    assert "4/4 images scored, 0 failed; val images, short side 73, crop 64, bicubic)" in err
    checkpoint = stored(tmp_path)
    assert checkpoint["global_step"] == 2
    assert checkpoint["mvrec"]["class_names"] == list(CLASSES)
    expected = {"split": "val", "short_side": 73, "size": 64, "interpolation": "bicubic"}
    assert checkpoint["mvrec"]["protocol"].items() >= expected.items()
    assert checkpoint["mvrec"]["protocol"]["normalisation"]["mean"] == (0.485, 0.456, 0.406)


@pytest.fixture(scope="module")
def image_run(jpegs, no_pictures, tmp_path_factory) -> tuple[Path, str]:
    """A run of a two-block network on 32 pixels with three views of each image, and what it printed."""
    from mvrec.cli.main import main

    network = {"num_classes": 3, "num_frames": None, "image_size": 32, "embed_dim": 8, "num_heads": 1, "depth": 2}
    network |= {"dim_mults": {}, "head_mults": {}, "q_strides": {1: 2}, "kv_stride": 2, "pool_kernel": [1, 3, 3]}
    backbone = {"class_path": "mvrec.models.MViT", "init_args": network}
    data = {"root": str(jpegs), "size": 32, "batch_size": 4, "repeats": 3, "num_workers": 0, "max_bad_fraction": 0.2}
    data["seed"] = 0  # of an order that draws the cut image
    config = {
        "model": {"backbone": backbone, "mixing": {"mixup_alpha": 0.8}},
        "data": {"class_path": "mvrec.data.ImageNet", "init_args": data},
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "devices": 1, "log_every_n_steps": 1},
    }
    folder = tmp_path_factory.mktemp("images")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    with contextlib.redirect_stderr(io.StringIO()) as err:
        main(["fit", "--config", str(folder / "tiny.yaml"), f"--run_dir={folder / 'run'}"])
    return folder / "run", err.getvalue()


@pytest.fixture
def trained_on_images(image_run, tmp_path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(image_run[0], tmp_path / "run"))


def score_of(run_dir: Path) -> dict:
    return json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))


def test_an_epoch_has_as_many_views_as_images_and_a_cut_one_is_replaced(image_run, jpegs):
    assert "epoch 2/2  step 3/3" in image_run[1]
    assert image_run[1].count(f"unreadable, another image takes its place: {jpegs / CUT}: damaged or cut short") == 1


def test_a_score_says_that_it_is_of_the_split_on_which_the_checkpoint_was_chosen(
    command, trained_on_images, jpegs, tmp_path
):
    code, _, err = command("test", trained_on_images)
    assert code == 0, err
    assert f"{jpegs} has no test split: reading the images of val instead" in err
    assert "test: top1 " in err
    assert "(6/6 images scored, 0 failed; val images, short side 36, crop 32, bicubic)" in err
    assert err.rstrip().endswith(") of the validation split, on which best.ckpt was chosen")
    rows = read_csv(trained_on_images / "predictions.csv")
    assert [Path(row["path"]).parts[-3:-1] for row in rows] == [("val", row["label"]) for row in rows]
    assert len(rows) == 6
    score = score_of(trained_on_images)
    assert (score["split"], score["split_chose_checkpoint"]) == ("val", True)
    report = read_run(trained_on_images)
    assert "the score is of the validation split, on which best.ckpt was chosen: expect less" in report.results.notes[0]
    assert "val of the validation split, on which best.ckpt was chosen" in render_report(report)
    _, _, err = command("test", trained_on_images / "checkpoints/last.ckpt")
    assert err.rstrip().endswith(") of the validation split")  # on which the last one was not chosen
    other = tmp_path / "other"  # has a test split of its own
    shutil.copytree(jpegs / "val", other / "val")
    shutil.copytree(jpegs / "val", other / "test")
    (other / "test" / CLASSES[0] / f"{CLASSES[0]}_1.JPEG").unlink()
    code, _, err = command("test", trained_on_images, f"--data.root={other}", f"--run_dir={tmp_path / 'test'}")
    assert code == 0, err
    assert err.rstrip().endswith("bicubic)")
    assert (score_of(tmp_path / "test")["split"], read_run(tmp_path / "test").results.score["split"]) == ("test",) * 2
    assert split_text("val", chosen_on=False) == "of the validation split"


def test_a_part_of_a_test_is_called_one_everywhere_and_a_fast_dev_run_writes_nothing(
    command, trained_on_images, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    part = "(only 3 of 6 images: 3/3 images scored, 0 failed; "
    code, _, err = command("test", trained_on_images, "--trainer.fast_dev_run=true", "--data.eval_batch_size=3")
    assert code == 0, err
    assert part in err
    assert not list(tmp_path.glob("*.csv"))
    assert not (trained_on_images / "metrics.json").exists()
    code, _, err = command("test", trained_on_images, "--trainer.limit_test_batches=0.5", "--data.eval_batch_size=3")
    assert code == 0, err
    assert part in err
    score = score_of(trained_on_images)
    assert (score["expected"], score["of"], score["partial"]) == (3, 6, True)
    rows = read_csv(trained_on_images / "per_class.csv")
    assert [row["in_split"] for row in rows] == ["2", "2", "2"]
    assert sum(int(row["samples"]) for row in rows) == 3
    report = read_run(trained_on_images)
    assert any(note.startswith("only a part of the test: 3 of 6 images") for note in report.results.notes)
    assert "only a part of the test" in render_report(report)


def test_outputs_that_are_not_finite_fail_and_are_named(command, trained_on_images, tmp_path):
    checkpoint = stored(trained_on_images, "best")
    for value in checkpoint["state_dict"].values():
        value.fill_(float("nan"))
    torch.save(checkpoint, tmp_path / "broken.ckpt")
    code, _, err = command("test", tmp_path / "broken.ckpt", f"--run_dir={tmp_path / 'out'}")
    assert code == 0, err
    (line,) = (line for line in err.splitlines() if "not finite" in line)
    assert "failed, counted as wrong: the network's outputs are not finite for 6 of 6 images: " in line
    assert "and 3 more" in line
    assert "0/6 images scored, 6 failed" in err
    assert "loss 0" not in err
    assert (tmp_path / "out/predictions.csv").read_text().count("not finite") == 6
    score = score_of(tmp_path / "out")
    assert (score["metrics"]["top1"], score["metrics"]["loss"], score["not_finite"]) == (0, None, 6)
    assert "6 gave outputs that are not finite and count as wrong" in render_report(read_run(tmp_path / "out"))
