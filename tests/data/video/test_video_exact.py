"""Every decoder gives the frame that was asked for, by the number burnt into it, or refuses the kind of file."""

import contextlib
import importlib.util

import numpy as np
import pytest
from video_files import cut_start, in_archive, patch_box, read_numbers, write_video

from mvrec.data.video import frame_finder
from mvrec.data.video.opening import open_video
from mvrec.data.video.torchcodec import require_torchcodec
from mvrec.errors import DecodeError, UserError


def torchcodec_loads():
    with contextlib.suppress(UserError):
        require_torchcodec()
        return True
    return False


needs_decord = pytest.mark.skipif(importlib.util.find_spec("decord") is None, reason="decord has no wheels here")
needs_torchcodec = pytest.mark.skipif(not torchcodec_loads(), reason="torchcodec finds no FFmpeg here")
TORCHCODEC = pytest.param("torchcodec", marks=[pytest.mark.torchcodec, needs_torchcodec])
OTHERS = [pytest.param("decord", marks=needs_decord), TORCHCODEC]

# Files on which all decoders are exact, and equal bit for bit.
ORDINARY = {
    "b_frames.mp4": {"num_frames": 60},
    "no_b_frames.mp4": {"num_frames": 40, "b_frames": 0},
    "many_b_frames.mp4": {"num_frames": 60, "b_frames": 7, "gop": 40},
    "only_key_frames.mp4": {"b_frames": 0, "gop": 1},
    "one_group.mp4": {"num_frames": 120, "gop": 250},
    "1_fps.mp4": {"fps": 1},
    "odd_size.mp4": {"size": (63, 65), "pix_fmt": "yuv444p"},
    "one_frame.mp4": {"num_frames": 1},
    "faststart.mp4": {"faststart": True},
    "with_sound.mp4": {"num_frames": 60, "sound": True},
    "negative_offsets.mp4": {"num_frames": 60, "container_options": {"movflags": "negative_cts_offsets"}},
    "varying_rate.mp4": {"ticks": np.random.default_rng(0).integers(10, 60, 32).cumsum()},
    "late_start.mp4": {"ticks": 400 + 20 * np.arange(32)},
    "h264.mov": {"num_frames": 60},
    "full_range.mp4": {"pix_fmt": "yuvj420p"},
    "h264.mkv": {"num_frames": 60},
    "late_start.mkv": {"ticks": 400 + 20 * np.arange(32)},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "vp9_alpha.webm": {"codec": "libvpx-vp9", "pix_fmt": "yuva420p"},
    "closed_hevc.mp4": {"codec": "libx265", "size": (64, 96), "encoder_options": "open-gop=0:bframes=4"},
    "no_b_frames_mpeg4.mp4": {"codec": "mpeg4", "b_frames": 0},
}
# Files on which only PyAV is.
UNUSUAL = {
    "h264_b_frames.avi": {"num_frames": 60},
    "h264.avi": {"b_frames": 0},
    "mpeg4_b_frames.avi": {"codec": "mpeg4"},
    "h264.ts": {"num_frames": 60},
    "h264.flv": {"num_frames": 60},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "vp8.webm": {"codec": "libvpx"},
    "ten_bits.mp4": {"pix_fmt": "yuv420p10le"},
    "sixteen_bits.mkv": {"codec": "ffv1", "pix_fmt": "gbrp16le", "b_frames": 0},
    "alpha.mov": {"codec": "png", "pix_fmt": "rgba", "b_frames": 0},
    "odd_width_shared_colours.webm": {"codec": "libvpx-vp9", "size": (48, 67)},
    "odd_height_shared_colours.mkv": {"codec": "libvpx-vp9", "size": (49, 64)},
    "hevc.mp4": {"codec": "libx265", "size": (64, 96), "num_frames": 60},
    "fragments.mp4": {"num_frames": 60, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "mpeg4.mp4": {"codec": "mpeg4", "num_frames": 60},
    "open_gop.mp4": {"num_frames": 60, "encoder_options": "open-gop=1:keyint=7:min-keyint=7:bframes=3"},
    "refresh.mp4": {"num_frames": 60, "b_frames": 0, "encoder_options": "intra-refresh=1:keyint=12:scenecut=0"},
    "refresh.mkv": {"num_frames": 60, "encoder_options": "intra-refresh=1:keyint=12:scenecut=0:bframes=2:b-adapt=0"},
    "interlaced.mp4": {"encoder_options": "interlaced=1"},
}
FILES = {**ORDINARY, **UNUSUAL}


@pytest.fixture
def files(encoded):
    return lambda name: encoded(name.rpartition(".")[2], name=name, **FILES[name])


def check_frames(video, options):
    """All at once they show their numbers; in mixed order, and alone each time from somewhere else, they are equal."""
    assert (video.num_frames, video.size) == (options.get("num_frames", 32), options.get("size", (48, 64)))
    if "ticks" not in options:
        assert video.fps == pytest.approx(options.get("fps", 30), rel=1e-3)
    everything = video.frames(range(video.num_frames))
    assert (everything.shape, everything.dtype) == ((video.num_frames, *video.size, 3), np.uint8)
    assert read_numbers(everything) == list(range(video.num_frames))
    check_choice(video, everything)


def check_choice(video, everything):
    indices = np.random.default_rng(0).integers(0, len(everything), 40)
    np.testing.assert_array_equal(video.frames(indices), everything[indices])
    for index in indices[:8].tolist():
        np.testing.assert_array_equal(video.frames([index])[0], everything[index])


@pytest.mark.parametrize("name", FILES)
def test_auto_gives_the_frame_that_was_asked_for(files, name):
    with open_video(files(name)) as video:
        assert video.decoder == "pyav"
        check_frames(video, FILES[name])


@pytest.mark.parametrize("decoder", OTHERS)
@pytest.mark.parametrize("name", ORDINARY)
def test_other_decoders_give_the_frames_of_pyav_bit_for_bit(files, name, decoder):
    with open_video(files(name), decoder) as other, open_video(files(name), "pyav") as pyav:
        assert other.decoder == decoder
        assert (other.num_frames, other.fps, other.size) == (pyav.num_frames, pyav.fps, pyav.size)
        everything = pyav.frames(range(pyav.num_frames))
        np.testing.assert_array_equal(other.frames(range(pyav.num_frames)), everything)
        check_choice(other, everything)


@pytest.mark.parametrize("decoder", OTHERS)
def test_other_decoders_refuse_files_on_which_they_are_not_exact(files, decoder):
    cause = f"{decoder} is not exact on this kind of file: use the decoder auto or pyav"
    for name in UNUSUAL:
        with pytest.raises(DecodeError, match=f"{name}: {cause}"):
            open_video(files(name), decoder)


@pytest.mark.parametrize("first_use", [lambda video: video.size, lambda video: video.frames([9])])
def test_tables_that_packets_belie_are_forgotten(files, monkeypatch, first_use):
    real = frame_finder.read_mp4_tracks

    def wrong(source):
        ((number, track),) = real(source).items()
        stored = 512 * np.arange(60)
        shown = stored + track.offsets
        shown[[1, 2]] = shown[[2, 1]]
        track.offsets[:] = shown - stored
        return {number: track}

    monkeypatch.setattr(frame_finder, "read_mp4_tracks", wrong)
    with open_video(files("b_frames.mp4")) as video:
        assert video._finder.timing.is_listed
        first_use(video)
        assert read_numbers(video.frames(range(60))) == list(range(60))
        assert video._finder.timing.is_listed is False


def test_frames_outside_of_an_edit_list_do_not_count(files, tmp_path):
    cut = cut_start(files("no_b_frames.mp4"), tmp_path / "cut.mp4", num_frames=5)
    early_end = tmp_path / "early_end.mp4"
    early_end.write_bytes(patch_box(files("b_frames.mp4").read_bytes(), b"elst", 8, 1000))  # milliseconds
    for path, numbers in ((cut, range(5, 40)), (early_end, range(30))):
        with open_video(path) as video:
            assert video.num_frames == len(numbers)
            assert read_numbers(video.frames(range(video.num_frames))) == list(numbers)


@pytest.mark.parametrize("decoder", ["auto", *OTHERS])
@pytest.mark.parametrize("name", ["varying_rate.mp4", "late_start.mkv", "b_frames.mp4"])
def test_times_are_those_of_the_file(files, name, decoder):
    ticks = ORDINARY[name].get("ticks", 20 * np.arange(60))
    with open_video(files(name), decoder) as video:
        assert video.has_times
        np.testing.assert_allclose(video.times, (ticks - ticks[0]) / 600, atol=1.1e-3)
        assert video.times[-1] < video.duration < video.times[-1] + 0.2


def test_times_of_other_containers_are_those_of_the_rate(files):
    for name in ("vp8.webm", "h264.ts", "h264.flv", "h264_b_frames.avi", "fragments.mp4"):
        with open_video(files(name)) as video:
            assert video.has_times == (not name.endswith("avi"))
            np.testing.assert_allclose(video.times, np.arange(video.num_frames) / 30, atol=1.1e-3)
            assert video.duration == pytest.approx(video.num_frames / 30, abs=2e-3)


@pytest.mark.parametrize("decoder", ["auto", *OTHERS])
def test_a_file_in_an_archive_is_read_like_one_beside_it(files, tmp_path, decoder):
    unusual = ["h264_b_frames.avi", "fragments.mp4"] if decoder == "auto" else []
    for name in ("b_frames.mp4", "h264.mkv", *unusual):
        member = in_archive(files(name), tmp_path / "videos.tar")
        with open_video(files(name), decoder) as outside, open_video(member, decoder) as inside:
            assert (inside.path, inside.decoder) == (f"{tmp_path}/videos.tar/{name}", outside.decoder)
            assert (inside.num_frames, inside.fps, inside.size) == (outside.num_frames, outside.fps, outside.size)
            for indices in ([7, 30, 3], range(outside.num_frames)):
                np.testing.assert_array_equal(inside.frames(indices), outside.frames(indices))


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
def test_frames_of_any_encoder_settings_are_exact(tmp_path, seed):
    """Groups, B frames, references and sizes drawn at random."""
    rng = np.random.default_rng(seed)
    names, ends = ("ref", "b-pyramid", "b-adapt", "weightp", "open-gop", "slices"), (9, 3, 3, 3, 2, 4)
    options = {
        "num_frames": int(rng.integers(20, 80)),
        "gop": int(rng.integers(1, 50)),
        "b_frames": int(rng.integers(0, 9)),
        "size": (2 * int(rng.integers(20, 50)), 2 * int(rng.integers(30, 50))),
        "fps": int(rng.choice([10, 24, 25, 50])),
        "encoder_options": ":".join(f"{name}={rng.integers(end)}" for name, end in zip(names, ends, strict=True)),
        "sound": bool(rng.integers(2)),
    }
    path = write_video(tmp_path / f"clip.{rng.choice(['mp4', 'mov', 'mkv'])}", **options)
    with open_video(path) as video:
        check_frames(video, options)
