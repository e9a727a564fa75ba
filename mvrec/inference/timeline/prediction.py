"""Timelines of videos: the windows that a network has recognised, merged into segments."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np

from mvrec.errors import UserError
from mvrec.inference.results import Prediction
from mvrec.inference.timeline.segments import Segment, TimelineKnobs, merge
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


def timelines(windows: Iterable[Prediction], names: Sequence[str], knobs: TimelineKnobs) -> Iterator[Prediction]:
    """Merge the windows of each video; only its probabilities are kept meanwhile.

    Args:
        windows: Predictions of windows, video by video, as `recognise_files` yields them.
        names: Names of the classes.
        knobs: Thresholds, the shortest segment, and the background.

    Yields:
        A prediction per segment, and the unreadable ones as they are.

    Raises:
        UserError: The network predicts no probabilities of classes.
    """
    for source, parts in groupby(windows, lambda part: part.source):
        rows, spans, failed = [], [], []
        for part in parts:
            probabilities = getattr(part.output, "probabilities", None)
            if part.error:
                failed.append(part)
            elif probabilities is None or part.start_seconds is None or part.end_seconds is None:
                raise UserError(f"{source}: a timeline needs a video and a network that gives probabilities of classes")
            else:
                rows.append(np.asarray(probabilities, np.float32))
                spans.append((part.start_seconds, part.end_seconds))
        starts, ends = np.array(spans or [(0.0, 0.0)]).T
        segments = merge(np.stack(rows), starts, ends, names, knobs) if rows else []
        for segment in segments:
            yield Prediction(source, segment.start, segment.end, output=SegmentOutput(segment))
        if rows and not segments:
            log.info("%s: no segment reaches %g (--on)", source, knobs.on)
        yield from failed
