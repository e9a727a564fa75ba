import math

import pytest

from mvrec.data.listing.lists import Row, read_files, read_rows, write_rows
from mvrec.errors import UserError


def rows_of(tmp_path, text):
    path = tmp_path / "train.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [row._replace(source="", line=0) for row in read_rows(path)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", " "])
def test_any_delimiter_of_a_header(tmp_path, delimiter):
    lines = [("path", "label", "start"), ('"a, b;c\t d.mp4"', "run", "1.5"), ("ü.mp4", '"jump high"', "2")]
    rows = rows_of(tmp_path, "\n".join(delimiter.join(line) for line in lines))
    assert [row[:3] for row in rows] == [("a, b;c\t d.mp4", "run", 1.5), ("ü.mp4", "jump high", 2.0)]


@pytest.mark.parametrize("separator", [" ", ",", "\t", ", "])
@pytest.mark.parametrize("path", ["a/x.mp4", "a b/x 1.MKV", "a,b.webm", "x 12.avi"])
def test_slowfast_lines_with_a_frame_count(tmp_path, separator, path):
    text = f"{path}{separator}300{separator}7\n{path}{separator}3\n"
    assert [row[:2] for row in rows_of(tmp_path, text)] == [(path, "7"), (path, "3")]


def test_a_path_may_end_in_a_number(tmp_path):
    assert [row[:2] for row in rows_of(tmp_path, "videos/20bn/1234 5\nclip12,6\n")] == [
        ("videos/20bn/1234", "5"),
        ("clip12", "6"),
    ]


def test_quoted_paths_without_a_header(tmp_path):
    assert [row[:2] for row in rows_of(tmp_path, '"a ""b"".mp4" 1\n"c d.mp4" 250 2\n')] == [
        ('a "b".mp4', "1"),
        ("c d.mp4", "2"),
    ]


def test_lists_of_raw_frames_are_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"train\.csv:2: 'some/dir' with 120 frames looks like a folder of single frames"
    ):
        rows_of(tmp_path, "\nsome/dir 120 3\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label,offset\na,0,1\n", r"train\.csv:1: the columns offset and size come together"),
        ("path,label,path\na,0,b\n", r"train\.csv:1: the header names 'path' twice"),
        ("path,label,offset,size\na,0,1,\n", r"train\.csv:2: offset and size come together, one of them is empty"),
        ("path,label,offset,size\na,0,-1,3\n", r"train\.csv:2: offset '-1' is not a number of bytes"),
        ("path,label,offset,size\na,0,99999999999999999999,3\n", r"train\.csv:2: offset '9+' is not a number of bytes"),
        (b"a\0b.mp4 1\n", r"train\.csv:1: expected `path label`"),
        ("a.mp4 1\n".encode("utf-16"), r"train\.csv:1: expected `path label`"),
    ],
)
def test_malformed_lists_are_refused_with_their_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        rows_of(tmp_path, text)


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: No such file"):
        list(read_rows(tmp_path / "none.csv"))


ROWS = [
    Row("a, b.mp4", "run"),
    Row('sagt "ja"\n.mp4', "jump; high", 1.25, 1e-07),
    Row("\udce9 straße.mp4", "7", math.nan, 2.5),
    Row("x.tar/n01.tar/1.JPEG", "n01", offset=1536, size=2**40),
    Row("c.mp4", "run", others=(("camera", "left, 2"), ("who", ""))),
]


@pytest.mark.parametrize(
    ("chosen", "header"),
    [
        ([0], "path,label"),
        ([0, 2], "path,label,start,end"),
        ([0, 3], "path,label,offset,size"),
        ([2, 0, 3], "path,label,start,end,offset,size"),
        ([4], "path,label,camera,who"),
        ([], "path,label"),
    ],
)
def test_what_is_written_is_read(tmp_path, chosen, header):
    rows = [ROWS[number] for number in chosen]
    path = tmp_path / "new" / "train.csv"
    write_rows(path, rows)
    assert path.read_text(errors="surrogateescape").splitlines()[0] == header
    assert [str(row._replace(source="", line=0)) for row in read_rows(path)] == [str(row) for row in rows]


@pytest.mark.parametrize("row", [Row("", "a"), Row("a", ""), Row(" a", "b"), Row("a\rb", "c"), Row("a", "b ")])
def test_a_row_that_would_not_come_back_is_refused_and_nothing_is_left(tmp_path, row):
    path = tmp_path / "train.csv"
    path.write_text("before")
    with pytest.raises(UserError, match=r"train\.csv: .* would not read .* back"):
        write_rows(path, [Row("fine.mp4", "a"), row])
    assert [file.name for file in tmp_path.iterdir()] == ["train.csv"]
    assert path.read_text() == "before"


@pytest.mark.parametrize("text", ["path,label\n{}/a.mp4,3\n{}b.mp4,3\n", "{}/a.mp4 3\n{}b.mp4 3\n"])
def test_a_home_directory_and_names_that_only_begin_like_one(tmp_path, monkeypatch, text):
    monkeypatch.setenv("HOME", "/home/me")
    path = tmp_path / "train.csv"
    path.write_text(text.format("~", "~"))
    assert [row.path for row in read_rows(path)] == ["/home/me/a.mp4", "~b.mp4"]
    assert [row.path for row in read_files(path)] == ["/home/me/a.mp4", "~b.mp4"]
