"""Files are written as a whole or not at all, and a path that cannot be written to is named."""

import os

import pytest

from mvrec.cli.config_check import entries
from mvrec.errors import UserError
from mvrec.files import append_whole, atomic_path, check_target, remove_leftovers, write_atomically
from mvrec.machine import closed_path


def test_a_directory_and_a_path_below_a_file_are_one_line(tmp_path):
    with pytest.raises(IsADirectoryError) as raised, atomic_path(tmp_path):
        raise AssertionError("the work would be lost")
    assert closed_path(raised.value) == f"{tmp_path}: Is a directory: choose another path, or change its permissions"
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file") as raised:
        write_atomically(tmp_path / "file/below", "text")
    assert closed_path(raised.value).startswith(f"{tmp_path}/file: ")
    assert closed_path(FileNotFoundError(2, "No such file", "x")) is None  # anybody's mistake keeps its traceback


def test_an_error_in_the_middle_leaves_the_earlier_file(tmp_path):
    write_atomically(tmp_path / "file", "before")
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "file") as temporary:
        1 / temporary.write_text("")
    append_whole(tmp_path / "file", " and after")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before and after"]


@pytest.mark.parametrize(("name", "durable"), [("ü" * 120 + ".mp4", False), ("x" * 255, True), (".hidden", False)])
def test_what_a_killed_process_leaves_of_a_file_is_removed_and_nothing_else(tmp_path, name, durable):
    keep = ["train.csv", ".train.csv", ".train.csv.part", ".train.csv.abcdefgh.part"]
    for other in keep:
        (tmp_path / other).touch()
    with atomic_path(tmp_path / name, durable=durable) as temporary:
        temporary.write_text("half")
        os.link(temporary, tmp_path / f"{temporary.name[:-13]}abcdefgh.part")
        assert temporary.name.startswith(".")
        assert len(list(tmp_path.iterdir())) == len(keep) + 2
    assert len(list(tmp_path.iterdir())) == len(keep) + 2
    remove_leftovers(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {*keep, name}
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"train.csv", ".train.csv", name}
    remove_leftovers(tmp_path / "nowhere/file")


def test_a_name_that_only_begins_like_a_home_directory_is_a_name():
    with pytest.raises(UserError, match=r"config file '~b.yaml' does not exist"):
        entries(["--config", "~b.yaml"])


def test_a_place_that_cannot_be_written_is_named_before_the_work(tmp_path):
    check_target(tmp_path / "new" / "a.html", flag="--out")
    assert [path.name for path in tmp_path.rglob("*")] == ["new"]
    with pytest.raises(UserError, match=r"--out=.* is a folder: name the file in it"):
        check_target(tmp_path, flag="--out")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--out=.*/file/a.html cannot be written: (File exists|Not a directory)"):
        check_target(tmp_path / "file" / "a.html", flag="--out")
