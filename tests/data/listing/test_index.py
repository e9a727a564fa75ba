import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from mvrec.data.listing.class_files import read_class_names
from mvrec.data.listing.file_kinds import IMAGES, VIDEOS
from mvrec.data.listing.index import Row, Sample, SampleIndex
from mvrec.data.listing.layouts import ListsAndFolders, find_split
from mvrec.data.listing.lists import read_rows
from mvrec.errors import UserError


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def listed(tmp_path, text, **options):
    write(tmp_path / "train.csv", text, **options)
    return find_split(tmp_path, "train")


def contents(index):
    return [(str(sample.path.relative_to(index.root)), sample.label) for sample in index]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_with_header_gives_paths_classes_and_spans(tmp_path, newline, encoding):
    lines = [
        "path,label,start,end",
        "a/1.mp4,jump,,",
        "",
        '"a, b/2 x.mp4",run,1.5,3',
        " , ,,",
        '"sagt ""ja"".mp4","jump",0,2.25',
        "straße/跳.mp4 , run,,4",
        "",
    ]
    index = listed(tmp_path, newline.join(lines), encoding=encoding)
    assert index.class_names == ("jump", "run")
    assert list(index) == [
        Sample(tmp_path / "a/1.mp4", 0),
        Sample(tmp_path / "a, b/2 x.mp4", 1, 1.5, 3.0),
        Sample(tmp_path / 'sagt "ja".mp4', 0, 0.0, 2.25),
        Sample(tmp_path / "straße/跳.mp4", 1, None, 4.0),
    ]


def test_columns_in_any_order_and_others_passed_over(tmp_path):
    index = listed(tmp_path, "Label,youtube_id,END,Path\n1,x,2,b.mp4\n0,y,,a.mp4\n")
    assert list(index) == [Sample(tmp_path / "b.mp4", 1, None, 2.0), Sample(tmp_path / "a.mp4", 0)]
    columns = listed(tmp_path, "path,label,start,start_seconds\na.mp4,0,2,mine\n").columns()
    assert columns == {"start_seconds": ["2.000"], "end_seconds": [""], "list_start_seconds": ["mine"]}


@pytest.mark.parametrize("separator", [" ", ",", "\t", ", ", "  "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_lines_of_path_and_label_are_read_with_any_separator(tmp_path, separator, encoding, newline):
    lines = [f"a b/x,1.mp4{separator}1", "", "   ", f"ü.mp4{separator}0"]
    index = listed(tmp_path, newline.join(lines) + newline, encoding=encoding)
    assert contents(index) == [("a b/x,1.mp4", 1), ("ü.mp4", 0)]
    assert index.class_names == ("0", "1")


def test_absolute_paths_stay(tmp_path):
    index = listed(tmp_path, "/somewhere/else.mp4 0\n")
    assert str(index[0].path) == "/somewhere/else.mp4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.mp4,run\n\nb.mp4,jumb\n", r"train\.csv:4: 'jumb' is not one of the 2 classes; did .* 'jump'\?"),
        ("path,label\na.mp4,2\n", r"train\.csv:2: label 2 is outside 0\.\.1"),
        ("path,label\na.mp4,-1\n", r"train\.csv:2: label -1 is outside 0\.\.1"),
        ("path,label\na.mp4,1.5\n", r"train\.csv:2: '1.5' is not one of the 2 classes"),
        ("path,label\na.mp4,0\na.mp4\n", r"train\.csv:3: 1 fields, the header has 2: path,label"),
        ("path,label\na,b.mp4,0\n", r"train\.csv:2: 3 fields, the header has 2"),
        ("path,label\n,0\n", r"train\.csv:2: path and label must not be empty"),
        ("path,label\na.mp4,\n", r"train\.csv:2: path and label must not be empty"),
        ("path,label,start,end\na.mp4,0,3,3\n", r"train\.csv:2: start 3 s is not before end 3 s"),
        ("path,label,start,end\na.mp4,0,4,3.5\n", r"train\.csv:2: start 4 s is not before end 3.5 s"),
        ("path,label,start,end\na.mp4,0,-1,3\n", r"train\.csv:2: '-1' is not a number of seconds from 0 on"),
        ("path,label,start,end\na.mp4,0,0,inf\n", r"train\.csv:2: 'inf' is not a number of seconds from 0 on"),
        ("path,label,start,end\na.mp4,0,nan,1\n", r"train\.csv:2: 'nan' is not a number of seconds from 0 on"),
        ("path,label,start,end\na.mp4,0,1:30,\n", r"train\.csv:2: '1:30' is not a number of seconds"),
        ("a.mp4 0\n\nb.mp4 2\n", r"train\.csv:3: label 2 is outside 0\.\.1"),
        ("a.mp4 0\nb.mp4 -1\n", r"train\.csv:2: expected `path label`.*got 'b.mp4 -1'"),
        ("a.mp4 0\nb.mp4 run\n", r"train\.csv:2: expected `path label`"),
        ("a.mp4 0\nb.mp4 0.5\n", r"train\.csv:2: expected `path label`"),
        ("a.mp4\n", r"train\.csv:1: expected `path label`"),
        ("0\n", r"train\.csv:1: expected `path label`"),
        ("", r"train\.csv: no videos in it"),
        ("\n  \n", r"train\.csv: no videos in it"),
        ("path,label\n\n", r"train\.csv: no videos in it"),
    ],
)
def test_malformed_lists_name_file_and_line(tmp_path, text, message):
    write(tmp_path / "classes.txt", "jump\nrun\n")
    with pytest.raises(UserError, match=message):
        listed(tmp_path, text)


def test_class_folders_become_sorted_classes(tmp_path):
    for name in [
        "run/b.mp4",
        "run/a.MKV",
        "run/notes.txt",
        "run/.hidden.mp4",
        "jump high/ä.webm",
        ".cache/x.mp4",
        "README.mp4",
    ]:
        write(tmp_path / "train" / name, "")
    index = find_split(tmp_path, "train")
    assert index.class_names == ("jump high", "run")
    assert contents(index) == [("train/jump high/ä.webm", 0), ("train/run/a.MKV", 1), ("train/run/b.mp4", 1)]


def test_class_folder_that_classes_txt_does_not_know(tmp_path):
    write(tmp_path / "train/runn/a.mp4", "")
    write(tmp_path / "classes.txt", "run\n")
    with pytest.raises(UserError, match=r"train/runn: 'runn' is not one of the 1 classes; did you mean 'run'\?"):
        find_split(tmp_path, "train")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["run/a.mp4", "jump/readme.txt"], r"train/jump: no videos in this class folder \(looked for .*\.mp4"),
        (["run/.a.mp4"], r"train/run: no videos in this class folder"),
        (["a.mp4"], r"train: no class folders in it \(expected .*train/<class name>/<video>\)"),
        ([".git/a.mp4"], r"train: no class folders in it"),
    ],
)
def test_folders_without_classes_or_videos_are_refused(tmp_path, files, message):
    for name in files:
        write(tmp_path / "train" / name, "")
    with pytest.raises(UserError, match=message):
        find_split(tmp_path, "train")


def test_classes_txt_gives_the_order(tmp_path):
    write(tmp_path / "classes.txt", "run\r\n\r\n jump \r\n", encoding="utf-8-sig")
    index = listed(tmp_path, "path,label\na.mp4,jump\nb.mp4,run\nc.mp4,1\n")
    assert index.class_names == ("run", "jump")
    assert index.labels.tolist() == [1, 0, 1]
    assert find_split(tmp_path, "train", class_names=["jump", "x", "run"]).labels.tolist() == [0, 2, 1]


def test_classes_txt_with_a_name_twice_or_missing(tmp_path):
    assert read_class_names(tmp_path / "classes.txt") == []
    write(tmp_path / "classes.txt", "run\njump\nrun \n")
    with pytest.raises(UserError, match=r"classes\.txt:\d: class 'run' is listed twice"):
        read_class_names(tmp_path / "classes.txt")


def test_a_list_wins_over_folders(tmp_path):
    write(tmp_path / "train/run/a.mp4", "")
    write(tmp_path / "val/run/b.mp4", "")
    index = listed(tmp_path, "path,label\nonly.mp4,run\n")
    assert contents(index) == [("only.mp4", 0)]
    assert contents(find_split(tmp_path, "val")) == [("val/run/b.mp4", 0)]
    assert find_split(tmp_path, "test") is None


def test_a_missing_root_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"data.root: '.*nowhere' does not exist"):
        find_split(tmp_path / "nowhere", "train")
    with pytest.raises(UserError, match="is a file, a directory is needed"):
        find_split(write(tmp_path / "file", ""), "train")


def test_undecodable_file_names_round_trip(tmp_path):
    raw = b"caf\xe9.mp4"
    folder = tmp_path / "train" / "run"
    folder.mkdir(parents=True)
    (folder / os.fsdecode(raw)).touch()
    (sample,) = find_split(tmp_path, "train")
    assert os.fsencode(sample.path.name) == raw
    assert sample.path.is_file()
    (tmp_path / "val.csv").write_bytes(b"path,label\ntrain/run/" + raw + b",run\n")
    assert next(iter(find_split(tmp_path, "val"))).path == sample.path
    (tmp_path / "test.csv").write_bytes(b"train/run/" + raw + b" 0\n")
    assert next(iter(find_split(tmp_path, "test"))).path == sample.path


@pytest.mark.parametrize("number", [-1, 2, 10])
def test_rows_outside_are_index_errors(tmp_path, number):
    index = listed(tmp_path, "a.mp4 0\nb.mp4 1\n")
    with pytest.raises(IndexError, match=f"row {number} of an index of 2 rows"):
        index[number]


def test_many_rows_are_packed(tmp_path):
    count = 20_000
    lines = (f"videos/class {number % 400}/{number:06d}.mp4 {number % 400}" for number in range(count))
    path = write(tmp_path / "train.csv", "\n".join(lines))
    tracemalloc.start()
    try:
        index = SampleIndex(read_rows(path), root=tmp_path, class_names=[str(number) for number in range(400)])
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 60 * count  # bytes; one Sample with its Path alone takes several hundred
    assert len(index) == count
    assert index.class_counts().tolist() == [50] * 400
    for number in (0, 1, 9_999, count - 1):
        assert index[number] == Sample(tmp_path / f"videos/class {number % 400}/{number:06d}.mp4", number % 400)


def test_class_counts_have_a_place_for_every_class():
    rows = [Row("a", "x"), Row("b", "z"), Row("c", "z")]
    counts = SampleIndex(rows, root=Path(), class_names=["x", "y", "z"]).class_counts()
    np.testing.assert_array_equal(counts, [1, 0, 2])


def test_a_header_may_be_quoted_and_lines_are_counted_through_quoted_breaks(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text('"path","label"\n"two\nlines.mp4",a\nb.mp4\n')
    rows = read_rows(path)
    assert next(rows).path == "two\nlines.mp4"
    with pytest.raises(UserError, match=r"train\.csv:4: 1 fields"):
        next(rows)


def test_files_that_are_skipped_are_counted_and_named(tmp_path, caplog):
    for name in ("a.mp4", "b.mp4.part", ".c.mp4", "._a.mp4", "d.xyz", "e.ts", ".DS_Store", ".f.mp4.x7Q2"):
        write(tmp_path / f"train/run/{name}", "")
    write(tmp_path / "train/loose.mp4", "")
    index = find_split(tmp_path, "train")
    assert [sample.path.name for sample in index] == ["a.mp4", "e.ts"]
    named = "loose.mp4, run/._a.mp4, run/.c.mp4, run/.f.mp4.x7Q2, run/b.mp4.part and 1 more"
    assert f"{tmp_path}/train: 6 files skipped, by the name no video of a class: {named}" in caplog.messages


def test_every_split_says_what_is_skipped(tmp_path, caplog):
    for split in ("train", "val"):
        for name in ("a.mp4", f"{split}.xyz"):
            write(tmp_path / split / "run" / name, "")
    layout = ListsAndFolders(tmp_path, VIDEOS)
    for split in ("train", "val", "val"):
        assert layout.index(split, class_names=None) is not None
    said = [message for message in caplog.messages if "skipped" in message]
    assert [message.rpartition(" ")[2] for message in said] == ["run/train.xyz", "run/val.xyz"]


def test_links_that_lead_nowhere_and_folders_left_out(tmp_path, caplog):
    write(tmp_path / "train/run/a.mp4", "")
    write(tmp_path / "train/.jump/a.mp4", "")
    write(tmp_path / "train/.git/a.mp4", "")
    (tmp_path / "train/walk").symlink_to("nowhere")
    (tmp_path / "train/turn").symlink_to("turn")
    (tmp_path / "train/run/round").symlink_to("round")
    (tmp_path / "train/run/clip.mp4").mkdir()
    find_split(tmp_path, "train")
    nowhere = "turn (a broken link), walk (a broken link)"
    assert caplog.messages[-1].endswith(f": .jump (a hidden folder), {nowhere}, run/clip.mp4, run/round")


def test_nested_folders_that_link_to_those_above(tmp_path, caplog):
    write(tmp_path / "train/cat/images/1.png", "")
    (tmp_path / "train/cat/images/up").symlink_to("..")
    index = find_split(tmp_path, "train", kind=IMAGES)
    assert [str(sample.path.relative_to(tmp_path)) for sample in index] == ["train/cat/images/1.png"]
    assert caplog.messages[-1].endswith("cat/images/up")


def test_videos_below_their_class_folder_are_no_videos_of_the_class(tmp_path):
    write(tmp_path / "train/n01/deep/movie.mp4", "")
    with pytest.raises(UserError, match="no videos in this class folder"):
        find_split(tmp_path, "train")
    with pytest.raises(UserError, match=r"n01: no images in this class folder but videos \(n01/deep/movie\.mp4\)"):
        find_split(tmp_path, "train", kind=IMAGES)


def test_a_folder_without_files_says_what_is_in_it(tmp_path):
    write(tmp_path / "train/run/a.xyz", "")
    with pytest.raises(UserError, match=r"no videos in this class folder \(looked for .*; there is run/a.xyz\)"):
        find_split(tmp_path, "train")
