"""resize.py: every frame, at its time, upright, in the right size."""

import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from prep_support import hidden, read_json, run, stamps, tree, write_image, write_videos
from video_files import cut_start, damage, read_numbers, truncate, write_audio, write_two_sizes, write_video

from mvrec.data.listing.file_kinds import VIDEOS
from mvrec.data.listing.layouts import find_split
from mvrec.data.listing.lists import Row, write_rows
from mvrec.data.loading.images import read_image
from mvrec.data.video.containers import open_container
from mvrec.data.video.opening import open_video
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
    "odd.mp4": {"size": (75, 101), "pix_fmt": "yuv444p"},
    "varying.mp4": {"ticks": TICKS},
    "varying.mkv": {"ticks": TICKS},
    "mpeg4_b.avi": {"codec": "mpeg4"},
    "h264.flv": {},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "full_range.mp4": {"pix_fmt": "yuvj420p"},
    "ten_bits.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le"},
    "rgb.mp4": {"codec": "libx264rgb", "pix_fmt": "rgb24"},
    "ntsc.mp4": {"fps": Fraction(24000, 1001)},
    "open_gop.mp4": {"encoder_options": "open-gop=1:keyint=7"},
    "single.mp4": {"num_frames": 1},
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
        for time, expected in zip(shown_times(target), shown_times(source), strict=True):
            assert abs(time - expected) <= tick


def test_colours_stay(tmp_path):
    for name in ("plain.mp4", "full_range.mp4", "ten_bits.mp4", "rgb.mp4"):
        source = write_video(tmp_path / name, num_frames=12, size=(64, 96), **KINDS.get(name, {}))
        target, _ = resized(source, tmp_path, crf=1)
        with open_video(source) as before, open_video(target) as after:
            means = [video.frames([0, 9]).mean(axis=(1, 2)) for video in (before, after)]
        assert np.abs(means[0] - means[1]).max() < 2.5, name


def test_the_orientation_is_applied_once(tmp_path):
    for number, matrix in enumerate([(-1, 0, 0, -1), (0, 1, -1, 0), (-1, 0, 0, 1), (0, 1, 1, 0)]):
        source = write_video(tmp_path / f"{number}.mp4", num_frames=4, matrix=matrix, size=(64, 96))
        target, _ = resized(source, tmp_path, short_side=64, crf=5)
        with open_video(source) as before, open_video(target) as after:
            assert after.size == before.size == ((64, 96) if matrix[0] else (96, 64)), matrix
            assert np.abs(before.frames([3]).astype(int) - after.frames([3])).mean() < 3, matrix
        with av.open(str(target)) as container:
            assert not next(container.decode(video=0)).side_data.get("DISPLAYMATRIX")


def test_frames_of_another_size_are_scaled_and_hidden_or_wide_ones_stay_so(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", size=(72, 96), pixel_aspect=Fraction(16, 11))
    for source, size, numbers in (
        (write_two_sizes(tmp_path, "ts", sizes=((96, 120), (48, 64))), (48, 60), [*range(10), *range(10)]),
        (cut_start(whole, tmp_path / "cut.mp4", num_frames=5), (48, 64), list(range(5, 32))),
    ):
        target, facts = resized(source, tmp_path, short_side=48)
        with open_video(target) as video:
            assert (video.num_frames, video.size) == (facts["frames"], size)
            assert read_numbers(video.frames(range(video.num_frames))) == numbers
    with av.open(str(target)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(16, 11)


def test_sizes_keep_the_aspect_and_are_even():
    sizes = {
        **{(256, 340): (256, 340), (360, 640): (256, 456), (1920, 1080): (456, 256), (240, 320): (240, 320)},
        **{(101, 203): (100, 204), (2, 4000): (2, 4000), (257, 257): (256, 256), (1, 1): (2, 2)},
    }
    assert {size: Recipe(enlarge=False).size(*size) for size in sizes} == sizes
    assert Recipe(enlarge=True).size(240, 320) == (256, 342)


def longest_group(path):
    with av.open(str(path)) as container:
        marks = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    return max(np.diff([*np.flatnonzero(marks), len(marks)]))


def test_key_frames_are_dense_and_sound_is_gone(tmp_path):
    source = tmp_path / "data/a.mp4"
    source.parent.mkdir()
    assert longest_group(write_video(source, num_frames=100, gop=250, size=(64, 96), sound=True)) > 90
    for preset, most in (("fast", 16), ("fastdecode", 12)):
        path = tmp_path / preset / "a.mp4"
        assert run("resize", source.parent, path.parent, "--preset", preset, "--short-side", 32)[0] == 0
        assert longest_group(path) <= most
        with av.open(str(path)) as container:
            assert [stream.type for stream in container.streams] == ["video"]
        for setting in (b"cabac=0", b"deblock=0"):  # x264 writes its settings into the stream
            assert (setting in path.read_bytes()) == (preset == "fastdecode")


def write_mixed(root):
    write_videos(root, count=2, size=(64, 96))
    walk = root / "train/walk"
    shutil.copy(walk / "0.mp4", walk / "ünï ✓, 'x'.mp4")
    write_video(walk / "0.avi", codec="mpeg4", b_frames=0, size=(64, 96))
    write_video(walk / "old.mkv", size=(64, 96))
    truncate(walk / "0.mp4", 0.5, walk / "half.mp4")
    damage(shutil.copy(walk / "1.mp4", walk / "noise.mp4"), 0.2, 0.9)
    (walk / "empty.mp4").touch()
    (walk / "dead.mp4").symlink_to("nowhere")
    (walk / "folder.mp4").mkdir()
    (walk / "._0.mp4").write_text("junk")
    write_audio(walk / "song.mp4")
    write_image(walk / "picture.jpg")


def test_of_a_tree_good_files_are_kept_bad_ones_named_and_changed_ones_made_again(tmp_path):
    mixed, out = tmp_path / "data", tmp_path / "out"
    write_mixed(mixed)

    def text_after(*more, **counts):
        code, text, err = run("resize", mixed, out, "--short-side", 32, "--workers", 2, *more)
        assert code == 1, err
        assert read_json(out / "resize.json")["counts"] == {"done": 0, **counts, "failed": 5}
        assert hidden(out) == []
        return text

    assert "dead.mp4: is a broken link" in text_after(done=7, kept=0)
    assert {path.relative_to(out / "train").as_posix() for path in out.rglob("*.mp4")} == {
        *("run/0.mp4", "run/1.mp4", "walk/0.avi.mp4", "walk/0.mp4", "walk/1.mp4", "walk/old.mp4"),
        "walk/ünï ✓, 'x'.mp4",
    }
    failed = {Path(failure["path"]).name for failure in read_json(out / "resize.json")["failures"]}
    assert failed == {"half.mp4", "noise.mp4", "empty.mp4", "dead.mp4", "song.mp4"}

    first, before = tree(out, without=["resize.json"]), stamps(out / "train")
    (out / "resize.jsonl").unlink()  # then every result is opened and compared
    text_after(kept=7)
    text_after(kept=7)
    assert stamps(out / "train") == before
    truncate(out / "train/run/0.mp4", 0.6)
    shutil.copy(mixed / "train/run/0.mp4", out / "train/run/1.mp4")  # a video, but not of ours
    (out / "train/walk/old.mp4").unlink()
    text_after(done=3, kept=4)
    assert tree(out, without=["resize.json"]) == first  # byte for byte
    write_video(mixed / "train/run/0.mp4", num_frames=9, size=(64, 96))
    text_after(done=1, kept=6)
    with open_video(out / "train/run/0.mp4") as video:
        assert video.num_frames == 9
    text_after("--crf", 30, done=7, kept=0)


def test_lists_are_written_with_the_new_names_also_with_one_at_the_limit_of_the_file_system(tmp_path):
    data, out, long = tmp_path / "data", tmp_path / "out", "ü" * 125
    write_videos(data, count=1)
    write_video(data / "b.mkv").rename(data / f"train/run/{long}.mkv")
    rows = [Row(f"train/run/{long}.mkv", "run", 0.0, 0.5), Row("train/run/gone.mp4", "run")]
    write_rows(data / "train.csv", [*rows, *[Row("train/walk/0.mp4", "walk")] * 2])
    (data / "classes.txt").write_text("run\nwalk\n")
    assert run("resize", data, out)[0] == 1
    assert not (out / "train/run/0.mp4").exists()  # no row
    index = find_split(out, "train", kind=VIDEOS)
    names = [str(sample.path.relative_to(out / "train")) for sample in index]
    assert names == [f"run/{long}.mp4", "walk/0.mp4", "walk/0.mp4"]
    assert index[0].end_seconds == 0.5


def test_an_output_in_the_data_set_and_wrong_numbers_are_refused(tmp_path):
    data = tmp_path / "data"
    write_videos(data, count=1)
    for out in (data, data / "inner"):
        code, _, err = run("resize", data, out)
        assert code == 2
        assert "folder outside" in err
    for words, message in {
        **{"--short-side 255": "must be even", "--crf 99": "0..51", "--preset wrong": "wrong", "--gop 0": "above 0"},
        **{"--images --quality 0": "1..100", "--images": "no image files"},
    }.items():
        code, _, err = run("resize", data, tmp_path / "out", *words.split())
        assert code == 2
        assert message in err
    assert not (tmp_path / "out").exists()


def test_images_are_scaled_turned_and_kept_if_small(tmp_path):
    data, out = tmp_path / "data/a", tmp_path / "out"
    exif = Image.Exif()
    exif[0x0112] = 6
    big = write_image(data / "big.jpg", size=(120, 200))
    small = write_image(data / "small.jpeg", size=(20, 30))
    write_image(data / "grey.png", size=(120, 90))
    write_image(data / "big.png", size=(90, 90))
    turned = write_image(data / "turned.jpg", size=(100, 180), exif=exif, quality=95)
    write_image(data / "small_turned.jpg", size=(20, 30), exif=exif, quality=95)
    truncate(big, 0.5, data / "cut.jpg")
    code, _, err = run("resize", data.parent, out, "--images", "--short-side", 60, "--workers", 2)
    assert code == 1, err
    images = {path.name: read_image(path) for path in (out / "a").iterdir()}
    assert {name: image.shape[:2] for name, image in images.items()} == {
        **{"big.jpg": (60, 100), "small.jpeg": (20, 30), "grey.jpg": (80, 60), "big.png.jpg": (60, 60)},
        **{"turned.jpg": (108, 60), "small_turned.jpg": (30, 20)},
    }
    assert (out / "a/small.jpeg").read_bytes() == small.read_bytes()
    expected = np.asarray(Image.fromarray(read_image(turned)).resize((60, 108), Image.Resampling.LANCZOS))
    assert np.abs(images["turned.jpg"].astype(int) - expected).mean() < 3
    for name in ("turned.jpg", "small_turned.jpg"):
        with Image.open(out / "a" / name) as image:
            assert image.getexif().get(0x0112, 1) == 1
    before = stamps(out / "a")
    (out / "resize.jsonl").unlink()
    run("resize", data.parent, out, "--images", "--short-side", 60)
    assert stamps(out / "a") == before


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
