"""Scores of action detection: the boxes of each key frame, from which average precision is computed once at the end.

Frames are ordered by their sample ids, so a score depends neither on the number of processes nor on the batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor, int64, tensor

from mvrec.data.views.targets import ActionBoxes, Target
from mvrec.tasks.action_detection.average_precision import MIN_OVERLAP, Claims, FrameBoxes, overlaps
from mvrec.tasks.scores import Scores, Tally

METRICS = ("map",)

Counts = npt.NDArray[np.int64]


class ActionTally(Tally):
    """The boxes of each key frame.

    Args:
        num_classes: K.
        only_with_truth: Whether key frames without true boxes are left out of the score.
    """

    def __init__(self, num_classes: int, *, only_with_truth: bool = False) -> None:
        self.num_classes, self.only_with_truth = num_classes, only_with_truth
        self._frames: dict[int, FrameBoxes] = {}

    def usable(self, outputs: Sequence[Tensor | None]) -> list[bool]:
        """Return whether the probabilities of each key frame are finite."""
        return [probabilities is not None for probabilities in outputs]

    def add(
        self,
        outputs: Sequence[Tensor | None],
        targets: Sequence[dict[str, Tensor]],
        sample_ids: Sequence[int],
        places: Sequence[int],
    ) -> None:
        """Keep the boxes of key frames."""
        for place in places:
            probabilities = outputs[place]
            if probabilities is None:
                continue
            truth = {key: value.cpu().numpy() for key, value in targets[place].items()}
            self._frames[sample_ids[place]] = FrameBoxes(
                places=truth["places"],
                scores=probabilities.numpy(),
                truth=truth["truth"],
                actions=truth["true_actions"].astype(bool),
            )

    def drop(self, sample: int) -> None:
        """Forget a key frame."""
        self._frames.pop(sample, None)

    def merge(self, other: Self) -> None:
        """Add the key frames of another process."""
        self._frames |= other._frames

    def target(self, row: dict[str, Tensor]) -> Target:
        """Return the true boxes of a key frame."""
        arrays = {key: value.cpu().numpy() for key, value in row.items()}
        return ActionBoxes(
            places=arrays["places"],
            actions=arrays["actions"].astype(bool),
            truth=arrays["truth"],
            true_actions=arrays["true_actions"].astype(bool),
        )

    def scores(self, **extent: Any) -> "ActionScores":
        """Return the scores of all key frames."""
        samples = sorted(self._frames)
        return ActionScores(
            sample_ids=tensor(samples, dtype=int64),
            frames=tuple(self._frames[sample] for sample in samples),
            num_classes=self.num_classes,
            only_with_truth=self.only_with_truth,
            **extent,
        )


@dataclass(frozen=True, kw_only=True)
class ActionScores(Scores):
    """The result of an evaluation of action detection.

    The true boxes of a key frame that could not be read are missed.

    Attributes:
        frames: The boxes of each key frame.
        num_classes: K.
        only_with_truth: Whether key frames without true boxes are left out of the score.
    """

    frames: tuple[FrameBoxes, ...]
    num_classes: int
    only_with_truth: bool = False

    @cached_property
    def claims(self) -> Claims:
        """The boxes of all key frames as claims of classes."""
        return Claims.of(self.frames, self.num_classes, only_with_truth=self.only_with_truth, missed=self.missed())

    def missed(self) -> Counts:
        """Return the true boxes of each class in key frames that failed, int64 (K,)."""
        missed = np.zeros(self.num_classes, np.int64)
        for bad in self.failed if self.failed_are_wrong else ():
            if isinstance(bad.target, ActionBoxes):
                missed += bad.target.true_actions.sum(axis=0)
        return missed

    @cached_property
    def average_precisions(self) -> npt.NDArray[np.float64]:
        """The average precision of each class, (K,); nan for a class without true boxes."""
        return self.claims.average_precisions()

    def metrics(self) -> dict[str, float]:
        """Return the mean of the classes' average precisions, 0..1; nan without true boxes."""
        return {"map": mean_of(self.average_precisions)}

    def chance(self) -> dict[str, float]:
        """Return the score of equal answers for all boxes, which rank no box before another: precision times recall."""
        chance = mean_of(self.claims.of_equal_scores())
        return {} if math.isnan(chance) else {"map": chance}

    def text_of(self, name: str, value: float) -> str:
        """Return a share in percent."""
        return f"{100 * value:.2f} %"

    def facts(self) -> dict[str, Any]:
        """Return the counts of boxes: those asked about, the true ones, and the true ones that a box covers."""
        return dict(self._facts)

    @cached_property
    def _facts(self) -> dict[str, Any]:
        covered = sum(len(frame.truth) - frame_labels(frame).count(None) for frame in self.frames)
        return {
            "boxes": sum(len(frame.places) for frame in self.frames),
            "true_boxes": sum(len(frame.truth) for frame in self.frames) + self._failed_boxes(),
            "true_boxes_covered": covered,
            "key_frames_without_truth": sum(not frame.actions.any() for frame in self.frames),
            "classes_in_map": int((~np.isnan(self.average_precisions)).sum()),
        }

    def counts(self, noun: str = "key frames") -> str:
        """Return the counts of key frames and boxes, and the number of classes in the mean."""
        facts = self._facts
        covered, true = facts["true_boxes_covered"], facts["true_boxes"]
        text = f"{super().counts(noun)}, {facts['boxes']} boxes, {true} true"
        if covered < true:
            text += f", {covered} of them covered"
        return f"{text}, map of {facts['classes_in_map']}/{self.num_classes} classes"

    def _failed_boxes(self) -> int:
        targets = [bad.target for bad in self.failed if self.failed_are_wrong]
        return sum(len(target.truth) for target in targets if isinstance(target, ActionBoxes))

    def confusion(self) -> tuple[Counts, Counts]:
        """Count what the actions of true boxes are taken for.

        A box with A true actions is answered with the A most probable ones. Each true action among these is right; each
        other one is taken for the most probable wrong answer.

        Returns:
            int64 (K, K), true actions down and answers across; and (K,), the true boxes of each action without an
            answer, because no box covers them or their key frame could not be read.
        """
        counts, unanswered = np.zeros((self.num_classes, self.num_classes), np.int64), self.missed()
        for frame in self.frames:
            for actions, answers in zip(frame.actions, frame_labels(frame), strict=True):
                true = np.flatnonzero(actions)
                if answers is None:
                    unanswered[true] += 1
                    continue
                wrong = [answer for answer in answers if not actions[answer]]
                for number in true.tolist():
                    counts[number, number if number in answers else wrong[0]] += 1
        return counts, unanswered


def frame_labels(frame: FrameBoxes) -> list[list[int] | None]:
    """Return the answers for each true box: as many classes as it has actions, the most probable first.

    `None` for a true box that no box covers with an intersection over union of 0.5.
    """
    if not len(frame.places):
        return [None] * len(frame.truth)
    shares = overlaps(frame.places, frame.truth)
    best = shares.argmax(axis=0)
    answers: list[list[int] | None] = []
    for number, place in enumerate(best.tolist()):
        ranked = np.argsort(-frame.scores[place], kind="stable")[: int(frame.actions[number].sum())]
        answers.append(ranked.tolist() if shares[place, number] >= MIN_OVERLAP else None)
    return answers


def found(frame: FrameBoxes) -> tuple[int, int]:
    """Return how many actions of true boxes are among the answers, and how many there are."""
    right = sum(
        sum(bool(actions[answer]) for answer in answers)
        for actions, answers in zip(frame.actions, frame_labels(frame), strict=True)
        if answers is not None
    )
    return right, int(frame.actions.sum())


def mean_of(values: npt.NDArray[np.float64]) -> float:
    """Return the mean without nan; nan of nothing."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan
