"""Segmentation from two folders to a score, exactly resumed, the same on any number of processes."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from warm import run_ranks

from mvrec.cli.lightning import run
from mvrec.data.views.targets import NOT_LABELLED
from mvrec.errors import UserError
from mvrec.tasks.segmentation.task import pixel_loss

FSDP = f"--config={Path(__file__).parents[3] / 'configs/overlays/fsdp.yaml'}"
NAMES = ("ground", "square")
CONFIG = """
trainer: {max_epochs: 6, accelerator: cpu, devices: 1, log_every_n_steps: 1, enable_progress_bar: false}
seed_everything: 0
model:
  class_path: mvrec.tasks.Segmentation
  init_args:
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.01}}
    schedule: {end_factor: 1.0}
    channels: 8
    backbone:
      class_path: mvrec.models.MViT
      init_args:
        num_frames: null
        image_size: 32
        embed_dim: 16
        num_heads: 1
        depth: 3
        dim_mults: {1: 2}
        head_mults: {1: 2}
        q_strides: {1: 2}
        kv_stride: 2
        pool_kernel: [1, 3, 3]
        pos_embed: none
        cls_token: false
data:
  class_path: mvrec.data.MaskFolder
  init_args: {root: scenes, size: 32, batch_size: 4, num_workers: 0}
"""


def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright square on dark ground, and its mask with an unlabelled border."""
    rng = np.random.default_rng(number)
    height, width = 40 + number % 3, 48
    image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.uint8)
    top, left = rng.integers(4, 18, 2)
    image[top : top + 16, left : left + 16] += 150
    mask[top : top + 16, left : left + 16] = 1
    mask[0] = NOT_LABELLED
    return image, mask


def write(root: Path, split: str, number: int) -> None:
    for folder, pixels in zip(("images", "masks"), scene(number), strict=True):
        (root / folder / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / folder / split / f"{number:02d}.png")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    for number in range(20):
        write(root, "train" if number < 12 else "val" if number < 15 else "test", number)
    (root / "classes.txt").write_text("\n".join(NAMES))
    return root


@pytest.fixture(scope="module")
def config(scenes, tmp_path_factory) -> list[str]:
    path = tmp_path_factory.mktemp("config") / "segmentation.yaml"
    path.write_text(CONFIG)
    return [f"--config={path}", f"--data.root={scenes}"]


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory, no_pictures) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "squares"
    run(["fit", *config, f"--run_dir={folder}"])
    return folder


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def tested(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tested")
    run(["test", str(trained), f"--run_dir={folder}"])
    return folder


def test_it_learns_squares_and_writes_what_it_scored(trained, tested):
    scored = metrics_of(tested)
    assert scored["metrics"]["miou"] > 0.8 > 0.5 > scored["chance"]["miou"]
    assert scored["protocol_text"].startswith("test images, whole, own size")
    classes = {row["class"]: row for row in read(tested / "per_class.csv")}
    assert list(classes) == list(NAMES)
    pixels = sum(int(row["pixels"]) for row in classes.values())
    rows = read(tested / "predictions.csv")
    assert pixels == sum(int(row["labelled_pixels"]) for row in rows)
    mean = sum(float(row["iou"]) for row in classes.values()) / 2
    assert scored["metrics"]["miou"] == pytest.approx(mean, abs=1e-6)
    with np.load(tested / "worst.npz") as maps:
        assert maps["0"].shape == (2, *scene(15)[1].shape)
        assert (maps["0"][1] == scene(15)[1]).all()


def test_a_run_resumes_within_an_epoch_to_the_bit(trained, config, tmp_path):
    for flag in ("--trainer.max_steps=4", "--resume=auto"):
        run(["fit", *config, f"--run_dir={tmp_path}", flag])
    whole, resumed = (
        torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for folder in (trained, tmp_path)
    )
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


@pytest.mark.parametrize("world", [2, 3])
def test_counts_are_those_of_one_process(trained, tested, tmp_path, world):
    for process in run_ranks(world, "test", str(trained), f"--run_dir={tmp_path}"):
        assert process.returncode == 0, process.stderr
    for name in ("predictions.csv", "per_class.csv", "confusion.csv"):
        assert (tmp_path / name).read_text() == (tested / name).read_text(), name
    assert (tmp_path / "images.npz").read_bytes() == (tested / "images.npz").read_bytes()
    assert metrics_of(tmp_path)["metrics"] == metrics_of(tested)["metrics"]


def test_two_processes_train_alike_with_whole_and_with_sharded_weights(config, tmp_path):
    """Compared are two processes each, because a process computes batch norms from its own images."""
    steps = ["--data.batch_size=2", "--trainer.max_epochs=1", "--model.optimizer.lr=1e-3"]
    states, metrics = [], []
    for name, flags, strategy in (("whole", [], "ddp"), ("sharded", [FSDP], None)):
        folder = tmp_path / name
        processes = run_ranks(2, "fit", *config, *steps, *flags, f"--run_dir={folder}", strategy=strategy)
        message = "".join(process.stderr for process in processes)
        assert [process.returncode for process in processes] == [0, 0], message
        assert ("3 blocks are sharded over 2 processes" in message) == bool(flags)
        assert "3/3 images scored" in message
        states.append(torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"])
        run(["test", str(folder), f"--run_dir={tmp_path / f'{name} tested'}"])
        metrics.append(metrics_of(tmp_path / f"{name} tested")["metrics"])
    whole, sharded = states
    assert whole.keys() == sharded.keys()
    for name in whole:
        if not name.endswith("attn.norm_k.bias"):  # no effect: its gradient is rounding noise
            torch.testing.assert_close(sharded[name], whole[name], rtol=1e-3, atol=2e-5, msg=name)
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-3)


def test_an_unreadable_image_counts_as_missed_pixels(trained, tested, scenes, tmp_path):
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    (root / "images/test/15.png").write_bytes(b"no picture")
    run(["test", str(trained), f"--data.root={root}", f"--run_dir={tmp_path}"])
    rows, whole = read(tmp_path / "predictions.csv"), read(tested / "predictions.csv")
    assert rows[0]["error"]
    assert rows[1:] == [row | {"path": row["path"].replace(str(scenes), str(root))} for row in whole[1:]]
    missed = {row[""]: int(row["(failed)"]) for row in read(tmp_path / "confusion.csv")}
    mask = scene(15)[1]
    assert missed == {"ground": int((mask == 0).sum()), "square": int((mask == 1).sum())}


def test_classes_in_another_order_are_matched_by_name(trained, tested, scenes, tmp_path):
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    (root / "classes.txt").write_text("square\nground")
    for path in root.glob("masks/*/*.png"):
        mask = np.asarray(Image.open(path))
        Image.fromarray(np.where(mask == NOT_LABELLED, mask, 1 - mask)).save(path)
    run(["test", str(trained), f"--data.root={root}", f"--run_dir={tmp_path}"])
    assert metrics_of(tmp_path)["metrics"] == metrics_of(tested)["metrics"]


def test_its_weights_start_another_run_with_their_head(trained, config, tmp_path, caplog):
    run(["fit", *config, f"--run_dir={tmp_path}", f"--model.weights={trained}", "--trainer.max_steps=1"])
    assert "segments the same 2 classes: its head is kept" in caplog.text
    with pytest.raises(UserError, match="the checkpoint's head is"):
        run(["test", str(trained), *config, f"--run_dir={tmp_path}", "--model.decoder=segformer"])


def test_exported_weights_score_and_recognize_as_the_run_does(command, trained, tested, config, scenes, tmp_path):
    code, _, err = command("export", trained, "-o", weights := tmp_path / "x.safetensors")
    assert code == 0, err
    # A test takes the head of the weights, which has 8 channels, whatever the settings of the task say.
    run(["test", *config, "--model.channels=16", f"--model.weights={weights}", f"--run_dir={tmp_path}"])
    assert metrics_of(tmp_path)["metrics"] == metrics_of(tested)["metrics"]
    for source in (trained, weights):
        masks = tmp_path / f"masks of {source.name}"
        code, _, err = command("recognize", scenes / "images/test", "--ckpt", source, "--masks", masks)
        assert code == 0, err
        counts = np.zeros(2, np.int64)
        for mask in masks.glob("*.png"):
            counts += np.bincount(np.asarray(Image.open(mask))[labelled(scenes, mask)], minlength=2)
        assert counts.tolist() == [int(row["predicted_pixels"]) for row in read(tested / "per_class.csv")]


def test_crops_of_two_sides_reach_plan_network_and_windows(command, scenes, tmp_path):
    folder, more = tmp_path / "run", ["--trainer.max_steps=1", "--trainer.limit_val_batches=1", "--model.channels=8"]
    code, _, err = command("fit", "--data.root", scenes, "--data.size", "[32,48]", "--run_dir", folder, *more)
    assert code == 0, err
    assert "input    32 pixels high, 48 wide" in err
    assert "images (C, H, W) = (3, 32, 48)" in err
    assert json.loads((folder / "data.json").read_text())["protocol"]["size"] == [32, 48]
    code, _, err = command("test", folder, "--data.protocol", "slide", "--run_dir", tmp_path / "tested")
    assert code == 0, err
    assert "windows of 32 x 48 every 21 x 32" in err
    code, _, err = command("recognize", scenes / "images/test", "--ckpt", folder, "--slide", "--masks", tmp_path / "m")
    assert code == 0, err
    assert "windows of 32 x 48 every 21 x 32" in err


def labelled(scenes: Path, mask: Path) -> np.ndarray:
    """The labelled pixels of a test image, bool (H, W)."""
    (true,) = (scenes / "masks/test").glob(f"{mask.stem}.*")
    return np.asarray(Image.open(true)) != NOT_LABELLED


def test_its_report_shows_classes_and_the_worst_images(command, tested):
    code, _, err = command("report", tested)
    assert code == 0, err
    page = (tested / "report.html").read_text()
    for text in ('<h2 id="classes">', '<h2 id="worst-images">', "wrong pixels", "Mean intersection over union"):
        assert text in page, text


def test_the_loss_is_divided_by_all_pixels():
    logits, targets = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 1, NOT_LABELLED, NOT_LABELLED]]])
    assert float(pixel_loss(logits, targets)) == pytest.approx(np.log(2) * 2 / 4)
