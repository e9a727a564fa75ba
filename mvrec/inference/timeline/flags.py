"""The flags of a timeline, and its truth."""

import argparse
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mvrec.data.listing.lists import read_rows
from mvrec.data.video.stream import is_stream
from mvrec.errors import UserError, nearest
from mvrec.files import at_home
from mvrec.inference.timeline.figures import TimelineFigures, timeline_figures
from mvrec.inference.timeline.prediction import VideoSegments
from mvrec.inference.timeline.segments import Segment, TimelineKnobs
from mvrec.messages import counted

KNOBS = ("on", "off", "least", "background")
FLAGS = (*KNOBS, "truth", "page")

log = logging.getLogger("mvrec")


def add_timeline_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `mvrec recognize --timeline`."""
    group = parser.add_argument_group("timeline")
    text = "merge windows into segments: what happens from when to when (--window, by default the length of a clip)"
    group.add_argument("--timeline", action="store_true", help=text)
    group.add_argument("--on", type=float, metavar="P", help="probability that begins a segment (default: 0.5)")
    group.add_argument("--off", type=float, metavar="P", help="probability that keeps it up (default: 0.3)")
    group.add_argument("--least", type=float, metavar="S", help="shortest segment in seconds (default: 0)")
    group.add_argument("--background", metavar="CLASS", help="the class that stands for nothing")
    text = "score the segments by those of a list (path,label,start,end): tIoU mAP by ActivityNet's rule"
    group.add_argument("--truth", type=at_home, metavar="LIST", help=text)
    text = "write the segments as a page with a bar per video, the true ones above the predicted ones"
    group.add_argument("--page", type=at_home, metavar="FILE.html", help=text)


def check_timeline_flags(options: argparse.Namespace) -> None:
    """Check the flags before a network is loaded.

    Raises:
        UserError: A flag needs `--timeline`, or a value is out of range.
    """
    if options.timeline:
        timeline_knobs(options)
        if is_stream(options.sources[0]):
            raise UserError(f"--timeline is for files, and {options.sources[0]} is a stream without an end")
        if options.masks:
            raise UserError("--timeline writes no masks: --overlays FOLDER draws the segments into the videos")
        if options.page is not None and options.page.is_dir():
            raise UserError(f"--page {options.page} is a folder: name the HTML file in it")
    elif flag := next((name for name in FLAGS if getattr(options, name) is not None), None):
        raise UserError(f"--{flag} is for timelines: add --timeline")


def timeline_knobs(options: argparse.Namespace) -> TimelineKnobs:
    """Return the choices of a timeline.

    Raises:
        UserError: A value is out of range.
    """
    values = {name: getattr(options, name) for name in KNOBS}
    return TimelineKnobs(**{name: value for name, value in values.items() if value is not None})


class Truth:
    """The true segments of videos, and those recognised.

    Args:
        path: A list with the columns path, label, start and end in seconds.
        class_names: Names of the network's classes.

    Attributes:
        spans: Start, end and class of the segments of each video, by its whole path.
        figures: The score, after the last result.

    Raises:
        UserError: The list cannot be read, a row has no span, or its class is not one of the network's.
    """

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        self.path, self.class_names = path, list(class_names)
        self.spans: dict[str, list[tuple[float, float, str]]] = {}
        self.figures: TimelineFigures | None = None
        for row in read_rows(path):
            where = f"{path}:{row.line}"
            if math.isnan(row.start_seconds) or math.isnan(row.end_seconds):
                raise UserError(f"{where}: a true segment needs start and end in seconds")
            if row.label not in class_names:
                raise UserError(f"{where}: {row.label!r} is no class of the network{nearest(row.label, class_names)}")
            video = str((path.parent / row.path).resolve())
            self.spans.setdefault(video, []).append((row.start_seconds, row.end_seconds, row.label))

    def of(self, source: str) -> list[Segment]:
        """Return the true segments of a video, by start."""
        parts = sorted(self.spans.get(str(Path(source).resolve()), ()))
        return [Segment(start, end, self.class_names.index(name), name, 1.0) for start, end, name in parts]

    def check_videos(self, sources: Iterable[str], *, where: str = "the recognised files") -> None:
        """Check that the list is about the videos, and say which of it are not among them.

        Args:
            sources: The videos.
            where: What they are, for messages.

        Raises:
            UserError: No video of the list is among them.
        """
        videos = {str(Path(source).resolve()): source for source in sources}
        absent = [video for video in self.spans if video not in videos]
        cause = "" if not absent or Path(absent[0]).exists() else " (there is no such file)"
        if self.spans and len(absent) == len(self.spans):
            raise UserError(
                f"{self.path}: none of its videos is among {where}: it has {absent[0]}{cause}, and they have "
                f"{next(iter(videos))}; its paths are relative to its own folder"
            )
        if absent:
            count = counted(len(absent), "videos")
            text = f"{count} of {self.path} not among {where}, so true segments there count as missed"
            log.warning("%s: %s%s", text, absent[0], cause)
        if unlisted := [video for video in videos if video not in self.spans]:
            count = counted(len(unlisted), "videos")
            log.info("%s not in %s, so all segments there count as wrong: %s", count, self.path, videos[unlisted[0]])

    def score(self, segments: Mapping[str, Sequence[Segment]]) -> TimelineFigures:
        """Score the segments of videos by their whole paths."""
        self.figures = timeline_figures(segments, self.spans)
        return self.figures

    def scored(self, results: Iterable[VideoSegments]) -> Iterator[VideoSegments]:
        """Pass results on, and print their score after the last one; an unreadable video has no segments."""
        segments: dict[str, list[Segment]] = {}
        for result in results:
            segments.setdefault(str(Path(result.source).resolve()), []).extend(result)
            yield result
        empty = [video for video, parts in segments.items() if not parts and video in self.spans]
        if empty:
            count = counted(len(empty), "videos")
            log.warning("%s of %s without any segment, such as %s", count, self.path, empty[0])
        log.info("%s", self.score(segments))
