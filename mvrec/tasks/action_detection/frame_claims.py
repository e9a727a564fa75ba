"""The claims of boxes on actions, key frame by key frame, for comparisons of runs."""

from typing import Any

import numpy as np
import numpy.typing as npt

from mvrec.data.views.targets import ActionBoxes
from mvrec.tasks.action_detection.average_precision import FrameBoxes, right_claims
from mvrec.tasks.action_detection.scores import ActionScores
from mvrec.tasks.ranked_claims import RankedClaims, claims_of


def ranked_claims(scores: ActionScores) -> RankedClaims:
    """Return the claims of all boxes of an evaluation; true boxes of failed key frames are claimed by none."""
    ids = scores.all_ids()
    rows = {sample: row for row, sample in enumerate(ids)}
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in ("files", "labels", "scores_of", "right", "true")}
    for sample, frame in zip(scores.sample_ids.tolist(), scores.frames, strict=True):
        parts["true"].append(_true(frame.actions, rows[sample]))
        if frame.actions.any() or not scores.only_with_truth:
            _add_claims(parts, frame, rows[sample])
    for bad in scores.failed if scores.failed_are_wrong else ():
        if isinstance(bad.target, ActionBoxes):
            parts["true"].append(_true(bad.target.true_actions, rows[bad.index]))
    parts["ignored"] = [np.zeros_like(right) for right in parts["right"]]
    return claims_of(parts, num_files=len(ids), num_overlaps=1, at_recalls=False)


def _add_claims(parts: dict[str, list[npt.NDArray[Any]]], frame: FrameBoxes, row: int) -> None:
    """Add the claims of a frame's boxes, each on every action."""
    boxes, labels = np.nonzero(~np.isnan(frame.scores))
    parts["files"].append(np.full(len(labels), row))
    parts["labels"].append(labels)
    parts["scores_of"].append(frame.scores[boxes, labels].astype(np.float64))
    parts["right"].append(right_claims(frame)[boxes, labels][:, None])


def _true(actions: npt.NDArray[np.bool_], row: int) -> npt.NDArray[np.int64]:
    """Return file, class and number of the true boxes of each action in a key frame, (M, 3)."""
    numbers = actions.sum(axis=0)
    labels = np.flatnonzero(numbers)
    return np.stack([np.full_like(labels, row), labels, numbers[labels]], axis=1)
