"""Clips around key frames: which frames, and boxes that follow the pixels."""

import numpy as np
import pytest
import torch
from PIL import Image
from video_files import numbered_frame, read_numbers, write_video

from mvrec.data.listing.index import Sample
from mvrec.data.loading.frames.folders import open_frames
from mvrec.data.loading.key_frames import key_frame_clip, key_frame_view
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.protocol import KeyFrameProtocol
from mvrec.data.views.timeline import timeline
from mvrec.errors import DecodeError


def clip_of(seconds, *, frames=300, fps=30.0, num_frames=8, stride=4, target_fps=30.0, times=None):
    times = np.arange(frames) / fps if times is None else times
    spec = ClipSpec(num_frames=num_frames, stride_frames=stride, target_fps=target_fps)
    line = timeline(times, fps=fps, seconds=float(times[-1]) + 1 / fps)
    return key_frame_clip(Sample("a.mp4", 0, seconds), line, spec).tolist()


def test_the_key_frame_is_in_the_middle_and_frames_are_as_slowfasts():
    """SlowFast: range(centre - T * s // 2, centre + T * s // 2, s)."""
    assert clip_of(5.0) == list(range(150 - 16, 150 + 16, 4))
    assert clip_of(5.0, num_frames=7, stride=3) == [150 + 3 * step for step in range(-3, 4)]
    assert clip_of(5.0, num_frames=1) == [150]


def test_ends_repeat_the_first_and_the_last_frame():
    assert clip_of(0.0, num_frames=8, stride=2) == [0, 0, 0, 0, 0, 2, 4, 6]
    assert clip_of(10.0, num_frames=8, stride=2) == [291, 293, 295, 297, 299, 299, 299, 299]


def test_strides_are_times_whatever_the_rate():
    assert clip_of(2.0, fps=60.0, stride=2) == list(range(120 - 16, 120 + 16, 4))
    assert clip_of(2.0, fps=60.0, stride=2, target_fps=None) == list(range(120 - 8, 120 + 8, 2))
    ntsc = 30000 / 1001
    assert clip_of(150 / ntsc, fps=ntsc) == list(range(150 - 16, 150 + 16, 4))


def test_a_video_of_variable_rate_shows_the_frames_of_these_times():
    times = np.cumsum(np.random.default_rng(0).choice([0.01, 0.05, 0.2], 200))
    times -= times[0]
    seconds = float(times[100])
    numbers = clip_of(seconds, times=times, num_frames=8, stride=4)
    assert numbers[4] == 100
    expected = [max(np.flatnonzero(times <= seconds + step * 4 / 30 + 1e-6)) for step in range(-4, 4)]
    assert numbers == expected
    every = clip_of(seconds, times=times, num_frames=8, stride=4, target_fps=None)
    assert every == list(range(100 - 16, 100 + 16, 4))


def test_a_key_frame_behind_the_end_is_named():
    with pytest.raises(DecodeError, match=r"the key frame at 902 s lies behind its end at 10.00 s"):
        clip_of(902.0)


@pytest.mark.parametrize("pixels", ["centre", "full"])
def test_the_view_of_a_file_has_these_frames(tmp_path, pixels):
    path = write_video(tmp_path / "a.mp4", num_frames=40, size=(96, 160))
    protocol = KeyFrameProtocol(clip=ClipSpec(num_frames=4, stride_frames=3), size=96, pixels=pixels)
    views = key_frame_view(Sample(path, 0, 20 / 30), protocol)
    assert views.pixels.dtype == torch.uint8
    shape = (96, 96) if pixels == "centre" else (96, 160)
    assert tuple(views.pixels.shape) == (1, 4, 3, *shape)
    if pixels == "full":
        frames = views.pixels[0].permute(0, 2, 3, 1).numpy()
        assert read_numbers(frames) == [14, 17, 20, 23]
        reverse = KeyFrameProtocol(clip=protocol.clip, size=96, pixels="full", frame_order="reversed")
        frames = key_frame_view(Sample(path, 0, 20 / 30), reverse).pixels[0].permute(0, 2, 3, 1).numpy()
        assert read_numbers(frames) == [23, 20, 17, 14]


@pytest.mark.parametrize("names", ["{:03d}.png", "x{{1}}_{:04d}.png", "{}.png", "mixed"])
def test_frames_in_a_folder_are_found_by_the_last_number_of_their_names(tmp_path, names):
    numbers = [3, 4, 5, 7, 8, 9, 10, 11]
    for number in numbers:
        form = ("{:03d}.png", "{:05d}.png")[number % 2] if names == "mixed" else names
        Image.fromarray(numbered_frame(number, (48, 64))).save(tmp_path / form.format(number))
    (tmp_path / "readme.txt").touch()
    (tmp_path / "cover.png").touch()
    with open_frames(tmp_path, fps=10) as video:
        assert (video.num_frames, video.fps, video.size, video.duration) == (9, 10, (48, 64), pytest.approx(0.9))
        assert read_numbers(video.frames([0, 3, 4, 8, 2])) == [3, 5, 7, 11, 5]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DecodeError, match="has no images with numbers"):
        open_frames(tmp_path / "empty")
