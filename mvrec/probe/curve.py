"""The learning curve: what the linear probe reaches with fewer labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mvrec.probe.heads import SEED, Labels, Vectors, answers_of, regression, score_of

COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)  # labels per class
DRAWS = 5
QUANTILE = 2.776  # of Student's t with DRAWS - 1 degrees of freedom, 97.5 %


@dataclass(frozen=True)
class Point:
    """The linear probe with few labels.

    Attributes:
        per_class: Most labels of each class.
        files: Mean number of labelled files.
        score: Mean over draws of labels.
        low: Lower end of the 95 % interval of that mean over draws.
        high: Its upper end.
        draws: How often labels were drawn; 1 with all of them.
    """

    per_class: int
    files: float
    score: float
    low: float
    high: float
    draws: int


def learning_curve(vectors: Vectors, labels: Labels, strength: float, queried: Vectors, truth: Labels) -> list[Point]:
    """Fit the linear probe to random parts of the labels, with the regularisation of all.

    Args:
        vectors: (N, D) of the files to learn from.
        labels: Their classes, (N,) or (N, K).
        strength: C.
        queried: (M, D) of the scored files.
        truth: Their classes.
    """
    most = int((np.bincount(labels) if labels.ndim == 1 else labels.sum(0)).max())
    points = []
    for count in (*(count for count in COUNTS if count < most), most):
        draws = 1 if count == most else DRAWS
        scores, files = [], []
        for draw in range(draws):
            rows = drawn(labels, count, np.random.default_rng((SEED, count, draw)))
            model = regression(strength, vectors[rows], labels[rows])
            scores.append(score_of(truth, answers_of(model, queried)))
            files.append(len(rows))
        points.append(_point(count, files, scores))
    return points


def drawn(labels: Labels, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return rows with up to `count` files of each class, at random.

    Of files with several classes each class takes files until it has as many, counting those that others took.
    """
    order = rng.permutation(len(labels))
    if labels.ndim == 1:
        rows = [order[labels[order] == number][:count] for number in np.unique(labels)]
        return np.sort(np.concatenate(rows))
    is_drawn = np.zeros(len(labels), bool)
    for number in range(labels.shape[1]):
        having = order[labels[order, number]]
        missing = count - int(is_drawn[having].sum())
        is_drawn[having[~is_drawn[having]][: max(missing, 0)]] = True
    return np.flatnonzero(is_drawn)


def _point(count: int, files: Sequence[int], scores: Sequence[float]) -> Point:
    mean = float(np.mean(scores))
    spread = QUANTILE * float(np.std(scores, ddof=1)) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0
    return Point(count, float(np.mean(files)), mean, max(mean - spread, 0.0), min(mean + spread, 1.0), len(scores))
