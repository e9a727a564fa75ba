"""What files, folders, lists and patterns mean."""

import argparse

import pytest

from mvrec.data.listing.file_kinds import IMAGES, VIDEOS
from mvrec.errors import UserError
from mvrec.inference import sources
from mvrec.inference.reading import start_readers


def find_sources(names, *, kind):
    return [sample.path for sample in sources.find_sources(names, kind=kind)]


@pytest.fixture
def folder(tmp_path):
    for name in ("b.mp4", "a/c d.MKV", "a/ü.png", "notes.txt", "a/b [1].mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


def test_folder_file_or_pattern_gives_its_videos_or_images(folder, caplog):
    assert find_sources([str(folder)], kind=VIDEOS) == [folder / "a/b [1].mp4", folder / "a/c d.MKV", folder / "b.mp4"]
    assert f"{folder}: 2 files skipped, by the name no video: notes.txt, a/ü.png" in caplog.text
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


def test_list_gives_its_files(folder):
    (folder / "one.txt").write_text("\ufeffb.mp4\n\n  a/c d.MKV\n", encoding="utf-8")
    (folder / "with.csv").write_text('label,path\n1,b.mp4\n\n2,"a/c d.MKV"\n')
    (folder / "without.csv").write_text("b.mp4,1\na/c d.MKV,2\n")
    for name in ("one.txt", "with.csv", "without.csv"):
        assert find_sources([str(folder / name)], kind=VIDEOS) == [folder / "b.mp4", folder / "a/c d.MKV"]
    (folder / "absolute.txt").write_text(f"{folder / 'b.mp4'}\n")
    assert find_sources([str(folder / "absolute.txt")], kind=VIDEOS) == [folder / "b.mp4"]


def test_source_without_a_file_is_one_line(folder):
    (folder / "empty").mkdir()
    (folder / "empty.txt").touch()
    (folder / "short.csv").write_text("label,path\n1,b.mp4\n2\n")
    for source, message in (
        ("empty", "there is no video in .*empty"),
        ("empty.txt", "there is no video in"),
        ("*.avi", r"there is no video in .*\*\.avi"),
        ("nothing.mp4", "there is no file or folder .*nothing.mp4"),
        ("short.csv", r"short\.csv:3: 1 fields, the header has 2"),
    ):
        with pytest.raises(UserError, match=message):
            find_sources([str(folder / source)], kind=VIDEOS)


def test_folder_that_cannot_be_listed_and_limit_that_no_clock_takes_are_one_line(folder, monkeypatch):
    def refuse(*args):
        raise OSError(22, "Invalid argument", "/proc/1/net")

    monkeypatch.setattr("mvrec.data.listing.layouts.os.scandir", refuse)
    with pytest.raises(UserError, match=f"{folder}: Invalid argument"):
        find_sources([str(folder)], kind=VIDEOS)
    options = argparse.Namespace(decode_timeout=1e30, decode_memory=1.0)
    with pytest.raises(UserError, match=r"--decode_timeout must lie in 0\.\.2147483647, got 1e\+30"):
        start_readers(options)


def test_list_of_spans_gives_one_sample_per_span_as_in_training(folder):
    span = "path,label,start,end,who\nb.mp4,x,0,0.5,me\nb.mp4,x,0.5,,you\nb.mp4,y,0,0.5,me\n"
    (folder / "spans.csv").write_text(span)
    found = sources.find_sources([str(folder / "spans.csv")], kind=VIDEOS)
    assert [(sample.path, sample.start_seconds, sample.end_seconds) for sample in found] == [
        (folder / "b.mp4", 0.0, 0.5),
        (folder / "b.mp4", 0.5, None),
        (folder / "b.mp4", 0.0, 0.5),
    ]
    assert found[1].where == f"{folder / 'spans.csv'}:3"
    (folder / "mmaction.txt").write_text('b.mp4 3\na/c d.MKV 120 7\n"a/b [1].mp4",4\ngone.mp4 5\n')
    names = ["b.mp4", "a/c d.MKV", "a/b [1].mp4", "gone.mp4"]
    assert find_sources([str(folder / "mmaction.txt")], kind=VIDEOS) == [folder / name for name in names]
    (folder / "odd 3").write_text("x")  # a file may end in a number, and need not exist
    (folder / "plain.txt").write_text("odd 3\nodder 4\n")
    assert find_sources([str(folder / "plain.txt")], kind=VIDEOS) == [folder / "odd 3", folder / "odder 4"]
    (folder / "latin.txt").write_bytes("ü.mp4\n".encode("latin-1"))
    assert find_sources([str(folder / "latin.txt")], kind=VIDEOS) == [folder / "\udcfc.mp4"]
    (folder / "a" / "val.csv").write_text("path,label\nvideo.mp4,x\n")
    (folder / "a" / "val").mkdir()
    (folder / "a" / "val" / "video.mp4").write_text("x")
    assert find_sources([str(folder / "a" / "val.csv")], kind=VIDEOS) == [folder / "a" / "val" / "video.mp4"]
    (folder / "a" / "val.csv").write_text(f"path,label\nvideo.mp4,x\n{folder}/b.mp4,x\n~b.mp4,x\n")
    found = find_sources([str(folder / "a" / "val.csv")], kind=VIDEOS)
    assert found == [folder / "a/val/video.mp4", folder / "b.mp4", folder / "a/val/~b.mp4"]
    (folder / "bad.csv").write_text("path,label,start,end\nb.mp4,x,5,3\n")
    with pytest.raises(UserError, match=r"bad\.csv:2: start 5 s is not before end 3 s"):
        find_sources([str(folder / "bad.csv")], kind=VIDEOS)
