"""index.py on the layouts that people have."""

import shutil
from pathlib import Path

import pytest
from data_trees import make
from prep_support import hidden, read_json, run, write_image, write_imagenet
from video_files import write_video

from mvrec.data.listing.file_kinds import IMAGES, VIDEOS
from mvrec.data.listing.layouts import find_split
from mvrec.data.listing.lists import Row, read_rows, write_rows
from mvrec.prep import repeats


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", num_frames=8)


def put(clip, path, number=0):
    """A video of its own: bytes after the end do no harm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(clip.read_bytes() + f"{path.name}{number}".encode())
    return path


FOLDERS = [f"{split}/{name}/{n}.mp4" for split in ("train", "val") for name in ("a b", "é") for n in (0, 1)]
HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"
LAYOUTS = {  # rows of train and val, how many of them are missing; lists; videos
    "kinetics": (
        (3, 2, 2),
        {
            "annotations/train.csv": f"{HEADER}riding a bike,aaaa1,3,13,train,0\nabseiling,bbbbbbbbbb2,0,10,train,0\n"
            "yoga,c-c_c,5,9,train,0\n",
            "annotations/val.csv": f"{HEADER}yoga,-dddd,1,11,val,0\nabseiling,eeee,2,12,val,0\n",
        },
        ["train/aaaa1_000003_000013.mp4", "train/c-c_c_000005_000009.mp4", "val/-dddd_000001_000011.mp4"],
    ),
    "folders": ((4, 4, 0), {"train/a b/._0.mp4": "junk"}, FOLDERS),
    "ucf": (
        (3, 2, 1),
        {
            "ucfTrainTestlist/classInd.txt": "1 Archery\n2 BabyCrawling\n",
            "ucfTrainTestlist/trainlist01.txt": "Archery/v_1.avi 1\nBabyCrawling/v_2.avi 2\nArchery/v_9.avi 1\n",
            "ucfTrainTestlist/testlist01.txt": "Archery/v_3.avi\nBabyCrawling/v_4.avi\n",
        },
        [f"UCF-101/{name}.avi" for name in ("Archery/v_1", "BabyCrawling/v_2", "Archery/v_3", "BabyCrawling/v_4")],
    ),
    "hmdb": (
        (1, 1, 0),
        {"testTrainMulti_7030_splits/run_test_split1.txt": "run_1.avi 1 \nrun_2.avi 2 \nrun_3.avi 0 \n"},
        [f"hmdb51_org/run/run_{number}.avi" for number in (1, 2, 3)],
    ),
    "ssv2": (
        (1, 1, 0),
        {
            "labels/labels.json": '{"Tearing something": "0"}',
            "labels/train.json": '[{"id": "10", "label": "x", "template": "Tearing [something]"}]',
            "labels/validation.json": '[{"id": "11", "label": "x", "template": "Tearing [something]"}]',
        },
        ["20bn-something-something-v2/10.webm", "20bn-something-something-v2/11.webm"],
    ),
}


def build(layout, clip, root):
    _, lists, videos = LAYOUTS[layout]
    make(root, lists)
    for number, name in enumerate(videos):
        put(clip, root / name, f"{number}.")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_videos_of_any_layout_become_lists_that_training_reads(layout, clip, tmp_path):
    root, out = tmp_path / "data", tmp_path / "out"
    build(layout, clip, root)
    train, val, missing = LAYOUTS[layout][0]
    code, text, err = run("index", root, "--out", out)
    assert code == (1 if missing else 0), err + text
    report = read_json(out / "report.json")
    counts = report["splits"]
    assert (counts["train"]["expected"], counts["val"]["expected"]) == (train, val)
    assert sum(split["missing"] for split in counts.values()) == missing
    assert report["leaks"] == report["duplicates"] == []
    names = (out / "classes.txt").read_text(encoding="utf-8").splitlines()
    for split in ("train", "val"):
        index = find_split(out, split, kind=VIDEOS)
        assert len(index) == counts[split]["found"]
        assert all(sample.path.is_file() for sample in index)
        per_class = {name: counts[split]["found"] for name, counts in report["classes"].items()}
        assert [per_class[name] for name in names] == index.class_counts().tolist()
    assert hidden(out) == []
    if layout == "kinetics":  # what was never downloaded is named per class
        assert report["missing"] == {"train": [["abseiling", "bbbbbbbbbb2"]], "val": [["abseiling", "eeee"]]}
        missing_one = {"expected": 1, "found": 0, "missing": 1}
        assert report["classes"]["abseiling"] == {"train": missing_one, "val": missing_one}
        assert "most missing" in text
        assert names == ["abseiling", "riding a bike", "yoga"]


def test_class_folders_without_splits_are_split(clip, tmp_path):
    for number in range(20):
        put(clip, tmp_path / "data" / "ab"[number % 2] / f"{number}.mp4")
    assert run("index", tmp_path / "data", "--out", tmp_path / "out")[0] == 0
    counts = [len(find_split(tmp_path / "out", split, kind=VIDEOS)) for split in ("train", "val")]
    assert sum(counts) == 20
    assert counts[1] >= 2


def test_images_in_folders_and_tars_are_listed(tmp_path):
    data = tmp_path / "folders"
    for number in range(10):
        folder = data / ("val" if number < 4 else "train") / f"n0000000{number % 2}"
        write_image(folder / "images" / f"{number}.JPEG", seed=number)
    (folder / "late.jpg.part").write_bytes(b"half")
    code, _, err = run("index", data, "--out", tmp_path / "a")
    assert code == 0
    assert "n00000001/late.jpg.part" in err  # skipped
    assert len(find_split(tmp_path / "a", "train", kind=IMAGES)) == 6
    assert run("index", write_imagenet(tmp_path / "tars"), "--out", tmp_path / "b")[0] == 0
    train = find_split(tmp_path / "b", "train", kind=IMAGES)
    assert train.class_counts().tolist() == [4, 4, 4]
    assert all(sample.path.read().startswith(b"\xff\xd8") for sample in train)


@pytest.fixture
def repeated(clip, tmp_path):
    root = tmp_path / "data"
    build("folders", clip, root)
    for name, copy in {
        "train/a b/0.mp4": "train/a b/copy.mp4",
        "train/é/1.mp4": "val/é/leak.mp4",
        "train/a b/1.mp4": "train/é/other class.mp4",
    }.items():
        shutil.copy(root / name, root / copy)
    (root / "val/a b/link.mp4").symlink_to(root / "val/a b/0.mp4")
    other = bytearray((root / "val/é/0.mp4").read_bytes())
    other[-1] ^= 1  # as large, but not the same
    (root / "train/é/alike.mp4").write_bytes(other)
    return root


def test_content_that_is_there_twice_is_found_within_and_across_splits(repeated, tmp_path, monkeypatch):
    hashed, real = [], repeats.run_jobs

    def counting(work, items, **options):
        items = list(items)
        hashed.append({Path(file).name for _, file in items})
        return real(work, items, **options)

    monkeypatch.setattr(repeats, "run_jobs", counting)
    put(repeated / "train/é/1.mp4", repeated / "train/é/of another size.mp4")
    code, text, _ = run("index", repeated, "--out", tmp_path / "out", "--workers", 2)
    assert code == 1
    report = read_json(tmp_path / "out/report.json")

    def groups(kind):
        return sorted(sorted(place["path"] for place in group) for group in report[kind])

    assert groups("duplicates") == [
        ["train/a b/0.mp4", "train/a b/copy.mp4"],
        ["train/a b/1.mp4", "train/é/other class.mp4"],
        ["val/a b/0.mp4", "val/a b/link.mp4"],
    ]
    assert groups("leaks") == [["train/é/1.mp4", "val/é/leak.mp4"]]
    assert groups("conflicts") == [["train/a b/1.mp4", "train/é/other class.mp4"]]
    assert "1 files are in more than one split" in text
    run("index", repeated, "--out", tmp_path / "out")
    assert read_json(tmp_path / "out/report.json") == report
    assert "alike.mp4" in hashed[0]
    assert "of another size.mp4" not in hashed[0]
    assert hashed[1] == set()


def test_without_hashes_only_paths_are_compared(repeated, tmp_path):
    twice = Row("train/é/1.mp4", "é")
    write_rows(repeated / "train.csv", [twice, twice, Row("train/a b/0.mp4", "a b")])
    write_rows(repeated / "val.csv", [Row("train/a b/0.mp4", "a b"), Row("val/é/leak.mp4", "é")])
    assert run("index", repeated, "--out", tmp_path / "out", "--no-hash")[0] == 1
    report = read_json(tmp_path / "out/report.json")
    assert report["compared_by"] == "path"
    for kind, path in (("leaks", "train/a b/0.mp4"), ("duplicates", "train/é/1.mp4")):
        assert [[place["path"] for place in group] for group in report[kind]] == [[path] * 2]


def test_parts_of_one_video_are_no_duplicates_but_a_leak_across_splits(clip, tmp_path):
    root = tmp_path / "data"
    put(clip, root / "a.mp4")
    put(clip, root / "bb.mp4")
    write_rows(root / "train.csv", [Row("a.mp4", "x", 0, 1), Row("a.mp4", "x", 1, 2), Row("bb.mp4", "y", 0, 1)])
    assert run("index", root, "--out", tmp_path / "out")[0] == 0
    rows = list(read_rows(tmp_path / "out/train.csv"))
    assert [(row.start_seconds, row.end_seconds) for row in rows] == [(0, 1), (1, 2), (0, 1)]
    write_rows(root / "val.csv", [Row("a.mp4", "x", 2, 3)])
    assert run("index", root, "--out", tmp_path / "out")[0] == 1
    assert len(read_json(tmp_path / "out/report.json")["leaks"]) == 1


def test_what_holds_nothing_known_or_nothing_at_all_is_one_line(clip, tmp_path):
    build("folders", clip, tmp_path / "data")
    for name in ("empty", "text", "gone"):
        (tmp_path / name).mkdir()
    (tmp_path / "text/readme.txt").write_text("nothing")
    write_rows(tmp_path / "gone/train.csv", [Row("a.mp4", "x")])
    for words, cause in (
        ("empty", "no layout that is known"),
        ("text", "no layout that is known"),
        ("nowhere", "no such folder"),
        ("gone", "none of its 1 files exists"),
        ("data --layout ucf101", "no layout that is known as ucf101"),
    ):
        root, *more = words.split()
        code, _, err = run("index", tmp_path / root, "--out", tmp_path / "out", *more)
        assert code == 2
        assert err.splitlines()[-1].startswith(f"mvrec prep index: error: {tmp_path / root}")
        assert cause in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    words = ["index", tmp_path / "data", "--out", tmp_path / "data", "--layout", "kinetics"]
    assert run(*words)[0] == 0  # next to the files, and so with relative paths
    assert (tmp_path / "data/train.csv").read_text().splitlines()[1] == "train/a b/0.mp4,a b"
    code, _, err = run(*words)
    assert (code, "would be overwritten" in err) == (2, True)


def test_frames_of_a_video_stay_together_unless_told_otherwise(tmp_path):
    for number, name in enumerate(
        f"{label}/vid {video}/frame_{frame:04}.png" for label in ("a", "é") for video in range(4) for frame in range(3)
    ):
        write_image(tmp_path / "data" / name, size=(8, 8), seed=number)

    def torn(*flags):
        code, _, err = run("index", tmp_path / "data", "--out", tmp_path / "out", "--val-fraction", 0.3, *flags)
        assert code == 0
        folders = [
            {Path(row.path).parent for row in read_rows(tmp_path / f"out/{split}.csv")} for split in ("train", "val")
        ]
        return len(folders[0] & folders[1]), err

    count, note = torn()
    assert count == 0
    assert "8 folders of numbered files, such as a/vid 0, stay together" in note
    assert torn("--group", "none")[0] > 0
    assert torn("--group", "folder:2")[0] == 0
    assert run("index", tmp_path / "data", "--out", tmp_path / "out", "--group", "(")[0] == 2
