"""Datasets of clips: index x frame choice x decoder x pixels, and nothing else."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mvrec.data.listing.archive import FilePath
from mvrec.data.listing.index import Sample, SampleIndex
from mvrec.data.loading.samples import LIBRARIES, EvalSamples, FileViews, TrainSamples
from mvrec.data.loading.step_times import stage
from mvrec.data.video.opening import open_video
from mvrec.data.video.video import Decoder, Video
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.geometry import Geometry
from mvrec.data.views.protocol import ClipProtocol, FrameOrder
from mvrec.data.views.sampling import (
    ClipTooLongError,
    Window,
    clip_starts,
    frame_indices,
    random_start,
    segment_indices,
    uniform_clips,
)
from mvrec.data.views.timeline import Timeline, timeline_of
from mvrec.data.views.transforms import Augment, views_of
from mvrec.errors import DecodeError
from mvrec.seeds import derive_seed

LIBRARIES_OF_CLIPS = ("av", *LIBRARIES)  # PyAV opens every file first, whatever the decoder


@dataclass(frozen=True)
class TrainClips(TrainSamples):
    """Random augmented clips of an index, `repeats` of them per video from one decode; see `TrainSamples`.

    Args:
        index: The videos.
        clip: Frames of a clip.
        size: Side of the square view in pixels.
        augment: Augmentation.
        repeats: Augmented views per decoded clip (Hoffer et al. 2020, repeated augmentation).
        decoder: Name of the decoder.
        seed: Root of all randomness.
    """

    index: SampleIndex
    clip: ClipSpec
    size: int
    augment: Augment
    repeats: int = 1
    decoder: Decoder = "auto"
    seed: int = 0
    is_video: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = LIBRARIES_OF_CLIPS

    def frames(self, sample: Sample, rng: random.Random) -> np.ndarray:
        """Decode one clip: uint8 (T, H, W, C)."""
        with stage("decode"), self.open(sample.path, decoder=self.decoder) as video:
            numbers = random_frames(sample, timeline_of(video), self.clip, rng)
            return video.frames(numbers.tolist())

    def open(self, path: FilePath, *, decoder: Decoder) -> Video:
        """Open a file; a subclass may get its frames elsewhere."""
        return open_video(path, decoder=decoder)


@dataclass(frozen=True)
class EvalClips(EvalSamples):
    """All views of each video of an index, decoded in one pass; see `EvalSamples`.

    Args:
        index: The videos.
        protocol: Frames, crops and pixels of the views.
        decoder: Name of the decoder.
    """

    index: SampleIndex
    protocol: ClipProtocol
    decoder: Decoder = "auto"
    libraries: ClassVar[tuple[str, ...]] = LIBRARIES_OF_CLIPS

    def views(self, sample: Sample, number: int, *, only: Sequence[int] | None = None) -> FileViews:
        """Return the views of `video_views`."""
        return video_views(sample, self.protocol, decoder=self.decoder, number=number, only=only, opener=self.open)

    def open(self, path: FilePath, *, decoder: Decoder) -> Video:
        """Open a file; a subclass may get its frames elsewhere."""
        return open_video(path, decoder=decoder)


def video_views(
    sample: Sample,
    protocol: ClipProtocol,
    *,
    decoder: Decoder = "auto",
    number: int = 0,
    only: Sequence[int] | None = None,
    opener: Callable[..., Video] | None = None,
) -> FileViews:
    """Return the views of one video that a protocol scores, clip by clip and crop by crop, decoded in one pass.

    Args:
        sample: The video, and the relevant part of it.
        protocol: Frames, crops and pixels of the views.
        decoder: Name of the decoder.
        number: Seed of the control that shuffles frames: the row of an index.
        only: Numbers of the requested views in ascending order; `None` for all. Other clips are not decoded.
        opener: Opens the file in place of `open_video`.

    Returns:
        uint8 (clips * crops, T, C, size, size), or as many views as requested.

    Raises:
        DecodeError: The file cannot be read.
    """
    with (opener or open_video)(sample.path, decoder=decoder) as video:
        frames = timed_frames(sample, timeline_of(video), protocol)  # (clips, T)
        crops = protocol.views.num_crops
        numbers = range(crops * len(frames)) if only is None else only
        clips = sorted({view // crops for view in numbers})
        pixels, geometries = _views_of_clips(video, frames[clips], protocol, number=number)
    if len(pixels) != len(numbers):
        pixels = pixels[[clips.index(view // crops) * crops + view % crops for view in numbers]]
    return FileViews(pixels, tuple(geometries[view % crops] for view in numbers))


def views_of_clips(video: Video, numbers: Tensor, protocol: ClipProtocol, *, number: int = 0) -> Tensor:
    """Return the crops of clips of given frames; each frame is decoded once.

    Args:
        video: The video.
        numbers: Frame numbers, int64 (clips, T).
        protocol: Crops and pixels of the views.
        number: See `video_views`.

    Returns:
        uint8 (clips * crops, T, C, size, size).

    Raises:
        DecodeError: The file is damaged.
    """
    return _views_of_clips(video, numbers, protocol, number=number)[0]


def _views_of_clips(
    video: Video, numbers: Tensor, protocol: ClipProtocol, *, number: int
) -> tuple[Tensor, list[Geometry]]:
    """Return the crops of `views_of_clips`, and the geometry of each."""
    needed, place = torch.unique(numbers, return_inverse=True)
    frames = video.frames(needed.tolist())
    views = torch.cat([clip_views(frames[row.numpy()], protocol, number=number) for row in place])
    return views, protocol.geometries(*frames.shape[1:3])


def clip_views(frames: np.ndarray, protocol: ClipProtocol, *, number: int = 0) -> Tensor:
    """Return the crops of one clip that a protocol scores.

    Args:
        frames: uint8 (T, H, W, C), the clip's frames.
        protocol: Crops and pixels of the views.
        number: See `video_views`.

    Returns:
        uint8 (crops, T, C, size, size).
    """
    return views_of(in_order(frames, protocol.views.frame_order, number), protocol.geometries(*frames.shape[1:3]))


def random_frames(sample: Sample, timeline: Timeline, clip: ClipSpec, rng: random.Random) -> Tensor:
    """Choose the frame numbers (T,) of a clip to train on."""
    timeline.check_span(sample)
    counted, numbers = timeline.counted_for(clip)
    window = counted.window(sample.start_seconds, sample.end_seconds)
    with _too_short_is_bad(sample):
        if clip.sampling == "segments":
            return segment_indices(window, clip, rng)
        span = clip.span(counted.fps)
        frames = frame_indices(random_start(window, span, rng), span, window, clip)
    return frames if numbers is None else numbers[frames]


def timed_frames(sample: Sample, timeline: Timeline, protocol: ClipProtocol) -> Tensor:
    """Return the frame numbers (clips, T) of the clips of a row's span for scoring.

    Raises:
        DecodeError: The span lies outside the video, or is too short for a protocol that calls this an error.
    """
    timeline.check_span(sample)
    counted, numbers = timeline.counted_for(protocol.clip)
    window = counted.window(sample.start_seconds, sample.end_seconds)
    frames = eval_frames(sample, counted.fps, window, protocol)
    return frames if numbers is None else numbers[frames]


def eval_frames(sample: Sample, fps: float, window: Window, protocol: ClipProtocol) -> Tensor:
    """Return the frame numbers (clips, T) of the clips for scoring, in a video of constant rate."""
    clip, views = protocol.clip, protocol.views
    with _too_short_is_bad(sample):
        if clip.sampling == "segments":
            return segment_indices(window, clip)[None]
        if views.positions == "uniform":
            return uniform_clips(window, fps, clip, num_clips=views.num_clips)
        span = clip.span(fps)
        starts = clip_starts(window, span, num_clips=views.num_clips, positions=views.positions, fps=fps)
        return torch.stack([frame_indices(start, span, window, clip) for start in starts])


@contextmanager
def _too_short_is_bad(sample: Sample) -> Iterator[None]:
    """Turn the error of a policy about a too short video into that of a bad file."""
    try:
        yield
    except ClipTooLongError as error:
        raise DecodeError(sample.path, str(error)) from None


def in_order(frames: np.ndarray, order: FrameOrder, number: int) -> np.ndarray:
    """Return the frames (T, H, W, C) of a clip in the order of a control; `number` is the seed of "shuffled"."""
    if order == "reversed":
        return frames[::-1]
    if order == "shuffled":
        places = list(range(len(frames)))
        random.Random(derive_seed("frame order", number)).shuffle(places)
        return frames[places]
    return frames
