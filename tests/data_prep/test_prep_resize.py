"""resize.py: every frame, at its time, upright, in the right size."""

import json
import resource
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import prep_support
import pytest
from PIL import Image
from prep_support import exit_code, run, start, tree, write_image, write_videos
from video_files import cut_start, damage, read_numbers, truncate, write_audio, write_two_sizes, write_video

from mvrec.data.listing.file_kinds import VIDEOS
from mvrec.data.listing.layouts import find_split
from mvrec.data.listing.lists import Row, write_rows
from mvrec.data.loading.images import read_image
from mvrec.data.video.containers import open_container
from mvrec.data.video.opening import open_video
from mvrec.prep import resize as tool
from mvrec.prep import transcode
from mvrec.prep.transcode import Recipe, Task


def shown_times(path):
    """Seconds from the first frame, from the decoder."""
    with open_container(str(path)) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    return [time - times[0] for time in times]


def resized(path, folder, **recipe):
    target = folder / f"{path.name}.out.mp4"
    facts = transcode.resize(Task(path, target, "video"), recipe=Recipe(**recipe))
    return target, facts


TICKS = np.cumsum(np.random.default_rng(0).integers(5, 60, 32))
KINDS = {
    "plain.mp4": {},
    "odd.mp4": {"size": (75, 101), "pix_fmt": "yuv444p"},
    "varying.mp4": {"ticks": TICKS},
    "varying.mkv": {"ticks": TICKS},
    "mpeg4.avi": {"codec": "mpeg4", "b_frames": 0},
    "mpeg4_b.avi": {"codec": "mpeg4"},
    "h264.mkv": {},
    "h264.flv": {},
    "h264.ts": {},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "vp8.webm": {"codec": "libvpx"},
    "full_range.mp4": {"pix_fmt": "yuvj420p"},
    "ten_bits.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le"},
    "rgb.mp4": {"codec": "libx264rgb", "pix_fmt": "rgb24"},
    "ntsc.mp4": {"fps": Fraction(24000, 1001)},
    "fast.mp4": {"fps": 120},
    "open_gop.mp4": {"encoder_options": "open-gop=1:keyint=7"},
    "single.mp4": {"num_frames": 1},
    "long_gop.mp4": {"gop": 250},
    "old_title.mp4": {"title": "café"},
    "late.ts": {"container_options": {"output_ts_offset": "95442"}},
    "no_seek.swf": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "b_frames": 0},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_stays_at_its_time_whatever_the_file(name, tmp_path):
    source = write_video(tmp_path / name, **{"size": (72, 96), **KINDS[name]})
    target, facts = resized(source, tmp_path, short_side=48)
    with open_video(source) as before, open_video(target) as after:
        assert after.num_frames == before.num_frames == facts["frames"]
        assert min(after.size) == 48
        if name != "varying.mkv":  # which promises 30 per second and does not keep it
            assert after.fps == pytest.approx(before.fps, rel=1e-6)
        indices = list(range(after.num_frames))
        assert read_numbers(after.frames(indices)) == read_numbers(before.frames(indices))
    if not name.endswith(".avi"):  # which has no times
        tick = Fraction(1, 500) if name.endswith((".mkv", ".flv", ".webm")) else Fraction(1, 10000)
        for found, wanted in zip(shown_times(target), shown_times(source), strict=True):
            assert abs(found - wanted) <= tick


@pytest.mark.parametrize("name", ["plain.mp4", "full_range.mp4", "ten_bits.mp4", "rgb.mp4"])
def test_colours_stay(name, tmp_path):
    source = write_video(tmp_path / name, num_frames=12, size=(64, 96), **KINDS[name])
    target, _ = resized(source, tmp_path, crf=1)
    with open_video(source) as before, open_video(target) as after:
        means = [video.frames([0, 9]).mean(axis=(1, 2)) for video in (before, after)]
    assert np.abs(means[0] - means[1]).max() < 2.5


def test_the_orientation_is_applied_once(tmp_path):
    turns = [(-1, 0, 0, -1), (0, 1, -1, 0), (0, -1, 1, 0), (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]
    for number, matrix in enumerate(turns):
        source = write_video(tmp_path / f"{number}.mp4", num_frames=4, matrix=matrix, size=(64, 96))
        target, _ = resized(source, tmp_path, short_side=64, crf=5)
        with open_video(source) as before, open_video(target) as after:
            assert after.size == before.size == ((64, 96) if matrix[0] else (96, 64)), matrix
            assert np.abs(before.frames([3]).astype(int) - after.frames([3])).mean() < 3, matrix
        with av.open(str(target)) as container:
            assert not next(container.decode(video=0)).side_data.get("DISPLAYMATRIX")


def test_frames_of_another_size_are_scaled_to_the_first(tmp_path):
    source = write_two_sizes(tmp_path, "ts", sizes=((96, 120), (48, 64)))
    target, facts = resized(source, tmp_path, short_side=48)
    with open_video(target) as video:
        assert (video.num_frames, video.size) == (20, (48, 60))
        assert read_numbers(video.frames(range(20))) == [*range(10), *range(10)]
    assert facts["frames"] == 20


def test_hidden_frames_stay_hidden(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", size=(72, 96))
    source = cut_start(whole, tmp_path / "cut.mp4", num_frames=5)
    target, facts = resized(source, tmp_path)
    assert facts["frames"] == 27
    with open_video(target) as video:
        assert read_numbers(video.frames([0, 26])) == [5, 31]


def test_an_anamorphic_video_stays_one(tmp_path):
    target = tmp_path / "wide.mp4"
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(16, 11)
        for _ in range(9):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    made, _ = resized(target, tmp_path, short_side=32)
    with av.open(str(made)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(16, 11)


def test_sizes_keep_the_aspect_and_are_even():
    sizes = {
        **{(256, 340): (256, 340), (360, 640): (256, 456), (1920, 1080): (456, 256), (240, 320): (240, 320)},
        **{(101, 203): (100, 204), (2, 4000): (2, 4000), (257, 257): (256, 256), (1, 1): (2, 2)},
    }
    assert {size: Recipe(enlarge=False).size(*size) for size in sizes} == sizes
    assert Recipe(enlarge=True).size(240, 320) == (256, 342)


def key_frame_distances(path):
    with av.open(str(path)) as container:
        marks = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    return max(np.diff([*np.flatnonzero(marks), len(marks)]))


def test_key_frames_are_dense_and_sound_is_gone(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    path = write_video(data / "a.mp4", num_frames=100, gop=250, size=(64, 96))
    assert key_frame_distances(path) > 90
    for preset, most in (("fast", 16), ("fastdecode", 12)):
        out = tmp_path / preset
        assert run("resize", data, out, "--preset", preset, "--short-side", 32)[0] == 0
        assert key_frame_distances(out / "a.mp4") <= most
        with av.open(str(out / "a.mp4")) as container:
            assert [stream.type for stream in container.streams] == ["video"]
        # x264 writes its settings into the stream.
        assert (b"cabac=0" in (out / "a.mp4").read_bytes()) == (preset == "fastdecode")
        assert (b"deblock=0" in (out / "a.mp4").read_bytes()) == (preset == "fastdecode")


@pytest.fixture
def mixed(tmp_path):
    root = tmp_path / "data"
    write_videos(root, count=2, size=(64, 96))
    walk = root / "train/walk"
    shutil.copy(walk / "0.mp4", walk / "ünï ✓, 'x'.mp4")
    write_video(walk / "0.avi", codec="mpeg4", b_frames=0, size=(64, 96))
    write_video(walk / "old.mkv", size=(64, 96))
    truncate(walk / "0.mp4", 0.5, walk / "half.mp4")
    damage(shutil.copy(walk / "1.mp4", walk / "noise.mp4"), 0.2, 0.9)
    (walk / "empty.mp4").write_bytes(b"")
    (walk / "dead.mp4").symlink_to("nowhere")
    (walk / "folder.mp4").mkdir()
    (walk / "._0.mp4").write_text("junk")
    write_audio(walk / "song.mp4")
    write_image(walk / "picture.jpg")
    return root


def test_of_a_tree_good_files_are_kept_bad_ones_named_and_changed_ones_made_again(mixed, tmp_path):
    out = tmp_path / "out"

    def counts(*more):
        assert run("resize", mixed, out, "--short-side", 32, "--workers", 2, *more)[0] == 1
        return json.loads((out / "resize.json").read_text())["counts"]

    code, text, err = run("resize", mixed, out, "--short-side", 32, "--workers", 2)
    assert code == 1, err
    made = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.mp4"))
    assert made == [
        "train/run/0.mp4", "train/run/1.mp4", "train/walk/0.avi.mp4", "train/walk/0.mp4", "train/walk/1.mp4",
        "train/walk/old.mp4", "train/walk/ünï ✓, 'x'.mp4",
    ]  # fmt: skip
    report = json.loads((out / "resize.json").read_text())
    assert report["counts"] == {"done": 7, "kept": 0, "failed": 5}
    failed = {Path(failure["path"]).name for failure in report["failures"]}
    assert failed == {"half.mp4", "noise.mp4", "empty.mp4", "dead.mp4", "song.mp4"}
    assert "dead.mp4: is a broken link" in text
    assert prep_support.hidden(out) == []

    first = tree(out, without=["resize.json"])
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}
    (out / "resize.jsonl").unlink()  # then every result is opened and compared
    assert counts() == {"done": 0, "kept": 7, "failed": 5}
    assert counts() == {"done": 0, "kept": 7, "failed": 5}
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")} == stamps
    truncate(out / "train/run/0.mp4", 0.6)
    shutil.copy(mixed / "train/run/0.mp4", out / "train/run/1.mp4")  # a video, but not of ours
    (out / "train/walk/old.mp4").unlink()
    assert counts() == {"done": 3, "kept": 4, "failed": 5}
    assert tree(out, without=["resize.json"]) == first  # byte for byte
    write_video(mixed / "train/run/0.mp4", num_frames=9, size=(64, 96))
    assert counts() == {"done": 1, "kept": 6, "failed": 5}
    with open_video(out / "train/run/0.mp4") as video:
        assert video.num_frames == 9
    assert counts("--crf", 30) == {"done": 7, "kept": 0, "failed": 5}


def test_lists_are_written_with_the_new_names(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    write_videos(data, count=1)
    write_video(data / "train/run/b.mkv")
    rows = [Row("train/run/b.mkv", "run", 0.0, 0.5), Row("train/walk/0.mp4", "walk"), Row("train/run/gone.mp4", "run")]
    write_rows(data / "train.csv", [*rows, rows[1]])
    (data / "classes.txt").write_text("run\nwalk\n")
    assert run("resize", data, out)[0] == 1
    assert not (out / "train/run/0.mp4").exists()  # no row
    index = find_split(out, "train", kind=VIDEOS)
    assert [str(sample.path.relative_to(out)) for sample in index] == [
        "train/run/b.mp4", "train/walk/0.mp4", "train/walk/0.mp4"
    ]  # fmt: skip
    assert index[0].end_seconds == 0.5


def test_an_output_in_the_data_set_and_wrong_numbers_are_refused(tmp_path):
    data = tmp_path / "data"
    write_videos(data, count=1)
    for out in (data, data / "inner"):
        code, _, err = run("resize", data, out)
        assert code == 2
        assert "folder outside" in err
    for words, message in {
        "--short-side 255": "must be even", "--crf 99": "0..51", "--preset wrong": "wrong",
        "--images --quality 0": "1..100", "--gop 0": "above 0", "--images": "no image files",
    }.items():  # fmt: skip
        code, _, err = run("resize", data, tmp_path / "out", *words.split())
        assert code == 2
        assert message in err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(tmp_path):
    write_videos(tmp_path / "data", count=1)
    code, text, _ = run("resize", tmp_path / "data", tmp_path / "out", "--dry-run")
    assert (code, text) == (0, "2 videos to resize to short side 256, 0 of them exist\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("images", [False, True])
def test_a_full_disk_is_one_line_and_the_next_run_goes_on(tmp_path, images):
    data, out, log = tmp_path / "data", tmp_path / "out", tmp_path / "log"
    if images:
        for number in range(3):
            noise = np.random.default_rng(number).integers(0, 255, (300, 300, 3), np.uint8)
            (data / "a").mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise).save(data / f"a/{number}.png")
    else:
        write_videos(data, size=(96, 128), num_frames=40, count=1)
    arguments = [data, out, "--workers", 1, *(["--images"] if images else [])]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731
    assert exit_code(start("resize", *arguments, before=limit, log=log)) == 1
    lines = [line for line in log.read_text().splitlines() if "error" in line]
    assert len(lines) == 1
    assert "File too large; the same command goes on from here" in lines[0]
    assert prep_support.hidden(out) == []
    assert run("resize", *arguments)[0] == 0


def test_images_are_scaled_turned_and_kept_if_small(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    big = write_image(data / "a/big.jpg", size=(120, 200))
    small = write_image(data / "a/small.jpeg", size=(20, 30))
    write_image(data / "a/grey.png", size=(120, 90))
    write_image(data / "a/big.png", size=(90, 90))
    turned = write_image(data / "a/turned.jpg", size=(100, 180))
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in (turned, small):
        with Image.open(path) as image:
            pixels = image.copy()
        pixels.save(path if path == turned else data / "a/small_turned.jpg", exif=exif, quality=95)
    truncate(big, 0.5, data / "a/cut.jpg")
    code, _, err = run("resize", data, out, "--images", "--short-side", 60, "--workers", 2)
    assert code == 1, err
    shapes = {path.name: read_image(path).shape[:2] for path in (out / "a").iterdir()}
    assert shapes == {
        "big.jpg": (60, 100), "small.jpeg": (20, 30), "grey.jpg": (80, 60), "big.png.jpg": (60, 60),
        "turned.jpg": (108, 60), "small_turned.jpg": (30, 20),
    }  # fmt: skip
    assert (out / "a/small.jpeg").read_bytes() == small.read_bytes()
    wanted = np.asarray(Image.fromarray(read_image(turned)).resize((60, 108), Image.Resampling.LANCZOS))
    assert np.abs(read_image(out / "a/turned.jpg").astype(int) - wanted).mean() < 3
    for name in ("turned.jpg", "small_turned.jpg"):
        with Image.open(out / "a" / name) as image:
            assert image.getexif().get(0x0112, 1) == 1
    before = {path: path.stat().st_mtime_ns for path in (out / "a").iterdir()}
    (out / "resize.jsonl").unlink()
    run("resize", data, out, "--images", "--short-side", 60)
    assert {path: path.stat().st_mtime_ns for path in (out / "a").iterdir()} == before


def test_names_at_the_limit_of_the_file_system(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    name = "ü" * 125 + ".mp4"
    write_video(data / "a.mp4").rename(data / name)
    assert run("resize", data, tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / name).is_file()


def test_a_result_that_lost_a_frame_never_gets_the_name(tmp_path, monkeypatch):
    real = transcode._scaled

    def without_last(*arguments, **options):
        *frames, _ = real(*arguments, **options)
        return iter(frames)

    monkeypatch.setattr(transcode, "_scaled", without_last)
    data, out = tmp_path / "data", tmp_path / "out"
    write_videos(data, count=1, classes=("run",))
    assert run("resize", data, out)[0] == 1
    assert list(out.rglob("*.mp4")) == []
    assert tool.PRESETS
