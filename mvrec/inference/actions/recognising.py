"""From videos and the boxes of people in them to actions, key frame by key frame."""

import contextlib
import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mvrec.data.listing.index import Sample
from mvrec.data.loading.key_frames import key_frame_clip
from mvrec.data.video.video import Decoder, Video
from mvrec.data.views.geometry import Geometry
from mvrec.data.views.protocol import KeyFrameProtocol
from mvrec.data.views.targets import ActionBoxes
from mvrec.data.views.timeline import Timeline, timeline_of
from mvrec.data.views.transforms import views_of
from mvrec.errors import DecodeError, UserError
from mvrec.inference.actions.people import NoPeopleError, People
from mvrec.inference.actions.results import ActionPrediction, Person, Sighting
from mvrec.inference.actions.tracks import Linker, longest_gap, smoothed
from mvrec.inference.inputs import Item
from mvrec.inference.recogniser import Recogniser
from mvrec.inference.recognising import prefetched
from mvrec.messages import counted

log = logging.getLogger("mvrec")

Pixels = npt.NDArray[np.uint8]

ROUNDING = 1e-3  # seconds


@dataclass(frozen=True)
class KeyFrame:
    """A key frame, read and waiting for the network.

    Attributes:
        seconds: Its time.
        view: uint8 (C, T, h, w), the clip around it.
        geometry: The way from frames to the view.
        size: (height, width) of frames in pixels.
        moments: The key frame and later moments before the next one, each with its frame uint8 (H, W, 3) if a detector
            looks at it.
    """

    seconds: float
    view: Tensor
    geometry: Geometry
    size: tuple[int, int]
    moments: Sequence[tuple[float, Pixels | None]]


def recognise_actions(
    recogniser: Recogniser,
    items: Iterable[Item],
    people: People,
    *,
    every: float,
    smooth: float,
    views_per_forward: int = 1,
    decoder: Decoder = "auto",
) -> Iterator[ActionPrediction]:
    """Recognise the actions of people in videos; the next key frame is decoded while the network works.

    Args:
        recogniser: An action detector.
        items: Videos, or spans of videos.
        people: The boxes of people.
        every: Seconds from one key frame to the next, at least.
        smooth: Scores are averaged over a person's key frames within so many seconds; 0 leaves them as they are.
        views_per_forward: Key frames per forward pass.
        decoder: Name of the decoder.

    Yields:
        A result per key frame; a video that cannot be read, or one of several without boxes, gives one with the error.

    Raises:
        UserError: Nothing is known about the people of the only video.
    """
    is_single = isinstance(items, Sequence) and len(items) == 1
    for item in items:
        results = _of_video(recogniser, item, people, every=every, at_once=views_per_forward, decoder=decoder)
        yield from smoothed(_with_error(results, item, is_single=is_single), smooth)


def _with_error(results: Iterator[ActionPrediction], item: Item, *, is_single: bool) -> Iterator[ActionPrediction]:
    """Yield the key frames of a video, and at the end why the rest cannot be read, if it cannot."""
    try:
        yield from results
    except DecodeError as error:
        yield ActionPrediction(item.source, item.sample.start_seconds, item.sample.end_seconds, error.cause)
    except NoPeopleError as error:
        if is_single:
            raise
        yield ActionPrediction(item.source, item.sample.start_seconds, item.sample.end_seconds, str(error))


def _of_video(
    recogniser: Recogniser, item: Item, people: People, *, every: float, at_once: int, decoder: Decoder
) -> Iterator[ActionPrediction]:
    outside, frames, persons_seen = 0, 0, 0
    with item.open(decoder) as video, ThreadPoolExecutor(1) as pool:
        protocol: Any = recogniser.protocol
        times = people.times(item.sample, timeline_of(video).seconds)
        linker = Linker(most_gap=longest_gap(_step(times)))
        parts = prefetched(pool, _key_frames(protocol, item.sample, video, times, people, every=every))
        while batch := list(itertools.islice(parts, at_once)):
            moments = [_linked(key, item.sample, people, linker) for key in batch]
            answers = _probabilities(recogniser, batch, [sightings[0].corners for sightings in moments])
            for key, sightings, (visible, probabilities) in zip(batch, moments, answers, strict=True):
                outside += len(sightings[0].corners) - len(visible)
                frames, persons_seen = frames + 1, persons_seen + len(sightings[0].corners)
                persons = _persons(sightings[0], visible, probabilities, recogniser.class_names)
                span = (key.seconds, key.seconds)
                yield ActionPrediction(item.source, *span, people=persons, sightings=tuple(sightings))
    if outside:
        text = "%s: %s outside the network's view: no action, use full pixels"
        log.warning(text, item.source, counted(outside, "boxes"))
    if not persons_seen:
        log.warning("%s: nobody is in its %s", item.source, counted(frames, "frames looked at"))


def _step(times: Sequence[float]) -> float:
    """Return the usual seconds from one moment to the next."""
    return float(np.median(np.diff(times))) if len(times) > 1 else 1.0


def _key_frames(
    protocol: KeyFrameProtocol, sample: Sample, video: Video, times: Sequence[float], people: People, *, every: float
) -> Iterator[KeyFrame]:
    """Yield the key frames of a video, each with the moments up to the next."""
    timeline = timeline_of(video)
    for group in _groups(times, every):
        key_frame = replace(sample, start_seconds=group[0], end_seconds=None)
        numbers = key_frame_clip(key_frame, timeline, protocol.clip)  # (T,)
        looks = _numbers_at(timeline, group) if people.needs_frames else []
        unique, places = np.unique([*numbers.tolist(), *looks], return_inverse=True)
        frames = video.frames(unique)
        clip, shown = frames[places[: len(numbers)]], places[len(numbers) :]
        size = (frames.shape[1], frames.shape[2])
        (geometry,) = protocol.geometries(*size)
        view = views_of(clip, [geometry])[0].transpose(0, 1)  # (C, T, h, w)
        pictures = [frames[place] for place in shown] if looks else [None] * len(group)
        yield KeyFrame(group[0], view, geometry, size, list(zip(group, pictures, strict=True)))


def _groups(times: Sequence[float], every: float) -> Iterator[list[float]]:
    """Yield key times with the times before the next one; key times are at least `every` seconds apart."""
    group: list[float] = []
    for seconds in times:
        if group and seconds - group[0] >= every - ROUNDING:
            yield group
            group = []
        group.append(seconds)
    yield group


def _numbers_at(timeline: Timeline, times: Sequence[float]) -> list[int]:
    return [timeline.window(seconds, None).first for seconds in times]


def _linked(key: KeyFrame, sample: Sample, people: People, linker: Linker) -> list[Sighting]:
    """Return the boxes of a key frame and of the moments after it, with names for all people."""
    sightings = [people.sighting(sample, seconds, key.size, frame) for seconds, frame in key.moments]
    return [
        sighting._replace(names=linker.link(sighting.seconds, sighting.corners, sighting.names))
        for sighting in sightings
    ]


def _probabilities(
    recogniser: Recogniser, batch: Sequence[KeyFrame], corners: Sequence[npt.NDArray[np.float32]]
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    """Return for each key frame which boxes are in the view, and the probabilities (N, K) of these."""
    moved = [_in_view(boxes, key) for boxes, key in zip(corners, batch, strict=True)]
    visible = [np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(1)) for boxes in moved]
    boxes = [torch.from_numpy(box[rows]) for box, rows in zip(moved, visible, strict=True)]
    if not any(map(len, boxes)):
        none = np.zeros((0, len(recogniser.class_names)))
        return [(rows, none) for rows in visible]
    outputs: Any = recogniser.outputs
    with torch.inference_mode(), _size_in_words(recogniser, batch[0].view):
        clips = recogniser.normalised(torch.stack([key.view for key in batch]))
        probabilities = outputs.probabilities(recogniser.backbone, clips, boxes)
    if not all(values.isfinite().all() for values in probabilities):
        raise UserError(f"{recogniser.source}: the network's outputs are not finite: it cannot recognise actions here")
    return [(rows, values.double().numpy()) for rows, values in zip(visible, probabilities, strict=True)]


@contextlib.contextmanager
def _size_in_words(recogniser: Recogniser, view: Tensor) -> Iterator[None]:
    """Turn the exception of a network for one size, at another one, into a line."""
    height, width = view.shape[-2:]
    try:
        yield
    except (AssertionError, RuntimeError, ValueError) as error:
        is_own_size = recogniser.backbone.input_shape[-2:] == (height, width)
        if is_own_size or isinstance(error, UserError | torch.OutOfMemoryError):
            raise
        raise UserError(
            f"{recogniser.source}: its network takes no frames of {height} x {width} pixels: look at their centre "
            "(--pixels centre)"
        ) from error


def _in_view(corners: npt.NDArray[np.float32], key: KeyFrame) -> npt.NDArray[np.float32]:
    """Return boxes (N, 4) in pixels of the view, cut at its border."""
    no_action = np.zeros((len(corners), 0), bool)
    boxes = ActionBoxes(corners, no_action, corners, no_action, relative=False)
    moved = boxes.in_frame(*key.size).moved(key.geometry).corners
    assert moved is not None
    return moved


def _persons(
    sighting: Sighting,
    visible: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float64],
    class_names: tuple[str, ...],
) -> tuple[Person, ...]:
    scores = [None if math.isnan(score) else float(score) for score in sighting.scores]
    boxes: list[Any] = [tuple(map(float, box)) for box in sighting.corners]
    return tuple(
        Person(sighting.names[row], boxes[row], scores[row], values, class_names)
        for row, values in zip(visible.tolist(), probabilities, strict=True)
    )
