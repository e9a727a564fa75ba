import gzip
import io
import os
import tarfile

import pytest

from mvrec.data.listing import archive as module
from mvrec.data.listing.archive import ArchiveMember, list_tar, read_tar_listing
from mvrec.data.listing.index import Sample, SampleIndex
from mvrec.data.listing.lists import Row, read_rows, write_rows
from mvrec.errors import DecodeError, UserError


def tar_of(files, format=tarfile.PAX_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


LONG = "d" * 90 + "/" + "e" * 90 + "/ü.JPEG"
FILES = {"b.JPEG": b"bbb", LONG: b"l" * 1000, "empty": b"", "a.JPEG": b"x" * 512}


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_files_and_nested_tars_are_found_where_they_lie(tmp_path, format):
    inner = tar_of(FILES, format)
    deeper = tar_of({"x.tar": tar_of({"y.JPEG": b"deep"}), "z.JPEG": b"z"}, format)
    path = tmp_path / "all.tar"
    path.write_bytes(tar_of({"n02.tar": inner, "./top.JPEG": b"top", "n01.tar": deeper}, format))
    members = {member.name: member for member in list_tar(path)}
    expected = {**{f"n02.tar/{name}": content for name, content in FILES.items()}, "top.JPEG": b"top"}
    expected |= {"n01.tar/x.tar/y.JPEG": b"deep", "n01.tar/z.JPEG": b"z"}
    assert list(members) == list(expected)
    assert {name: path.read_bytes()[m.offset : m.offset + m.size] for name, m in members.items()} == expected
    assert members["top.JPEG"].read() == b"top"


def test_folders_and_links_are_passed_over(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("folder", tarfile.DIRTYPE), ("soft", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "file"
            archive.addfile(entry)
        archive.addfile(tarfile.TarInfo("file"))
    assert [member.name for member in list_tar(path)] == ["file"]


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_compressed_tars_are_refused(tmp_path, kind):
    path = tmp_path / "a.tar"
    with tarfile.open(path, f"w:{kind}") as archive:
        archive.addfile(tarfile.TarInfo("file"))
    with pytest.raises(UserError, match=r"a\.tar: compressed \(\w+\)"):
        list(list_tar(path))
    outer = tmp_path / "outer.tar"
    outer.write_bytes(tar_of({"n01.tar": path.read_bytes()}))
    with pytest.raises(UserError, match=r"outer\.tar/n01\.tar: compressed"):
        list(list_tar(outer))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a tar at all" * 100, r"a\.tar: not a tar, or a damaged one"),
        (b"", r"a\.tar: not a tar, or a damaged one: empty file"),
        (tar_of({"a": b"x" * 2000})[:1500], r"a\.tar: ends at byte 1500, in the middle of 'a'"),
        (
            tar_of({"a": b"x" * 600})[:1536] + b"?" * 1024,
            r"a\.tar: not a tar, or a damaged one: no header at byte 1536",
        ),
        (tar_of({"n.tar": b"?" * 700}), r"a\.tar/n\.tar: not a tar, or a damaged one: no header at byte 512"),
    ],
)
def test_damaged_tars_are_refused(tmp_path, content, message):
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(list_tar(path))


def test_a_tar_without_its_end_is_doubted(tmp_path, caplog):
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of({"a": b"x" * 512})[:1024])
    assert [member.name for member in list_tar(path)] == ["a"]
    assert "ends without a tar's end mark" in caplog.text


def test_an_inner_tar_without_its_end_does_not_run_into_the_outer_one(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of({"n.tar": tar_of({"x": b"x" * 512})[:1024], "y": b"y"}))
    assert [member.name for member in list_tar(path)] == ["n.tar/x", "y"]


def test_a_missing_tar_is_named(tmp_path):
    for read in (lambda path: list(list_tar(path)), read_tar_listing):
        with pytest.raises(UserError, match=r"none\.tar: No such file"):
            read(tmp_path / "none.tar")


def test_headers_are_walked_once(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of(FILES))
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


def test_a_broken_listing_is_made_anew(tmp_path, caplog):
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of(FILES))
    place = tmp_path / "a.tar.index.npz"
    for broken in (b"", b"PK\x03\x04 broken", gzip.compress(b"x")):
        place.write_bytes(broken)
        assert len(read_tar_listing(path)) == 4
        assert "cannot be read: listing the tar again" in caplog.text
        caplog.clear()
        assert len(read_tar_listing(path)) == 4
        assert caplog.text == ""


def test_a_listing_of_a_tar_in_a_read_only_folder_goes_to_the_cache(tmp_path, monkeypatch):
    path = tmp_path / "data" / "a.tar"
    path.parent.mkdir()
    path.write_bytes(tar_of(FILES))
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
    (tmp_path / "set.tar").mkdir()  # a folder may be called so
    path = tmp_path / "set.tar" / "a.tar"
    path.write_bytes(tar_of({"n01.tar": tar_of({"ü.JPEG": b"one"}), "b.JPEG": b"two!"}))
    rows = [Row(f"set.tar/a.tar/{m.name}", str(n), offset=m.offset, size=m.size) for n, m in enumerate(list_tar(path))]
    write_rows(tmp_path / "train.csv", [Row("plain.mp4", "2"), *rows])
    index = SampleIndex(read_rows(tmp_path / "train.csv"), root=tmp_path)
    assert index[0] == Sample(tmp_path / "plain.mp4", 2)
    assert [sample.path.read() for sample in list(index)[1:]] == [b"one", b"two!"]
    assert index[1].path == ArchiveMember(path, "n01.tar/ü.JPEG", rows[0].offset, 3)
    assert os.fspath(index[1].path) == f"{path}/n01.tar/ü.JPEG"


def test_a_tar_that_is_not_there_is_named_with_its_line(tmp_path):
    write_rows(tmp_path / "train.csv", [Row("gone.tar/x.JPEG", "0", offset=512, size=1)])
    with pytest.raises(UserError, match=r"train\.csv:2: 'gone\.tar/x\.JPEG' has an offset, but no part of it is a tar"):
        SampleIndex(read_rows(tmp_path / "train.csv"), root=tmp_path)


def test_a_path_into_a_tar_needs_its_place(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_of({"b.JPEG": b"two!"}))
    (tmp_path / "train.csv").write_text("path,label\na.tar/b.JPEG,0\n")
    with pytest.raises(
        UserError, match=r"train\.csv:2: 'a\.tar/b\.JPEG' lies in a tar: give its place in the columns offset and size"
    ):
        SampleIndex(read_rows(tmp_path / "train.csv"), root=tmp_path)


def test_members_of_archives_that_changed_are_bad_files(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"short")
    with pytest.raises(DecodeError, match="its archive ends after 3 of its 10 bytes"):
        ArchiveMember(path, "x", 2, 10).read()
    with pytest.raises(DecodeError, match="its archive: No such file"):
        ArchiveMember(tmp_path / "gone.tar", "x", 2, 10).read()
    with pytest.raises(DecodeError, match="is empty"):
        ArchiveMember(path, "x", 2, 0).read()
