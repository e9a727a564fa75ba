import math

import pytest

from mvrec.data.listing.lists import Row, read_files, read_rows, write_rows
from mvrec.errors import UserError


def rows_of(tmp_path, text):
    path = tmp_path / "train.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [row._replace(source="", line=0) for row in read_rows(path)]


def test_a_header_decides_the_delimiter(tmp_path):
    for delimiter in ",;\t ":
        lines = [("path", "labels", "start"), ('"a, b;c\t d.mp4"', '"2;0"', "1.5"), ("ü.mp4", '"jump high"', "2")]
        rows = rows_of(tmp_path, "\n".join(delimiter.join(line) for line in lines))
        assert [row[:3] for row in rows] == [("a, b;c\t d.mp4", "2;0", 1.5), ("ü.mp4", "jump high", 2.0)], delimiter


def test_a_header_may_be_quoted_and_lines_are_counted_through_quoted_breaks(tmp_path):
    (tmp_path / "train.csv").write_text('"path","label"\n"two\nlines.mp4",a\nb.mp4\n')
    rows = read_rows(tmp_path / "train.csv")
    assert next(rows).path == "two\nlines.mp4"
    with pytest.raises(UserError, match=r"train\.csv:4: 1 fields"):
        next(rows)


def test_lines_of_slowfast_and_mmaction_may_have_a_frame_count_and_quotes(tmp_path):
    for separator in (" ", ",", "\t", ", "):
        for path in ("a/x.mp4", "a b/x 1.MKV", "a,b.webm", "x 12.avi"):
            text = f"{path}{separator}300{separator}7\n{path}{separator}3\n"
            assert [row[:2] for row in rows_of(tmp_path, text)] == [(path, "7"), (path, "3")], text
    rows = rows_of(tmp_path, 'videos/20bn/1234 5\nclip12,6\n"a ""b"".mp4" 1\n"c d.mp4" 250 2\n')
    assert [row[:2] for row in rows] == [
        ("videos/20bn/1234", "5"),
        ("clip12", "6"),
        ('a "b".mp4', "1"),
        ("c d.mp4", "2"),
    ]


MALFORMED = {  # list: line at fault and what is said of it
    "path,label,offset\na,0,1\n": "1: the columns offset and size come together",
    "path,label,path\na,0,b\n": "1: the header names 'path' twice",
    "path,label,offset,size\na,0,1,\n": "2: offset and size come together, one of them is empty",
    "path,label,offset,size\na,0,-1,3\n": "2: offset '-1' is not a number of bytes",
    "path,label,offset,size\na,0,99999999999999999999,3\n": "2: offset '9+' is not a number of bytes",
    b"a\0b.mp4 1\n": "1: expected `path label`",
    "a.mp4 1\n".encode("utf-16"): " it is UTF-16: save it as UTF-8",
    "\nsome/dir 120 3\n": "2: 'some/dir' with 120 frames looks like a folder of single frames",
}


def test_malformed_lists_are_refused_with_their_line_and_a_missing_one_by_name(tmp_path):
    for text, message in MALFORMED.items():
        with pytest.raises(UserError, match=rf"train\.csv:{message}"):
            rows_of(tmp_path, text)
    with pytest.raises(UserError, match=r"none\.csv: No such file"):
        list(read_rows(tmp_path / "none.csv"))


PLAIN = Row("a, b.mp4", "run")
PART = Row("\udce9 straße.mp4", "7", math.nan, 2.5)
MEMBER = Row("x.tar/n01.tar/1.JPEG", "n01", offset=1536, size=2**40)
OTHERS = Row("c.mp4", "run", others=(("camera", "left, 2"), ("who", "")))
SEVERAL = Row("a, b.mp4", "run;jump, high", multi_label=True)
NO_CLASS = Row("ü.mp4", "", 1.25, math.nan, multi_label=True)


@pytest.mark.parametrize(
    ("rows", "header"),
    [
        ([PLAIN], "path,label"),
        ([PLAIN, PART, Row('sagt "ja"\n.mp4', "jump; high", 1e-07, 1.25)], "path,label,start,end"),
        ([PLAIN, MEMBER], "path,label,offset,size"),
        ([PART, PLAIN, MEMBER], "path,label,start,end,offset,size"),
        ([OTHERS], "path,label,camera,who"),
        ([], "path,label"),
        ([SEVERAL], "path,labels"),
        ([NO_CLASS, SEVERAL, MEMBER._replace(multi_label=True)], "path,labels,start,end,offset,size"),
    ],
)
def test_what_is_written_is_read(tmp_path, rows, header):
    path = tmp_path / "new" / "train.csv"
    write_rows(path, rows)
    assert path.read_text(errors="surrogateescape").splitlines()[0] == header
    assert [str(row._replace(source="", line=0)) for row in read_rows(path)] == [str(row) for row in rows]


@pytest.mark.parametrize(
    "row",
    [
        *(Row("", "a"), Row("a", ""), Row(" a", "b"), Row("a\rb", "c"), Row("a", "b ")),
        *(Row("", "", multi_label=True), Row("a", " x", multi_label=True)),
    ],
)
def test_a_row_that_would_not_come_back_is_refused_and_nothing_is_left(tmp_path, row):
    path = tmp_path / "train.csv"
    path.write_text("before")
    with pytest.raises(UserError, match=r"train\.csv: .* would not read .* back"):
        write_rows(path, [Row("fine.mp4", "a", multi_label=row.multi_label), row])
    with pytest.raises(UserError, match="rows with one label and multi-label rows"):
        write_rows(path, [PLAIN, SEVERAL])
    assert [file.name for file in tmp_path.iterdir()] == ["train.csv"]
    assert path.read_text() == "before"


def test_a_home_directory_and_names_that_only_begin_like_one(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    path = tmp_path / "train.csv"
    for text in ("path,label\n~/a.mp4,3\n~b.mp4,3\n", "~/a.mp4 3\n~b.mp4 3\n"):
        path.write_text(text)
        for read in (read_rows, read_files):
            assert [row.path for row in read(path)] == ["/home/me/a.mp4", "~b.mp4"]
