import itertools
import math
import random
import warnings

import pytest

from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.sampling import Window, clip_starts, frame_indices, frame_window, random_start


def test_the_span_of_a_clip_follows_the_target_rate():
    for target_fps, fps, span in (
        (30.0, 15, 32),
        (30.0, 60, 128),
        (15.0, 30, 128),
        (None, 60, 64),
        (30.0, 29.97, 63.936),
    ):
        assert ClipSpec(16, 4, target_fps).span(fps) == pytest.approx(span)
    for values in ({"num_frames": 0}, {"stride_frames": 0}, {"target_fps": 0.0}, {"target_fps": -1.0}):
        with pytest.raises(ValueError, match=f"got {next(iter(values.values())):g}"):
            ClipSpec(**values)


def slowfast_indices(num_video_frames, start, span, num_samples):
    """SlowFast: a linspace from the first to the last frame of the clip, kept inside the video, cut to integers."""
    end = start + span - 1
    step = (end - start) / (num_samples - 1) if num_samples > 1 else 0
    return [int(min(max(start + number * step, 0), num_video_frames - 1)) for number in range(num_samples)]


@pytest.mark.parametrize(("num_frames", "stride"), [(1, 1), (4, 1), (16, 4), (32, 3), (8, 8)])
def test_frames_are_those_of_slowfast(num_frames, stride):
    spec = ClipSpec(num_frames, stride)
    for fps, num_video_frames in itertools.product((15, 24, 30, 60), (1, 5, 63, 64, 65, 300)):
        span, window = spec.span(fps), Window(0, num_video_frames)
        for seed in range(10):
            start = random_start(window, span, random.Random(seed))
            expected = slowfast_indices(num_video_frames, start, span, num_frames)
            assert frame_indices(start, span, window, spec).tolist() == expected, (fps, num_video_frames)
    assert frame_indices(math.pi, 16, Window(0, 100), ClipSpec(1, 16)).tolist() == [3]


@pytest.mark.parametrize("first", [0, 7])
def test_short_videos_repeat_their_last_frame_loop_or_are_errors(first):
    for length, policy, expected in (
        (1, "repeat_last", [0] * 8),
        (1, "loop", [0] * 8),
        (5, "repeat_last", [0, 1, 2, 3, 4, 4, 4, 4]),
        (5, "loop", [0, 1, 2, 3, 4, 0, 1, 2]),
        (8, "error", [0, 1, 2, 3, 4, 5, 6, 7]),
    ):
        window = Window(first, length)
        start = random_start(window, 8, random.Random(0))
        assert start == first
        indices = frame_indices(start, 8, window, ClipSpec(8, 1, short_video=policy))
        assert indices.tolist() == [first + number for number in expected], (length, policy)
    with pytest.raises(ValueError, match="a clip of 8 frames does not fit in 7 frames"):
        frame_indices(first, 8, Window(first, 7), ClipSpec(8, 1, short_video="error"))


def test_spread_starts_reach_from_the_first_to_the_last_frame():
    for window, num_clips, expected in (
        (Window(0, 300), 5, [0, 59, 118, 177, 236]),
        (Window(0, 303), 1, [119]),  # the middle of 239, rounded down
        (Window(0, 303), 5, [0, 59, 118, 177, 236]),  # room 239: steps are rounded down
        (Window(50, 300), 5, [50, 109, 168, 227, 286]),
        (Window(0, 64), 3, [0, 0, 0]),
        (Window(10, 20), 1, [10]),
    ):
        assert list(clip_starts(window, 64, num_clips=num_clips, positions="spread", fps=30)) == expected


def test_a_span_of_seconds_becomes_a_window_of_frames():
    for span, expected in (
        ((None, None), Window(0, 300)),
        ((2.0, None), Window(60, 240)),
        ((0.51, 0.99), Window(15, 15)),
        ((8.0, 99.0), Window(240, 60)),
        ((99.0, 100.0), Window(299, 1)),
        ((1.0, 1.001), Window(30, 1)),
    ):
        assert frame_window(300, 30.0, *span) == expected
    assert frame_window(1, 25.0, 3.0, 4.0) == Window(0, 1)


def pytorchvideo_sampler(*args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorchvideo.data.clip_sampling import make_clip_sampler
    return make_clip_sampler(*args)


@pytest.mark.parametrize(("length", "fps"), [(300, 30.0), (301, 25.0), (250, 29.97), (64, 30.0), (10, 30.0)])
def test_constant_clips_and_random_starts_are_those_of_pytorchvideo(length, fps):
    span = ClipSpec().span(fps)
    for num_clips in (1, 2, 5, 10):
        sampler = pytorchvideo_sampler("constant_clips_per_video", span / fps, num_clips)
        clips = [sampler(0.0, length / fps, {}) for _ in range(num_clips)]
        assert clips[-1].is_last_clip
        expected = [7 + float(clip.clip_start_sec) * fps for clip in clips]
        starts = clip_starts(
            Window(7, length), span, num_clips=num_clips, positions="constant_clips_per_video", fps=fps
        )
        assert list(starts) == pytest.approx(expected)
    sampler = pytorchvideo_sampler("random", span / fps)
    for seed in range(20):  # the same random number, from a uniform distribution over the room that is left
        random.seed(seed)
        start = 7 + float(sampler(0.0, length / fps, {}).clip_start_sec) * fps
        assert random_start(Window(7, length), span, random.Random(seed)) == pytest.approx(start)
