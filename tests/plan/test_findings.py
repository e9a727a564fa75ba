"""The contents of a folder, and files from which nothing can be learned."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvrec.data.listing.file_kinds import IMAGES, VIDEOS
from mvrec.errors import UserError
from mvrec.plan.findings import look
from mvrec.plan.kinds import kind_of, lists_values


def images(root: Path, counts: dict[str, int], size: tuple[int, int] = (48, 40)) -> Path:
    """A folder of noise, by class or path below the root."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        for number in range(count):
            path = root / name / f"bild {number} ü.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(path)
    return root


def touched(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_endings_tell_the_kind_and_a_few_of_the_other_are_skipped(tmp_path):
    videos = [f"a/{number}.MP4" for number in range(12)]
    assert kind_of(touched(tmp_path / "videos", *videos, "a/cover.jpg", "a/.hidden.png", "readme.txt")) is VIDEOS
    assert kind_of(touched(tmp_path / "images", "train/a/x/1.JPEG", "train/b/2.png")) is IMAGES
    assert kind_of(touched(tmp_path / "animations", "a/1.gif", "b/2.gif")) is VIDEOS
    assert kind_of(touched(tmp_path / "pictures", "a/1.gif", "b/2.png")) is IMAGES
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/train.csv").write_text("path,label\n/far/a b.webm,run\n/far/c.webm,jump\n")
    assert kind_of(tmp_path / "lists") is VIDEOS


def test_a_folder_that_does_not_tell_is_one_line(tmp_path):
    touched(tmp_path / "my_videos", "a/1.mp4", "a/2.mp4", "b/3.jpg")
    touched(tmp_path / "empty", "notes.docx")
    for name, message in (
        ("my_videos", "holds 2 videos and 1 image: --data VideoFolder takes the videos and skips the images"),
        ("empty", "holds no videos and no images: put them into one folder per class"),
        ("my_video", "does not exist; did you mean"),
    ):
        with pytest.raises(UserError) as raised:
            kind_of(tmp_path / name)
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)


def test_classes_splits_and_sizes_are_found(tmp_path):
    findings = look(images(tmp_path / "one", {"кот": 6, "ein Hund": 5}), IMAGES)
    assert findings.class_names == ["ein Hund", "кот"]
    assert sum(findings.files.values()) == 11
    assert not findings.has_splits
    assert findings.val_fraction == 0.2
    assert findings.media.describe() == "48x40 pixels"
    assert findings.media.short_side == 40
    assert findings.media.reading_seconds > 0
    assert findings.remarks == ()
    findings = look(images(tmp_path / "split", {"train/a": 2, "train/b": 1, "val/a": 1}), IMAGES)
    assert (findings.layout, findings.val_fraction) == ("train/, val/", 0)
    assert findings.classes == {"train": {"a": 2, "b": 1}, "val": {"a": 1}}
    findings = look(tmp_path / "one", IMAGES, fold="2/5")
    assert (findings.layout, findings.has_splits) == ("class folders, fold 2/5", True)
    assert look(images(tmp_path / "no classes", {"a": 2}), IMAGES, has_classes=False).num_train == 1
    assert sum(findings.files.values()) == 11


def test_a_list_with_several_labels_counts_each(tmp_path):
    root = images(tmp_path, {"x": 3})
    names = sorted(path.name for path in (root / "x").iterdir())
    (root / "train.csv").write_text(f"path,labels\nx/{names[0]},run;jump\nx/{names[1]},\nx/{names[2]},run\n")
    findings = look(root, IMAGES)
    assert findings.multi_label
    assert findings.classes == {"train": {"run": 2, "jump": 1}}
    assert findings.num_train == 3


def test_numbers_of_a_list_are_found_and_five_folds_where_it_has_no_validation_files(tmp_path):
    root = images(tmp_path, {"x": 10})
    names = sorted(path.name for path in (root / "x").iterdir())

    def findings_of(header, *values, columns=(), split="train.tsv"):
        rows = [f"x/{name}\t{value}\n" for name, value in zip(names, values, strict=False)]
        (root / split).write_text("".join([f"path\t{header}\n", *rows]))
        return look(root, IMAGES, has_classes=False, values=columns)

    findings = findings_of("value", *range(10))
    assert (findings.fold, findings.layout, lists_values(root)) == ("1/5", "train.tsv, fold 1/5", True)
    assert {split: len(columns["value"]) for split, columns in findings.values.items()} == {"train": 8, "val": 2}
    assert max(findings_of("Age", *range(10), columns=["age"]).values["val"]["age"]) > 1
    assert not lists_values(root)
    for header, values, message in (
        ("age", (1, 2), "has no list with a column 'value'; to predict numbers, name their columns, as in --data.val"),
        ("value", (1, "x"), "train.tsv:3: value 'x' is not a number"),
        ("value", (3,), "train.tsv: it has one image, training needs two"),
        ("value", (3, 3, 3), "train.tsv: value is 3 for all 2 files: there is nothing to learn"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            findings_of(header, *values)
    (root / "val.csv").write_text(f"path,value\nx/{names[3]},5\n")
    findings = findings_of("value", 1, 2)
    assert (findings.fold, findings.values["val"]) == ("", {"value": (5.0,)})


def test_videos_have_lengths_and_rates_and_broken_ones_are_named(digits, tmp_path):
    root = tmp_path / "my videos"
    for name in ("grow", "orbit_clockwise"):
        shutil.copytree(digits / "train" / name, root / name)
    (root / "grow/broken.mp4").write_bytes(b"no video" * 99)
    findings = look(root, VIDEOS)
    assert findings.media.describe() == "64x64 pixels, 2 s, 16 frames/s"
    assert (findings.media.length, findings.media.rate) == (2.0, 16.0)
    assert findings.remarks == (f"1 of 7 videos looked at cannot be read: {root / 'grow/broken.mp4'}",)


def test_a_process_that_dies_over_a_file_costs_its_sizes_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("mvrec.plan.media._tried", lambda path, *, is_video: __import__("os").abort())
    findings = look(images(tmp_path, {"a": 2, "b": 2}), IMAGES)
    assert findings.media.describe() == ""
    assert findings.media.short_side is None


def test_what_nothing_can_be_learned_from_is_one_line(tmp_path):
    images(tmp_path / "one class", {"a": 3})
    images(tmp_path / "one each", {"a": 1, "b": 1})
    images(tmp_path / "flat", {"": 3})
    images(tmp_path / "no train", {"val/a": 1, "val/b": 1})
    equal = images(tmp_path / "equal", {"a": 1})
    for name in ("a/2.png", "b/1.png", "b/2.png"):
        (equal / name).parent.mkdir(exist_ok=True)
        shutil.copy(next(equal.glob("a/bild*")), equal / name)
    labels = images(tmp_path / "labels", {"x": 2})
    (labels / "train.csv").write_text("".join(["path,label\n", *(f"x/{p.name},7\n" for p in (labels / "x").iterdir())]))
    numbers = images(tmp_path / "numbers", {"x": 2})
    (numbers / "train.csv").write_text(
        "".join(["path,value\n", *(f"x/{p.name},7\n" for p in (numbers / "x").iterdir())])
    )
    for name, message in (
        (
            "numbers",
            "train.csv: its header has no column 'label'; to predict numbers, name their columns, as in --data.v",
        ),
        ("one class", "it has only the class 'a' (all 3 images are of it), training needs two"),
        ("one each", "each class has a single image, none is left for validation"),
        ("flat", "has no class folders: put its images into one folder per class"),
        ("no train", "has no split 'train'"),
        ("equal", "all 4 images in"),
        ("labels", "train.csv: it has only the class '7' (all 2 images are of it)"),
    ):
        with pytest.raises(UserError) as raised:
            look(tmp_path / name, IMAGES)
        assert message in str(raised.value), name


def test_copies_in_two_classes_and_frames_of_videos_are_remarked(tmp_path):
    root = images(tmp_path / "copies", {"a": 3, "b": 3})
    shutil.copy(root / "a/bild 0 ü.png", root / "b/bild 0 ü.png")
    (remark,) = look(root, IMAGES).remarks
    assert "a/bild 0 ü.png and b/bild 0 ü.png are the same image in two classes" in remark
    (remark,) = look(images(tmp_path / "frames", {"a/clip1": 8, "b/clip2": 9}), IMAGES).remarks
    assert remark.startswith("images lie in 2 folders below their classes, as frames of videos do")
