"""The tools on lists of files with several classes, or none."""

import json

import pytest
from prep_support import run
from video_files import write_video

from mvrec.data.listing.layouts import find_split


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    for number, name in enumerate("abc"):
        write_video(root / f"{name}.mp4", num_frames=8 + number)
    (root / "train.csv").write_text("path,labels\na.mp4,run;jump\nb.mp4,\nc.mp4,jump\ngone.mp4,run;jump\n")
    return root


def contents(index):
    return [{index.class_names[label] for label in sample.label} for sample in index]


def test_index_counts_every_label(root, tmp_path):
    _, _, err = run("index", root, "--out", tmp_path / "out")
    report = json.loads((tmp_path / "out/report.json").read_text())
    counts = {name: split["train"] for name, split in report["classes"].items()}
    assert {name: (value["found"], value["missing"]) for name, value in counts.items()} == {
        "jump": (2, 1),
        "run": (1, 1),
    }, err
    assert report["splits"]["train"]["missing"] == 1
    assert (tmp_path / "out/classes.txt").read_text() == "jump\nrun\n"
    assert contents(find_split(tmp_path / "out", "train")) == [{"run", "jump"}, set(), {"jump"}]


def test_the_same_labels_in_another_order_are_no_conflict(root, tmp_path):
    (root / "val.csv").write_text("path,labels\na.mp4,jump;run\nb.mp4,run\n")
    run("index", root, "--out", tmp_path / "out")
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert [[place["path"] for place in group] for group in report["conflicts"]] == [["b.mp4", "b.mp4"]]
    assert len(report["leaks"]) == 2


def test_check_keeps_files_without_a_class(root, tmp_path):
    run("check", root, "--out", tmp_path / "out", "--write-lists", tmp_path / "clean", "--min-frames", 2)
    assert contents(find_split(tmp_path / "clean", "train")) == [{"run", "jump"}, set(), {"jump"}]


def test_shard_packs_files_without_a_class(root, tmp_path):
    _, _, err = run("shard", root, tmp_path / "out", "--skip-missing")
    index = find_split(tmp_path / "out", "train")
    assert contents(index) == [{"run", "jump"}, set(), {"jump"}], err
    assert index[1].path.read() == (root / "b.mp4").read_bytes()


def test_resize_keeps_labels(root, tmp_path):
    _, _, err = run("resize", root, tmp_path / "out", "--short-side", 32)
    assert contents(find_split(tmp_path / "out", "train")) == [{"run", "jump"}, set(), {"jump"}], err
