"""From files and streams to predictions: whole files as in an evaluation, long ones and streams window by window."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mvrec.data.listing.index import Sample
from mvrec.data.loading.clips import timed_frames, views_of_clips
from mvrec.data.loading.guarded_files import open_video
from mvrec.data.video.stream import Stream
from mvrec.data.video.video import Decoder, Video
from mvrec.data.views.protocol import ClipProtocol, Protocol
from mvrec.data.views.timeline import Timeline, timeline, timeline_of, windows
from mvrec.data.views.transforms import views_of
from mvrec.errors import DecodeError, UserError
from mvrec.inference.recogniser import Recogniser
from mvrec.inference.sources import as_sample
from mvrec.tasks.outputs import Output

log = logging.getLogger("mvrec")

AHEAD = 2  # decoded parts waiting for the network, per thread


@dataclass(frozen=True)
class Recognition:
    """The prediction for a file, a part of it, or a part of a stream.

    Attributes:
        source: The file or stream.
        start_seconds: Start of the part; `None` for an image.
        end_seconds: End of the part.
        output: The task's prediction; `None` for an unreadable file.
        error: Why it could not be read, or "".
    """

    source: str
    start_seconds: float | None
    end_seconds: float | None
    output: Output | None
    error: str = ""


@dataclass(frozen=True)
class Part:
    """The views of a part, and their weights in the mean."""

    source: str
    start_seconds: float | None
    end_seconds: float | None
    views: Tensor  # uint8 (V, C, [T,] H, W)
    weights: Tensor  # float64 (V,), summing to 1

    def recognised(self, recogniser: Recogniser, views_per_forward: int | None) -> Recognition:
        """Run the network on the views."""
        output = recogniser.predict(self.views, weights=self.weights, views_per_forward=views_per_forward)
        return Recognition(self.source, self.start_seconds, self.end_seconds, output)


def recognise_files(
    recogniser: Recogniser,
    files: Sequence[Path | Sample],
    *,
    window_seconds: float | None = None,
    stride_seconds: float | None = None,
    views_per_forward: int | None = None,
    decoder: Decoder = "auto",
    num_threads: int = 2,
) -> Iterator[Recognition]:
    """Recognise files in their order; the next files are decoded while the network works.

    Without windows each file, or span of one, gives one result, as in `mvrec test`.

    Args:
        recogniser: The network.
        files: Videos or images, or spans of videos.
        window_seconds: Cut videos into windows of this length, each scored like a video of its own.
        stride_seconds: From window to window; adjacent by default.
        views_per_forward: Views per forward pass; all of a part by default.
        decoder: Name of the decoder of videos.
        num_threads: Files decoded at the same time. Windows of a file are decoded one after the other.

    Yields:
        One result per file, span or window; an unreadable one gives a result with the error.
    """
    samples = [as_sample(file) for file in files]

    def whole(sample: Sample) -> Part | Recognition:
        return next(_parts(recogniser, sample, None, None, decoder))

    with ThreadPoolExecutor(num_threads) as pool:
        if window_seconds is None:
            parts = _in_order(pool, whole, samples, ahead=AHEAD * num_threads)
        else:
            in_windows = (_parts(recogniser, sample, window_seconds, stride_seconds, decoder) for sample in samples)
            parts = (part for parts_of_file in in_windows for part in _prefetched(pool, parts_of_file))
        try:
            for part in parts:
                yield part if isinstance(part, Recognition) else part.recognised(recogniser, views_per_forward)
        finally:
            pool.shutdown(cancel_futures=True)  # nobody reads the remaining files


def _in_order(
    pool: ThreadPoolExecutor, job: Callable[[Sample], Part | Recognition], samples: Sequence[Sample], *, ahead: int
) -> Iterator[Part | Recognition]:
    waiting: deque[Future[Part | Recognition]] = deque()
    for sample in samples:
        waiting.append(pool.submit(job, sample))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _prefetched(pool: ThreadPoolExecutor, parts: Iterator[Part | Recognition]) -> Iterator[Part | Recognition]:
    coming = pool.submit(next, parts, None)
    while (part := coming.result()) is not None:
        coming = pool.submit(next, parts, None)
        yield part


def _parts(
    recogniser: Recogniser, sample: Sample, window: float | None, stride: float | None, decoder: Decoder
) -> Iterator[Part | Recognition]:
    """Yield the parts of a file one by one, so that memory does not grow with its length."""
    protocol, source = recogniser.protocol, str(sample.path)
    try:
        if not isinstance(protocol, ClipProtocol):  # images have no windows
            views = recogniser.views(sample.path)
            yield Part(source, None, None, views, _even(len(views)))
            return
        with open_video(sample.path, decoder=decoder) as video:
            times = timeline_of(video)
            times.check_span(sample)
            start, end = sample.start_seconds or 0.0, sample.end_seconds
            if window is None:
                yield _part(sample, video, times, protocol, start, times.seconds if end is None else end)
                return
            end = times.seconds if end is None else min(end, times.seconds)
            for first, last in windows(end, window, stride, begin=start):
                span = replace(sample, start_seconds=first, end_seconds=last)
                yield _part(span, video, times, protocol, first, last)
    except DecodeError as error:
        yield Recognition(source, sample.start_seconds, sample.end_seconds, None, error.cause)


def _part(sample: Sample, video: Video, times: Timeline, protocol: ClipProtocol, start: float, end: float) -> Part:
    numbers = timed_frames(sample, times, protocol)  # (clips, T)
    # In a window no longer than a clip all clips are equal.
    rows, counts = torch.unique(numbers, dim=0, return_counts=True)
    views = views_of_clips(video, rows, protocol)  # (rows * crops, T, C, h, w)
    return Part(str(sample.path), start, end, views.transpose(1, 2), _shares(counts, protocol.views.num_crops))


def _shares(counts: Tensor, num_crops: int) -> Tensor:
    """Return the weight of each view of clips that occur `counts` times."""
    return (counts.double() / counts.sum() / num_crops).repeat_interleave(num_crops)


def _even(num_views: int) -> Tensor:
    return torch.full((num_views,), 1 / num_views, dtype=torch.float64)


def recognise_stream(
    recogniser: Recogniser,
    stream: Stream,
    *,
    window_seconds: float,
    stride_seconds: float,
    views_per_forward: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Recognition]:
    """Recognise a stream, window after window, until it ends.

    Every `stride_seconds` the last `window_seconds` are scored like a video; image networks take the newest frame. The
    rest after the last whole window is scored too, also if the stream breaks off. Frames are cropped and scaled on
    arrival, so that a window needs little memory. If a live stream is faster than the network, windows are skipped so
    that results do not lag. Skipped windows are counted, like lost pictures.

    Args:
        recogniser: The network.
        stream: Camera or network stream.
        window_seconds: Length of a window.
        stride_seconds: From window to window.
        views_per_forward: Views per forward pass; all by default.
        clock: Returns seconds, to detect a lag.

    Yields:
        One result per window.

    Raises:
        UserError: The stream broke off.
    """
    frames: deque[tuple[float, Tensor]] = deque()  # time, and uint8 (crops, C, size, size)
    begin, due, scored, left_out = clock(), window_seconds, -math.inf, 0
    cut: UserError | KeyboardInterrupt | None = None
    try:
        for seconds, frame in stream:
            frames.append((seconds, _view(frame, recogniser.protocol)))
            while frames[0][0] < seconds - window_seconds:
                frames.popleft()
            if seconds < due:
                continue
            due += stride_seconds * max(1, math.floor((seconds - due) / stride_seconds) + 1)
            scored = seconds
            if stream.is_live and clock() - begin > seconds + stride_seconds:
                left_out += 1
                continue
            part = _part_of_stream(stream.source, frames, recogniser.protocol)
            yield part.recognised(recogniser, views_per_forward)
    except (UserError, KeyboardInterrupt) as error:
        cut = error
    rest = [(seconds, view) for seconds, view in frames if seconds >= due - window_seconds]
    if rest and rest[-1][0] > scored:
        yield _part_of_stream(stream.source, rest, recogniser.protocol).recognised(recogniser, views_per_forward)
    if stream.num_lost:
        log.warning("%s: pictures lost or damaged on the way: at least %d", stream.source, stream.num_lost)
    if left_out:
        log.warning("%s: skipped %d windows: the network is slower than the stream", stream.source, left_out)
    if cut is not None:
        raise cut


def _view(frame: npt.NDArray[np.uint8], protocol: Protocol) -> Tensor:
    """Return crops of a frame of a stream, uint8 (crops, C, size, size)."""
    return views_of(frame[None], protocol.geometries(*frame.shape[:2]))[:, 0]


def _part_of_stream(source: str, frames: Sequence[tuple[float, Tensor]], protocol: Protocol) -> Part:
    start, end = frames[0][0], frames[-1][0]
    if not isinstance(protocol, ClipProtocol):
        return Part(source, end, end, frames[-1][1], _even(1))
    fps = (len(frames) - 1) / (end - start) if end > start else 1.0
    times = np.array([seconds - start for seconds, _ in frames])
    timeline_of_part = timeline(times, fps=fps, seconds=end - start + 1 / fps)
    numbers = timed_frames(Sample(Path(source), 0), timeline_of_part, protocol)  # (clips, T)
    rows, counts = torch.unique(numbers, dim=0, return_counts=True)
    clips = [torch.stack([frames[number][1] for number in row], dim=2) for row in rows.tolist()]  # (crops, C, T, h, w)
    return Part(source, start, end, torch.cat(clips), _shares(counts, protocol.views.num_crops))
