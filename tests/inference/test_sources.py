"""Files, folders, lists and patterns as sources."""

import argparse

import pytest

from mvrec.data.listing.file_kinds import IMAGES, VIDEOS
from mvrec.errors import UserError
from mvrec.inference import sources
from mvrec.inference.reading import start_readers


def find_sources(*names, kind=VIDEOS):
    return [sample.path for sample in sources.find_sources([str(name) for name in names], kind=kind)]


@pytest.fixture
def folder(tmp_path):
    for name in ("b.mp4", "a/c d.MKV", "a/ü.png", "notes.txt", "a/b [1].mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


def test_folder_file_or_pattern_gives_its_videos_or_images(folder, caplog):
    first, second, third = folder / "a/b [1].mp4", folder / "a/c d.MKV", folder / "b.mp4"
    assert find_sources(folder) == [first, second, third]
    assert f"{folder}: 2 files skipped, by the name no video: notes.txt, a/ü.png" in caplog.text
    assert find_sources(folder, kind=IMAGES) == [folder / "a/ü.png"]
    assert find_sources(f"{folder}/*/*.M*") == [second]
    assert find_sources(f"{folder}/**/*.mp4") == [first, third]
    # A name with brackets is a file and no pattern; each file counts once, in the order of the sources.
    assert find_sources(third, first, folder) == [third, first, second]


def test_source_without_a_file_is_one_line(folder, monkeypatch):
    (folder / "empty").mkdir()
    (folder / "empty.txt").touch()
    (folder / "short.csv").write_text("label,path\n1,b.mp4\n2\n")
    (folder / "bad.csv").write_text("path,label,start,end\nb.mp4,x,5,3\n")
    for source, message in (
        ("empty", "there is no video in .*empty"),
        ("empty.txt", "there is no video in"),
        ("*.avi", r"there is no video in .*\*\.avi"),
        ("nothing.mp4", "there is no file or folder .*nothing.mp4"),
        ("emptyy/1.mp4", "there is no file or folder .*emptyy/1.mp4'; did you mean '.*empty'"),
        ("short.csv", r"short\.csv:3: 1 fields, the header has 2"),
        ("bad.csv", r"bad\.csv:2: start 5 s is not before end 3 s"),
    ):
        with pytest.raises(UserError, match=message):
            find_sources(folder / source)

    def refuse(*args):
        raise OSError(22, "Invalid argument", "/proc/1/net")

    monkeypatch.setattr("mvrec.data.listing.layouts.os.scandir", refuse)
    with pytest.raises(UserError, match=f"{folder}: Invalid argument"):
        find_sources(folder)


def test_limit_that_no_clock_takes_is_one_line():
    options = argparse.Namespace(decode_timeout=1e30, decode_memory=1.0)
    with pytest.raises(UserError, match=r"--decode_timeout must lie in 0\.\.2147483647, got 1e\+30"):
        start_readers(options)


def test_list_of_spans_gives_one_sample_per_span_as_in_training(folder):
    span = "path,label,start,end,who\nb.mp4,x,0,0.5,me\nb.mp4,x,0.5,,you\nb.mp4,y,0,0.5,me\n"
    (folder / "spans.csv").write_text(span)
    samples = sources.find_sources([str(folder / "spans.csv")], kind=VIDEOS)
    assert {sample.path for sample in samples} == {folder / "b.mp4"}
    assert [(sample.start_seconds, sample.end_seconds) for sample in samples] == [(0.0, 0.5), (0.5, None), (0.0, 0.5)]
    assert samples[1].where == f"{folder / 'spans.csv'}:3"


def test_list_gives_its_files_wherever_they_are(folder):
    (folder / "a/val").mkdir()
    (folder / "a/val/video.mp4").write_text("x")
    rows = f"path,label\nvideo.mp4,x\n{folder}/b.mp4,x\n~b.mp4,x\n"
    both = ["b.mp4", "a/c d.MKV"]
    for name, content, files in (
        ("one.txt", "\ufeffb.mp4\n\n  a/c d.MKV\n", both),
        ("with.csv", 'label,path\n1,b.mp4\n\n2,"a/c d.MKV"\n', both),
        ("without.csv", "b.mp4,1\na/c d.MKV,2\n", both),
        ("mmaction.txt", "b.mp4 3\na/c d.MKV 120 7\ngone.mp4 5\n", [*both, "gone.mp4"]),
        ("latin.txt", "\udcfc.mp4\n", ["\udcfc.mp4"]),
        ("a/val.csv", rows, ["a/val/video.mp4", "b.mp4", "a/val/~b.mp4"]),
    ):
        (folder / name).write_text(content, encoding="utf-8", errors="surrogateescape")
        assert find_sources(folder / name) == [folder / file for file in files], name
