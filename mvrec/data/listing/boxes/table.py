"""The boxes of key frames in packed arrays.

A million rows take a few allocations, which forked loader workers share; see `mvrec.data.listing.index`.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mvrec.data.listing.boxes.rows import BoxRow, unit_noun
from mvrec.data.listing.label_sets import LabelSets
from mvrec.errors import UserError

SAME_SECONDS = 1e-3  # times of one key frame in two lists may differ by rounding
NO_CLASS = -1
Bools = npt.NDArray[np.bool_]


class FrameBoxes(NamedTuple):
    """The boxes of a key frame.

    Attributes:
        corners: float32 (N, 4), left, top, right and bottom.
        actions: bool (N, K); K is 0 without classes.
        scores: float32 (N,), of a detector; nan without one.
        lines: int32 (N,), the line of each in its list.
    """

    corners: npt.NDArray[np.float32]
    actions: Bools
    scores: npt.NDArray[np.float32]
    lines: npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class BoxTable:
    """Key frames, in the order of the videos' first rows and of time, and their boxes.

    Attributes:
        videos: The names of the videos.
        frame_videos: int32 (F,), the video of each key frame.
        seconds: float64 (F,), its time.
        frame_sources: int32 (F,), its list in `sources`.
        frame_lines: int32 (F,), its first line there.
        ends: int64 (F,), the end of its boxes.
        corners: float32 (B, 4), the boxes of all key frames.
        scores: float32 (B,).
        box_lines: int32 (B,), the first line of each box.
        sets: The classes of each box, numbers of `labels`.
        labels: Labels as the list has them, or names of classes, in label order.
        first_places: The place of each label's first row.
        sources: The lists.
        relative: Whether corners are shares of the frame; else pixels.
    """

    videos: tuple[str, ...]
    frame_videos: npt.NDArray[np.int32]
    seconds: npt.NDArray[np.float64]
    frame_sources: npt.NDArray[np.int32]
    frame_lines: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int64]
    corners: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    box_lines: npt.NDArray[np.int32]
    sets: LabelSets
    labels: tuple[str, ...]
    first_places: tuple[str, ...]
    sources: tuple[str, ...]
    relative: bool
    _spans: Mapping[str, tuple[int, int]] = field(init=False, repr=False)  # first and last key frame of each video

    def __post_init__(self) -> None:
        starts = np.searchsorted(self.frame_videos, np.arange(len(self.videos) + 1))
        spans = {video: (int(starts[n]), int(starts[n + 1])) for n, video in enumerate(self.videos)}
        object.__setattr__(self, "_spans", spans)

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def nbytes(self) -> int:
        """Size of the packed arrays in bytes."""
        return sum(values.nbytes for values in self._arrays())

    @property
    def source(self) -> str:
        """The lists, for messages: the first one, and how many more there are."""
        more = f" and {len(self.sources) - 1} more" if len(self.sources) > 1 else ""
        return f"{self.sources[0] if self.sources else ''}{more}"

    def find(self, video: str, seconds: float) -> int | None:
        """Return the number of the key frame of a video at a time; `None` without one."""
        begin, end = self._spans.get(video, (0, 0))
        place = begin + int(np.searchsorted(self.seconds[begin:end], seconds - SAME_SECONDS))
        return place if place < end and self.seconds[place] <= seconds + SAME_SECONDS else None

    def frame(self, number: int | None) -> FrameBoxes:
        """Return the boxes of a key frame; none for `None`."""
        first, last = (0, 0) if number is None else (self.ends[number - 1] if number else 0, self.ends[number])
        actions = np.zeros((last - first, len(self.labels)), np.bool_)
        begin, ends = int(self.sets.ends[first - 1]) if first else 0, self.sets.ends[first:last]
        if last > first:
            values = self.sets.values[begin : ends[-1]]
            actions[np.repeat(np.arange(last - first), np.diff(ends, prepend=begin)), values] = True
        return FrameBoxes(self.corners[first:last], actions, self.scores[first:last], self.box_lines[first:last])

    def where(self, number: int, line: int | None = None) -> str:
        """Return `list:line` of a key frame, or of one of its boxes."""
        source = self.sources[self.frame_sources[number]]
        line = int(self.frame_lines[number]) if line is None else line
        return f"{source}:{line}" if line else source

    @property
    def box_frames(self) -> npt.NDArray[np.int64]:
        """Return the key frame of each box: int64 (B,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.ends, prepend=0))

    def class_counts(self) -> npt.NDArray[np.int64]:
        """Return the number of boxes of each class: int64 (K,)."""
        return np.bincount(self.sets.values, minlength=len(self.labels)).astype(np.int64)

    def with_classes(self, names: Sequence[str], numbers: Sequence[int]) -> "BoxTable":
        """Return the table with classes in place of the list's labels.

        Args:
            names: The names of the classes in label order.
            numbers: The class of each label; labels of `NO_CLASS` are taken from their boxes.
        """
        values = np.array([*numbers], np.int32)[self.sets.values]
        mask = values != NO_CLASS
        counts = np.bincount(self.sets.rows[mask], minlength=len(self.corners))
        sets = LabelSets(values[mask], np.cumsum(counts))
        if len(self.corners):  # two labels may be one class
            joined = sets.joined(np.arange(len(self.corners)))
            sets = LabelSets(joined.values, joined.ends)
        return replace(self, sets=sets.ordered(), labels=tuple(names), first_places=())

    def only_boxes(self, mask: Bools) -> "BoxTable":
        """Return the table with some of its boxes, bool (B,); all key frames stay."""
        counts = np.diff(self.sets.ends, prepend=0)
        sets = LabelSets(self.sets.values[np.repeat(mask, counts)], np.cumsum(counts[mask]))
        ends = np.cumsum(np.bincount(self.box_frames[mask], minlength=len(self)))
        arrays = {"corners": self.corners[mask], "scores": self.scores[mask], "box_lines": self.box_lines[mask]}
        return replace(self, ends=ends, sets=sets, **arrays)  # type: ignore[arg-type]

    def only_frames(self, mask: Bools) -> "BoxTable":
        """Return the table with some of its key frames, bool (F,), and their boxes."""
        boxes = self.only_boxes(np.repeat(mask, np.diff(self.ends, prepend=0)))
        arrays = {name: getattr(self, name)[mask] for name in ("seconds", "frame_sources", "frame_lines")}
        numbers = np.unique(self.frame_videos[mask])  # videos without key frames go
        videos = tuple(self.videos[number] for number in numbers)
        frame_videos = np.searchsorted(numbers, self.frame_videos[mask]).astype(np.int32)
        return replace(boxes, videos=videos, frame_videos=frame_videos, ends=boxes.ends[mask], **arrays)

    def without(self, frames: set[tuple[str, float]]) -> "BoxTable":
        """Return the table without some key frames, by their videos and seconds."""
        names = (self.videos[number] for number in self.frame_videos.tolist())
        places = zip(names, self.seconds.tolist(), strict=True)
        return self.only_frames(np.array([place not in frames for place in places], np.bool_)) if frames else self

    def only_videos(self, keeps: Callable[[str], bool]) -> "BoxTable":
        """Return the table with the key frames of some videos."""
        mask = np.array([keeps(video) for video in self.videos], np.bool_)
        return self if mask.all() else self.only_frames(mask[self.frame_videos])

    def renamed(self, names: Mapping[str, str]) -> "BoxTable":
        """Return the table with other names of its videos; those that are not in `names` stay."""
        return replace(self, videos=tuple(names.get(video, video) for video in self.videos))

    def has_boxes(self) -> Bools:
        """Return whether each key frame has boxes: bool (F,)."""
        return np.diff(self.ends, prepend=0) > 0

    def digest(self) -> bytes:
        """Return the SHA-256 of videos, times, boxes and classes."""
        names = "\n".join((*self.videos, "", *self.labels)).encode("utf-8", "surrogateescape")
        digest = hashlib.sha256(names)
        lines = {id(self.frame_lines), id(self.frame_sources), id(self.box_lines)}
        for values in self._arrays():
            if id(values) not in lines:
                digest.update(np.ascontiguousarray(values).data)
        return digest.digest()

    def _arrays(self) -> tuple[npt.NDArray[np.generic], ...]:
        return (
            *(self.frame_videos, self.seconds, self.frame_sources, self.frame_lines, self.ends),
            *(self.corners, self.scores, self.box_lines, self.sets.values, self.sets.ends),
        )


def pack_boxes(rows: Iterable[BoxRow]) -> BoxTable:
    """Return the table of some rows, which are read one by one and not mask.

    Rows of one video and time with the same corners are one box with several labels.

    Raises:
        UserError: Lists in pixels and lists in shares of the frame.
    """
    packed = _Packing()
    for row in rows:
        packed.add(row)
    return packed.table()


class _Packing:
    """Arrays that grow row by row and keep no Python object per row."""

    def __init__(self) -> None:
        self.videos: dict[str, int] = {}
        self.labels: dict[str, int] = {}
        self.first_places: list[str] = []
        self.sources: dict[str, int] = {}
        self.seconds, self.corners = array("d"), array("f")
        self.numbers = array("i")  # of each row: video, label, source, line
        self.scores = array("f")
        self.relative: bool | None = None
        self.first = ""

    def add(self, row: BoxRow) -> None:
        if row.has_box and row.relative != self.relative:
            if self.relative is not None:
                raise UserError(
                    f"{row.where}: a box in {unit_noun(row.relative)}, but that of {self.first} is in "
                    f"{unit_noun(self.relative)}: use one unit"
                )
            self.relative, self.first = row.relative, row.where
        label = NO_CLASS
        if row.label:
            label = self.labels.setdefault(row.label, len(self.labels))
            if label == len(self.first_places):
                self.first_places.append(row.where)
        video = self.videos.setdefault(row.path, len(self.videos))
        self.numbers.extend((video, label, self.sources.setdefault(row.source, len(self.sources)), row.line))
        self.seconds.append(row.seconds)
        self.corners.extend(row.corners)
        self.scores.append(row.score)

    def table(self) -> BoxTable:
        corners = np.frombuffer(self.corners, np.float32).reshape(-1, 4)
        if self.relative:
            corners = corners.clip(0, 1)  # nan stays
        numbers = np.frombuffer(self.numbers, np.int32).reshape(-1, 4)
        seconds, scores = np.frombuffer(self.seconds, np.float64), np.frombuffer(self.scores, np.float32)
        order, of_frame, of_box = _grouped(numbers[:, 0], seconds, corners)
        numbers, seconds, corners, scores = numbers[order], seconds[order], corners[order], scores[order]
        first_of_frame = np.flatnonzero(np.diff(of_frame, prepend=-1))
        boxed = ~np.isnan(corners[:, 0])
        first_of_box = np.flatnonzero(np.diff(of_box, prepend=-1))
        first_of_box = first_of_box[boxed[first_of_box]]
        pairs = boxed & (numbers[:, 1] != NO_CLASS)
        # of_box counts also rows without boxes: renumber
        place = np.searchsorted(first_of_box, np.arange(len(order)), side="right") - 1
        sets = _label_sets(place[pairs], numbers[pairs, 1], len(first_of_box))
        return BoxTable(
            videos=tuple(self.videos),
            frame_videos=numbers[first_of_frame, 0],
            seconds=seconds[first_of_frame],
            frame_sources=numbers[first_of_frame, 2],
            frame_lines=np.minimum.reduceat(numbers[:, 3], first_of_frame) if len(order) else numbers[:0, 3],
            ends=np.cumsum(np.bincount(of_frame[first_of_box], minlength=len(first_of_frame))),
            corners=corners[first_of_box],
            scores=scores[first_of_box],
            box_lines=numbers[first_of_box, 3],
            sets=sets,
            labels=tuple(self.labels),
            first_places=tuple(self.first_places),
            sources=tuple(self.sources),
            relative=self.relative is not False,
        )


def _grouped(
    videos: npt.NDArray[np.int32], seconds: npt.NDArray[np.float64], corners: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the order of rows by video, time and box, where boxes keep their first rows' order.

    Returns:
        The order, int64 (R,), and for each row in this order the number of its key frame and of its box.
    """
    keys = (videos, seconds, *corners.T)
    order = np.lexsort(keys[::-1])
    changed = [key[order][1:] != key[order][:-1] for key in keys]
    box = np.concatenate([[0], np.cumsum(np.logical_or.reduce(changed))]) if len(order) else order
    # Each box gets the number of its first row, which lexsort, being stable, has put first.
    first_rows = order[np.flatnonzero(np.diff(box, prepend=-1))]
    of_row = np.empty(len(order), np.int64)
    of_row[order] = first_rows[box]
    order = np.lexsort((of_row, seconds, videos))
    frame_changed = (videos[order][1:] != videos[order][:-1]) | (seconds[order][1:] != seconds[order][:-1])
    box_changed = of_row[order][1:] != of_row[order][:-1]
    start = np.zeros(min(len(order), 1), np.int64)
    return (
        order,
        np.concatenate([start, np.cumsum(frame_changed)]),
        np.concatenate([start, np.cumsum(frame_changed | box_changed)]),
    )


def _label_sets(boxes: npt.NDArray[np.int64], labels: npt.NDArray[np.int32], count: int) -> LabelSets:
    """Return the different labels of each of `count` boxes, from pairs of a box and a label."""
    width = int(labels.max(initial=0)) + 1
    rows, values = np.divmod(np.unique(boxes * width + labels), width)
    return LabelSets(values.astype(np.int32), np.cumsum(np.bincount(rows, minlength=count)))


def overlap(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the intersection over union of boxes (N, 4) and (M, 4): float64 (N, M)."""
    rows, columns = first[:, None].astype(np.float64), second[None].astype(np.float64)
    sides = np.minimum(rows[..., 2:], columns[..., 2:]) - np.maximum(rows[..., :2], columns[..., :2])
    shared = np.prod(sides.clip(0), axis=-1)
    areas = np.prod(rows[..., 2:] - rows[..., :2], axis=-1) + np.prod(columns[..., 2:] - columns[..., :2], axis=-1)
    return np.divide(shared, areas - shared, out=np.zeros_like(shared), where=areas > shared)
