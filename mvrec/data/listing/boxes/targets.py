"""The targets of key frames: true boxes, and those of a detector that take over their labels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mvrec.data.listing.boxes.table import BoxTable, FrameBoxes, overlap
from mvrec.data.listing.lists import Row
from mvrec.data.views.targets import ActionBoxes, Target

SAME_BOX = 0.9  # least overlap of a detected and a true box of one person; arXiv 2112.01526, B.6


@dataclass(frozen=True, eq=False)
class KeyFrames:
    """The key frames of a split.

    Attributes:
        truth: The true boxes.
        detected: The boxes of a detector; `None` without one. They take over the labels of the true box that they
            overlap most, by `SAME_BOX` at least.
        training: Whether a network learns from true and detected boxes alike; else it is asked about the detected
            ones, or without a detector about the true ones.
        keeps_unmatched: Whether training keeps detected boxes that overlap no true one, as boxes without an action.
        keeps_cropped: See `ActionBoxes`.
    """

    truth: BoxTable
    detected: BoxTable | None = None
    training: bool = False
    keeps_unmatched: bool = True
    keeps_cropped: bool = True

    def rows(self, split: str) -> Iterator[Row]:
        """Yield a row per key frame whose boxes are learned or scored; its label is the split."""
        for table, others in ((self.truth, None), (self._more_frames(), self.truth)):
            if table is None:
                continue
            boxed = table.has_boxes()
            for number in range(len(table)):
                video, seconds = table.videos[table.frame_videos[number]], float(table.seconds[number])
                if others is None:
                    counts = boxed[number] or self._has_detected(video, seconds)
                else:
                    counts = boxed[number] and others.find(video, seconds) is None
                if counts:
                    source = table.sources[table.frame_sources[number]]
                    yield Row(video, split, seconds, source=source, line=int(table.frame_lines[number]))

    def _more_frames(self) -> BoxTable | None:
        """Return the table of key frames that have detected boxes only."""
        return self.detected if self.keeps_unmatched or not self.training else None

    def _has_detected(self, video: str, seconds: float) -> bool:
        table = self._more_frames()
        number = None if table is None else table.find(video, seconds)
        return table is not None and number is not None and len(table.frame(number).corners) > 0

    def target(self, video: str, seconds: float) -> ActionBoxes:
        """Return the boxes of a key frame."""
        truth = self.truth.frame(self.truth.find(video, seconds))
        corners, actions = truth.corners, truth.actions
        if self.detected is not None:
            boxes = self.detected.frame(self.detected.find(video, seconds))
            labels, matched = _taken_over(boxes, truth)
            if self.training:
                mask = matched | self.keeps_unmatched
                corners = np.concatenate([corners, boxes.corners[mask]])
                actions = np.concatenate([actions, labels[mask]])
            else:
                corners, actions = boxes.corners, labels
        acting = truth.actions.any(axis=1)
        return ActionBoxes(
            places=np.ascontiguousarray(corners),
            actions=np.ascontiguousarray(actions),
            truth=truth.corners[acting],
            true_actions=truth.actions[acting],
            relative=self.truth.relative,
            keeps_cropped=self.keeps_cropped,
        )

    def lines(self, video: str, seconds: float) -> list[str]:
        """Return `list:line` of each of a target's boxes."""
        tables = [self.truth] if self.detected is None else [self.truth, self.detected][0 if self.training else 1 :]
        lines = []
        for table in tables:
            if (number := table.find(video, seconds)) is not None:
                lines += [table.where(number, int(line)) for line in table.frame(number).lines]
        return lines

    def digest(self) -> bytes:
        """Return a hash of all boxes."""
        return b"".join(table.digest() for table in (self.truth, self.detected) if table is not None)


def _taken_over(boxes: FrameBoxes, truth: FrameBoxes) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return the labels of detected boxes, bool (N, K), and whether each overlaps a true box, bool (N,)."""
    labels = np.zeros((len(boxes.corners), truth.actions.shape[1]), np.bool_)
    if not len(truth.corners):
        return labels, np.zeros(len(labels), np.bool_)
    shared = overlap(boxes.corners, truth.corners)
    matched = shared.max(axis=1) >= SAME_BOX
    labels[matched] = truth.actions[shared.argmax(axis=1)[matched]]
    return labels, matched


@dataclass(frozen=True, eq=False)
class BoxTargets:
    """Makes the targets of rows of `KeyFrames`.

    Args:
        splits: The key frames of each split, by the rows' label.
    """

    target_type: ClassVar[type[Target]] = ActionBoxes

    splits: Mapping[str, KeyFrames]

    def __call__(self, row: Row) -> ActionBoxes:
        """Return the boxes of a row's key frame."""
        return self.splits[row.label].target(row.path, row.start_seconds)

    def digest_of(self, label: str) -> bytes:
        """Return a hash of the targets of all rows with a label."""
        return self.splits[label].digest()
