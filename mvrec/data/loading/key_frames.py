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
from mvrec.data.loading.samples import EvalSamples, FileViews
from mvrec.data.loading.step_times import stage
from mvrec.data.video.opening import open_video
from mvrec.data.video.video import Decoder, Video
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.protocol import KeyFrameProtocol
from mvrec.data.views.targets import ActionBoxes, Target
from mvrec.data.views.timeline import ROUNDING, Timeline, timeline_of
from mvrec.data.views.transforms import views_of
from mvrec.errors import DecodeError


@dataclass(frozen=True)
class TrainKeyFrames(TrainClips):
    """Randomly cropped clips around key frames; see `TrainSamples`.

    Args:
        index: The key frames: a row's `start_seconds` is the time of one.
        key_frames: Their boxes, for messages.
    """

    key_frames: KeyFrames | None = None

    def frames(self, sample: Sample, rng: random.Random) -> np.ndarray:
        """Decode the clip around a key frame: uint8 (T, H, W, C)."""
        with stage("decode"), self.open(sample.path, decoder=self.decoder) as video:
            return video.frames(key_frame_clip(sample, timeline_of(video), self.clip).tolist())

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
    """

    index: SampleIndex
    protocol: KeyFrameProtocol
    decoder: Decoder = "auto"
    key_frames: KeyFrames | None = None
    libraries: ClassVar[tuple[str, ...]] = LIBRARIES_OF_CLIPS

    def views(self, sample: Sample, number: int, *, only: Sequence[int] | None = None) -> FileViews:
        """Return the one view of `key_frame_view`."""
        return key_frame_view(sample, self.protocol, decoder=self.decoder, number=number, opener=self.open)

    def open(self, path: FilePath, *, decoder: Decoder) -> Video:
        """Open a file; a subclass may get its frames elsewhere."""
        return open_video(path, decoder=decoder)

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
) -> FileViews:
    """Return the clip around a key frame that a protocol scores.

    Args:
        sample: The video, with the time of the key frame as its start.
        protocol: Frames and pixels of the view.
        decoder: Name of the decoder.
        number: Seed of the control that shuffles frames: the row of an index.
        opener: Opens the file in place of `open_video`.

    Returns:
        uint8 (1, T, C, h, w).

    Raises:
        DecodeError: The file cannot be read, or the key frame lies outside it.
    """
    with (opener or open_video)(sample.path, decoder=decoder) as video:
        frames = video.frames(key_frame_clip(sample, timeline_of(video), protocol.clip).tolist())
    frames = in_order(frames, protocol.frame_order, number)
    geometries = protocol.geometries(*frames.shape[1:3])
    return FileViews(views_of(frames, geometries), tuple(geometries))


def key_frame_clip(sample: Sample, timeline: Timeline, clip: ClipSpec) -> Tensor:
    """Return the frames of the clip whose frame T // 2 is the key frame: the first and the last one repeat.

    Args:
        sample: The video, with the time of the key frame as its start.
        timeline: The times of the video's frames.
        clip: Frames of the clip, at a stride in frames at its `target_fps`.

    Returns:
        int64 (T,).

    Raises:
        DecodeError: The key frame lies outside the video.
    """
    assert sample.start_seconds is not None
    if sample.start_seconds > timeline.seconds + ROUNDING:
        where = f" ({sample.where})" if sample.where else ""
        raise DecodeError(
            sample.path,
            f"the key frame at {sample.start_seconds:.10g} s lies behind its end at {timeline.seconds:.2f} s{where}",
        )
    steps = torch.arange(clip.num_frames) - clip.num_frames // 2
    if timeline.times is not None and clip.target_fps is not None:
        seconds = sample.start_seconds + steps.numpy() * clip.stride_frames / clip.target_fps
        return torch.from_numpy(timeline.shown_at(seconds))
    centre = timeline.window(sample.start_seconds, None).first
    stride = clip.span(timeline.fps) / clip.num_frames  # in frames of the video
    return (steps.double() * stride + centre + 0.5).floor().long().clamp(0, timeline.num_frames - 1)


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
