import gzip
import os
import tarfile

import pytest
from data_trees import listed, make, tar_of

from mvrec.data.listing import archive as module
from mvrec.data.listing.archive import ArchiveMember, list_tar, read_tar_listing
from mvrec.data.listing.index import Sample
from mvrec.data.listing.layouts import find_split
from mvrec.data.listing.lists import Row, write_rows
from mvrec.errors import DecodeError, UserError

LONG = "d" * 90 + "/" + "e" * 90 + "/ü.JPEG"
FILES = {"b.JPEG": b"bbb", LONG: b"l" * 1000, "empty": b"", "a.JPEG": b"x" * 512}


@pytest.fixture
def path(tmp_path):
    """A tar of `FILES`."""
    return make(tmp_path, {"a.tar": tar_of(FILES)}) / "a.tar"


def names_in(path, content):
    """Names of the files in a tar of these bytes."""
    path.write_bytes(content)
    return [member.name for member in list_tar(path)]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_files_and_nested_tars_are_found_where_they_lie(path, format):
    inner = tar_of(FILES, format=format)
    deeper = tar_of({"x.tar": tar_of({"y.JPEG": b"deep"}), "z.JPEG": b"z"}, format=format)
    path.write_bytes(tar_of({"n02.tar": inner, "./top.JPEG": b"top", "n01.tar": deeper}, format=format))
    members = {member.name: member for member in list_tar(path)}
    expected = {**{f"n02.tar/{name}": content for name, content in FILES.items()}, "top.JPEG": b"top"}
    expected |= {"n01.tar/x.tar/y.JPEG": b"deep", "n01.tar/z.JPEG": b"z"}
    assert list(members) == list(expected)
    assert {name: path.read_bytes()[m.offset : m.offset + m.size] for name, m in members.items()} == expected
    assert members["top.JPEG"].read() == b"top"


def test_folders_and_links_are_passed_over(path):
    with tarfile.open(path, "w") as archive:
        for name, kind in (("folder", tarfile.DIRTYPE), ("soft", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "file"
            archive.addfile(entry)
        archive.addfile(tarfile.TarInfo("file"))
    assert [member.name for member in list_tar(path)] == ["file"]


COMPRESSED = tar_of({"file": b""}, "w:gz")
DAMAGED = [
    (COMPRESSED, r": compressed \(\w+\)"),
    (tar_of({"file": b""}, "w:bz2"), r": compressed \(\w+\)"),
    (tar_of({"file": b""}, "w:xz"), r": compressed \(\w+\)"),
    (tar_of({"n01.tar": COMPRESSED}), r"/n01\.tar: compressed"),
    (b"not a tar at all" * 100, ": not a tar, or a damaged one"),
    (b"", ": not a tar, or a damaged one: empty file"),
    (tar_of({"a": b"x" * 2000})[:1500], ": ends at byte 1500, in the middle of 'a'"),
    (tar_of({"a": b"x" * 600})[:1536] + b"?" * 1024, ": not a tar, or a damaged one: no header at byte 1536"),
    (tar_of({"n.tar": b"?" * 700}), r"/n\.tar: not a tar, or a damaged one: no header at byte 512"),
]


def test_compressed_damaged_and_missing_tars_are_refused(path):
    for content, message in DAMAGED:
        with pytest.raises(UserError, match=rf"a\.tar{message}"):
            names_in(path, content)
    path.unlink()
    for read in (lambda path: list(list_tar(path)), read_tar_listing):
        with pytest.raises(UserError, match=r"a\.tar: No such file"):
            read(path)


def test_a_tar_without_its_end_is_doubted_and_does_not_run_into_an_outer_one(path, caplog):
    cut = tar_of({"x": b"x" * 512})[:1024]
    assert names_in(path, cut) == ["x"]
    assert "ends without a tar's end mark" in caplog.text
    assert names_in(path, tar_of({"n.tar": cut, "y": b"y"})) == ["n.tar/x", "y"]


def test_headers_are_walked_once(path, monkeypatch, caplog):
    caplog.set_level("INFO")
    first = list(read_tar_listing(path))
    assert "4 files, listed in" in caplog.text
    assert [member.name for member in first] == sorted(FILES)
    assert all(member.read() == FILES[member.name] for member in first if member.size)
    walked = []
    monkeypatch.setattr(module, "list_tar", lambda path: walked.append(path) or list_tar(path))
    assert list(read_tar_listing(path)) == first
    assert walked == []
    path.write_bytes(tar_of({"new.JPEG": b"n"}))
    assert [member.name for member in read_tar_listing(path)] == ["new.JPEG"]
    assert walked == [path]
    assert "has changed since then: listing it again" in caplog.text


def test_a_broken_listing_is_made_anew(path, caplog):
    for broken in (b"", b"PK\x03\x04 broken", gzip.compress(b"x")):
        path.with_name("a.tar.index.npz").write_bytes(broken)
        assert len(read_tar_listing(path)) == 4
        assert "cannot be read: listing the tar again" in caplog.text
        caplog.clear()
        assert len(read_tar_listing(path)) == 4
        assert caplog.text == ""


def test_a_listing_of_a_tar_in_a_read_only_folder_goes_to_the_cache(path, tmp_path, monkeypatch):
    real = module.atomic_path

    def refuse(place):
        if place.parent == path.parent:
            raise PermissionError(13, "Permission denied", str(place))
        return real(place)

    monkeypatch.setattr(module, "atomic_path", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(read_tar_listing(path)) == 4
    (saved,) = (tmp_path / "cache" / "mvrec" / "tars").iterdir()
    assert saved.name.endswith("-a.tar.index.npz")
    monkeypatch.setattr(module, "list_tar", None)
    assert len(read_tar_listing(path)) == 4


def test_a_list_names_files_in_tars(tmp_path):
    inner = tar_of({"ü.JPEG": b"one"})
    make(tmp_path / "set.tar", {"a.tar": tar_of({"n01.tar": inner, "b.JPEG": b"two!"})})  # a folder may be called so
    path = tmp_path / "set.tar/a.tar"
    rows = [Row(f"set.tar/a.tar/{m.name}", str(n), offset=m.offset, size=m.size) for n, m in enumerate(list_tar(path))]
    write_rows(tmp_path / "train.csv", [Row("plain.mp4", "2"), *rows])
    index = find_split(tmp_path, "train")
    assert index[0] == Sample(tmp_path / "plain.mp4", 2)
    assert [sample.path.read() for sample in list(index)[1:]] == [b"one", b"two!"]
    assert index[1].path == ArchiveMember(path, "n01.tar/ü.JPEG", rows[0].offset, 3)
    assert os.fspath(index[1].path) == f"{path}/n01.tar/ü.JPEG"


def test_rows_without_their_tar_or_place_in_it_are_refused(path, tmp_path):
    for text, message in {
        "path,label,offset,size\ngone.tar/x,0,512,1\n": r"'gone\.tar/x' has an offset, but no part of it is a tar",
        "path,label\na.tar/b,0\n": r"'a\.tar/b' lies in a tar: give its place in the columns offset and size",
    }.items():
        with pytest.raises(UserError, match=rf"train\.csv:2: {message}"):
            listed(tmp_path, text)


def test_members_of_archives_that_changed_are_bad_files(path, tmp_path):
    path.write_bytes(b"short")
    for archive, size, message in (
        (path, 10, "its archive ends after 3 of its 10 bytes"),
        (tmp_path / "gone.tar", 10, "its archive: No such file"),
        (path, 0, "is empty"),
    ):
        with pytest.raises(DecodeError, match=message):
            ArchiveMember(archive, "x", 2, size).read()
