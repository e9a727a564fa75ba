"""`mvrec prep index` and `check` on images with masks: lists, values, and every kind of faulty pair."""

import numpy as np
import pytest
from mask_trees import quarters, write_image, write_mask, write_pairs
from PIL import Image
from prep_support import read_json, run

from mvrec.data import MaskFolder
from mvrec.plan.masks import look_at_masks

NAMES = [f"{number:03d}" for number in range(6)]


def trained_on(root):
    data = MaskFolder(str(root), size=32, num_workers=0)
    data.setup("fit")
    return data


def test_index_writes_lists_and_classes_that_train(tmp_path):
    write_pairs(tmp_path / "set", NAMES, split="train", values=(0, 7, 21, 255))
    write_pairs(tmp_path / "set", NAMES[:2], split="val", values=(0, 7, 0, 0))
    code, out, _ = run("index", tmp_path / "set", "--out", tmp_path / "lists")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert ["train", "6"] in lines
    assert ["255", "(not", "labelled)", "6", "18.75", "%"] in lines
    assert (tmp_path / "lists/classes.txt").read_text() == "0 0\n7 7\n21 21\n"
    lines = (tmp_path / "lists/val.csv").read_text(encoding="utf-8-sig").splitlines()
    assert lines[:2] == ["path,mask", f"{tmp_path}/set/images/val/000.png,{tmp_path}/set/masks/val/000.png"]
    data = trained_on(tmp_path / "lists")
    assert (data.class_names, data.coding.values) == (("0", "7", "21"), (0, 7, 21))
    assert (len(data.index("train")), len(data.index("val"))) == (6, 2)
    assert np.array_equal(data.index("train").target(0).classes, quarters())
    report = read_json(tmp_path / "lists/report.json")
    assert report["splits"] == {"train": 6, "val": 2}
    assert report["values"]["7"] == {"masks": 8, "pixels": 8 * 560}


@pytest.mark.parametrize("count", [20, 400])
def test_an_index_validates_the_share_of_a_plan(tmp_path, count):
    write_pairs(tmp_path, [str(number) for number in range(count)], height=8, width=8)
    run("index", tmp_path, "--out", tmp_path / "lists")
    splits = read_json(tmp_path / "lists/report.json")["splits"]
    assert splits["val"] == {20: 4, 400: 40}[count]
    assert splits == look_at_masks(tmp_path).files
    run("index", tmp_path, "--out", tmp_path / "lists", "--val-fraction", "0.5")
    assert read_json(tmp_path / "lists/report.json")["splits"]["val"] == count // 2


def test_index_counts_files_without_counterparts_and_values_of_no_class(tmp_path):
    write_pairs(tmp_path, NAMES)
    (tmp_path / "images/000.png").unlink()
    (tmp_path / "masks/001.png").unlink()
    (tmp_path / "masks/002.png").write_bytes(b"no mask")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    code, out, _ = run("index", tmp_path, "--out", tmp_path / "lists")
    assert code == 1
    assert f"1 image without mask, for example {tmp_path}/images/001.png" in out
    assert f"1 mask without image, for example {tmp_path}/masks/000.png" in out
    assert f"1 mask that cannot be read, for example {tmp_path}/masks/002.png (not an image, or a damaged one)" in out
    assert ["2", "(no", "class)", "3", "25.00", "%"] in [line.split() for line in out.splitlines()]


def test_masks_of_colours_are_indexed_with_their_palette(tmp_path):
    colours = np.array([(64, 128, 64), (192, 0, 128)], np.uint8)
    for name in NAMES:
        write_image(tmp_path / f"images/{name}.jpg")
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(colours[quarters(values=(0, 1, 1, 0))]).save(tmp_path / f"masks/{name}.png")
    (tmp_path / "palette.txt").write_text("road 64 128 64\ntall tree 192 0 128\n")
    assert run("index", tmp_path, "--out", tmp_path / "lists")[0] == 0
    data = trained_on(tmp_path / "lists")
    assert data.class_names == ("road", "tall tree")
    assert np.array_equal(data.index("train").target(0).classes, quarters(values=(0, 1, 1, 0)))


@pytest.fixture
def faulty(tmp_path):
    """A data set with one pair of each fault."""
    root = tmp_path / "set"
    names = ["corrupt", "damaged", "colours", "wide", "small", "strange", "empty", "fine", "turned", "unturned"]
    write_pairs(root, names, split="train")
    write_pairs(root, ["alone"], split="val")
    (root / "images/train/corrupt.png").write_bytes(b"no image")
    (root / "masks/train/damaged.png").write_bytes(b"no mask")
    Image.fromarray(np.dstack([quarters(), quarters(), quarters() * 0])).save(root / "masks/train/colours.png")
    Image.fromarray(quarters().astype(np.uint16) * 200).save(root / "masks/train/wide.png")
    write_mask(root / "masks/train/small.png", quarters(20, 28))
    write_mask(root / "masks/train/strange.png", quarters(values=(0, 1, 2, 9)))
    write_mask(root / "masks/train/empty.png", quarters(values=(255, 255, 255, 255)))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("turned", "unturned"):
        (root / f"images/train/{name}.png").unlink()
        write_image(root / f"images/train/{name}.jpg", exif=exif)
    write_mask(root / "masks/train/turned.png", quarters(56, 40))
    (root / "classes.txt").write_text("a\nb\nc\n")
    return root


STATUSES = {
    "corrupt": ("corrupt", "not an image, or a damaged one"),
    "damaged": ("corrupt", "mask: not an image, or a damaged one"),
    "colours": ("form", "mask: RGB colours, not class numbers"),
    "wide": ("form", "mask: mask of more than 8 bits, with values up to 51000"),
    "small": ("size", "the image has 56x40 pixels, its mask masks/train/small.png has 28x20"),
    "strange": ("value", "value 9 (560 pixels), but the 3 classes have the values 0..2, 255 not labelled"),
    "empty": ("unlabelled", "no pixel of the mask is labelled"),
    "unturned": ("size", "the image has 40x56 pixels turned as its EXIF block says, its mask"),
}


def test_check_names_every_fault_with_its_file_and_writes_the_others(faulty, tmp_path):
    arguments = ("check", faulty, "--out", tmp_path / "check", "--write-lists", tmp_path / "clean")
    code, out, _ = run(*arguments)
    assert code == 1
    bad = {
        entry["path"]: (entry["status"], entry["cause"]) for entry in read_json(tmp_path / "check/report.json")["bad"]
    }
    assert len(bad) == len(STATUSES)
    for name, (status, cause) in STATUSES.items():
        path = f"images/train/{name}.{'jpg' if name == 'unturned' else 'png'}"
        assert bad[path][0] == status
        assert bad[path][1].startswith(cause)
    assert "2 images turned by EXIF blocks: the masks must be" in out
    data = trained_on(tmp_path / "clean")
    assert [sample.path.name for sample in data.index("train")] == ["fine.png", "turned.jpg"]
    again, same, _ = run(*arguments)  # from the journal
    assert (again, same) == (code, out)
    write_mask(faulty / "masks/train/strange.png", quarters())
    run(*arguments)
    assert len(read_json(tmp_path / "check/report.json")["bad"]) == len(STATUSES) - 1


def test_check_reads_the_published_layouts(tmp_path):
    root = tmp_path / "ADEChallengeData2016"
    for split in ("training", "validation"):
        write_image(root / f"images/{split}/a.jpg")
        write_mask(root / f"annotations/{split}/a.png", quarters(values=(0, 1, 150, 9)))
    write_mask(root / "annotations/training/a.png", quarters(values=(0, 1, 151, 9)))
    code, _, _ = run("check", root, "--layout", "ade20k", "--out", tmp_path / "check")
    (bad,) = read_json(tmp_path / "check/report.json")["bad"]
    assert (code, bad["status"], bad["path"]) == (1, "value", "images/training/a.jpg")
    assert "value 151 (560 pixels), but the 150 classes have the values 1..150, 0, 255 not labelled" in bad["cause"]


def test_a_folder_of_two_classes_named_like_masks_is_no_data_set_of_masks(tmp_path):
    for name in ("images", "labels"):
        write_image(tmp_path / f"train/{name}/a.jpg")
    (tmp_path / "train/labels/a.jpg").rename(tmp_path / "train/labels/a.txt")
    assert run("check", tmp_path, "--out", tmp_path / "check")[0] == 0
    assert "short" in run("check", tmp_path, "--out", tmp_path / "check")[1]


@pytest.mark.parametrize("job", ["resize", "shard"])
def test_jobs_that_would_part_images_from_masks_are_refused(tmp_path, job):
    write_pairs(tmp_path / "set", NAMES)
    arguments = ("--images",) if job == "resize" else ()
    code, _, err = run(job, tmp_path / "set", tmp_path / "out", *arguments)
    assert code == 2
    assert f"mvrec prep {job}: {tmp_path}/set has images with masks, which" in err
    assert not (tmp_path / "out").exists()
