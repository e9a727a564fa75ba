"""Files that promise what cannot be, or are not what they are called."""

import resource

import numpy as np
import pytest
from video_files import in_archive, patch_box, read_numbers, truncate, write_audio

from mvrec.data.video import frame_finder, mp4_tables
from mvrec.data.video import video as video_module
from mvrec.data.video.mp4_tables import read_mp4_tracks
from mvrec.data.video.opening import open_video
from mvrec.data.video.video import Source
from mvrec.errors import DecodeError

# Numbers in the boxes of an MP4: (box, offset, value)..., and what is said of it.
ABSURD = {
    "frames by sizes": ([(b"stsz", 8, 10**9)], "promises 1000000000 frames in"),
    "frames of one size": ([(b"stsz", 4, 50), (b"stsz", 8, 10**9)], "promises 1000000000 frames in"),
    "frames by durations": ([(b"stts", 8, 10**9)], "promises 1000000000 frames in"),
    "frames by offsets": ([(b"ctts", 8, 10**9)], "promises 10000000.. frames in"),
    "runs of durations": ([(b"stts", 4, 10**9)], "promises 1000000000 frames in"),
    "runs of offsets": ([(b"ctts", 4, 10**9)], "promises 1000000000 frames in"),
    "all of them": (
        [(b"stsz", 4, 1), (b"stsz", 8, 10**9), (b"stts", 8, 10**9), (b"stsc", 12, 10**9)],
        "promises 1000000000 frames in",
    ),
    "no time scale": ([(b"mdhd", 12, 0)], "its time scale is 0: its frames have no times"),
    "endless frames": ([(b"stts", 12, 2**31 - 1)], r"frame rate of 7\.15256e-06 per second is impossible"),
    "frames too fast": ([(b"mdhd", 12, 2**31 - 1)], r"frame rate of .* per second is impossible"),
}
# Numbers that nothing depends on.
HARMLESS = {
    "time scale of the film": [(b"mvhd", 12, 0)],
    "duration of the film": [(b"mvhd", 16, 2**32 - 1)],
    "duration of the track": [(b"mdhd", 16, 2**32 - 1)],
    "size of the track": [(b"tkhd", 76, 0x7FFF0000), (b"tkhd", 80, 0x7FFF0000)],
    "size of the pictures": [(b"avc1", 24, 2**32 - 1)],
}


def patched(path, patches):
    data = path.read_bytes()
    for patch in patches:
        data = patch_box(data, *patch)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("case", ABSURD)
def test_absurd_numbers_are_refused_before_they_cost_memory(clip, case):
    patches, cause = ABSURD[case]
    patched(clip, patches)
    for path in (clip, in_archive(clip)):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(DecodeError, match=cause) as caught:
            open_video(path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KB
        assert caught.value.path == str(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", HARMLESS)
def test_absurd_numbers_on_which_nothing_depends_are_ignored(clip, case):
    with open_video(patched(clip, HARMLESS[case])) as video:
        assert (video.num_frames, video.fps, video.size) == (32, 30, (48, 64))
        assert read_numbers(video.frames(range(32))) == list(range(32))


def test_more_frames_than_a_video_may_have_are_refused(clip, monkeypatch):
    monkeypatch.setattr(mp4_tables, "MAX_FRAMES", 31)
    with pytest.raises(DecodeError, match="promises 32 frames, more than the 31 that a video may have"):
        open_video(clip)


def test_more_packets_than_a_video_may_have_are_refused(encoded, monkeypatch):
    monkeypatch.setattr(frame_finder, "MAX_FRAMES", 31)
    with pytest.raises(DecodeError, match="more than the 31 frames that a video may have"):
        open_video(encoded("mkv"))


LARGE = {"num_frames": 2, "size": (144, 160)}


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_of_more_pixels_than_allowed_are_refused(encoded, monkeypatch, suffix):
    path = encoded(suffix, **LARGE)
    monkeypatch.setattr(video_module, "MAX_PIXELS", 144 * 160)
    with open_video(path) as video:
        assert video.frames([0]).shape == (1, 144, 160, 3)
    monkeypatch.setattr(video_module, "MAX_PIXELS", 144 * 159)
    with pytest.raises(DecodeError, match="frames of 160 x 144 are larger than the 22896 pixels that one may have"):
        open_video(path)


def test_frames_of_more_pixels_than_the_header_says_are_refused(copied, monkeypatch):
    path = patched(copied("large.mp4", **LARGE), [(b"avc1", 24, 16 << 16 | 16)])
    monkeypatch.setattr(video_module, "MAX_PIXELS", 5000)
    with pytest.raises(DecodeError, match="frames of 160 x 144 are larger than the 5000 pixels that one may have"):
        open_video(path)


@pytest.mark.parametrize("indices", [range(32), [0] * 32])
@pytest.mark.parametrize("decoder", ["auto", "decord"])
def test_more_frames_than_fit_into_memory_are_refused(clip, monkeypatch, decoder, indices):
    if decoder == "decord":
        pytest.importorskip("decord")
    monkeypatch.setattr(video_module, "MAX_GIB", 20 * 48 * 64 * 3 / 2**30)
    with open_video(clip, decoder) as video:
        assert len(video.frames(range(20))) == 20
        with pytest.raises(DecodeError, match=r"32 frames of 64 x 48 would take 0 GiB, more than the .* one read may"):
            video.frames(indices)


def test_a_file_is_read_whatever_its_name_ends_with(clip):
    for name in ("clip.avi", "clip.mkv", "clip.jpg", "clip"):
        clip = clip.rename(clip.with_name(name))
        with open_video(clip) as video:
            assert read_numbers(video.frames([31, 3])) == [31, 3]


@pytest.mark.parametrize("break_file", [lambda path: truncate(path, 0.5), lambda path: path.write_text("no video")])
def test_a_broken_file_in_an_archive_is_named_with_its_archive(clip, tmp_path, break_file):
    break_file(clip)
    member = in_archive(clip, tmp_path / "videos.tar")
    with pytest.raises(DecodeError, match=r"videos\.tar/clip\.mp4: no video, damaged or cut short") as caught:
        open_video(member)
    assert caught.value.path == f"{tmp_path}/videos.tar/clip.mp4"


def test_a_cut_or_missing_archive_is_named(clip, tmp_path):
    member = in_archive(clip, tmp_path / "videos.tar")
    truncate(member.archive, 0.2)
    with pytest.raises(DecodeError, match=r"videos\.tar/clip\.mp4: its archive ends after \d+ of its \d+ bytes"):
        open_video(member)
    member.archive.unlink()
    with pytest.raises(DecodeError, match=r"videos\.tar/clip\.mp4: its archive: No such file"):
        open_video(member)


def test_tables_of_a_video_track_say_which_frames_it_has(encoded):
    tracks = read_mp4_tracks(Source(str(encoded("mp4", sound=True))))
    assert list(tracks) == [2]  # behind the sound
    assert tracks[2].num_edits == 1
    offsets = tracks[2].offsets
    assert len(offsets) == 32
    assert (offsets % 512 == 0).all()
    # What is shown, in the order in which it is stored, is every frame once.
    assert sorted(np.arange(32) + offsets // 512) == list(range(2, 34))


@pytest.mark.parametrize("data", [b"", b"\0" * 64, b"\0\0\0\x08moov", b"\0\0\0\1ftyp" + b"\xff" * 8, b"RIFF" * 40])
def test_what_is_no_mp4_has_no_tables(data):
    assert read_mp4_tracks(Source("clip.mp4", data)) == {}


def test_sound_has_no_video_track(tmp_path):
    assert read_mp4_tracks(Source(str(write_audio(tmp_path / "sound.mp4")))) == {}


def test_tables_that_end_early_are_left_to_ffmpeg(clip):
    data = clip.read_bytes()
    place = data.index(b"ctts") - 4
    shorter = data[:place] + (16).to_bytes(4) + data[place + 4 : place + 16]
    assert read_mp4_tracks(Source("clip.mp4", patch_box(shorter, b"ctts", 4, 5)[: len(data)])) == {}
