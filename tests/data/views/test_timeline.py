"""Seconds to frames by the time at which each frame is shown."""

import random
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mvrec.data.listing.index import Sample
from mvrec.data.loading.clips import timed_frames
from mvrec.data.video.opening import open_video
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.protocol import ClipProtocol, Views
from mvrec.data.views.sampling import frame_window
from mvrec.data.views.timeline import Timeline, timeline, timeline_of
from mvrec.errors import DecodeError

SLOW_THEN_FAST = [float(second) for second in range(10)] + [10 + number / 30 for number in range(300)]


def write_at(path: Path, times: list[float]) -> Path:
    """A video whose frames are shown at these times; the brightness of one is twelve times its second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.options = {"bf": "0"}
        for time in times:
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), int(time) * 12, np.uint8), "rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def protocol(target_fps: float | None, num_clips: int = 1) -> ClipProtocol:
    clip = ClipSpec(num_frames=5, stride_frames=30, target_fps=target_fps)
    views = Views(num_clips=num_clips, num_crops=1, short_side=32)
    return ClipProtocol(clip=clip, views=views, size=32)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm"])
def test_a_span_of_seconds_shows_these_seconds(tmp_path, suffix):
    if suffix == "webm":
        path = write_at(tmp_path / "x.mkv", SLOW_THEN_FAST).rename(tmp_path / "x.webm")
    else:
        path = write_at(tmp_path / f"x.{suffix}", SLOW_THEN_FAST)
    with open_video(path) as video:
        times = timeline_of(video)
        assert times.seconds == pytest.approx(20, abs=0.05)
        for span, seconds in (((5.0, 10.0), [5, 6, 7, 8, 9]), ((12.0, 17.0), [12, 13, 14, 15, 16])):
            chosen = timed_frames(Sample(path, 0, *span), times, protocol(30.0))[0]
            assert [round(level / 12) for level in video.frames(chosen).mean(axis=(1, 2, 3))] == seconds
            own = times.window(*span)
            assert own.first == (5 if span[0] == 5 else 70)
            assert own.length == (5 if span[0] == 5 else 150)


def test_frames_of_constant_rate_are_taken_by_number():
    for fps in (25.0, 30000 / 1001, 60.0):
        times = np.round(np.arange(300) / fps, 3)  # as Matroska rounds them
        found = timeline(times, fps=fps, seconds=300 / fps)
        assert found == Timeline(300, fps, 300 / fps)
        assert found.window(2.0, 4.0) == frame_window(300, fps, 2.0, 4.0)
        assert found.counted_for(ClipSpec()) == (found, None)


def test_a_wrong_declared_rate_gives_way_to_the_mean():
    found = timeline(np.arange(100) / 30, fps=1000.0, seconds=100 / 30)
    assert found.times is None
    assert found.fps == pytest.approx(30)


def test_a_gap_shows_the_frame_before_it():
    times = np.array([0.0, 0.1, 100.0, 100.1])
    found = timeline(times, fps=10.0, seconds=100.2)
    assert found.window(60.0, 90.0) == frame_window(4, 10.0, 0.1, 0.2)
    assert found.shown_at(np.array([0.05, 0.0999, 50.0, 99.9, 100.0, 500.0])).tolist() == [0, 1, 1, 1, 2, 3]


def test_late_or_repeated_stamps_never_leave_the_video():
    rng = random.Random(0)
    for _ in range(50):
        times = np.sort([rng.choice([0, 1, 5]) * rng.random() for _ in range(20)])
        found = timeline(times - times[0], fps=30.0, seconds=times[-1] + 0.1)
        chosen = timed_frames(Sample(Path("x"), 0), found, protocol(30.0, num_clips=3))
        assert 0 <= int(chosen.min()) <= int(chosen.max()) < 20


@pytest.mark.parametrize(
    ("start", "end", "fault"),
    [
        (500.0, 1500.0, r"does not lie in its 2\.00 s: it looks like milliseconds.*\(list\.csv:3\)"),
        (0.0, 1500.0, r"ends far after its end at 2\.00 s: it looks like milliseconds"),
        (10.0, 50.0, "it looks like frame numbers"),
        (9000.0, 90000.0, r"the span 9000 to 90000 s does not lie in its 2\.00 s \("),
        (2.0, None, "the span from 2 s on does not lie"),
        (1.5, 1.0, "does not lie"),
        (-1.0, 1.0, "does not lie"),
    ],
)
def test_spans_outside_of_a_file_are_faults(start, end, fault):
    found = timeline(np.arange(60) / 30, fps=30.0, seconds=2.0)
    with pytest.raises(DecodeError, match=fault):
        found.check_span(Sample(Path("x.mp4"), 0, start, end, "list.csv:3"))


@pytest.mark.parametrize("span", [(None, None), (0.0, 2.0), (0.0, 3.0), (1.9, 2.9), (0.5, None), (None, 0.5), (1.0, 3)])
def test_spans_may_end_a_little_behind_their_file(span):
    timeline(np.arange(60) / 30, fps=30.0, seconds=2.0).check_span(Sample(Path("x.mp4"), 0, *span))
