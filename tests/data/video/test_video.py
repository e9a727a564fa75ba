import os
import pickle
import re
import sys
import types
from pathlib import Path

import av
import pytest
import torch
from test_video_exact import OTHERS
from video_files import damage, read_numbers, truncate, write_audio

from mvrec.data.video import opening as opening_module
from mvrec.data.video.opening import describe_decoder, open_video
from mvrec.errors import DecodeError, UserError

DECODERS = ["auto", *OTHERS]


@pytest.mark.parametrize("decoder", DECODERS)
def test_indices_may_repeat_and_run_backwards_and_others_are_named(clip, decoder):
    with open_video(clip, decoder) as video:
        assert read_numbers(video.frames([9, 3, 9, 31, 0, 3])) == [9, 3, 9, 31, 0, 3]
        assert read_numbers(video.frames(torch.tensor([5, 4]))) == [5, 4]
        assert read_numbers(video.frames(range(31, 28, -1))) == [31, 30, 29]
        for indices in ([32], [-1], [0, 31, 99]):
            with pytest.raises(ValueError, match=r"0\.\.31 .*clip\.mp4, got \[(32|-1|99)\]"):
                video.frames(indices)
        for indices in ([], [0.5], [[0, 1]], [True], 3):
            with pytest.raises(ValueError, match="list of integers"):
                video.frames(indices)
    name = {"auto": "PyAV"}.get(decoder, decoder)
    assert re.fullmatch(rf"{decoder}: {name} \d+\.\d+[^\n]*", describe_decoder(decoder))


def test_a_path_with_colon_spaces_and_unicode_is_read(clip, tmp_path, monkeypatch):
    (tmp_path / "zoë is here").mkdir()
    monkeypatch.chdir(tmp_path / "zoë is here")
    clip.rename("http:é %03d.mp4")
    with open_video("http:é %03d.mp4") as video:
        assert read_numbers(video.frames([7])) == [7]


def cut_between_packets(path):
    with av.open(str(path)) as container:
        position = list(container.demux(video=0))[30].pos
    truncate(path, position / path.stat().st_size)


FASTSTART = {"num_frames": 60, "faststart": True}
BROKEN = {  # options of the video that is broken, if there is one, how, and the cause that is named
    "missing": (None, lambda path: None, "no such file"),
    "directory": (None, Path.mkdir, "is a directory"),
    "pipe": (None, os.mkfifo, "is not a regular file"),
    "dead link": (None, lambda path: path.symlink_to("nowhere.mp4"), "is a broken link"),
    "empty": (None, Path.touch, r"is empty \(0 bytes\)"),
    "text": (None, lambda path: path.write_text("no video at all\n" * 200), "no video, damaged or cut short"),
    "sound only": (None, write_audio, "it has no video stream"),
    "cut before its header": ({}, lambda path: truncate(path, 0.6), "no video, damaged or cut short"),
    "cut after its header": (FASTSTART, lambda path: truncate(path, 0.5), r"cut short: it ends with packet \d+ of 60"),
    "last bytes gone": (FASTSTART, lambda path: truncate(path, 0.99), "cut short: it ends with packet 60 of 60"),
    "cut between packets": (FASTSTART, cut_between_packets, "cut short: it ends with packet 30 of 60"),
    "noise": ({"num_frames": 14, "size": (64, 96)}, lambda path: damage(path, 0.2, 0.9), "damaged"),
    "absurd rate": ({"fps": 5000}, lambda path: None, "frame rate of 5000 per second is impossible"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_line_and_nothing_on_stderr(copied, tmp_path, capfd, case):
    path = tmp_path / "broken.mp4"
    options, break_file, cause = BROKEN[case]
    if options is not None:
        copied(path.name, **options)
    break_file(path)
    capfd.readouterr()  # what the encoder had to say
    with pytest.raises(DecodeError, match=cause) as caught:
        open_video(path)
    assert caught.value.path == str(path)
    assert str(caught.value) == f"{path}: {caught.value.cause}"
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission_is_refused(clip):
    clip.chmod(0)
    with pytest.raises(DecodeError, match="Permission denied"):
        open_video(clip)


@pytest.mark.parametrize("decoder", DECODERS)
def test_damage_between_frames_is_a_decode_error(copied, capfd, decoder):
    path = damage(copied("damaged.mp4", num_frames=120), 0.4, 0.7)
    capfd.readouterr()
    with open_video(path, decoder) as video, pytest.raises(DecodeError) as caught:
        video.frames(range(120))
    assert caught.value.path == str(path)
    assert "\n" not in caught.value.cause
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["h264.mkv", "vp9.webm", "h264.ts", "h264_b_frames.avi"])
def test_every_frame_that_a_cut_file_promises_can_be_read(copied, name):
    """Such containers do not state their length: the frames that are there count, and no more."""
    options = {"codec": "libvpx-vp9"} if name == "vp9.webm" else {"num_frames": 60}
    for fraction in (0.2, 0.5, 0.77, 0.98):
        try:
            video = open_video(truncate(copied(name, **options), fraction))
        except DecodeError:
            continue
        with video:
            numbers = read_numbers(video.frames(range(video.num_frames)))
        # Near the end one may be missing, if one shown after it was stored before it, or be only half there.
        assert numbers[:-4] == list(range(len(numbers) - 4)), fraction


def test_a_decoder_that_is_unknown_or_not_installed_is_refused(clip, monkeypatch):
    with pytest.raises(
        UserError, match="'opencv' is not one of auto, decord, pyav, torchcodec, or the class path of your own"
    ):
        open_video(clip, "opencv")
    monkeypatch.setattr(opening_module, "_is_installed", lambda package: False)
    for decoder in ("decord", "torchcodec"):
        with pytest.raises(UserError, match=f"{decoder} is not installed here: .*choose"):
            open_video(clip, decoder)
        assert describe_decoder(decoder) == f"{decoder}: not installed"


@pytest.mark.parametrize("decoders", [types.ModuleType("torchcodec.decoders"), None])
def test_torchcodec_that_finds_no_ffmpeg_or_does_not_import_is_one_line(clip, monkeypatch, decoders):
    package = types.ModuleType("torchcodec")
    package.ffmpeg_major_version, package.decoders = None, decoders
    monkeypatch.setitem(sys.modules, "torchcodec", package)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    monkeypatch.setattr(opening_module, "_is_installed", lambda package: True)
    with pytest.raises(UserError, match=r"^torchcodec does not load here: install FFmpeg [^\n]*$"):
        open_video(clip, "torchcodec")
    assert describe_decoder("torchcodec").startswith("torchcodec: torchcodec does not load here")


@pytest.mark.parametrize("decoder", DECODERS)
def test_closed_and_refused_files_leave_no_descriptor_thread_or_memory(clip, copied, decoder):
    broken = truncate(copied("broken.mp4", **FASTSTART), 0.5)

    def use(times):
        """Descriptors, threads and bytes after so many files."""
        for _ in range(times):
            with open_video(clip, decoder) as video:
                video.frames([3, 30])
            with pytest.raises(DecodeError):
                open_video(broken, decoder)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        counts = [len(list(Path("/proc/self", kind).iterdir())) for kind in ("fd", "task")]
        return *counts, pages * os.sysconf("SC_PAGE_SIZE")

    times = 80 if decoder == "auto" else 10
    (descriptors, threads, num_bytes), (later_descriptors, later_threads, later_bytes) = use(times // 4), use(times)
    assert later_descriptors <= descriptors
    assert later_threads <= threads
    if decoder == "auto":
        assert later_bytes - num_bytes < times * 9216  # bytes of one leaked picture


def test_decode_error_survives_pickling():
    assert issubclass(UserError, ValueError)
    error = DecodeError(Path("a b.mp4"), "cut\nshort")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is DecodeError
    assert (copy.path, copy.cause, str(copy)) == ("a b.mp4", "cut short", "a b.mp4: cut short")
