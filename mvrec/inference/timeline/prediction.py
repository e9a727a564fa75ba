"""Timelines of videos: the windows that a network has recognised, merged into segments."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np

from mvrec.data.video.video import Decoder
from mvrec.data.views.protocol import ClipProtocol, KeyFrameProtocol
from mvrec.errors import DecodeError, UserError, nearest
from mvrec.inference.inputs import Item
from mvrec.inference.recogniser import Recogniser
from mvrec.inference.recognising import recognise_files
from mvrec.inference.results import Prediction, Result
from mvrec.inference.timeline.segments import Segment, TimelineKnobs, merge
from mvrec.inference.timeline.windows import WINDOWS_AT_A_TIME, clip_seconds, needs_rate
from mvrec.tasks.outputs import Output

COLUMNS = ("label", "confidence")

log = logging.getLogger("mvrec")


@dataclass(frozen=True)
class SegmentOutput(Output):
    """The class of a segment."""

    segment: Segment

    def text(self, top: int) -> str:
        """Return the class with its confidence."""
        return f"{self.segment.name} {100 * self.segment.confidence:.1f} %"

    def cells(self, top: int) -> list[str]:
        """Return the cells under `SegmentColumns`."""
        return [self.segment.name, f"{self.segment.confidence:.6f}"]

    def fields(self, top: int) -> dict[str, Any]:
        """Return the class and its confidence."""
        return {name: asdict(self.segment)[key] for name, key in zip(COLUMNS, ("name", "confidence"), strict=True)}

    def best(self, top: int) -> list[tuple[str, float]]:
        """Return the class with its confidence."""
        return [(self.segment.name, self.segment.confidence)]


class SegmentColumns:
    """The columns of segments in a CSV file, in place of a task's."""

    def columns(self, top: int) -> list[str]:
        """Return their names."""
        return list(COLUMNS)

    def no_fields(self) -> dict[str, Any]:
        """Return the fields of a file that cannot be read."""
        return dict.fromkeys(COLUMNS)


@dataclass(frozen=True)
class VideoSegments(Result):
    """The segments of a video: classes with start and end.

    Attributes:
        segments: By start, then by class; of a damaged file those before the damage.
    """

    segments: tuple[Segment, ...] = ()

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    def __len__(self) -> int:
        return len(self.segments)

    def as_predictions(self) -> list[Prediction]:
        """Return a prediction per segment, for a writer, and one with the error of an unreadable file."""
        segments = [
            Prediction(self.source, segment.start, segment.end, output=SegmentOutput(segment)) for segment in self
        ]
        return [*segments, Prediction(self.source, None, None, self.error)] if self.error else segments

    def as_rows(self) -> list[dict[str, Any]]:
        """Return flat values, for a table: path, start_seconds, end_seconds, label, confidence."""
        return [prediction.as_dict() for prediction in self.as_predictions()]


def merged(source: str, windows: Iterable[Prediction], names: Sequence[str], knobs: TimelineKnobs) -> VideoSegments:
    """Merge the windows of a video; only their probabilities are kept.

    Args:
        source: The video.
        windows: Their predictions; after an unreadable one the earlier ones count.
        names: Names of the classes.
        knobs: Thresholds, the shortest segment, and the background.

    Raises:
        UserError: The network predicts no probabilities of classes.
    """
    rows, spans, error = [], [], ""
    for window in windows:
        probabilities = getattr(window.output, "probabilities", None)
        error = error or window.error
        if window.error:
            continue
        if probabilities is None or window.start_seconds is None or window.end_seconds is None:
            raise UserError(f"{source}: a timeline needs a video and a network that gives probabilities of classes")
        rows.append(np.asarray(probabilities, np.float32))
        spans.append((window.start_seconds, window.end_seconds))
    if not rows:
        return VideoSegments(source, None, None, error)
    starts, ends = np.array(spans).T
    segments = merge(np.stack(rows), starts, ends, names, knobs)
    return VideoSegments(source, float(starts.min()), float(ends.max()), error, tuple(segments))


def timelines(
    recogniser: Recogniser,
    items: Iterable[Item],
    knobs: TimelineKnobs,
    *,
    window: float | None = None,
    stride: float | None = None,
    views_per_forward: int | None = None,
    decoder: Decoder = "auto",
    num_threads: int = 2,
) -> Iterator[VideoSegments]:
    """Return the segments of videos, window by window, so that memory does not grow with their length.

    Args:
        recogniser: A network for classes of videos.
        items: The videos. Parts of a video that follow one another have one timeline.
        knobs: Thresholds, the shortest segment, and the background.
        window: Seconds of a window; by default the length of a clip, at the file's own rate where clips have it.
        stride: Seconds from window to window; by default half a window.
        views_per_forward: Views per forward pass; all of a window by default.
        decoder: Name of the decoder of videos.
        num_threads: Windows decoded at the same time as the network works.

    Raises:
        UserError: The network is of another kind, lacks the background, or needs `window`.
    """
    check_timeline(recogniser, knobs)
    if window is None and not needs_rate(recogniser.protocol):
        window = clip_seconds(recogniser.protocol, 0.0)
        log.info("windows of %.2f s, the length of a clip (--window)", window)

    def results() -> Iterator[VideoSegments]:
        for source, parts in groupby(items, lambda item: item.source):
            windows = windows_of(recogniser, list(parts), window, stride, views_per_forward, decoder, num_threads)
            result = merged(source, windows, recogniser.outputs.class_names, knobs)
            if not result.segments and not result.error:
                log.info("%s: no segment reaches %g (--on)", source, knobs.on)
            yield result

    return results()


def windows_of(
    recogniser: Recogniser,
    parts: Sequence[Item],
    window: float | None = None,
    stride: float | None = None,
    views_per_forward: int | None = None,
    decoder: Decoder = "auto",
    num_threads: int = 2,
) -> Iterator[Prediction]:
    """Recognise the windows of a video, or of parts of it; the arguments are those of `timelines`."""
    try:
        window = window or _clip_seconds(recogniser, parts[0], decoder)
    except DecodeError as error:
        yield Prediction(parts[0].source, None, None, error.cause)
        return
    yield from recognise_files(
        recogniser,
        parts,
        window_seconds=window,
        stride_seconds=stride or window / WINDOWS_AT_A_TIME,
        views_per_forward=views_per_forward,
        decoder=decoder,
        num_threads=num_threads,
    )


def check_timeline(recogniser: Recogniser, knobs: TimelineKnobs) -> None:
    """Check that a network tells classes of videos, the background among them.

    Raises:
        UserError: It does not.
    """
    names = recogniser.outputs.class_names
    if not has_timeline(recogniser):
        if not recogniser.is_video:
            kind = "a network for images"
        elif isinstance(recogniser.protocol, KeyFrameProtocol):
            kind = "an action detector, which tells what each person does when"
        else:
            kind = f"for {recogniser.outputs.task}"
        raise UserError(f"a timeline is of the classes of a video, and {recogniser.source} is {kind}")
    if knobs.background is not None and knobs.background not in names:
        raise UserError(f"background {knobs.background!r} is no class{nearest(knobs.background, names)}")


def has_timeline(recogniser: Recogniser) -> bool:
    """Return whether a network tells classes of videos."""
    return isinstance(recogniser.protocol, ClipProtocol) and bool(recogniser.outputs.class_names)


def _clip_seconds(recogniser: Recogniser, item: Item, decoder: Decoder) -> float:
    with item.open(decoder) as video:
        seconds = clip_seconds(recogniser.protocol, video.fps)
    if needs_rate(recogniser.protocol):
        log.info("%s: windows of %.2f s, the length of a clip at %.3g fps (--window)", item.source, seconds, video.fps)
    return seconds
