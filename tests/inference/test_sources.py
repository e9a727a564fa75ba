"""What files, folders, lists and patterns mean."""

import pytest

from mvrec.data.kinds import IMAGES, VIDEOS
from mvrec.errors import UserError
from mvrec.inference.sources import find_sources


@pytest.fixture
def folder(tmp_path):
    for name in ("b.mp4", "a/c d.MKV", "a/ü.png", "notes.txt", "a/b [1].mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


def test_folders_files_and_patterns(folder):
    assert find_sources([str(folder)], kind=VIDEOS) == [folder / "a/b [1].mp4", folder / "a/c d.MKV", folder / "b.mp4"]
    assert find_sources([str(folder)], kind=IMAGES) == [folder / "a/ü.png"]
    assert find_sources([f"{folder}/*/*.M*"], kind=VIDEOS) == [folder / "a/c d.MKV"]
    assert find_sources([f"{folder}/**/*.mp4"], kind=VIDEOS) == [folder / "a/b [1].mp4", folder / "b.mp4"]
    # A name with brackets is a file and no pattern; each file counts once, in the order of the sources.
    files = [str(folder / "b.mp4"), str(folder / "a/b [1].mp4")]
    assert find_sources([*files, str(folder)], kind=VIDEOS) == [
        folder / "b.mp4",
        folder / "a/b [1].mp4",
        folder / "a/c d.MKV",
    ]


def test_lists(folder):
    (folder / "one.txt").write_text("\ufeffb.mp4\n\n  a/c d.MKV\n", encoding="utf-8")
    (folder / "with.csv").write_text('label,path\n1,b.mp4\n\n2,"a/c d.MKV"\n')
    (folder / "without.csv").write_text("b.mp4,1\na/c d.MKV,2\n")
    for name in ("one.txt", "with.csv", "without.csv"):
        assert find_sources([str(folder / name)], kind=VIDEOS) == [folder / "b.mp4", folder / "a/c d.MKV"]
    (folder / "absolute.txt").write_text(f"{folder / 'b.mp4'}\n")
    assert find_sources([str(folder / "absolute.txt")], kind=VIDEOS) == [folder / "b.mp4"]


def test_what_means_no_file(folder):
    (folder / "empty").mkdir()
    (folder / "empty.txt").touch()
    (folder / "short.csv").write_text("label,path\n1,b.mp4\n2\n")
    (folder / "latin.txt").write_bytes("ü.mp4\n".encode("latin-1"))
    for source, message in (
        ("empty", "there is no video in .*empty"),
        ("empty.txt", "there is no video in"),
        ("*.avi", r"there is no video in .*\*\.avi"),
        ("nothing.mp4", "there is no file or folder .*nothing.mp4"),
        ("short.csv", r"short\.csv:3: there is no path in this row"),
        ("latin.txt", "byte 0 is not UTF-8"),
    ):
        with pytest.raises(UserError, match=message):
            find_sources([str(folder / source)], kind=VIDEOS)
