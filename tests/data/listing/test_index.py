import os
import tracemalloc

import pytest
from data_trees import labelled, listed, make

from mvrec.data.listing.file_kinds import IMAGES, VIDEOS
from mvrec.data.listing.index import Sample, SampleIndex
from mvrec.data.listing.layouts import ListsAndFolders, find_split
from mvrec.data.listing.lists import read_rows
from mvrec.errors import UserError

WAYS_OF_WRITING = [("\n", "utf-8"), ("\r\n", "utf-8-sig")]  # ends of lines, encoding


@pytest.mark.parametrize(("newline", "encoding"), WAYS_OF_WRITING)
def test_a_csv_with_header_gives_paths_classes_and_spans(tmp_path, newline, encoding):
    lines = [
        "path,label,start,end",
        "a/1.mp4,jump,,",
        "",
        '"a, b/2 x.mp4",run,1.5,3',
        " , ,,",
        '"sagt ""ja"".mp4","jump",0,2.25',
        "/else/straße/跳.mp4 , run,,4",
        "",
    ]
    index = listed(tmp_path, newline.join(lines).encode(encoding))
    assert index.class_names == ("jump", "run")
    assert list(index) == [
        Sample(tmp_path / "a/1.mp4", 0),
        Sample(tmp_path / "a, b/2 x.mp4", 1, 1.5, 3.0),
        Sample(tmp_path / 'sagt "ja".mp4', 0, 0.0, 2.25),
        Sample(tmp_path / "/else/straße/跳.mp4", 1, None, 4.0),
    ]


def test_columns_in_any_order_and_others_passed_over(tmp_path):
    index = listed(tmp_path, "Label,youtube_id,END,Path\n1,x,2,b.mp4\n0,y,,a.mp4\n")
    assert list(index) == [Sample(tmp_path / "b.mp4", 1, None, 2.0), Sample(tmp_path / "a.mp4", 0)]
    columns = listed(tmp_path, "path,label,start,start_seconds\na.mp4,0,2,mine\n").columns()
    assert columns == {"start_seconds": ["2.000"], "end_seconds": [""], "list_start_seconds": ["mine"]}


@pytest.mark.parametrize(("newline", "encoding"), WAYS_OF_WRITING)
def test_lines_of_path_and_label_are_read_with_any_separator(tmp_path, newline, encoding):
    for separator in (" ", ",", "\t", ", ", "  "):
        lines = [f"a b/x,1.mp4{separator}1", "", "   ", f"ü.mp4{separator}0", ""]
        index = listed(tmp_path, newline.join(lines).encode(encoding))
        assert labelled(index) == [("a b/x,1.mp4", 1), ("ü.mp4", 0)], separator
        assert index.class_names == ("0", "1")


MALFORMED = {  # list: line at fault and what is said of it
    "path,label\na.mp4,run\n\nb.mp4,jumb\n": r":4: 'jumb' is not one of the 2 classes; did .* 'jump'\?",
    "path,label\na.mp4,2\n": r":2: label 2 is outside 0\.\.1",
    "path,label\na.mp4,0\na.mp4\n": r":3: 1 fields, the header has 2: path,label",
    "path,label\na,b.mp4,0\n": r":2: 3 fields, the header has 2",
    "path,label\n,0\n": r":2: path and label must not be empty",
    "path,label,start,end\na.mp4,0,3,3\n": r":2: start 3 s is not before end 3 s",
    "path,label,start,end\na.mp4,0,-1,3\n": r":2: '-1' is not a number of seconds from 0 on",
    "path,label,start,end\na.mp4,0,0,inf\n": r":2: 'inf' is not a number of seconds from 0 on",
    "path,label,start,end\na.mp4,0,1:30,\n": r":2: '1:30' is not a number of seconds",
    "a.mp4 0\n\nb.mp4 2\n": r":3: label 2 is outside 0\.\.1",
    "a.mp4 0\nb.mp4 -1\n": r":2: expected `path label`.*got 'b.mp4 -1'",
    "0\n": r":1: expected `path label`",
    "\n  \n": r": no videos in it",
    "path,label\n\n": r": no videos in it",
}


def test_malformed_lists_name_file_and_line(tmp_path):
    make(tmp_path, {"classes.txt": "jump\nrun\n"})
    for text, message in MALFORMED.items():
        with pytest.raises(UserError, match=rf"train\.csv{message}"):
            listed(tmp_path, text)


def test_class_folders_become_sorted_classes_and_what_is_skipped_is_counted_and_named(tmp_path, caplog):
    run = [f"run/{name}" for name in ("b.mp4", "a.MKV", "b.mp4.part", ".c.mp4", "d.xyz", ".DS_Store", ".f.mp4.x7Q2")]
    make(tmp_path / "train", [*run, "jump high/ä.webm", ".cache/x.mp4", "loose.mp4", "run/._a.mp4"])
    index = find_split(tmp_path, "train")
    assert index.class_names == ("jump high", "run")
    assert labelled(index) == [("train/jump high/ä.webm", 0), ("train/run/a.MKV", 1), ("train/run/b.mp4", 1)]
    names = "loose.mp4, run/._a.mp4, run/.c.mp4, run/.f.mp4.x7Q2, run/b.mp4.part and 1 more"
    assert f"{tmp_path}/train: 6 files skipped, by the name no video of a class: {names}" in caplog.messages


def test_every_split_says_once_what_is_skipped(tmp_path, caplog):
    make(tmp_path, [f"{split}/run/{name}" for split in ("train", "val") for name in ("a.mp4", f"{split}.xyz")])
    layout = ListsAndFolders(tmp_path, VIDEOS)
    for split in ("train", "val", "val"):
        assert layout.index(split, class_names=None) is not None
    messages = [message for message in caplog.messages if "skipped" in message]
    assert [message.rpartition(" ")[2] for message in messages] == ["run/train.xyz", "run/val.xyz"]


def test_links_that_lead_nowhere_or_back_and_hidden_folders_are_named(tmp_path, caplog):
    make(tmp_path / "train", ["run/a.mp4", ".jump/a.mp4", ".git/a.mp4", "run/clip.mp4/x"])
    for link, target in {"walk": "nowhere", "turn": "turn", "run/round": "round"}.items():
        (tmp_path / "train" / link).symlink_to(target)
    find_split(tmp_path, "train")
    nowhere = "turn (a broken link), walk (a broken link)"
    assert caplog.messages[-1].endswith(f": .jump (a hidden folder), {nowhere}, run/clip.mp4, run/round")

    make(tmp_path, [f"val/cat/{name}.png" for name in ("images/1", "a", "z")])
    (tmp_path / "val/cat/images/up").symlink_to("..")
    files = [(f"val/cat/{name}.png", 0) for name in ("a", "z", "images/1")]  # nested ones come last
    assert labelled(find_split(tmp_path, "val", kind=IMAGES)) == files
    assert caplog.messages[-1].endswith(": cat/images/up")


@pytest.mark.parametrize(
    ("files", "kind", "message"),
    [
        (["run/a.mp4", "jump/readme.txt"], VIDEOS, r"/jump: no videos .* \(looked for .*\.mp4.*; there is jump/readme"),
        (["run/.a.mp4"], VIDEOS, r"/run: no videos in this class folder"),
        (["a.mp4", ".git/a.mp4"], VIDEOS, r": no class folders in it \(expected .*train/<class name>/<video>\)"),
        (["runn/a.mp4", "../classes.txt"], VIDEOS, r"/runn: 'runn' is not one of the 1 classes; did you mean 'run'\?"),
        (["n01/deep/movie.mp4"], VIDEOS, r"/n01: no videos in this class folder"),
        (["n01/deep/a.mp4"], IMAGES, r"/n01: no images in this class folder but videos \(n01/deep/a\.mp4\)"),
    ],
)
def test_folders_without_classes_or_files_are_refused(tmp_path, files, kind, message):
    make(tmp_path / "train", {name: "run" if name.endswith("classes.txt") else "" for name in files})
    with pytest.raises(UserError, match=f"train{message}"):
        find_split(tmp_path, "train", kind=kind)


def test_classes_txt_gives_the_order(tmp_path):
    make(tmp_path, {"classes.txt": "run\r\n\r\n jump \r\n".encode("utf-8-sig")})
    index = listed(tmp_path, "path,label\na.mp4,jump\nb.mp4,run\nc.mp4,1\n")
    assert index.class_names == ("run", "jump")
    assert index.labels.tolist() == [1, 0, 1]
    assert find_split(tmp_path, "train", class_names=["jump", "x", "run"]).labels.tolist() == [0, 2, 1]


def test_a_list_wins_over_folders_and_a_root_is_a_folder(tmp_path):
    make(tmp_path, ["train/run/a.mp4", "val/run/b.mp4"])
    assert labelled(listed(tmp_path, "path,label\nonly.mp4,run\n")) == [("only.mp4", 0)]
    assert labelled(find_split(tmp_path, "val")) == [("val/run/b.mp4", 0)]
    assert find_split(tmp_path, "test") is None
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("nowhere", ".*nowhere' does not exist$"),
        ("trainn/run", "does not exist; did you mean '.*/train/run'"),
        ("train.csv", ".* is a file, a directory is"),
        ("empty", ".* is empty"),
    ):
        with pytest.raises(UserError, match=f"data.root.*{message}"):
            find_split(tmp_path / name, "train")


def test_undecodable_file_names_round_trip(tmp_path):
    raw = b"caf\xe9.mp4"
    lists = {"val.csv": b"path,label\ntrain/run/" + raw + b",run\n", "test.csv": b"train/run/" + raw + b" 0\n"}
    make(tmp_path, {f"train/run/{os.fsdecode(raw)}": "", **lists})
    for split in ("train", "val", "test"):
        (sample,) = find_split(tmp_path, split)
        assert os.fsencode(sample.path.name) == raw
        assert sample.path.is_file()


def test_many_rows_are_packed_and_those_outside_are_index_errors(tmp_path):
    count = 8_000
    make(tmp_path, {"train.csv": "\n".join(f"videos/class {n % 400}/{n:06d}.mp4 {n % 400}" for n in range(count))})
    tracemalloc.start()
    try:
        index = SampleIndex(read_rows(tmp_path / "train.csv"), root=tmp_path, class_names=list(map(str, range(400))))
        remaining, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert remaining < 60 * count  # bytes; one Sample with its Path alone takes several hundred
    assert len(index) == count
    assert index.class_counts().tolist() == [20] * 400
    for number in (0, 1, count - 1):
        assert index[number] == Sample(tmp_path / f"videos/class {number % 400}/{number:06d}.mp4", number % 400)
    for number in (-1, count):
        with pytest.raises(IndexError, match=f"row {number} of an index of {count} rows"):
            index[number]
