"""The journal and its lock."""

import pytest
from prep_support import run

from mvrec.errors import UserError
from mvrec.prep import console
from mvrec.prep.journal import Journal


def test_records_come_back_and_the_last_one_counts(tmp_path):
    odd = "a\n\udcff é\0.mp4"
    with Journal(tmp_path / "deep/journal.jsonl") as book:
        book.add("a", value=1)
        book.add(odd, value=[2, None])
        book.add("a", value=3)
        assert book.get("a") == {"key": "a", "value": 3}
    with Journal(tmp_path / "deep/journal.jsonl") as book:
        assert [book.get(key)["value"] for key in ("a", odd)] == [3, [2, None]]
        assert book.get("b") is None


def test_a_torn_last_line_is_dropped_and_the_next_line_is_whole(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as book:
        book.add("first", value=1)
        book.add("second", value=2)
    content = path.read_bytes()
    for cut in range(1, 25):
        path.write_bytes(content[:-cut])
        with Journal(path) as book:
            assert book.get("first")["value"] == 1
            assert book.get("second") is None
            book.add("third", value=3)
        with Journal(path) as book:
            assert [book.get(key)["value"] for key in ("first", "third")] == [1, 3]
            assert book.unreadable == 0


def test_lines_that_are_no_records_are_skipped_and_counted(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"key": "a", "value": 1}\n\xff\x00\n[]\n{"value": 2}\n{"key": "b", "value": 3}\n')
    with Journal(path) as book:
        assert [book.get(key)["value"] for key in "ab"] == [1, 3]
        assert book.unreadable == 3


def test_a_dry_run_leaves_nothing_and_a_place_that_cannot_be_written_is_named(tmp_path):
    with Journal(tmp_path / "new/journal.jsonl", dry=True) as book:
        assert book.get("a") is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/journal.jsonl: cannot be written \(File exists\)"):
        Journal(tmp_path / "file/journal.jsonl")


def test_sizes_have_units_of_1000_or_1024_bytes():
    sizes = {"256MB": 256_000_000, "1GiB": 2**30, "5000": 5000, "1.5k": 1500, "2 TB": 2 * 10**12}
    assert {text: console.size_in_bytes(text) for text in sizes} == sizes
    for text in ("", "MB", "x", "-1", "0", "1e999", "nan", "5 QB", "1M5"):
        with pytest.raises(Exception, match=r"is not a size|above 0"):
            console.size_in_bytes(text)


@pytest.mark.parametrize("tool", ["check", "resize", "shard", "index", "imagenet"])
def test_wrong_arguments_are_one_line_and_help_names_the_common_ones(tool):
    for arguments in ([], ["/nowhere/at all", "/tmp/out"], ["x", "--workers", "0"], ["--wrong"]):
        code, _, err = run(tool, *arguments)
        assert (code, err.count("\n")) == (2, 1), arguments
        assert err.startswith(f"mvrec prep {tool}: error: ")
    code, out, _ = run(tool, "--help")
    assert code == 0
    assert "--dry-run" in out
    assert "--workers" in out
