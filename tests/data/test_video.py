import importlib.util
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from video_files import (
    cut_start,
    damage,
    read_numbers,
    truncate,
    write_audio,
    write_video,
)

from mvrec.data import video as video_module
from mvrec.data.video import open_video
from mvrec.errors import DecodeError, UserError

HAS_DECORD = importlib.util.find_spec("decord") is not None
needs_decord = pytest.mark.skipif(not HAS_DECORD, reason="decord has no wheels for this machine")
DECODERS = [pytest.param("decord", marks=needs_decord), "pyav", "auto"]

# Files on which decord and PyAV are both exact.
ORDINARY = {
    "b_frames.mp4": {"num_frames": 60},
    "no_b_frames.mp4": {"num_frames": 40, "b_frames": 0},
    "many_b_frames.mp4": {"num_frames": 60, "b_frames": 7, "gop": 40},
    "one_group.mp4": {"num_frames": 300, "gop": 250},
    "15_fps.mp4": {"num_frames": 30, "fps": 15},
    "60_fps.mp4": {"num_frames": 90, "fps": 60},
    "odd_size.mp4": {"size": (63, 65), "pix_fmt": "yuv444p"},
    "one_frame.mp4": {"num_frames": 1},
    "three_frames.mp4": {"num_frames": 3},
    "faststart.mp4": {"faststart": True},
    "varying_rate.mp4": {"ticks": np.random.default_rng(0).integers(10, 60, 32).cumsum()},
    "late_start.mp4": {"ticks": 400 + 20 * np.arange(32)},
    "h264.mkv": {"num_frames": 60},
    "late_start.mkv": {"ticks": 400 + 20 * np.arange(32)},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "closed_hevc.mp4": {"codec": "libx265", "size": (64, 96), "encoder_options": "open-gop=0:bframes=4"},
    "no_b_frames_mpeg4.mp4": {"codec": "mpeg4", "b_frames": 0},
}
# Files on which only PyAV is.
UNUSUAL = {
    "h264_b_frames.avi": {"num_frames": 60},
    "h264.avi": {"b_frames": 0},
    "mpeg4_b_frames.avi": {"codec": "mpeg4"},
    "mpeg4.avi": {"codec": "mpeg4", "b_frames": 0},
    "h264.ts": {"num_frames": 60},
    "vp8.webm": {"codec": "libvpx"},
    "ten_bits.mp4": {"pix_fmt": "yuv420p10le"},
    "hevc.mp4": {"codec": "libx265", "size": (64, 96), "num_frames": 60},
    "mpeg4.mp4": {"codec": "mpeg4", "num_frames": 60},
    "open_gop.mp4": {"num_frames": 60, "encoder_options": "open-gop=1:keyint=7:min-keyint=7:bframes=3"},
    "interlaced.mp4": {"encoder_options": "interlaced=1"},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Writes each file of the tables above once, when it is first asked for."""
    folder = tmp_path_factory.mktemp("videos")

    def get(name):
        path = folder / name
        return path if path.exists() else write_video(path, **{**ORDINARY, **UNUSUAL}[name])

    return get


@pytest.fixture
def clip(tmp_path):
    return write_video(tmp_path / "clip.mp4")


def random_indices(num_frames, count=100):
    return np.random.default_rng(0).integers(0, num_frames, count)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ORDINARY)
def test_frame_asked_for_is_frame_given(files, name, decoder):
    kwargs = ORDINARY[name]
    with open_video(files(name), decoder) as video:
        assert video.num_frames == kwargs.get("num_frames", 32)
        assert video.size == kwargs.get("size", (48, 64))
        if "ticks" not in kwargs:
            assert video.fps == pytest.approx(kwargs.get("fps", 30), rel=1e-3)
        assert video.decoder == decoder or decoder == "auto"
        indices = random_indices(video.num_frames)
        frames = video.frames(indices)
        assert frames.shape == (len(indices), *video.size, 3)
        assert frames.dtype == np.uint8
        assert read_numbers(frames) == indices.tolist()
        for index in indices[:20]:  # one by one, each time from somewhere else
            assert read_numbers(video.frames([index])) == [index]


@needs_decord
@pytest.mark.parametrize("name", ORDINARY)
def test_decord_and_pyav_agree_bit_for_bit(files, name):
    with open_video(files(name), "decord") as decord, open_video(files(name), "pyav") as pyav:
        assert (decord.num_frames, decord.fps, decord.size) == (pyav.num_frames, pyav.fps, pyav.size)
        indices = random_indices(pyav.num_frames)
        np.testing.assert_array_equal(decord.frames(indices), pyav.frames(indices))


@needs_decord
def test_auto_is_decord_where_it_is_exact(clip):
    with open_video(clip) as video:
        assert video.decoder == "decord"


@pytest.mark.parametrize("name", UNUSUAL)
def test_auto_reads_exactly_what_decord_does_not(files, name):
    with open_video(files(name)) as video:
        assert video.decoder == "pyav"
        assert video.num_frames == UNUSUAL[name].get("num_frames", 32)
        indices = random_indices(video.num_frames)
        assert read_numbers(video.frames(indices)) == indices.tolist()
        for index in range(video.num_frames):
            assert read_numbers(video.frames([index])) == [index]


@needs_decord
def test_asking_for_decord_where_it_is_not_exact_is_refused(files):
    with pytest.raises(DecodeError, match="decord is not exact on this kind of file"):
        open_video(files("h264.ts"), "decord")


def test_frames_behind_an_edit_list_do_not_count(clip, tmp_path):
    cut = cut_start(clip, tmp_path / "cut.mp4", num_frames=5)
    with open_video(cut) as video:
        assert video.num_frames == 27
        assert read_numbers(video.frames(range(27))) == list(range(5, 32))


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (-90, 3), (180, 2)])
def test_rotation_is_applied(tmp_path, rotation, turns):
    turned = write_video(tmp_path / "turned.mp4", rotation=rotation)
    straight = write_video(tmp_path / "straight.mp4")
    with open_video(turned) as video, open_video(straight) as reference:
        expected = np.rot90(reference.frames([0, 20]), turns, axes=(1, 2))
        assert video.size == expected.shape[1:3]
        np.testing.assert_array_equal(video.frames([0, 20]), expected)


@pytest.mark.parametrize("decoder", DECODERS)
def test_indices_may_repeat_and_run_backwards(clip, decoder):
    with open_video(clip, decoder) as video:
        assert read_numbers(video.frames([9, 3, 9, 31, 0, 3])) == [9, 3, 9, 31, 0, 3]
        assert read_numbers(video.frames(torch.tensor([5, 4]))) == [5, 4]
        assert read_numbers(video.frames(range(31, 28, -1))) == [31, 30, 29]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("indices", [[32], [-1], [0, 31, 99]])
def test_index_out_of_range_is_named(clip, decoder, indices):
    with (
        open_video(clip, decoder) as video,
        pytest.raises(ValueError, match=r"0\.\.31 .*clip\.mp4, got \[(32|-1|99)\]"),
    ):
        video.frames(indices)


@pytest.mark.parametrize("indices", [[], [0.5], [[0, 1]], [True], 3])
def test_indices_must_be_a_list_of_integers(clip, indices):
    with open_video(clip) as video, pytest.raises(ValueError, match="list of integers"):
        video.frames(indices)


def test_path_with_colon_spaces_and_unicode(tmp_path, monkeypatch):
    (tmp_path / "zoë is here").mkdir()
    monkeypatch.chdir(tmp_path / "zoë is here")
    write_video(tmp_path / "plain.mp4").rename("http:é %03d.mp4")
    with open_video("http:é %03d.mp4") as video:
        assert read_numbers(video.frames([7])) == [7]


def _missing(path):
    pass


def _dead_link(path):
    path.symlink_to(path.parent / "nowhere.mp4")


def _header_only(path):
    truncate(write_video(path), 0.01)


def _cut_between_packets(path):
    import av

    write_video(path, num_frames=60, faststart=True)
    with av.open(str(path)) as container:
        position = list(container.demux(video=0))[30].pos
    truncate(path, position / path.stat().st_size)


BROKEN = {
    "missing": (_missing, "no such file"),
    "directory": (Path.mkdir, "is a directory"),
    "pipe": (os.mkfifo, "is not a regular file"),
    "dead link": (_dead_link, "is a link to a file that is not there"),
    "empty": (Path.touch, r"is empty \(0 bytes\)"),
    "text": (lambda path: path.write_text("no video at all\n" * 200), "no video, damaged or cut short"),
    "header only": (_header_only, "no video, damaged or cut short"),
    "cut before its header": (
        lambda path: truncate(write_video(path), 0.6),
        "no video, damaged or cut short",
    ),
    "cut after its header": (
        lambda path: truncate(write_video(path, num_frames=60, faststart=True), 0.5),
        r"cut short: it ends with packet \d+ of 60",
    ),
    "last bytes gone": (
        lambda path: truncate(write_video(path, faststart=True), 0.99),
        "cut short: it ends with packet 32 of 32",
    ),
    "cut between packets": (_cut_between_packets, "cut short: it ends with packet 30 of 60"),
    "sound only": (write_audio, "there is no video in it"),
    "absurd rate": (lambda path: write_video(path, fps=5000), "frame rate of 5000 per second cannot be"),
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("case", BROKEN)
def test_broken_file_is_one_quick_line(tmp_path, capfd, case, decoder):
    break_file, cause = BROKEN[case]
    path = tmp_path / "broken.mp4"
    break_file(path)
    capfd.readouterr()  # what the encoder had to say
    start = time.monotonic()
    with pytest.raises(DecodeError, match=cause) as caught:
        open_video(path, decoder)
    assert time.monotonic() - start < 2
    assert caught.value.path == str(path)
    assert str(caught.value) == f"{path}: {caught.value.cause}"
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_file(clip):
    clip.chmod(0)
    with pytest.raises(DecodeError, match="Permission denied"):
        open_video(clip)


@pytest.mark.parametrize("decoder", DECODERS)
def test_damage_inside_is_a_decode_error(tmp_path, capfd, decoder):
    path = damage(write_video(tmp_path / "damaged.mp4", num_frames=120), 0.4, 0.7)
    capfd.readouterr()
    start = time.monotonic()
    with open_video(path, decoder) as video, pytest.raises(DecodeError) as caught:
        video.frames(range(120))
    assert time.monotonic() - start < 2
    assert caught.value.path == str(path)
    assert "\n" not in caught.value.cause
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.77, 0.98])
@pytest.mark.parametrize("name", ["h264.mkv", "vp9.webm", "vp8.webm", "h264.ts", "mpeg4.avi", "h264_b_frames.avi"])
def test_what_is_promised_of_a_cut_file_can_be_read(files, tmp_path, name, fraction):
    """These containers do not say how much there should be: what is there counts, and no frame more."""
    path = truncate(files(name), fraction, tmp_path / name)
    try:
        video = open_video(path)
    except DecodeError:
        return
    with video:
        numbers = read_numbers(video.frames(range(video.num_frames)))
    # Near the end one may be missing, if one shown after it was stored before it, or be only half there.
    assert numbers[:-4] == list(range(len(numbers) - 4))


def test_works_without_decord(clip, monkeypatch):
    monkeypatch.setattr(video_module, "_has_decord", lambda: False)
    with open_video(clip) as video:
        assert video.decoder == "pyav"
    with pytest.raises(UserError, match="decord is not installed"):
        open_video(clip, "decord")


def test_unknown_decoder(clip):
    with pytest.raises(UserError, match="must be auto, decord or pyav, got 'opencv'"):
        open_video(clip, "opencv")


@pytest.mark.parametrize("decoder", DECODERS)
def test_files_and_threads_are_given_back(clip, tmp_path, decoder):
    def held():
        return [len(list(Path("/proc/self", kind).iterdir())) for kind in ("fd", "task")]

    broken = truncate(write_video(tmp_path / "broken.mp4", faststart=True), 0.5)

    def use():
        with open_video(clip, decoder) as video:
            video.frames([3, 30])
        with pytest.raises(DecodeError):
            open_video(broken, decoder)

    use()
    before = held()
    for _ in range(20):
        use()
    assert held() == before


def test_memory_stays_level(clip):
    def resident_mb():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def use(times):
        for _ in range(times):
            with open_video(clip) as video:
                video.frames([0, 31])

    use(50)
    before = resident_mb()
    use(200)
    assert resident_mb() - before < 1.5  # 8 KB for each open; a leaked picture alone is 9


def test_importing_loads_no_decoder():
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('video', {video_module.__file__!r})\n"
        "module = sys.modules['video'] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print(sorted({'av', 'decord', 'torch'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_decode_error_survives_pickling():
    error = DecodeError(Path("a b.mp4"), "cut\nshort")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is DecodeError
    assert (copy.path, copy.cause, str(copy)) == ("a b.mp4", "cut short", "a b.mp4: cut short")


def test_user_error_is_a_value_error():
    assert issubclass(UserError, ValueError)
