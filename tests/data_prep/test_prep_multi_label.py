"""The tools on lists of files with several classes, or none."""

import pytest
from prep_support import read_json, run
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


def assert_kept(folder):
    index = find_split(folder, "train")
    assert index.class_names == ("jump", "run")
    assert [sample.label for sample in index] == [(0, 1), (), (0,)]
    return index


def test_index_counts_every_label_in_any_order(root, tmp_path):
    (root / "val.csv").write_text("path,labels\na.mp4,jump;run\nb.mp4,run\n")
    run("index", root, "--out", tmp_path / "out")
    report = read_json(tmp_path / "out/report.json")
    counts = {name: split["train"] for name, split in report["classes"].items()}
    assert {name: (value["found"], value["missing"]) for name, value in counts.items()} == {
        **{"jump": (2, 1), "run": (1, 1)},
    }
    assert report["splits"]["train"]["missing"] == 1
    assert [[place["path"] for place in group] for group in report["conflicts"]] == [["b.mp4", "b.mp4"]]
    assert len(report["leaks"]) == 2
    assert_kept(tmp_path / "out")


def test_check_shard_and_resize_keep_labels_and_files_without_a_class(root, tmp_path):
    run("check", root, "--out", tmp_path / "out", "--write-lists", tmp_path / "clean", "--min-frames", 2)
    assert_kept(tmp_path / "clean")
    run("shard", root, tmp_path / "shards", "--skip-missing")
    assert assert_kept(tmp_path / "shards")[1].path.read() == (root / "b.mp4").read_bytes()
    run("resize", root, tmp_path / "small", "--short-side", 32)
    assert_kept(tmp_path / "small")
