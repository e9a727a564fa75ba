"""The frames of a clip: pure arithmetic on frame numbers, no files and no global random state.

All positions are in frames of the video as stored (float, because `target_fps` rescales time); only
`frame_indices` rounds.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from mvrec.data.views.clip_spec import ClipPositions, ClipSpec


class ClipTooLongError(ValueError):
    """A video is too short for a clip, which the policy forbids."""


@dataclass(frozen=True)
class Window:
    """The relevant part of a video in frames: `first`, and `length` frames from there."""

    first: int
    length: int


def frame_window(num_video_frames: int, fps: float, start_seconds: float | None, end_seconds: float | None) -> Window:
    """Return the window of a row's time span; the whole video without a span, never empty."""
    first = 0 if start_seconds is None else round(start_seconds * fps)
    last = num_video_frames if end_seconds is None else round(end_seconds * fps)
    first = min(first, num_video_frames - 1)
    return Window(first, max(min(last, num_video_frames) - first, 1))


def random_start(window: Window, span: float, rng: random.Random) -> float:
    """Choose the start of a clip, uniformly over all places where it fits, else the window's start."""
    return window.first + rng.uniform(0, max(window.length - span, 0.0))


def spread_starts(window: Window, span: float, num_clips: int) -> list[float]:
    """Return the starts of evenly spread clips as in SlowFast's test, the first one at the window's start.

    Clip i of n starts at `i * floor(delta / (n - 1))`, where delta is the free length of the window; a single
    clip is centred, at `floor(delta / 2)`.
    """
    room = max(window.length - span, 0.0)
    if num_clips == 1:
        return [window.first + math.floor(room / 2)]
    step = math.floor(room / (num_clips - 1))
    return [window.first + number * step for number in range(num_clips)]


def frame_indices(start: float, span: float, window: Window, spec: ClipSpec) -> torch.Tensor:
    """Return the frame numbers of one clip.

    `linspace(start, start + span - 1, T)`, truncated: SlowFast's offset sampling.

    Returns:
        int64 (T,).

    Raises:
        ClipTooLongError: The clip is longer than the window and `short_video` is "error".
    """
    positions = torch.linspace(start, start + span - 1, spec.num_frames, dtype=torch.float64)
    offsets = positions.floor().long() - window.first
    if spec.short_video == "error" and span > window.length:
        raise ClipTooLongError(f"a clip of {span:g} frames does not fit in {window.length} frames")
    if spec.short_video == "loop":
        return offsets % window.length + window.first
    return offsets.clamp(0, window.length - 1) + window.first


def segment_indices(window: Window, spec: ClipSpec, rng: random.Random | None = None) -> torch.Tensor:
    """Return one frame of each of T segments, as SlowFast reads Something-Something v2.

    With n frames, segment i goes from `round(i * (n - 1) / T)` to `round((i + 1) * (n - 1) / T)`, both included, so
    that neighbours share a frame.

    Args:
        window: The relevant part of the video.
        spec: Its `num_frames` is T.
        rng: Draws a frame of each segment; `None` takes the middle one, rounded down.

    Returns:
        int64 (T,), never falling.

    Raises:
        ClipTooLongError: Fewer frames than segments, and `short_video` is "error".
    """
    if spec.short_video == "error" and window.length < spec.num_frames:
        raise ClipTooLongError(f"{spec.num_frames} segments do not fit in {window.length} frames")
    width = (window.length - 1) / spec.num_frames
    edges = [round(width * number) for number in range(spec.num_frames + 1)]
    frames = [(first + last) // 2 if rng is None else rng.randint(first, last) for first, last in pairwise(edges)]
    return torch.tensor(frames) + window.first


def uniform_clips(window: Window, fps: float, spec: ClipSpec, *, num_clips: int) -> torch.Tensor:
    """Return the frame numbers of evenly spread clips as in torchvision's references.

    The video is resampled to the clip's frame rate, `target_fps / stride_frames`: frame j of n is `floor(j * step)`,
    with the ratio of the rates as step. Of all clips of T neighbours, `num_clips` are taken at
    `floor(linspace(0, count - 1))` (torchvision's `VideoClips` and `UniformClipSampler`). `short_video` decides about a
    video too short for a clip, which torchvision skips.

    Returns:
        int64 (num_clips, T).

    Raises:
        ClipTooLongError: No clip fits and `short_video` is "error".
    """
    rate = (fps if spec.target_fps is None else spec.target_fps) / spec.stride_frames
    step = fps / rate
    if step == int(step):
        frames = torch.arange(0, window.length, int(step))
    else:  # float32 as in torchvision
        frames = (torch.arange(math.floor(window.length * rate / fps), dtype=torch.float32) * step).floor().long()
    frames = frames.clamp_max(window.length - 1) + window.first
    count = len(frames) - spec.num_frames + 1
    if count < 1:
        return frame_indices(float(window.first), spec.span(fps), window, spec).expand(num_clips, -1)
    starts = torch.linspace(0, count - 1, num_clips).floor().long()
    return frames[starts[:, None] + torch.arange(spec.num_frames)]


def clip_starts(
    window: Window, span: float, *, num_clips: int, positions: ClipPositions, fps: float
) -> Sequence[float]:
    """Return the starts of the clips that an evaluation reads from one video.

    "spread" is SlowFast's rule (`spread_starts`); "constant_clips_per_video" is pytorchvideo's clip sampler of
    that name. Training's `random_start` is pytorchvideo's "random". "uniform" has no starts; see `uniform_clips`.
    """
    if positions == "spread":
        return spread_starts(window, span, num_clips)
    from mvrec.data.views.pytorchvideo_sampling import constant_clip_starts

    seconds = constant_clip_starts(clip_seconds=span / fps, video_seconds=window.length / fps, num_clips=num_clips)
    return [window.first + second * fps for second in seconds]
