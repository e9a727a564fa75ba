"""From files and streams to predictions: whole files as in an evaluation, long ones and streams window by window."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mvrec.data.listing.file_kinds import IMAGES, VIDEOS
from mvrec.data.listing.index import Sample
from mvrec.data.loading.clips import timed_frames, views_of_clips
from mvrec.data.loading.images import protocol_view
from mvrec.data.video.stream import Stream
from mvrec.data.video.video import Decoder, Video
from mvrec.data.views.protocol import (
    ClipProtocol,
    DetectionProtocol,
    ImageProtocol,
    KeyFrameProtocol,
    MaskProtocol,
    Protocol,
)
from mvrec.data.views.timeline import Timeline, timeline, timeline_of, windows
from mvrec.data.views.transforms import views_of
from mvrec.errors import DecodeError, UserError
from mvrec.inference.inputs import Item, as_item, warn_of_still
from mvrec.inference.objects.detecting import object_prediction, objects_in_views
from mvrec.inference.objects.following import followed
from mvrec.inference.objects.knobs import ObjectKnobs
from mvrec.inference.recogniser import Recogniser
from mvrec.inference.results import PixelPrediction, Prediction, Result
from mvrec.messages import counted
from mvrec.tasks.outputs import PixelOutput, joined

log = logging.getLogger("mvrec")

T = TypeVar("T")

OF_IMAGES = (MaskProtocol, DetectionProtocol)  # networks that look at images in their own size, and videos by frames

AHEAD = 2  # decoded parts waiting for the network, per thread
FRAMES_AT_ONCE = 8  # of a video that is recognised frame by frame: a call of the decoder may have to seek


@dataclass(frozen=True)
class Part:
    """The views of a part, in which equal clips are one.

    Attributes:
        source: The file, stream or array.
        start_seconds: Start of the part; `None` for an image.
        end_seconds: End of the part.
        views: uint8 (V, C, [T,] H, W).
        places: int64 (N,), the view in each place of the protocol's N.
    """

    source: str
    start_seconds: float | None
    end_seconds: float | None
    views: Tensor
    places: Tensor

    @property
    def weights(self) -> Tensor:
        """Weight of each view in the mean, float64 (V,), summing to 1."""
        return torch.bincount(self.places, minlength=len(self.views)).double() / len(self.places)


def recognise_files(
    recogniser: Recogniser,
    files: Iterable[Path | Sample | Item],
    *,
    window_seconds: float | None = None,
    stride_seconds: float | None = None,
    views_per_forward: int | None = None,
    objects: ObjectKnobs | None = None,
    decoder: Decoder = "auto",
    num_threads: int = 2,
) -> Iterator[Prediction]:
    """Recognise files in their order; the next files are decoded while the network works.

    Without windows each file, or span of one, gives one result, as in `mvrec test`.

    Args:
        recogniser: The network.
        files: Videos or images, or spans of videos.
        window_seconds: Cut videos into windows of this length, each scored like a video of its own.
        stride_seconds: From window to window; adjacent by default.
        views_per_forward: Views per forward pass, also of several files; all of one part by default.
        objects: Choices of a detector.
        decoder: Name of the decoder of videos.
        num_threads: Files decoded at the same time. Windows of a file are decoded one after the other.

    Yields:
        One result per file, span or window; an unreadable one gives a result with the error.
    """
    items = (as_item(file) for file in files)
    parts = parts_of(
        recogniser.protocol,
        items,
        window_seconds=window_seconds,
        stride_seconds=stride_seconds,
        decoder=decoder,
        num_threads=num_threads,
    )
    yield from followed(_predictions(recogniser, parts, views_per_forward, objects))


def parts_of(
    protocol: Protocol,
    items: Iterable[Item],
    *,
    window_seconds: float | None = None,
    stride_seconds: float | None = None,
    decoder: Decoder = "auto",
    num_threads: int = 2,
) -> Iterator[Part | Result]:
    """Yield the parts of videos or images in their order, decoded ahead; a result with the error for unreadable ones.

    The arguments are those of `recognise_files`.
    """

    def whole(item: Item) -> Part | Result:
        return next(_parts(protocol, item, None, None, decoder))

    with ThreadPoolExecutor(num_threads) as pool:
        if isinstance(protocol, OF_IMAGES):
            parts = _images_and_frames(pool, whole, items, decoder, ahead=AHEAD * num_threads)
        elif window_seconds is None:
            parts = _in_order(pool, whole, items, ahead=AHEAD * num_threads)
        else:
            in_windows = (_parts(protocol, item, window_seconds, stride_seconds, decoder) for item in items)
            parts = (part for parts_of_item in in_windows for part in prefetched(pool, parts_of_item))
        try:
            yield from parts
        finally:
            pool.shutdown(cancel_futures=True)  # nobody reads the remaining files


def outputs_of_parts(
    parts: Iterable[Part | Result], forward: Callable[[Tensor], Any], *, views_per_forward: int | None
) -> Iterator[tuple[Part | Result, Any]]:
    """Run a function over the views of parts, several small parts at a time.

    Args:
        parts: The parts, and results of unreadable files.
        forward: From views uint8 (V, C, [T,] H, W) to outputs, a tensor (V, ...) or a list with one entry per view.
        views_per_forward: Most views of a call; by default each part has calls of its own.

    Yields:
        Each part with the outputs for its views; an unreadable file with `None`.
    """
    waiting: list[Part | Result] = []
    count, most, shape = 0, views_per_forward or 0, torch.Size()
    for part in parts:
        size = len(part.views) if isinstance(part, Part) else 0
        earlier, shape = shape, part.views.shape[1:] if isinstance(part, Part) else shape
        if waiting and (count + size > most or (count and shape != earlier)):
            yield from _outputs(waiting, forward, views_per_forward)
            waiting, count = [], 0
        waiting.append(part)
        count += size
        if count >= most:  # without waiting for the next part to be decoded
            yield from _outputs(waiting, forward, views_per_forward)
            waiting, count = [], 0
    yield from _outputs(waiting, forward, views_per_forward)


def _outputs(
    parts: Sequence[Part | Result], forward: Callable[[Tensor], Any], at_once: int | None
) -> Iterator[tuple[Part | Result, Any]]:
    views = [part.views for part in parts if isinstance(part, Part)]
    if views:
        together = torch.cat(views) if len(views) > 1 else views[0]
        raw = joined([forward(some) for some in together.split(at_once or len(together))])
    first = 0
    for part in parts:
        if not isinstance(part, Part):
            yield part, None
            continue
        yield part, raw[first : first + len(part.views)]
        first += len(part.views)


def _predictions(
    recogniser: Recogniser,
    parts: Iterable[Part | Result],
    views_per_forward: int | None,
    objects: ObjectKnobs | None = None,
) -> Iterator[Prediction]:
    protocol = recogniser.protocol
    forward = recogniser.raw
    if isinstance(protocol, DetectionProtocol):
        forward = partial(objects_in_views, recogniser, knobs=objects or ObjectKnobs())
    for part, raw in outputs_of_parts(parts, forward, views_per_forward=views_per_forward):
        place = (part.source, part.start_seconds, part.end_seconds)
        if not isinstance(part, Part):
            yield Prediction(*place, error=part.error)
        elif isinstance(protocol, MaskProtocol):
            yield _of_pixels(recogniser, part, raw)
        elif isinstance(protocol, DetectionProtocol):
            yield object_prediction(raw[0], part.views[0], *place)
        else:
            yield Prediction(*place, output=recogniser.outputs.output(raw, part.weights))


def _of_pixels(recogniser: Recogniser, part: Part, raw: Any) -> Prediction:
    """Return the prediction for an image; one with an error if the network's outputs are not finite."""
    place = (part.source, part.start_seconds, part.end_seconds)
    try:
        output = recogniser.outputs.output(raw, part.weights)
    except UserError as error:
        return Prediction(*place, error=str(error))
    assert isinstance(output, PixelOutput)
    return PixelPrediction(*place, output=output, pixels=part.views[0].permute(1, 2, 0).numpy())


def _in_order(
    pool: ThreadPoolExecutor, job: Callable[[Item], Part | Result], items: Iterable[Item], *, ahead: int
) -> Iterator[Part | Result]:
    waiting: deque[Future[Part | Result]] = deque()
    for item in items:
        waiting.append(pool.submit(job, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def prefetched(pool: ThreadPoolExecutor, parts: Iterator[T]) -> Iterator[T]:
    """Yield parts while the next one is made in a thread."""
    coming = pool.submit(next, parts, None)
    while (part := coming.result()) is not None:
        coming = pool.submit(next, parts, None)
        yield part


def _images_and_frames(
    pool: ThreadPoolExecutor,
    image: Callable[[Item], Part | Result],
    items: Iterable[Item],
    decoder: Decoder,
    *,
    ahead: int,
) -> Iterator[Part | Result]:
    """Yield images, and videos frame by frame."""
    for is_video, group in groupby(items, lambda item: item.pixels is None and is_video_file(item.source)):
        if not is_video:
            yield from _in_order(pool, image, group, ahead=ahead)
            continue
        for item in group:
            yield from prefetched(pool, _frames(item, decoder))


def is_video_file(path: str) -> bool:
    """Return whether a file is a video by its name; an animated GIF counts as a picture."""
    ending = Path(path).suffix.lower()
    return ending in VIDEOS.extensions - IMAGES.extensions


def _frames(item: Item, decoder: Decoder) -> Iterator[Part | Result]:
    """Yield the frames of a video, or of a span of it, one by one."""
    sample = item.sample
    try:
        with item.open(decoder) as video:
            times = timeline_of(video)
            times.check_span(sample)
            window = times.window(sample.start_seconds, sample.end_seconds)
            end = min(window.first + window.length, video.num_frames)
            for first in range(window.first, end, FRAMES_AT_ONCE):
                numbers = torch.arange(first, min(first + FRAMES_AT_ONCE, end))
                spans = zip(times.start_of(numbers), times.end_of(numbers), strict=True)
                for (start, last), frame in zip(spans, video.frames(numbers.tolist()), strict=True):
                    view = torch.from_numpy(frame).permute(2, 0, 1)[None]
                    yield Part(item.source, start, last, view, torch.arange(1))
    except DecodeError as error:
        yield Result(item.source, sample.start_seconds, sample.end_seconds, error.cause)


def _parts(
    protocol: Protocol, item: Item, window: float | None, stride: float | None, decoder: Decoder
) -> Iterator[Part | Result]:
    """Yield the parts of a file one by one, so that memory does not grow with its length."""
    sample = item.sample
    try:
        if not isinstance(protocol, ClipProtocol):  # images have no windows
            yield Part(item.source, None, None, item_views(item, protocol), torch.arange(1))
            return
        with item.open(decoder) as video:
            times = timeline_of(video)
            times.check_span(sample)
            warn_of_still(item, video)
            start, end = sample.start_seconds or 0.0, sample.end_seconds
            if window is None:
                part = _part(sample, video, times, protocol, start, times.seconds if end is None else end)
                yield part if item.has_seconds else replace(part, start_seconds=None, end_seconds=None)
                return
            end = times.seconds if end is None else min(end, times.seconds)
            for first, last in windows(end, window, stride, begin=start):
                span = replace(sample, start_seconds=first, end_seconds=last)
                yield _part(span, video, times, protocol, first, last)
    except DecodeError as error:
        yield Result(item.source, sample.start_seconds, sample.end_seconds, error.cause)


def item_views(item: Item, protocol: Protocol) -> Tensor:
    """Return the views of an image, or all views of a video, as `mvrec test` scores them.

    Returns:
        uint8 (V, C, T, H, W), images (V, C, H, W).

    Raises:
        DecodeError: The file cannot be read.
        UserError: The protocol has views of key frames only.
    """
    if isinstance(protocol, KeyFrameProtocol):
        raise UserError(f"{item.source}: an action detector has views of key frames only: use predict, with boxes")
    if isinstance(protocol, OF_IMAGES):
        image = np.require(item.image(upright=protocol.upright), requirements="W")  # of PIL's views that is a copy
        return torch.from_numpy(image).permute(2, 0, 1)[None]
    if isinstance(protocol, ImageProtocol):
        return protocol_view(item.image(upright=protocol.upright), protocol)
    assert isinstance(protocol, ClipProtocol)
    with item.open("auto") as video:
        views = views_of_clips(video, timed_frames(item.sample, timeline_of(video), protocol), protocol)
    return views.transpose(1, 2)


def _part(sample: Sample, video: Video, times: Timeline, protocol: ClipProtocol, start: float, end: float) -> Part:
    numbers = timed_frames(sample, times, protocol)  # (clips, T)
    # In a window no longer than a clip all clips are equal.
    rows, places = torch.unique(numbers, dim=0, return_inverse=True)
    views = views_of_clips(video, rows, protocol)  # (rows * crops, T, C, h, w)
    return Part(str(sample.path), start, end, views.transpose(1, 2), _in_crops(places, protocol.views.num_crops))


def _in_crops(clips: Tensor, num_crops: int) -> Tensor:
    """Return the numbers of views, crop by crop, from those of clips (N,): (N * crops,)."""
    return (clips[:, None] * num_crops + torch.arange(num_crops)).flatten()


def recognise_stream(
    recogniser: Recogniser,
    stream: Stream,
    *,
    window_seconds: float,
    stride_seconds: float,
    views_per_forward: int | None = None,
    objects: ObjectKnobs | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Prediction]:
    """Recognise a stream, window after window, until it ends.

    Every `stride_seconds` the last `window_seconds` are scored like a video; image networks take the newest frame, and
    segmenters and detectors begin with the first one. The rest after the last whole window is scored too, also if the
    stream breaks off. Frames are cropped and scaled on arrival, so that a window needs little memory. If a live stream
    is faster than the network, windows are skipped so that results do not lag. Skipped windows are counted, like lost
    pictures.

    Args:
        recogniser: The network.
        stream: Camera or network stream.
        window_seconds: Length of a window.
        stride_seconds: From window to window.
        views_per_forward: Views per forward pass; all by default.
        objects: Choices of a detector.
        clock: Returns seconds, to detect a lag.

    Yields:
        One result per window.

    Raises:
        UserError: The stream broke off.
    """
    spans = (window_seconds, stride_seconds)
    return followed(_windows_of_stream(recogniser, stream, *spans, views_per_forward, objects, clock))


def _windows_of_stream(
    recogniser: Recogniser,
    stream: Stream,
    window_seconds: float,
    stride_seconds: float,
    views_per_forward: int | None,
    objects: ObjectKnobs | None,
    clock: Callable[[], float],
) -> Iterator[Prediction]:
    frames: deque[tuple[float, Tensor]] = deque()  # time, and uint8 (crops, C, size, size)
    first_due = 0.0 if isinstance(recogniser.protocol, OF_IMAGES) else window_seconds
    begin, due, scored, left_out = clock(), first_due, -math.inf, 0
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
            yield from _predictions(recogniser, [part], views_per_forward, objects)
    except (UserError, KeyboardInterrupt) as error:
        cut = error
    rest = [(seconds, view) for seconds, view in frames if seconds >= due - window_seconds]
    if rest and rest[-1][0] > scored:
        part = _part_of_stream(stream.source, rest, recogniser.protocol)
        yield from _predictions(recogniser, [part], views_per_forward, objects)
    if stream.num_lost:
        log.warning("%s: pictures lost or damaged on the way: at least %d", stream.source, stream.num_lost)
    if left_out:
        log.warning(
            "%s: skipped %s: the network is slower than the stream", stream.source, counted(left_out, "windows")
        )
    if cut is not None:
        raise cut


def _view(frame: npt.NDArray[np.uint8], protocol: Protocol) -> Tensor:
    """Return crops of a frame of a stream, uint8 (crops, C, size, size)."""
    if isinstance(protocol, OF_IMAGES):
        return torch.from_numpy(frame).permute(2, 0, 1)[None]
    return views_of(frame[None], protocol.geometries(*frame.shape[:2]))[:, 0]


def _part_of_stream(source: str, frames: Sequence[tuple[float, Tensor]], protocol: Protocol) -> Part:
    start, end = frames[0][0], frames[-1][0]
    if not isinstance(protocol, ClipProtocol):
        return Part(source, end, end, frames[-1][1], torch.arange(1))
    fps = (len(frames) - 1) / (end - start) if end > start else 1.0
    times = np.array([seconds - start for seconds, _ in frames])
    timeline_of_part = timeline(times, fps=fps, seconds=end - start + 1 / fps)
    numbers = timed_frames(Sample(Path(source), 0), timeline_of_part, protocol)  # (clips, T)
    rows, places = torch.unique(numbers, dim=0, return_inverse=True)
    clips = [torch.stack([frames[number][1] for number in row], dim=2) for row in rows.tolist()]  # (crops, C, T, h, w)
    return Part(source, start, end, torch.cat(clips), _in_crops(places, protocol.views.num_crops))
