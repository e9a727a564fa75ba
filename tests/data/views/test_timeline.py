"""Seconds to frames by the time at which each frame is shown."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from video_files import read_numbers, write_video

from mvrec.data.listing.index import Sample
from mvrec.data.loading.clips import timed_frames
from mvrec.data.video.opening import open_video
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.protocol import ClipProtocol, Views
from mvrec.data.views.sampling import Window, frame_window
from mvrec.data.views.timeline import Timeline, timeline, timeline_of
from mvrec.errors import DecodeError

SLOW_THEN_FAST = [*range(0, 6000, 600), *range(6000, 12000, 60)]  # in 1/600 s: ten seconds each
PROTOCOL = ClipProtocol(ClipSpec(5, 30, target_fps=30.0), Views(num_clips=1, num_crops=1, short_side=32), size=32)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_span_of_seconds_shows_these_seconds(tmp_path, suffix):
    path = write_video(tmp_path / f"x.{suffix}", num_frames=110, fps=10, b_frames=0, ticks=SLOW_THEN_FAST)
    with open_video(path) as video:
        times = timeline_of(video)
        assert times.seconds == pytest.approx(20, abs=0.05)
        for span, window in (((5.0, 10.0), Window(5, 5)), ((12.0, 17.0), Window(30, 50))):
            assert times.window(*span) == window
            frames = timed_frames(Sample(path, 0, *span), times, PROTOCOL)[0]
            seconds = [SLOW_THEN_FAST[number] // 600 for number in read_numbers(video.frames(frames))]
            assert seconds == list(range(int(span[0]), int(span[1])))


def test_frames_of_constant_rate_are_taken_by_number():
    for fps in (25.0, 30000 / 1001, 60.0):
        times = np.round(np.arange(300) / fps, 3)  # as Matroska rounds them
        constant = timeline(times, fps=fps, seconds=300 / fps)
        assert constant == Timeline(300, fps, 300 / fps)
        assert constant.window(2.0, 4.0) == frame_window(300, fps, 2.0, 4.0)
        assert constant.counted_for(ClipSpec()) == (constant, None)
    declared_wrongly = timeline(np.arange(100) / 30, fps=1000.0, seconds=100 / 30)
    assert declared_wrongly.times is None
    assert declared_wrongly.fps == pytest.approx(30)


def test_a_gap_shows_the_frame_before_it():
    gap = timeline(np.array([0.0, 0.1, 100.0, 100.1]), fps=10.0, seconds=100.2)
    assert gap.window(60.0, 90.0) == frame_window(4, 10.0, 0.1, 0.2)
    assert gap.shown_at(np.array([0.05, 0.0999, 50.0, 99.9, 100.0, 500.0])).tolist() == [0, 1, 1, 1, 2, 3]


def test_late_or_repeated_stamps_never_leave_the_video():
    rng, protocol = random.Random(0), replace(PROTOCOL, views=replace(PROTOCOL.views, num_clips=3))
    for _ in range(50):
        times = np.sort([rng.choice([0, 1, 5]) * rng.random() for _ in range(20)])
        stamps = timeline(times - times[0], fps=30.0, seconds=times[-1] + 0.1)
        frames = timed_frames(Sample(Path("x"), 0), stamps, protocol)
        assert 0 <= int(frames.min()) <= int(frames.max()) < 20


def test_spans_outside_of_a_file_are_faults_and_those_that_end_a_little_behind_it_are_not():
    two_seconds = timeline(np.arange(60) / 30, fps=30.0, seconds=2.0)
    for start, end, fault in (
        (500.0, 1500.0, r"does not lie in its 2\.00 s: it looks like milliseconds.*\(list\.csv:3\)"),
        (0.0, 1500.0, r"ends far after its end at 2\.00 s: it looks like milliseconds"),
        (10.0, 50.0, "it looks like frame numbers"),
        (9000.0, 90000.0, r"the span 9000 to 90000 s does not lie in its 2\.00 s \("),
        (2.0, None, "the span from 2 s on does not lie"),
        (1.5, 1.0, "does not lie"),
        (-1.0, 1.0, "does not lie"),
    ):
        with pytest.raises(DecodeError, match=fault):
            two_seconds.check_span(Sample(Path("x.mp4"), 0, start, end, "list.csv:3"))
    for span in ((None, None), (0.0, 2.0), (0.0, 3.0), (1.9, 2.9), (0.5, None), (None, 0.5)):
        two_seconds.check_span(Sample(Path("x.mp4"), 0, *span))
