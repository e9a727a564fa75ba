"""Labels that a network contradicts with confidence, after confident learning (Northcutt et al. 2021)."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Doubt(NamedTuple):
    """A file whose label a network contradicts.

    Attributes:
        number: The file's row.
        label: Its class.
        other: The class that the network sees.
        margin: Probability of the other class less that of the label, each by its class's threshold: above 0.
    """

    number: int
    label: int
    other: int
    margin: float


def doubts(probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> list[Doubt]:
    """Return the files whose label a network contradicts, the surest first.

    A class's threshold is the network's mean probability of it on the files that have its label, so a class that the
    network is seldom sure of is not blamed for that.

    Args:
        probabilities: (N, K) of each file; rows of NaN, of unreadable files, are left out.
        labels: (N,) class of each file.
    """
    rows = np.flatnonzero(np.isfinite(probabilities).all(1))
    values, classes = probabilities[rows], labels[rows]
    counts = np.bincount(classes, minlength=values.shape[1])
    sums = np.bincount(classes, weights=values[np.arange(len(rows)), classes], minlength=values.shape[1])
    threshold = np.where(counts > 0, sums / np.maximum(counts, 1), 1.0)
    scores = values - threshold
    label_scores = scores[np.arange(len(rows)), classes]
    scores[np.arange(len(rows)), classes] = -np.inf
    other = scores.argmax(1)
    margins = scores.max(1) - label_scores
    right = values[np.arange(len(rows)), other] > values[np.arange(len(rows)), classes]
    order = np.argsort(-margins, kind="stable")
    return [
        Doubt(int(rows[at]), int(classes[at]), int(other[at]), float(margins[at]))
        for at in order
        if right[at] and margins[at] > 0
    ]
