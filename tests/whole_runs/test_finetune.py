"""One line that fine-tunes: nothing but a folder and a file of weights is given."""

import argparse
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from run_support import stored

from mvrec.models import create_model
from mvrec.published import PUBLISHED, input_settings

ROOT = Path(__file__).parents[2]
FINETUNE = ["fit", "--config", ROOT / "configs/finetune.yaml"]
QUICK = ["--data.num_workers=0", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"]


@pytest.fixture(scope="module")
def my_videos(digits, tmp_path_factory):
    """Two classes of eight clips and one of a single clip, in folders with blanks and letters of several alphabets."""
    root = tmp_path_factory.mktemp("fine tune") / "Mes vidéos - два"
    for expected, actual, count in (
        ("move_left", "nach links", 8),
        ("orbit_clockwise", "по кругу", 8),
        ("grow", "eins", 1),
    ):
        files = sorted(digits.glob(f"*/{expected}/*.mp4"))
        for number in range(count):
            target = root / actual / f"clip {number} ü.mp4"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(files[number % len(files)], target)
    return root


@pytest.fixture(scope="module")
def trained(digits_run):
    return digits_run.folder / "checkpoints/best.ckpt"


def test_a_checkpoint_is_fine_tuned_on_a_folder_and_resumed_and_tested_without_it(
    command, my_videos, trained, tmp_path, reads
):
    run_dir, start = tmp_path / "run", Path(shutil.copy(trained, tmp_path / "start.ckpt"))
    run = [*FINETUNE, f"--data.root={my_videos}", f"--model.weights={start}", f"--run_dir={run_dir}", *QUICK]
    run += ["--model.freeze=1", "--data.class_balance=1", "--model.class_weights=balanced", "--data.batch_size=20"]
    code, _, err = command(*run, "--trainer.max_epochs=1", "--resume=auto")
    assert code == 0, err
    assert reads[start] == 1
    assert "the head of 12 classes is replaced by an untrained one of 3" in err
    assert "learning rate scaled by 20/64 = 0.3125" in err
    assert "a step takes 20 videos and the training split has 15" in err
    assert "classes with a single training video: 'eins'" in err
    assert "2/2 videos scored, 0 failed; 4x4 at own fps, 1 clips x 1 crops, short side 64, crop 64" in err
    assert "frozen" in err
    data = json.loads((run_dir / "data.json").read_text())
    assert data["class_names"] == ["eins", "nach links", "по кругу"]
    assert {split: entry["files"] for split, entry in data["splits"].items()} == {"train": 15, "val": 2}
    groups = json.loads((run_dir / "parameter_groups.json").read_text())
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates["layer 3 of 3, decayed"] == pytest.approx(1e-3 * 20 / 64)
    assert rates["layer 1 of 3, decayed"] == pytest.approx(1e-3 * 20 / 64 * 0.75**2)
    record = stored(run_dir)["mvrec"]
    assert json.loads(json.dumps(record["data"])) == data
    assert record["parameter_groups"] == groups
    assert record["environment"]["hosts"] == json.loads((run_dir / "environment.json").read_text())["hosts"]
    assert record["config"]["model"]["weights"] == str(start)
    start.unlink()
    code, _, err = command(*run, "--trainer.max_epochs=2", "--resume=auto")
    assert code == 0, err
    assert "epoch 2/2" in err
    assert "epoch 1/2" not in err
    moved = shutil.move(run_dir, tmp_path / "moved")
    code, _, err = command("test", f"--ckpt_path={moved / 'checkpoints/best.ckpt'}", "--data.num_workers=0")
    assert code == 0, err
    assert "2/2 videos scored" in err


def test_images_are_fine_tuned_from_weights_of_the_authors(command, tmp_path, reads):
    root = tmp_path / "my images"
    for number in range(16):
        path = root / ("ein Hund", "кот")[number % 2] / f"{number} ß.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 50), (200 * (number % 2), 10 * number, 99)).save(path)
    tree = {"model": create_model("cloformer_xxs").state_dict(), "args": argparse.Namespace(lr=1e-3)}
    torch.save(tree, tmp_path / "clo.pth")
    inputs = [f"--data.root={root}", f"--model.weights={tmp_path / 'clo.pth'}", f"--run_dir={tmp_path / 'run'}"]
    # In the precision that a GPU would choose.
    few = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--data.batch_size=2"]
    few += ["--data.size=64", "--trainer.precision=bf16-mixed"]
    code, _, err = command(*FINETUNE, *inputs, *QUICK, *few)
    assert code == 0, err
    assert reads[tmp_path / "clo.pth"] == 1
    assert "cloformer_xxs (CloFormer layout), 1000 classes" in err
    assert "the head of 1000 classes is replaced by an untrained one of 2" in err
    assert "2/2 images scored, 0 failed; val images, short side 73, crop 64, bicubic" in err


def test_published_inputs_are_those_of_the_recipes():
    for name in sorted(PUBLISHED):
        path = ROOT / f"configs/{name}.yaml"
        if path.is_file():
            recipe = yaml.safe_load(path.read_text())["data"]["init_args"]
            expected = input_settings(name)
            assert {key: recipe[key] for key in expected} == expected, name


def test_what_is_wrong_is_one_line(command, my_videos, trained, tiny, tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    folder = f"--run_dir={tmp_path / 'run'}"
    run = [*FINETUNE, f"--data.root={my_videos}", folder, *QUICK]
    good = [*run, f"--model.weights={trained}"]
    averages = "--trainer.callbacks=lightning.pytorch.callbacks.EMAWeightAveraging"
    for arguments, words in (
        ([*run[:3], folder], "which data? --data.root FOLDER"),
        ([*run, "--model.weights=none.pth"], "--model.weights: there is no file 'none.pth'"),
        ([*run, f"--model.weights={tmp_path / 'text.pth'}"], "--model.weights: "),
        ([*good, "--model.optimizer.lr=0"], "model.optimizer.lr must lie in 0..1000000 and not be 0, got 0"),
        ([*good, "--trainer.precision=16-mixed"], "trainer.precision=16-mixed: CPUs have no fp16 training"),
        ([*good, "--model.class_weights=[1, 2]"], "model.class_weights has 2 numbers, the data have 3 classes"),
        ([*good, "--model.backbone=cloformer_xxs", "--data=ImageFolder"], "holds a MViT"),
        (["fit", *tiny, averages, f"--ckpt_path={trained}", folder], f"{trained} has no averaged weights"),
    ):
        code, _, err = command(*arguments)
        assert code == 2, err
        assert words in err.splitlines()[-1], arguments
