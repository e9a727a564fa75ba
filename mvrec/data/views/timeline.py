"""The times of a video's frames: from seconds to frames and back. Pure arithmetic.

In a video of constant rate a time is a frame number divided by the rate. In any other one (phones, screen recordings,
cameras that drop frames) the frame at a time is the one that a player shows then.
"""

import logging
import mmap
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mvrec.data.listing.index import Sample
from mvrec.data.video.video import Video
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.sampling import Window, frame_window
from mvrec.errors import DecodeError

ROUNDING = 1.1e-3  # seconds: Matroska, WebM and FLV round times to milliseconds
_SLACK_SECONDS, _SLACK_SHARE = 1.0, 0.05  # by which a span may always end after its file

log = logging.getLogger("mvrec")
_logged = mmap.mmap(-1, 1)  # shared with forked loader workers, so that one of them logs


@dataclass(frozen=True)
class Timeline:
    """The times of a video's frames.

    Attributes:
        num_frames: The number of frames.
        fps: Frames per second; the mean if the rate is not constant.
        seconds: From the start of the first frame to the end of the last.
        times: float64 (num_frames,), the time of each frame from 0 on; `None` at a constant rate.
    """

    num_frames: int
    fps: float
    seconds: float
    times: npt.NDArray[np.float64] | None = None

    def window(self, start: float | None, end: float | None) -> Window:
        """Return the frames of a span of seconds, at least one: from the one shown at its start on."""
        if self.times is None:
            return frame_window(self.num_frames, self.fps, start, end)
        first = 0 if start is None else int(self.shown_at(np.array([start]))[0])
        last = self.num_frames if end is None else int(np.searchsorted(self.times, end - ROUNDING))
        return Window(first, max(last - first, 1))

    def shown_at(self, seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Return the numbers of the frames shown at some times, in a video of variable rate: int64, as many."""
        assert self.times is not None
        numbers = np.searchsorted(self.times, seconds + ROUNDING, side="right") - 1
        return numbers.clip(0, self.num_frames - 1)

    def start_of(self, numbers: Tensor) -> list[float]:
        """Return the start of each frame in seconds."""
        if self.times is None:
            return (numbers.double() / self.fps).tolist()
        return self.times[numbers.numpy()].tolist()

    def end_of(self, numbers: Tensor) -> list[float]:
        """Return the start of the frame after each in seconds."""
        if self.times is None:
            return ((numbers.double() + 1) / self.fps).tolist()
        return np.append(self.times, self.seconds)[numbers.numpy() + 1].tolist()

    def counted_for(self, clip: ClipSpec) -> tuple["Timeline", Tensor | None]:
        """Return the timeline in which the frames of a clip are counted.

        These are the video's own frames, but for a clip at `target_fps` from a video of variable rate: that is counted
        in frames of a constant rate.

        Returns:
            The timeline, and for each of its frames the number of the video's frame that is shown then, int64, or
            `None`
                if they are the same.
        """
        if self.times is None or clip.target_fps is None or clip.sampling == "segments":
            return self, None
        rate = clip.target_fps
        count = max(round(self.seconds * rate), 1)
        numbers = torch.from_numpy(self.shown_at(np.arange(count) / rate))
        return Timeline(count, rate, self.seconds), numbers

    def check_span(self, sample: Sample) -> None:
        """Check that a row's span lies in its file; it may end a little after the file.

        Raises:
            DecodeError: The span lies outside.
        """
        if sample.start_seconds is None and sample.end_seconds is None:
            return
        start = sample.start_seconds or 0.0
        end = self.seconds if sample.end_seconds is None else sample.end_seconds
        behind, inside = end - self.seconds, self.seconds - start
        if 0 <= start < min(end, self.seconds):
            if behind <= max(_SLACK_SECONDS, _SLACK_SHARE * self.seconds, inside):
                return
            fault = f"ends far after its end at {self.seconds:.2f} s"
        else:
            fault = f"does not lie in its {self.seconds:.2f} s"
        where = f" ({sample.where})" if sample.where else ""
        span = f"{start:.10g} to {end:.10g} s" if sample.end_seconds is not None else f"from {start:.10g} s on"
        raise DecodeError(sample.path, f"the span {span} {fault}{self._unit(start, end)}{where}")

    def _unit(self, start: float, end: float) -> str:
        if not 0 <= start < end:
            return ""
        if end <= self.num_frames:
            return ": it looks like frame numbers, give seconds"
        if start / 1000 < self.seconds and end / 1000 <= self.seconds + _SLACK_SECONDS:
            return ": it looks like milliseconds, give seconds"
        return ""


def timeline_of(video: Video) -> Timeline:
    """Return the timeline of a video.

    If the file has no time stamps, its declared rate replaces them, which is logged once.
    """
    if not video.has_times:
        if not _logged[0]:
            _logged[0] = 1
            text = "%s has no time stamps: its seconds are frame numbers divided by its %g frames per second"
            log.info(f"{text} (logged once, more files may be like it)", video.path, video.fps)
        return Timeline(video.num_frames, video.fps, video.num_frames / video.fps)
    return timeline(np.asarray(video.times, np.float64), fps=video.fps, seconds=video.duration)


def timeline(times: npt.NDArray[np.float64], *, fps: float, seconds: float) -> Timeline:
    """Build a timeline from time stamps: of constant rate, if none is half a frame off.

    Args:
        times: float64 (frames,) in seconds, never falling, 0 for the first.
        fps: The file's declared frames per second; the mean if the times disagree.
        seconds: From the start of the first frame to the end of the last.
    """
    count = len(times)
    mean = (count - 1) / times[-1] if times[-1] > 0 else fps
    for rate in (fps, float(mean)):
        if np.abs(times * rate - np.arange(count)).max() <= 0.5:
            by_rate = count / rate
            return Timeline(count, rate, by_rate if abs(by_rate - seconds) <= 1 / rate else seconds)
    return Timeline(count, float(mean), seconds, times)


def windows(seconds: float, length: float, stride: float | None, *, begin: float = 0.0) -> list[tuple[float, float]]:
    """Return start and end of windows, one every `stride`, that cover the time; the last one may be shorter.

    Args:
        seconds: End of the video, or of its relevant part.
        length: Seconds of a window.
        stride: From the start of one window to the next; None for adjacent windows.
        begin: Start of the relevant part.
    """
    stride = length if stride is None else stride
    spans = [(begin, min(begin + length, seconds))]
    last = seconds - begin - ROUNDING  # a rest by rounded times is not a window
    while spans[-1][1] < seconds - ROUNDING and len(spans) * stride < last:
        start = begin + len(spans) * stride
        spans.append((start, min(start + length, seconds)))
    return spans
