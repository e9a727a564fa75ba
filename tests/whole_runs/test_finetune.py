"""One line that fine-tunes: nothing but a folder and a file of weights is given."""

import argparse
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from mvrec.models import create_model
from mvrec.published import PUBLISHED, input_settings
from mvrec.runs.weights_origin import starting_point

ROOT = Path(__file__).parents[2]
FINETUNE = ["fit", "--config", ROOT / "configs/finetune.yaml"]
QUICK = ["--data.num_workers=0", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"]


@pytest.fixture(scope="module")
def my_videos(digits, tmp_path_factory):
    """Two classes of eight clips each, in folders with blanks and letters of several alphabets."""
    root = tmp_path_factory.mktemp("fine tune") / "Mes vidéos - два"
    for theirs, ours in (("move_left", "nach links"), ("orbit_clockwise", "по кругу")):
        files = sorted(digits.glob(f"*/{theirs}/*.mp4"))
        for number in range(8):
            target = root / ours / f"clip {number} ü.mp4"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(files[number % len(files)], target)
    return root


@pytest.fixture(scope="module")
def trained(digits_run):
    return digits_run.folder / "checkpoints/best.ckpt"


def test_a_checkpoint_is_fine_tuned_on_a_folder(command, my_videos, trained, tmp_path, reads):
    run_dir = tmp_path / "run"
    inputs = [f"--data.root={my_videos}", f"--model.weights={trained}", f"--run_dir={run_dir}"]
    code, _, err = command(*FINETUNE, *inputs, *QUICK, "--trainer.max_epochs=2", "--model.freeze=1")
    assert code == 0, err
    assert reads[trained] == 1
    assert "the head of 12 classes is replaced by an untrained one of 2" in err
    assert "learning rate scaled by 8/64 = 0.125" in err
    assert "2/2 videos scored, 0 failed; 4x4 at own fps, 1 clips x 1 crops, short side 64, crop 64" in err
    assert "frozen" in err
    data = json.loads((run_dir / "data.json").read_text())
    assert data["class_names"] == ["nach links", "по кругу"]
    assert {split: entry["files"] for split, entry in data["splits"].items()} == {"train": 14, "val": 2}
    groups = json.loads((run_dir / "parameter_groups.json").read_text())
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates["layer 3 of 3, decayed"] == pytest.approx(1e-3 / 8)
    assert rates["layer 1 of 3, decayed"] == pytest.approx(1e-3 / 8 * 0.75**2)
    checkpoint = torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)
    record = checkpoint["mvrec"]
    assert json.loads(json.dumps(record["data"])) == data
    assert record["parameter_groups"] == groups
    assert record["environment"]["hosts"] == json.loads((run_dir / "environment.json").read_text())["hosts"]
    assert record["config"]["model"]["weights"] == str(trained)
    # The result stands by itself.
    moved = tmp_path / "moved"
    shutil.move(run_dir, moved)
    code, _, err = command("test", f"--ckpt_path={moved / 'checkpoints/best.ckpt'}", "--data.num_workers=0")
    assert code == 0, err
    assert "2/2 videos scored" in err


def test_a_resumed_fine_tune_does_not_need_its_start(command, my_videos, trained, tmp_path):
    start = tmp_path / "start.ckpt"
    shutil.copy(trained, start)
    run = [*FINETUNE, f"--data.root={my_videos}", f"--model.weights={start}", f"--run_dir={tmp_path / 'run'}"]
    run += [*QUICK, "--resume=auto", "--data.class_balance=1", "--model.class_weights=balanced"]
    assert command(*run, "--trainer.max_epochs=1")[0] == 0
    start.unlink()
    code, _, err = command(*run, "--trainer.max_epochs=2")
    assert code == 0, err
    assert "epoch 2/2" in err
    assert "epoch 1/2" not in err


def test_images_with_weights_of_the_authors(command, tmp_path, reads):
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


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_inputs_are_those_of_the_recipe(name):
    path = ROOT / f"configs/{name}.yaml"
    if not path.is_file():
        pytest.skip(f"no recipe was published for {name}")
    recipe = yaml.safe_load(path.read_text())["data"]["init_args"]
    expected = input_settings(name)
    assert {key: recipe[key] for key in expected} == expected


@pytest.mark.slow
def test_a_file_is_recognised_with_what_its_variant_leaves_open(tmp_path):
    model = create_model("mvit_b_16x4", num_classes=7, num_frames=8, image_size=64, unpooled_kv_blocks=(14, 15))
    torch.save({"model_state": model.state_dict()}, tmp_path / "k.pyth")
    start = starting_point(str(tmp_path / "k.pyth"), where="--model.weights")
    assert start.backbone["class_path"] == "mvrec.models.MViT"
    arguments = start.backbone["init_args"]
    assert arguments["num_classes"] == 7
    assert arguments["num_frames"] == 8
    assert list(arguments["unpooled_kv_blocks"]) == [14, 15]
    assert start.data["class_path"] == "mvrec.data.VideoFolder"
    assert start.data["init_args"]["clip"] == {"num_frames": 8, "stride_frames": 4, "target_fps": 30.0}


def last_line(result):
    code, _, err = result
    assert code == 2, err
    return err.splitlines()[-1]


def test_what_is_wrong_is_one_line(command, my_videos, trained, tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    run = [*FINETUNE, f"--data.root={my_videos}", f"--run_dir={tmp_path / 'run'}", *QUICK]
    good = f"--model.weights={trained}"
    for arguments, words in (
        ([], "which data? --data VideoFolder"),
        (["--model.weights=none.pth"], "--model.weights: none.pth: no such file"),
        ([f"--model.weights={tmp_path / 'text.pth'}"], "--model.weights: "),
        ([good, "--model.optimizer.lr=0"], "model.optimizer.lr must lie in 0..1000000 and not be 0, got 0"),
        ([good, "--model.optimizer.lr=-1"], "model.optimizer.lr must lie in 0..1000000, got -1"),
        ([good, "--model.layer_decay=0"], "model.layer_decay must lie in 0..1 and not be 0, got 0"),
        ([good, "--data.class_balance=2"], "data.class_balance must lie in 0..1, got 2"),
        ([good, "--trainer.precision=16-mixed"], "trainer.precision=16-mixed: CPUs have no fp16 training"),
        ([good, "--model.class_weights=[1, 2, 3]"], "model.class_weights has 3 numbers, the data have 2 classes"),
        ([good, "--model.backbone=cloformer_xxs", "--data=ImageFolder"], "holds a MViT"),
    ):
        assert words in last_line(command(*run, *arguments)), arguments


def test_averages_that_a_checkpoint_does_not_have(command, tiny, trained, tmp_path):
    averages = "--trainer.callbacks=lightning.pytorch.callbacks.EMAWeightAveraging"
    arguments = ["fit", *tiny, averages, f"--ckpt_path={trained}", f"--run_dir={tmp_path}"]
    assert f"{trained} has no averaged weights" in last_line(command(*arguments))


def test_what_training_will_suffer_from_is_said_before_it(command, trained, my_videos, tmp_path):
    root = tmp_path / "unequal"
    shutil.copytree(my_videos, root)
    (root / "single").mkdir()
    shutil.copy(next(my_videos.glob("*/*.mp4")), root / "single/only.mp4")
    run = [*FINETUNE, f"--data.root={root}", f"--model.weights={trained}", f"--run_dir={tmp_path / 'run'}", *QUICK]
    code, _, err = command(*run, "--data.batch_size=30", "--trainer.max_epochs=1")
    assert code == 0, err
    assert "a step takes 30 videos and the training split has 15" in err
    assert "classes with a single training video: 'single'" in err
    (root / "empty").mkdir()
    assert "empty: no videos in this class folder" in last_line(command(*run))
