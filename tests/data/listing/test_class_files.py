"""Files of class names in the shapes in which others write them."""

import pytest

from mvrec.data.listing.class_files import read_class_names
from mvrec.errors import UserError

SHAPES = {
    "names.txt": "abseiling\nair drumming\nbowling\n",
    "from_0.txt": "0 abseiling\n1 air drumming\n2 bowling\n",
    "from_1.txt": "1 abseiling\n2 air drumming\n3 bowling\n",
    "any_order.txt": "2: bowling\n0: abseiling\n1: air drumming\n",
    "behind.txt": "abseiling 0\nair drumming 1\nbowling 2\n",
    "no_header.csv": 'abseiling,0\n"air drumming",1\nbowling,2\n',
    "header.csv": "id,name\n0,abseiling\n1,air drumming\n2,bowling\n",
    "columns.csv": 'class_name;extra;label\n"air drumming";x;1\nabseiling;x;0\nbowling;x;2\n',
    "tabs.tsv": "index\tname\n0\tabseiling\n1\tair drumming\n2\tbowling\n",
    "list.json": '["abseiling", "air drumming", "bowling"]',
    "by_name.json": '{"bowling": 2, "abseiling": 0, "\\"air drumming\\"": 1}',
    "by_number.json": '{"2": "bowling", "0": "abseiling", "1": "air drumming"}',
    "ids.json": '{"0": ["n1", "abseiling"], "1": ["n2", "air drumming"], "2": ["n3", "bowling"]}',
    "json.txt": '{"abseiling": "0", "air drumming": "1", "bowling": "2"}',
    "mark.txt": "\ufeffabseiling\r\nair drumming\r\n\r\nbowling\r\n",
}


def names_in(path, text):
    path.write_text(text, encoding="utf-8")
    return read_class_names(path)


def test_every_shape_gives_the_same_names(tmp_path):
    for name, text in SHAPES.items():
        assert names_in(tmp_path / name, text) == ["abseiling", "air drumming", "bowling"], name
    # Keras tells equal names apart by their ids.
    crane = '{"0": ["n1", "crane"], "1": ["n2", "crane"]}'
    assert names_in(tmp_path / "index.json", crane) == ["crane (n1)", "crane (n2)"]


def test_names_with_numbers_that_do_not_count_stay_names_and_no_file_has_none(tmp_path):
    assert read_class_names(tmp_path / "names.txt") == []
    for names in (["0", "1", "2"], ["50 salads", "2 jumps"], ["level 1", "level 2"], ["a,b", "c,d"]):
        assert names_in(tmp_path / "names.txt", "\n".join(names)) == names


REFUSED = [
    ("a.json", '{"a": 0, "b": 2}', ": .*not numbered from 0 on without gaps: 1 is missing"),
    ("a.json", '{"a": 0, "b": 0}', ": number 0 is that of two classes, 'a' and 'b'"),
    ("a.json", '{"a": 0, "a": 1}', ": class 'a' is listed twice"),
    ("a.json", '{"a": {"b": 0}}', ": class names in JSON are a list"),
    ("a.json", '{"a": 0,', ":1: not valid JSON"),
    ("a.csv", "id,name\n0,a\nx,b\n", ":3: 'x,b' has no whole number in column 'id'"),
    ("a.csv", "id,name\n0,a\n1,\n", ":3: a class has no name"),
    ("a.txt", "0 a\n1 a\n", ":2: class 'a' is listed twice"),
    ("a.txt", "a\nb\na \n", ":3: class 'a' is listed twice"),
    ("a.txt", "<!DOCTYPE html>\n<html>", ": the file is a web page"),
    ("a.txt", "version https://git-lfs.github.com/spec/v1\noid sha256:0", ": the file is a pointer of Git LFS"),
    ("a.yaml", "names: [a]", r": .*read from text, CSV and JSON files, not from \.yaml"),
]


def test_what_is_no_list_of_classes_is_refused_with_its_place(tmp_path):
    for name, text, message in REFUSED:
        with pytest.raises(UserError, match=rf"/{name}{message}"):
            names_in(tmp_path / name, text)
