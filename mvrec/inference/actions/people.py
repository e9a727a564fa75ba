"""The people in a video, moment by moment: from a list of boxes, or found by a detector."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mvrec.class_paths import calling
from mvrec.data.listing.archive import FilePath
from mvrec.data.listing.boxes.reading import FrameRule, read_boxes
from mvrec.data.listing.boxes.rows import BoxRow, Faults, Unit
from mvrec.data.listing.index import Sample
from mvrec.data.loading.frames.seconds import FrameSeconds
from mvrec.data.video.video import Decoder
from mvrec.data.views.timeline import ROUNDING
from mvrec.errors import PartError, UserError
from mvrec.files import at_home
from mvrec.inference.actions.results import Sighting
from mvrec.messages import counted

Pixels = npt.NDArray[np.uint8]
# From a frame uint8 RGB (H, W, 3) to boxes (N, 4), left, top, right and bottom in its pixels, and scores (N,).
Detector = Callable[[Pixels], tuple[Any, Any]]

log = logging.getLogger("mvrec")

PLACES = 1e4  # times are told apart by tenths of milliseconds


class NoPeopleError(UserError):
    """A list without boxes of a video."""


class People(ABC):
    """The boxes of people in videos.

    Attributes:
        needs_frames: Whether `sighting` looks at frames.
        step: Seconds between the moments of a video, if they are regular.
    """

    needs_frames: bool

    @abstractmethod
    def times(self, sample: Sample, seconds: float) -> list[float]:
        """Return the moments at which people are known, in ascending order.

        Args:
            sample: A video, or a part of it.
            seconds: The length of the whole video.

        Raises:
            NoPeopleError: Nothing is known about this video.
        """

    @abstractmethod
    def sighting(self, sample: Sample, seconds: float, size: tuple[int, int], frame: Pixels | None) -> Sighting:
        """Return the boxes at one of these moments.

        Args:
            sample: The video.
            seconds: The moment.
            size: (height, width) of a frame in pixels.
            frame: uint8 (H, W, 3), the frame at the moment, if `needs_frames`.
        """


class DetectedPeople(People):
    """People that a detector finds.

    Args:
        detector: From a frame to boxes and scores.
        every: Seconds from one look to the next.
        min_score: Least score of a box.
    """

    needs_frames = True

    def __init__(self, detector: Detector, *, every: float = 1.0, min_score: float = 0.8) -> None:
        self.detector, self.every, self.min_score = detector, every, min_score

    def times(self, sample: Sample, seconds: float) -> list[float]:
        """Return a moment every few seconds, from the start on."""
        start, end = sample.start_seconds or 0.0, min(sample.end_seconds or math.inf, seconds)
        count = max(math.ceil((end - start) / self.every - 1e-6), 1)
        return [start + number * self.every for number in range(count)]

    def sighting(self, sample: Sample, seconds: float, size: tuple[int, int], frame: Pixels | None) -> Sighting:
        """Return the boxes that the detector finds.

        Raises:
            PartError: It raised an exception, or returned something else than boxes.
        """
        assert frame is not None
        with calling("people", self.detector):
            boxes, scores = self.detector(frame)
        corners = _numbers(boxes, self.detector, "boxes").reshape(-1, 4)
        values = _numbers(scores, self.detector, "scores").reshape(-1)
        if len(corners) != len(values):
            raise PartError(f"people: {self.detector} returned {len(corners)} boxes and {len(values)} scores")
        corners = np.clip(corners, 0, np.array([size[1], size[0]] * 2, np.float32))
        good = (values >= self.min_score) & (corners[:, 2:] > corners[:, :2]).all(1)
        return Sighting(seconds, corners[good], values[good], ("",) * int(good.sum()))


def _numbers(values: Any, detector: Detector, noun: str) -> npt.NDArray[np.float32]:
    try:
        array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, np.float32)
        if noun == "boxes" and array.size % 4:
            raise ValueError(f"shape {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError("some are not finite")
    except (TypeError, ValueError) as error:
        raise PartError(f"people: {detector} returned {noun} that are no numbers (N, 4): {error}") from None
    return array


class ListedPeople(People):
    """People whose boxes a list has, in any format that training reads.

    Boxes of a video are those whose path in the list is the video's, or else has its name, or its name without ending.

    Args:
        path: The list.
        min_score: Least score of boxes that have one.
        videos: The videos in question, for lists that number frames instead of giving times.
        decoder: Name of the decoder of videos.

    Raises:
        UserError: The list cannot be read, or has no boxes.
    """

    needs_frames = False

    def __init__(
        self,
        path: str | Path,
        *,
        min_score: float = 0.0,
        videos: Sequence[Path] = (),
        decoder: Decoder = "auto",
    ) -> None:
        self.path = at_home(path)
        self._rows: dict[str, dict[int, list[BoxRow]]] = {}  # by path and moment
        faults = Faults(drop=True)
        is_needed: dict[str, bool] = {}
        rule = FrameRule(_FrameTimes(videos, decoder), every=None)
        for row in read_boxes(self.path, rule):
            if not row.has_box or not faults.accepts(row) or row.score < min_score:  # boxes without a score stay
                continue
            if row.path not in self._rows:
                self._rows[row.path] = {}
                is_needed[row.path] = not videos or any(_is_named(row.path, video) for video in videos)
            if is_needed[row.path]:  # a list of a whole data set takes much memory
                self._rows[row.path].setdefault(round(row.seconds * PLACES), []).append(row)
        for kind, count in faults.counts.items():
            log.warning("left out %s, the first: %s", counted(count, "boxes"), faults.firsts[kind])
        if not self._rows:
            least = f" with a score of {min_score:g} or more" if min_score > 0 else ""
            raise UserError(f"{self.path}: it has no box{least}")
        self._paths: dict[str, str] = {}  # of videos in the list, by video
        self._said_outside: set[FilePath] = set()  # videos with a box outside the picture

    def times(self, sample: Sample, seconds: float) -> list[float]:
        """Return the moments of the list that lie in the video, or in its part."""
        start, end = sample.start_seconds or 0.0, math.inf if sample.end_seconds is None else sample.end_seconds
        last = seconds + ROUNDING  # as in training
        moments = [moment / PLACES for moment in sorted(self._of(sample))]
        inside = [moment for moment in moments if start <= moment < end and moment <= last]
        if not inside:
            first = self._of(sample)[round(moments[0] * PLACES)][0]
            raise NoPeopleError(
                f"{first.where}: no box of the list lies in the {min(end, seconds) - start:.2f} s of {sample.path}: "
                f"its boxes are at {moments[0]:g} to {moments[-1]:g} s"
            )
        if behind := [moment for moment in moments if moment > last]:
            first = self._of(sample)[round(behind[0] * PLACES)][0]
            text = "%s: left out the boxes at %g s and %s: %s ends at %.2f s"
            log.warning(
                text, first.where, behind[0], counted(len(behind) - 1, "times") + " later", sample.path, seconds
            )
        return inside

    def sighting(self, sample: Sample, seconds: float, size: tuple[int, int], frame: Pixels | None) -> Sighting:
        """Return the boxes of the list at a moment; rows with the same box are one."""
        scale = np.array([size[1], size[0]] * 2, np.float32)
        boxes: dict[tuple[Any, ...], BoxRow] = {}
        for row in self._of(sample)[round(seconds * PLACES)]:
            boxes.setdefault((row.corners, row.person), row)
        rows = list(boxes.values())
        unit = [scale if row.relative else np.ones(4, np.float32) for row in rows]
        corners = np.clip(np.array([row.corners for row in rows], np.float32) * np.stack(unit), 0, scale)
        scores = np.array([row.score for row in rows], np.float32)
        is_inside = (corners[:, 2:] > corners[:, :2]).all(1)
        if not is_inside.all() and sample.path not in self._said_outside:
            self._said_outside.add(sample.path)
            where, picture = rows[int(is_inside.argmin())].where, f"{size[1]}x{size[0]}"
            text = "%s: the box lies outside the %s pixels of %s and is left out, as are others of this video"
            log.warning(text, where, picture, sample.path)
        inside = np.flatnonzero(is_inside)
        return Sighting(seconds, corners[inside], scores[inside], tuple(rows[number].person for number in inside))

    def _of(self, sample: Sample) -> Mapping[int, Sequence[BoxRow]]:
        source = str(sample.path)
        if source not in self._paths:
            self._paths[source] = self._path_of(source)
        return self._rows[self._paths[source]]

    def _path_of(self, source: str) -> str:
        """Return the list's path of a video.

        Raises:
            NoPeopleError: It has none.
            UserError: It has several.
        """
        video = Path(source)
        places = {path: (self.path.parent / path).resolve() for path in self._rows}
        by_path = [path for path, place in places.items() if place == video.resolve()]
        by_name = [path for path in self._rows if Path(path).name == video.name]
        matches = by_path or by_name or [path for path in self._rows if _is_named(path, video)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise UserError(f"{self.path}: {', '.join(matches[:3])} may each be {source}: name videos by their paths")
        names = ", ".join(list(self._rows)[:3]) + (", ..." if len(self._rows) > 3 else "")
        raise NoPeopleError(f"{self.path}: it has no box of {source}, only of {names}")


def _is_named(path: str, video: Path) -> bool:
    """Return whether a path of a list may be a video's: it has its name, or that without ending."""
    name = Path(path).name
    return name in (video.name, video.stem) or Path(name).stem == video.stem


class _FrameTimes:
    """Returns the times of frames of videos by name; 0 for the frames of other videos, which nobody asks for."""

    def __init__(self, videos: Sequence[Path], decoder: Decoder) -> None:
        self.videos = {name: video for video in videos for name in (video.stem, video.name)}
        self.decoder = decoder
        self.times: dict[Path, FrameSeconds] = {}

    def __call__(self, name: str, frame: int) -> float:
        video = self.videos.get(Path(name).name) or self.videos.get(Path(name).stem)
        if video is None:
            return 0.0
        if video not in self.times:
            self.times[video] = FrameSeconds(video.parent, decoder=self.decoder)
        return self.times[video](video.name, frame)


class GivenPeople(People):
    """People whose boxes are arrays, for one video.

    Args:
        boxes: Seconds -> boxes (N, 4), left, top, right, bottom in pixels, or as shares of the frame, in 0..1.

    Raises:
        UserError: The boxes are not finite numbers (N, 4), have no area or different units, or there are none.
    """

    needs_frames = False

    def __init__(self, boxes: Mapping[float, Any]) -> None:
        if not boxes:
            raise UserError("boxes: there is no box")
        self._boxes: dict[float, npt.NDArray[np.float32]] = {}
        unit = Unit()
        for seconds, corners in sorted(boxes.items()):
            where = f"boxes[{seconds!r}]"
            try:
                array = np.asarray(corners, np.float32).reshape(-1, 4)
            except (TypeError, ValueError) as error:
                raise UserError(f"{where} are no numbers (N, 4): {error}") from None
            if not np.isfinite(array).all():
                raise UserError(f"{where}: its boxes must be finite")
            for left, top, right, bottom in array.tolist():
                if not (right > left and bottom > top):
                    box = [left, top, right, bottom]
                    raise UserError(f"{where}: the box {box} has no area: boxes are left, top, right, bottom")
                unit.of((left, top, right, bottom), where)
            self._boxes[float(seconds)] = array
        self._is_relative = unit.relative is True

    def times(self, sample: Sample, seconds: float) -> list[float]:
        """Return the moments that have boxes.

        Raises:
            UserError: One lies outside the video.
        """
        outside = [moment for moment in self._boxes if not 0 <= moment < seconds]
        if outside:
            raise UserError(f"boxes[{outside[0]!r}]: {sample.path} has no such moment, only {seconds:.2f} s")
        return list(self._boxes)

    def sighting(self, sample: Sample, seconds: float, size: tuple[int, int], frame: Pixels | None) -> Sighting:
        """Return the boxes at a moment."""
        corners = self._boxes[seconds]
        if self._is_relative:
            corners = corners * np.array([size[1], size[0]] * 2, np.float32)
        return Sighting(seconds, corners, np.full(len(corners), np.nan, np.float32), ("",) * len(corners))
