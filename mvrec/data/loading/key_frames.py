"""Datasets of clips around key frames, with the boxes of these."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mvrec.data.listing.archive import FilePath
from mvrec.data.listing.boxes.targets import KeyFrames
from mvrec.data.listing.index import Sample, SampleIndex
from mvrec.data.loading.clips import LIBRARIES_OF_CLIPS, TrainClips, in_order
from mvrec.data.loading.frames.folders import open_frames
from mvrec.data.loading.samples import EvalSamples, FileViews
from mvrec.data.loading.step_times import stage
from mvrec.data.video.video import Decoder, Video
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.protocol import KeyFrameProtocol
from mvrec.data.views.targets import ActionBoxes, Target
from mvrec.data.views.timeline import ROUNDING, Timeline, timeline_of
from mvrec.data.views.transforms import views_of
from mvrec.errors import DecodeError


@dataclass(frozen=True)
class ListTimes:
    """The meaning of a list's times of key frames.

    Attributes:
        offset: Seconds that the list's times are ahead of the file's, which begins so much later.
        usual_offset: The offset of files that people cut out, for messages.
        fps: Frames per second by which the list's times are numbers of frames, whatever the file's rate; `None` for
            times of the file. Frames in folders have this rate, or 30.
    """

    offset: float = 0.0
    usual_offset: float = 0.0
    fps: float | None = None

    def open(self, path: FilePath, decoder: Decoder) -> Video:
        """Open a file or a folder of frames."""
        return open_frames(path, decoder=decoder, fps=self.fps or 30.0)


@dataclass(frozen=True)
class TrainKeyFrames(TrainClips):
    """Randomly cropped clips around key frames; see `TrainSamples`.

    Args:
        index: The key frames: a row's `start_seconds` is the time of one.
        key_frames: Their boxes, for messages.
        times: The meaning of their times.
    """

    key_frames: KeyFrames | None = None
    times: ListTimes = ListTimes()

    def frames(self, sample: Sample, rng: random.Random) -> np.ndarray:
        """Decode the clip around a key frame: uint8 (T, H, W, C)."""
        with stage("decode"), self.open(sample.path, decoder=self.decoder) as video:
            return video.frames(key_frame_clip(sample, timeline_of(video), self.clip, self.times).tolist())

    def open(self, path: FilePath, *, decoder: Decoder) -> Video:
        """Open a file or a folder of frames."""
        return self.times.open(path, decoder)

    def fitted(self, number: int, target: Target, height: int, width: int) -> Target:
        """Return the boxes in pixels of these frames."""
        return fitted_boxes(self.index, number, target, (height, width), self.key_frames)


@dataclass(frozen=True)
class EvalKeyFrames(EvalSamples):
    """The clip around each key frame, for scoring; see `EvalSamples`.

    Args:
        index: The key frames: a row's `start_seconds` is the time of one.
        protocol: Frames and pixels of the views.
        decoder: Name of the decoder.
        key_frames: Their boxes, for messages.
        times: The meaning of their times.
    """

    index: SampleIndex
    protocol: KeyFrameProtocol
    decoder: Decoder = "auto"
    key_frames: KeyFrames | None = None
    times: ListTimes = ListTimes()
    libraries: ClassVar[tuple[str, ...]] = LIBRARIES_OF_CLIPS

    def views(self, sample: Sample, number: int, *, only: Sequence[int] | None = None) -> FileViews:
        """Return the one view of `key_frame_view`."""
        settings = {"decoder": self.decoder, "number": number, "opener": self.open, "times": self.times}
        return key_frame_view(sample, self.protocol, **settings)  # type: ignore[arg-type]

    def open(self, path: FilePath, *, decoder: Decoder) -> Video:
        """Open a file or a folder of frames."""
        return self.times.open(path, decoder)

    def fitted(self, number: int, target: Target, height: int, width: int) -> Target:
        """Return the boxes in pixels of these frames; all of them count, also those outside the view."""
        fitted = fitted_boxes(self.index, number, target, (height, width), self.key_frames)
        return replace(fitted, keeps_cropped=True)


def key_frame_view(
    sample: Sample,
    protocol: KeyFrameProtocol,
    *,
    decoder: Decoder = "auto",
    number: int = 0,
    opener: Callable[..., Video] | None = None,
    times: ListTimes = ListTimes(),
) -> FileViews:
    """Return the clip around a key frame that a protocol scores.

    Args:
        sample: The video, with the time of the key frame as its start.
        protocol: Frames and pixels of the view.
        decoder: Name of the decoder.
        number: Seed of the control that shuffles frames: the row of an index.
        opener: Opens the file in place of `open_frames`.
        times: The meaning of the key frame's time.

    Returns:
        uint8 (1, T, C, h, w).

    Raises:
        DecodeError: The file cannot be read, or the key frame lies outside it.
    """
    with (opener or open_frames)(sample.path, decoder=decoder) as video:
        frames = video.frames(key_frame_clip(sample, timeline_of(video), protocol.clip, times).tolist())
    frames = in_order(frames, protocol.frame_order, number)
    geometries = protocol.geometries(*frames.shape[1:3])
    return FileViews(views_of(frames, geometries), tuple(geometries))


def key_frame_clip(sample: Sample, timeline: Timeline, clip: ClipSpec, times: ListTimes = ListTimes()) -> Tensor:
    """Return the frames of the clip whose frame T // 2 is the key frame: the first and the last one repeat.

    Args:
        sample: The video, with the time of the key frame as its start.
        timeline: The times of the video's frames.
        clip: Frames of the clip, at a stride in frames at its `target_fps`.
        times: The meaning of the key frame's time.

    Returns:
        int64 (T,).

    Raises:
        DecodeError: The key frame lies outside the video.
    """
    assert sample.start_seconds is not None
    seconds = sample.start_seconds - times.offset
    _check_inside(sample, seconds, timeline, times)
    steps = torch.arange(clip.num_frames) - clip.num_frames // 2
    if timeline.times is not None and clip.target_fps is not None and times.fps is None:
        moments = seconds + steps.numpy() * clip.stride_frames / clip.target_fps
        return torch.from_numpy(timeline.shown_at(moments))
    centre = timeline.window(seconds, None).first if times.fps is None else round(seconds * times.fps)
    stride = clip.span(timeline.fps) / clip.num_frames  # in frames of the video
    return (steps.double() * stride + centre + 0.5).floor().long().clamp(0, timeline.num_frames - 1)


def _check_inside(sample: Sample, seconds: float, timeline: Timeline, times: ListTimes) -> None:
    """Refuse a key frame that lies outside its video."""
    end = timeline.seconds if times.fps is None else timeline.num_frames / times.fps
    if -ROUNDING <= seconds <= end + ROUNDING:
        return
    place = "before its start" if seconds < 0 else f"behind its end at {end:.2f} s"
    where = f" ({sample.where})" if sample.where else ""
    shift = f", less the offset of {times.offset:g} s," if times.offset else ""
    usual, listed = times.usual_offset, sample.start_seconds or 0.0
    fits = usual != times.offset and usual <= listed <= usual + end
    hint = f": of a video cut out from {usual:g} s on, set data.offset {usual:g}" if fits else ""
    hint = ": of a whole video, leave data.offset out" if seconds < 0 and listed <= end else hint
    raise DecodeError(sample.path, f"the key frame at {listed:.10g} s{shift} lies {place}{where}{hint}")


def fitted_boxes(
    index: SampleIndex, number: int, target: Target, size: tuple[int, int], key_frames: KeyFrames | None = None
) -> ActionBoxes:
    """Return the boxes of a row in pixels of its frames, cut at their border.

    Args:
        index: The key frames.
        number: The row.
        target: Its boxes.
        size: (height, width) of the frames.
        key_frames: The places of the boxes in their lists.

    Raises:
        DecodeError: A box in pixels lies outside the frames.
    """
    assert isinstance(target, ActionBoxes)
    if target.relative:
        return target.in_frame(*size)
    height, width = size
    limit = np.array([width, height] * 2, np.float32)
    places = target.places.clip(0, limit)
    outside = (places[:, 2] <= places[:, 0]) | (places[:, 3] <= places[:, 1])
    if outside.any():
        sample, first = index[number], int(outside.argmax())
        lines = key_frames.lines(index.row(number).path, sample.start_seconds or 0.0) if key_frames else []
        where = f"{lines[first]}: " if first < len(lines) else ""
        corners = ", ".join(f"{value:g}" for value in target.places[first])
        raise DecodeError(sample.path, f"{where}the box {corners} lies outside the frames of {width}x{height} pixels")
    return replace(target, places=places, truth=target.truth.clip(0, limit)).in_frame(height, width)
