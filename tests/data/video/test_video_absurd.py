"""Files that promise what cannot be, or are not what they are called."""

import resource

import pytest
from test_video_exact import needs_decord
from video_files import in_archive, patch_box, read_numbers, truncate

from mvrec.data.video import frame_finder, mp4_tables
from mvrec.data.video import video as video_module
from mvrec.data.video.opening import open_video
from mvrec.errors import DecodeError

# Numbers in the boxes of an MP4: (box, offset, value)..., and what is said of it.
ABSURD = {
    "frames by sizes": ([(b"stsz", 8, 10**9)], "promises 1000000000 frames in"),
    "frames of one size": ([(b"stsz", 4, 50), (b"stsz", 8, 10**9)], "promises 1000000000 frames in"),
    "frames by durations": ([(b"stts", 8, 10**9)], "promises 1000000000 frames in"),
    "frames by offsets": ([(b"ctts", 8, 10**9)], "promises 10000000.. frames in"),
    "runs of durations": ([(b"stts", 4, 10**9)], "promises 1000000000 frames in"),
    "runs of offsets": ([(b"ctts", 4, 10**9)], "promises 1000000000 frames in"),
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


def test_absurd_numbers_on_which_nothing_depends_are_ignored(copied):
    for case, patches in HARMLESS.items():
        with open_video(patched(copied("clip.mp4"), patches)) as video:
            assert (video.num_frames, video.fps, video.size) == (32, 30, (48, 64)), case
            assert read_numbers(video.frames(range(32))) == list(range(32)), case


def test_more_frames_than_a_video_may_have_are_refused(encoded, monkeypatch):
    for module, suffix in ((mp4_tables, "mp4"), (frame_finder, "mkv")):  # by its tables, by its packets
        monkeypatch.setattr(module, "MAX_FRAMES", 31)
        with pytest.raises(DecodeError, match=r"more than the 31 (frames )?that a video may have"):
            open_video(encoded(suffix))


def test_frames_of_more_pixels_than_allowed_are_refused_also_where_the_header_denies_them(copied, monkeypatch):
    paths = [copied(f"large.{suffix}", num_frames=2, size=(144, 160)) for suffix in ("mp4", "mkv")]
    monkeypatch.setattr(video_module, "MAX_PIXELS", 144 * 160)
    for path in paths:
        with open_video(path) as video:
            assert video.frames([0]).shape == (1, 144, 160, 3)
    paths.append(patched(copied("denied.mp4", num_frames=2, size=(144, 160)), [(b"avc1", 24, 16 << 16 | 16)]))
    monkeypatch.setattr(video_module, "MAX_PIXELS", 144 * 159)
    for path in paths:
        with pytest.raises(DecodeError, match="frames of 160 x 144 are larger than the 22896 pixels that one may have"):
            open_video(path)


@pytest.mark.parametrize("decoder", ["auto", pytest.param("decord", marks=needs_decord)])
def test_more_frames_than_fit_into_memory_are_refused(clip, monkeypatch, decoder):
    monkeypatch.setattr(video_module, "MAX_GIB", 20 * 48 * 64 * 3 / 2**30)
    with open_video(clip, decoder) as video:
        assert len(video.frames(range(20))) == 20
        for indices in (range(32), [0] * 32):
            with pytest.raises(DecodeError, match=r"32 frames of 64 x 48 would take 0 GiB, more than .* may"):
                video.frames(indices)


def test_a_file_is_read_whatever_its_name_ends_with(clip):
    for name in ("clip.avi", "clip.mkv", "clip.jpg", "clip"):
        clip = clip.rename(clip.with_name(name))
        with open_video(clip) as video:
            assert read_numbers(video.frames([31, 3])) == [31, 3]


def test_a_broken_file_in_an_archive_or_a_broken_archive_is_named_with_both(clip, tmp_path):
    archive = tmp_path / "videos.tar"
    for break_file in (lambda path: truncate(path, 0.5), lambda path: path.write_text("no video")):
        break_file(clip)
        with pytest.raises(DecodeError, match=r"videos\.tar/clip\.mp4: no video, damaged or cut short") as caught:
            open_video(in_archive(clip, archive))
        assert caught.value.path == f"{archive}/clip.mp4"
    member = in_archive(clip, archive)
    truncate(archive, 0.1)
    with pytest.raises(DecodeError, match=r"videos\.tar/clip\.mp4: its archive ends after \d+ of its \d+ bytes"):
        open_video(member)
    archive.unlink()
    with pytest.raises(DecodeError, match=r"videos\.tar/clip\.mp4: its archive: No such file"):
        open_video(member)
