"""check.py on good, bad and strange files."""

import ctypes
import os
import shutil
from pathlib import Path

import pytest
from prep_support import hidden, read_json, run, write_image, write_imagenet, write_videos
from video_files import damage, truncate, write_audio, write_video

from mvrec.data.listing.file_kinds import VIDEOS
from mvrec.data.listing.layouts import find_split
from mvrec.data.listing.lists import Row, read_rows, write_rows
from mvrec.data.video import opening
from mvrec.errors import DecodeError
from mvrec.prep import check


def statuses(out):
    report = read_json(out / "report.json")
    return {entry["path"]: (entry["status"], entry["cause"]) for entry in report["bad"]}, report


def write_odd(walk):
    """A class of videos with every kind of fault and strange name."""
    walk.mkdir(parents=True)
    good = write_video(walk / "good.mp4", title="café")  # in Latin-1
    for name in ("two  blanks, and a comma", "ünïcödé 走", 'quote\'s "x"', "%d{0}", "-rf", "a:b"):
        shutil.copy(good, walk / f"{name}.mp4")
    Path(os.fsdecode(os.fsencode(walk) + b"/latin\xe9.mp4")).write_bytes(good.read_bytes())
    truncate(good, 0.5, walk / "half.mp4")
    truncate(write_video(walk / "stub.mkv"), 0.5)
    damage(shutil.copy(good, walk / "noise.mp4"), 0.2, 0.9)
    (walk / "empty.mp4").touch()
    (walk / "text.avi").write_text("<html>404 Not Found</html>")
    (walk / "dead.mp4").symlink_to("nowhere.mp4")
    (walk / "link.mp4").symlink_to("good.mp4")
    (walk / "folder.mp4").mkdir()
    os.mkfifo(walk / "pipe.mp4")
    write_audio(walk / "song.mp4")
    write_video(walk / "short.mp4", num_frames=3)
    write_image(walk / "picture.jpg")
    truncate(write_image(walk / "cut.jpg"), 0.5)
    write_image(walk / "name_lies.jpg", format="PNG")
    for name in ("._good.mp4", ".DS_Store", "notes.txt"):
        (walk / name).write_text("no media")
    (walk / "circle").symlink_to(walk, target_is_directory=True)


def test_every_fault_gets_its_name_and_a_second_run_decodes_nothing(tmp_path, monkeypatch):
    odd, folder = tmp_path / "odd", tmp_path / "out"
    write_odd(odd / "train/walk the dog")
    code, out, err = run("check", odd, "--out", folder, "--workers", 2)
    assert code == 1, err
    bad, report = statuses(folder)
    assert {Path(path).name: status for path, (status, _) in bad.items()} == {
        **dict.fromkeys(("half.mp4", "stub.mkv", "noise.mp4", "empty.mp4", "text.avi", "pipe.mp4"), "corrupt"),
        **{"song.mp4": "corrupt", "cut.jpg": "corrupt", "dead.mp4": "missing", "short.mp4": "short"},
    }
    assert report["counts"]["train"] == {"ok": 11, "corrupt": 8, "missing": 1, "timeout": 0, "short": 1}
    causes = {Path(path).name: cause for path, (_, cause) in bad.items()}
    assert causes["empty.mp4"] == "is empty (0 bytes)"
    assert causes["dead.mp4"] == "is a broken link"
    assert causes["short.mp4"] == "3 frames, fewer than 8"
    assert f"{odd}: 1 file skipped, by the name no video or image: train/walk the dog/notes.txt" in err
    assert "corrupt: is empty (0 bytes)" in out
    rows = list(read_rows(folder / "train.clean.csv"))
    assert len(rows) == 11
    assert all(Path(row.path).is_file() and row.label == "walk the dog" for row in rows)
    assert hidden(folder) == []

    def nothing(work, items, **_):
        assert not list(items)
        yield from ()

    monkeypatch.setattr(check, "run_jobs", nothing)
    assert run("check", odd, "--out", folder)[0] == 1
    assert statuses(folder) == (bad, report)


def test_first_middle_and_last_frame_are_decoded_and_with_all_every_one(tmp_path, monkeypatch):
    damaged = [0, 29, 59, 20]
    paths = write_videos(tmp_path / "data", count=4, classes=("run",), num_frames=60)
    real = opening.open_video

    def open_video(file, *arguments):
        video, bad = real(file, *arguments), damaged[paths.index(file)]
        frames = video.frames

        def checked(indices):
            if bad in list(indices):
                raise DecodeError(file, f"frame {bad} is damaged")
            return frames(indices)

        video.frames = checked
        return video

    monkeypatch.setattr(opening, "open_video", open_video)
    for words, looks in (([], damaged[:3]), (["--all"], damaged)):
        assert run("check", tmp_path / "data", "--out", tmp_path / "out", *words)[0] == 1
        causes = [cause for _, cause in statuses(tmp_path / "out")[0].values()]
        assert causes == [f"frame {number} is damaged" for number in looks]


def test_a_decoder_that_hangs_or_crashes_costs_one_file_which_is_tried_again_with_more_time_or_when_asked(
    tmp_path, monkeypatch, hang
):
    data, out = tmp_path / "data", tmp_path / "out"
    write_videos(data, count=4, classes=("run",))
    real = opening.open_video
    faults = {"1.mp4": hang, "2.mp4": lambda: ctypes.string_at(0)}

    def open_video(file, *arguments):
        faults.get(Path(file).name, lambda: None)()
        return real(file, *arguments)

    monkeypatch.setattr(opening, "open_video", open_video)
    assert run("check", data, "--out", out, "--timeout", 50, "--workers", 2)[0] == 1
    bad, report = statuses(out)
    assert bad["train/run/1.mp4"] == ("timeout", "took longer than 50 s")
    assert bad["train/run/2.mp4"] == ("corrupt", "the process working on it was ended by SIGSEGV")
    assert report["counts"]["train"]["ok"] == 2
    shutil.copytree(out, tmp_path / "again")
    faults.clear()
    assert run("check", data, "--out", out, "--timeout", 50)[0] == 1
    assert run("check", data, "--out", out, "--timeout", 60)[0] == 0
    assert run("check", data, "--out", tmp_path / "again", "--timeout", 50, "--again")[0] == 0


@pytest.mark.parametrize("container", ["mkv", "mp4", "avi"])
def test_frames_that_a_camera_dropped_are_not_missing(tmp_path, container):
    numbers = [number for number in range(60) if number % 3 == 0 or number in (40, 59)]
    late = 1200 if container == "mkv" else 0  # a recording that begins at 2 s
    options = {"num_frames": len(numbers), "codec": "mpeg4" if container == "avi" else "libx264", "b_frames": 0}
    folder = tmp_path / "data/train/run"
    folder.mkdir(parents=True)
    ticks = [late + 20 * number for number in numbers]
    path = write_video(folder / f"dropped.{container}", ticks=ticks, **options)
    assert run("check", tmp_path / "data", "--out", tmp_path / "out", "--min-seconds", 1.9)[0] == 0
    truncate(path, 0.25 if container == "avi" else 0.6)  # behind the frames of an AVI comes a long index
    assert run("check", tmp_path / "data", "--out", tmp_path / "out")[0] == 1
    assert statuses(tmp_path / "out")[0][f"train/run/{path.name}"][0] == "corrupt"


def test_lists_with_repeated_rows_spans_and_missing_files(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    write_videos(data, count=2, num_frames=30)
    spans = [(0.0, 0.5), (0.5, 0.9), (0.5, 90.0)]  # training takes the last for a bad row, too
    rows = [Row("train/run/0.mp4", "run")] * 2 + [Row("train/run/1.mp4", "run", *span) for span in spans]
    rows += [Row("train/run/1.mp4", "run", 5.0, 6.0, others=(("camera", "left"),)), Row("train/walk/9.mp4", "walk")]
    write_rows(data / "train.csv", rows)
    (data / "classes.txt").write_text("run\nwalk\n")
    code, text, _ = run("check", data, "--out", out, "--write-lists", tmp_path / "lists")
    assert code == 1
    bad, report = statuses(out)
    assert bad["train/walk/9.mp4"] == ("missing", "no such file")
    assert bad["train/run/1.mp4"][0] == "short"
    assert report["counts"]["train"] == {"ok": 4, "corrupt": 0, "missing": 1, "timeout": 0, "short": 2}
    assert report["repeated_rows"] == 1
    assert "1 rows repeat" in text
    assert len((out / "journal.jsonl").read_text().splitlines()) == 2
    index = find_split(tmp_path / "lists", "train", kind=VIDEOS)
    assert (len(index), index.class_names, index[2].end_seconds) == (4, ("run", "walk"), 0.5)


def test_an_empty_folder_and_a_list_that_would_be_overwritten_are_errors(tmp_path):
    arguments = ["check", tmp_path, "--out", tmp_path / "out"]
    code, _, err = run(*arguments)
    assert (code, "no media files" in err) == (2, True)
    write_videos(tmp_path, count=1)
    write_rows(tmp_path / "train.csv", [Row("train/run/0.mp4", "run")])
    before = (tmp_path / "train.csv").read_bytes()
    code, _, err = run(*arguments, "--write-lists", tmp_path)
    assert (code, "would overwrite" in err) == (2, True)
    assert (tmp_path / "train.csv").read_bytes() == before


def test_lists_in_the_root_have_relative_paths_and_are_what_training_reads(tmp_path):
    write_videos(tmp_path, count=2)
    (tmp_path / "train/run/1.mp4").write_bytes(b"")
    assert run("check", tmp_path, "--out", tmp_path / "out", "--write-lists", tmp_path)[0] == 1
    assert (tmp_path / "train.csv").read_text().splitlines()[1] == "train/run/0.mp4,run"
    assert len(find_split(tmp_path, "train", kind=VIDEOS)) == 3
    (tmp_path / "train").rename(tmp_path / "videos")
    (tmp_path / "train.csv").write_text("path,label\nrun/0.mp4,run\nwalk/0.mp4,walk\n")  # below a folder of videos
    code, text, _ = run("check", tmp_path, "--out", tmp_path / "out")
    assert code == 0, text


def test_members_of_tars_are_read_in_place(tmp_path):
    root = write_imagenet(tmp_path / "imagenet")
    assert run("imagenet", root, "--no-md5", "--any-size")[0] == 0
    assert run("check", root, "--out", tmp_path / "out")[0] == 0
    rows = list(read_rows(tmp_path / "out/train.clean.csv"))
    assert rows[0].path.startswith(str(root))
    content = bytearray((root / "ILSVRC2012_img_val.tar").read_bytes())
    place = next(read_rows(root / "val.csv"))
    content[place.offset : place.offset + place.size] = bytes(place.size)
    (root / "ILSVRC2012_img_val.tar").write_bytes(content)
    assert run("check", root, "--out", tmp_path / "out")[0] == 1
    bad, _ = statuses(tmp_path / "out")
    assert list(bad) == [place.path]
