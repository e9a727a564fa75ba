"""`mvrec prep index` on videos with boxes: counts, faults with their places, and lists that train."""

import pickle

import numpy as np
from box_trees import write_boxed_videos, write_list
from prep_support import read_json, run
from video_files import write_video

from mvrec.data import VideoBoxes


def test_index_counts_boxes_and_writes_lists_that_train(tmp_path):
    write_boxed_videos(tmp_path / "set", 10)
    code, out, _ = run("index", tmp_path / "set", "--out", tmp_path / "lists")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert ["train", "8", "8", "16"] in lines
    assert ["val", "2", "2", "4"] in lines
    report = read_json(tmp_path / "lists/report.json")
    assert sum(report["boxes_per_class"]["run"].values()) == 10
    assert (report["splits"]["val"]["boxes"], report["problems"]) == (4, {})
    data = VideoBoxes(str(tmp_path / "lists"), num_workers=0, size=32)
    data.setup("fit")
    assert data.class_names == ("run", "sit", "talk")
    places = [data.index("train").target(row).places for row in range(len(data.index("train")))]
    np.testing.assert_allclose(places, [[[0.1, 0.2, 0.4, 0.9], [0.5, 0.1, 0.9, 0.8]]] * 8, rtol=1e-6)
    again, _, error = run("index", tmp_path / "lists", "--out", tmp_path / "lists")
    assert again == 2
    assert "train.csv is a list of this data set and would be overwritten: choose another --out" in error


def test_index_names_faults_with_their_places_and_leaves_them_out(tmp_path):
    root = tmp_path / "set"
    write_boxed_videos(root, 2)
    rows = [
        *("0.mp4,0.5,1,2,30,40,run", "0.mp4,0.5,9,2,3,40,run", "0.mp4,0.5,-9,-9,-3,0,run", "0.mp4,0.5,70,2,90,40,run"),
        *("0.mp4,0.5,50,2,90,40,sit", "0.mp4,9,1,2,30,40,run", "1.mp4,0.5,1,2,30,40,", "1.mp4,0.25,,,,,"),
        *("gone.mp4,0.5,1,2,30,40,run", "0.mp4,0.5,-9,2,90,40,run"),
    ]
    (root / "boxes.csv").unlink()
    write_list(root / "train.csv", *rows)
    code, out, _ = run("index", root, "--out", tmp_path / "lists")
    assert code == 1
    for text in (
        "1 box without area, for example {0}:3: the box has no area, x2 3 is not greater than x1 9",
        "2 boxes outside the picture, for example {0}:4: the box -9, -9, -3, 0 lies outside the picture",
        "2 boxes cut at the border of the picture, for example {0}:11: -9, 2, 90, 40",
        "1 key frame outside its video, for example {0}:7: 9 s, 0.mp4 ends at 1.00 s",
        "1 box without a label, for example {0}:8",
        "1 key frame without boxes, for example {0}:9",
        f"1 video that cannot be read, for example {root}/gone.mp4: no such file",
    ):
        assert text.format(root / "train.csv") in out, out
    lines = (tmp_path / "lists/train.csv").read_text().splitlines()
    assert len(lines) == 1 + 3 + 2
    assert all("gone" not in line and ",9," not in line for line in lines)
    assert run("index", tmp_path / "lists", "--out", tmp_path / "again")[0] == 0


def test_index_of_a_dry_run_writes_nothing(tmp_path):
    write_boxed_videos(tmp_path / "set", 2)
    code, out, _ = run("index", tmp_path / "set", "--out", tmp_path / "lists", "--dry-run")
    assert (code, (tmp_path / "lists").exists()) == (0, False)
    assert "nothing was written" in out


def test_index_reads_ava_and_tubes(tmp_path):
    root = tmp_path / "ava"
    (root / "videos").mkdir(parents=True)
    for split in ("train", "val"):
        write_list(root / f"ava_{split}_v2.2.csv", f"{split},0903,.1,.2,.5,1,17,0", header=f"{split},0902,0,0,1,1,1,0")
        write_video(root / f"videos/{split}.mp4", num_frames=90)
    labels = 'item {name: "a, b" id: 1}\nitem {name: "c" id: 17}'
    (root / "ava_action_list_v2.2_for_activitynet_2019.pbtxt").write_text(labels)
    code, out, _ = run("index", root, "--layout", "ava", "--out", tmp_path / "lists")
    assert code == 1
    assert "4 key frames outside their videos" in out
    code, out, _ = run("index", root, "--offset", 900, "--out", tmp_path / "lists")
    assert code == 0
    assert (tmp_path / "lists/val.csv").read_text().splitlines()[1:] == [
        f'{root}/videos/val.mp4,2,0,0,1,1,"a, b"',
        f"{root}/videos/val.mp4,3,0.1,0.2,0.5,1,c",
    ]
    tubes = {"labels": ["x", "y"], "gttubes": {"x/a": {0: [[[3, 1, 2, 30, 40], [99, 1, 2, 30, 40]]]}}}
    tubes |= {"train_videos": [["x/a"]], "test_videos": [["x/a"]]}
    write_video(tmp_path / "a.mp4", num_frames=30)
    (tmp_path / "JHMDB-GT.pkl").write_bytes(pickle.dumps(tubes))
    code, out, _ = run("index", tmp_path, "--out", tmp_path / "tubes")
    assert (code, "2 key frames outside their videos" in out) == (1, True)


def test_jobs_after_which_boxes_would_not_fit_are_refused(tmp_path):
    root = tmp_path / "set"
    write_boxed_videos(root, 2)
    code, _, error = run("shard", root, tmp_path / "shards")
    assert (
        code,
        f"mvrec prep shard: {root}/boxes.csv has boxes of videos, which are read from files only" in error,
    ) == (
        2,
        True,
    )
    assert run("resize", root, tmp_path / "small", "--short-side", "32")[0] == 0
    write_list(root / "boxes.csv", "0.mp4,0.5,,,,,", "0.mp4,0.5,1,2,30,40,run")
    code, _, error = run("resize", root, tmp_path / "smaller", "--short-side", "32")
    assert (code, "boxes.csv has boxes of videos, in pixels, which would not fit smaller videos" in error) == (2, True)
