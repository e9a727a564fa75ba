"""The tools on lists of files with several classes, or none."""

import json

import pytest
from prep_support import run
from video_files import write_video

from mvrec.data.layouts import find_split


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    for number, name in enumerate("abc"):
        write_video(root / f"{name}.mp4", num_frames=8 + number)
    (root / "train.csv").write_text("path,labels\na.mp4,run;jump\nb.mp4,\nc.mp4,jump\ngone.mp4,run;fall\n")
    return root


def contents(index):
    return [{index.class_names[label] for label in sample.label} for sample in index]


def test_index_counts_every_label(root, tmp_path):
    run("index", root, "--out", tmp_path / "out")
    report = json.loads((tmp_path / "out/report.json").read_text())
    counts = {name: split["train"] for name, split in report["classes"].items()}
    assert {name: (value["found"], value["missing"]) for name, value in counts.items()} == {
        "jump": (2, 0),
        "run": (1, 1),
    } | ({"fall": (0, 1)} if "fall" in counts else {})
    index = find_split(tmp_path / "out", "train")
    assert contents(index) == [{"run", "jump"}, set(), {"jump"}]
