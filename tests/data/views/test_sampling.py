import math
import random
import sys
import warnings

import numpy as np
import pytest

from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.sampling import Window, clip_starts, frame_indices, frame_window, random_start, spread_starts


@pytest.mark.parametrize(
    ("target_fps", "fps", "span"),
    [(30.0, 15, 32), (30.0, 30, 64), (30.0, 60, 128), (15.0, 30, 128), (None, 60, 64), (30.0, 29.97, 63.936)],
)
def test_the_span_of_a_clip_follows_the_target_rate(target_fps, fps, span):
    assert ClipSpec(16, 4, target_fps).span(fps) == pytest.approx(span)


@pytest.mark.parametrize("values", [{"num_frames": 0}, {"stride_frames": 0}, {"target_fps": 0.0}, {"target_fps": -1.0}])
def test_impossible_clips_are_refused(values):
    with pytest.raises(ValueError, match=f"got {next(iter(values.values())):g}"):
        ClipSpec(**values)


def slowfast_indices(num_video_frames, start, span, num_samples):
    """SlowFast: a linspace from the first to the last frame of the clip, kept inside the video, cut to integers."""
    end = start + span - 1
    step = (end - start) / (num_samples - 1) if num_samples > 1 else 0
    return [int(min(max(start + number * step, 0), num_video_frames - 1)) for number in range(num_samples)]


@pytest.mark.parametrize("fps", [15, 24, 30, 50, 60])
@pytest.mark.parametrize("num_video_frames", [1, 5, 63, 64, 65, 300])
@pytest.mark.parametrize(("num_frames", "stride"), [(1, 1), (4, 1), (16, 4), (32, 3), (8, 8)])
def test_frames_are_those_of_slowfast(fps, num_video_frames, num_frames, stride):
    spec, window = ClipSpec(num_frames, stride), Window(0, num_video_frames)
    span = spec.span(fps)
    for seed in range(10):
        start = random_start(window, span, random.Random(seed))
        found = frame_indices(start, span, window, spec).tolist()
        assert found == slowfast_indices(num_video_frames, start, span, num_frames)


@pytest.mark.parametrize(
    ("length", "policy", "expected"),
    [
        (1, "repeat_last", [0] * 8),
        (1, "loop", [0] * 8),
        (5, "repeat_last", [0, 1, 2, 3, 4, 4, 4, 4]),
        (5, "loop", [0, 1, 2, 3, 4, 0, 1, 2]),
        (8, "error", [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
@pytest.mark.parametrize("first", [0, 7])
def test_short_videos_repeat_their_last_frame_or_loop(length, policy, expected, first):
    spec, window = ClipSpec(8, 1, short_video=policy), Window(first, length)
    start = random_start(window, 8, random.Random(0))
    assert start == first
    assert frame_indices(start, 8, window, spec).tolist() == [first + number for number in expected]


@pytest.mark.parametrize("length", [1, 5, 7])
def test_short_videos_can_be_errors(length):
    with pytest.raises(ValueError, match=f"a clip of 8 frames does not fit in {length} frames"):
        frame_indices(0.0, 8, Window(0, length), ClipSpec(8, 1, short_video="error"))


def test_random_starts_fill_the_window_and_stay_inside():
    rng, window = random.Random(1), Window(20, 100)
    starts = np.array([random_start(window, 64, rng) for _ in range(2000)])
    assert starts.min() >= 20
    assert starts.max() <= 56
    assert np.histogram(starts, bins=4, range=(20, 56))[0].min() > 400  # of 500 expected
    chosen = np.stack([frame_indices(start, 64, window, ClipSpec()).numpy() for start in starts])
    assert chosen.min() == 20
    assert chosen.max() <= 119


@pytest.mark.parametrize(
    ("window", "span", "num_clips", "expected"),
    [
        (Window(0, 300), 64, 1, [118]),
        (Window(0, 300), 64, 5, [0, 59, 118, 177, 236]),
        (Window(0, 303), 64, 1, [119]),  # the middle of 239, rounded down
        (Window(0, 303), 64, 5, [0, 59, 118, 177, 236]),  # room 239: steps are rounded down
        (Window(50, 300), 64, 5, [50, 109, 168, 227, 286]),
        (Window(0, 300), 64, 10, [26 * number for number in range(10)]),
        (Window(0, 300), 64, 2, [0, 236]),
        (Window(0, 64), 64, 3, [0, 0, 0]),
        (Window(10, 20), 64, 3, [10, 10, 10]),
        (Window(10, 20), 64, 1, [10]),
    ],
)
def test_spread_starts_reach_from_the_first_to_the_last_frame(window, span, num_clips, expected):
    assert spread_starts(window, span, num_clips) == expected
    assert list(clip_starts(window, span, num_clips=num_clips, positions="spread", fps=30)) == expected


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((None, None), Window(0, 300)),
        ((1.0, 4.0), Window(30, 90)),
        ((None, 4.0), Window(0, 120)),
        ((2.0, None), Window(60, 240)),
        ((0.51, 0.99), Window(15, 15)),
        ((8.0, 99.0), Window(240, 60)),
        ((99.0, 100.0), Window(299, 1)),
        ((1.0, 1.001), Window(30, 1)),
    ],
)
def test_a_span_of_seconds_becomes_a_window_of_frames(span, expected):
    assert frame_window(300, 30.0, *span) == expected


def test_a_single_frame_is_its_own_window():
    assert frame_window(1, 25.0, None, None) == Window(0, 1)
    assert frame_window(1, 25.0, 3.0, 4.0) == Window(0, 1)


def pytorchvideo_sampler(*args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorchvideo.data.clip_sampling import make_clip_sampler
    return make_clip_sampler(*args)


@pytest.mark.parametrize("num_clips", [1, 2, 5, 10])
@pytest.mark.parametrize(("length", "fps"), [(300, 30.0), (301, 25.0), (250, 29.97), (64, 30.0), (10, 30.0)])
def test_constant_clips_are_those_of_pytorchvideo(num_clips, length, fps):
    spec = ClipSpec()
    span = spec.span(fps)
    sampler = pytorchvideo_sampler("constant_clips_per_video", span / fps, num_clips)
    expected = []
    while len(expected) < 100:
        clip = sampler(0.0, length / fps, {})
        expected.append(7 + float(clip.clip_start_sec) * fps)
        if clip.is_last_clip:
            break
    found = clip_starts(Window(7, length), span, num_clips=num_clips, positions="constant_clips_per_video", fps=fps)
    assert list(found) == pytest.approx(expected)
    room = max(length - span, 0)
    assert list(found) == pytest.approx([7 + number * room / num_clips for number in range(num_clips)])


@pytest.mark.parametrize(("length", "fps"), [(300, 30.0), (301, 25.0), (64, 30.0), (10, 30.0)])
def test_random_starts_are_those_of_pytorchvideo(length, fps):
    """Given the same random number, which both take from a uniform distribution over the room that is left."""
    span = ClipSpec().span(fps)
    sampler = pytorchvideo_sampler("random", span / fps)
    for seed in range(20):
        random.seed(seed)
        theirs = float(sampler(0.0, length / fps, {}).clip_start_sec) * fps
        assert random_start(Window(0, length), span, random.Random(seed)) == pytest.approx(theirs)


def test_pytorchvideo_is_imported_only_when_asked_for(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("pytorchvideo")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pytorchvideo", None)
    clip_starts(Window(0, 9), 4, num_clips=2, positions="spread", fps=30)
    with pytest.raises(ImportError):
        clip_starts(Window(0, 9), 4, num_clips=2, positions="constant_clips_per_video", fps=30)


def test_one_frame_clip_is_the_start():
    spec = ClipSpec(1, 16)
    assert frame_indices(math.pi, 16, Window(0, 100), spec).tolist() == [3]
