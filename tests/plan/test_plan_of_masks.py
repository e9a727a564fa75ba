"""The plan of a folder of images with masks."""

import numpy as np
import pytest
import yaml
from PIL import Image

from mvrec.data.listing.root import has_masks
from mvrec.errors import UserError
from mvrec.plan.masks import look_at_masks


def write(root, *folders, count=10, side=48, first=0, noise=False):
    rng = np.random.default_rng(first)
    for number in range(first, first + count):
        for folder in folders:
            (root / folder).mkdir(parents=True, exist_ok=True)
            shape = (side, side) if "mask" in folder else (side, side, 3)
            pixels = np.full(shape, number % 2, np.uint8)
            if noise and "mask" not in folder:
                pixels = rng.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("folders", "masked"),
    [
        (("images", "masks"), True),
        (("train/images", "train/masks"), True),
        (("training/imgs", "training/annotations"), True),
        (("images/train", "masks/train"), True),
        (("train/cats", "train/dogs"), False),
        (("images",), False),
        (("val/images", "val/masks"), False),  # nothing to train on
    ],
)
def test_folders_of_images_and_masks_are_told_from_classes(tmp_path, folders, masked):
    assert has_masks(write(tmp_path, *folders, count=1), splits=("train",)) is masked


def test_lists_of_masks_are_told_from_lists_of_classes_and_planned(tmp_path):
    write(tmp_path / "set", "images", "masks", count=6)
    lines = [f"set/images/{number}.png,set/masks/{number}.png\n" for number in range(6)]
    (tmp_path / "train.csv").write_text("path,mask\n" + "".join(lines[:4]))
    (tmp_path / "val.csv").write_text("path,mask\n" + "".join(lines[4:]))
    assert has_masks(tmp_path)
    findings = look_at_masks(tmp_path)
    assert (findings.files, findings.has_splits, findings.val_fraction) == ({"train": 4, "val": 2}, True, 0)
    (tmp_path / "train.csv").write_text("path,label,mask\nset/images/0.png,a,b\n")
    assert not has_masks(tmp_path, splits=("train",))


def test_folders_of_boxes_are_no_masks(tmp_path):
    write(tmp_path, "images/train")
    (tmp_path / "labels/train").mkdir(parents=True)
    (tmp_path / "labels/train/0.txt").write_text("0 0.5 0.5 0.1 0.1")
    assert not has_masks(tmp_path)


def test_images_are_counted_split_and_measured(tmp_path):
    findings = look_at_masks(write(tmp_path, "images", "masks", count=20))
    assert (findings.files, findings.has_masks, findings.has_splits) == ({"train": 16, "val": 4}, True, False)
    assert findings.media.short_side == 48
    assert look_at_masks(tmp_path, fold="2/5").files == {"train": 16, "val": 4}
    split = look_at_masks(write(tmp_path / "split", "images/train", "masks/train", "images/val", "masks/val", count=3))
    assert (split.files, split.has_splits) == ({"train": 3, "val": 3}, True)
    (tmp_path / "masks/3.png").unlink()
    with pytest.raises(UserError, match="no mask of the same name"):
        look_at_masks(tmp_path)


@pytest.mark.parametrize("same_path", [False, True])
def test_an_image_in_train_and_val_is_a_remark(tmp_path, same_path):
    write(tmp_path, "images", "masks", count=2)
    write(tmp_path, "images", "masks", count=8, side=40, first=2, noise=True)
    names = [f"{number}.png" for number in range(10)]
    train, val = names[1:8], ["1.png" if same_path else "0.png", *names[8:]]
    if not same_path:
        (tmp_path / "images/0.png").write_bytes((tmp_path / "images/3.png").read_bytes())
    for split, rows in (("train", train), ("val", val)):
        text = "".join(f"images/{name},masks/{name}\n" for name in rows)
        (tmp_path / f"{split}.csv").write_text(f"path,mask\n{text}")
    files = "images/1.png is" if same_path else "images/3.png and images/0.png are the same image,"
    text = f"{files} in train and in val: keep it in one, or the score will be too good"
    assert look_at_masks(tmp_path).remarks == (text,)


@pytest.mark.parametrize("weights", [False, True])
def test_init_writes_a_segmenter(command, tmp_path, weights):
    root, output = write(tmp_path / "scenes", "images", "masks", side=80), tmp_path / "plan.yaml"
    flags = []
    if weights:
        import torch

        from mvrec.models import create_model

        torch.save(create_model("cloformer_xxs").state_dict(), tmp_path / "weights.pth")
        flags = ["--model.weights", tmp_path / "weights.pth"]
    code, _, err = command("init", root, "-o", output, *flags)
    assert code == 0, err
    plan = yaml.safe_load(output.read_text())
    assert plan["model"]["class_path"] == "mvrec.tasks.Segmentation"
    assert plan["data"]["class_path"] == "mvrec.data.MaskFolder"
    assert plan["data"]["init_args"]["size"] == 80
    assert "label_smoothing" not in plan["model"]["init_args"]
    code, _, err = command("init", root, "-o", output, "--model", "Classification")
    assert code == 2, err  # its folders are no classes


def test_the_plan_pairs_files_as_the_flags_say(command, tmp_path):
    root, output = write(tmp_path / "scenes", "images", "masks"), tmp_path / "plan.yaml"
    (root / "masks/3.png").unlink()
    assert command("init", root, "-o", output)[0] == 2
    code, _, err = command("init", root, "-o", output, "--data.unpaired", "skip")
    assert code == 0, err
    for mask in list((root / "masks").iterdir()):
        mask.rename(mask.with_stem(f"{mask.stem}_mask"))
    flags = ["--data.unpaired", "skip", "--data.mask_suffix", "_mask"]
    output.unlink()
    code, _, err = command("init", root, "-o", output, *flags)
    assert code == 0, err
    assert yaml.safe_load(output.read_text())["data"]["init_args"]["mask_suffix"] == "_mask"


def test_the_plan_of_a_segmenters_weights_keeps_its_head(command, tmp_path):
    root, output = write(tmp_path / "scenes", "images", "masks"), tmp_path / "plan.yaml"
    flags = [
        "--trainer.max_steps",
        1,
        "--trainer.limit_val_batches",
        1,
        "--model.decoder",
        "segformer",
        "--data.size",
        32,
    ]
    assert command("fit", "--data.root", root, "--run_dir", tmp_path / "run", *flags, "--model.channels", 8)[0] == 0
    code, _, err = command("init", root, "-o", output, "--model.weights", tmp_path / "run")
    assert code == 0, err
    model = yaml.safe_load(output.read_text())["model"]["init_args"]
    assert (model["decoder"], model["channels"]) == ("segformer", 8)
