"""Probes of vectors: nearest neighbours and logistic regression, by scikit-learn."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from mvrec.errors import UserError

FOLDS = 5
SEED = 0
NEIGHBOURS = (1, 3, 5, 10, 20, 50)
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C, the inverse of the regularisation
STEPS = 2000  # most of the solver

Vectors = npt.NDArray[np.float64]
Labels = npt.NDArray[Any]
Split = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Probe:
    """A fitted probe.

    Attributes:
        name: "knn", "linear" or "attentive".
        setting: What cross-validation chose, such as `C = 0.1`.
        scores: Mean score of the folds by setting, in the order they were tried.
        answers: Predictions for the scored files: int64 (N,); probabilities (N, K) where files have several classes.
        fit: The score on the files that it learned from; `None` of neighbours, which know each of them.
    """

    name: str
    setting: str
    scores: Mapping[str, float]
    answers: npt.NDArray[Any]
    fit: float | None = None


def folds_of(labels: Labels, groups: npt.NDArray[np.int64]) -> list[Split]:
    """Return the rows to learn from and to score of each fold; groups stay together, classes are spread evenly.

    Raises:
        UserError: There are fewer than two groups.
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    count = min(FOLDS, len(np.unique(groups)))
    if labels.ndim == 1:
        count = min(count, max(int(np.bincount(labels).max()), 2))
    if count < 2:
        raise UserError("a probe chooses its settings by cross-validation: it needs at least two files or groups")
    kind = StratifiedGroupKFold if labels.ndim == 1 else GroupKFold
    folds = kind(count, shuffle=True, random_state=SEED)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # some folds lack it
        rows = list(folds.split(np.zeros(len(labels)), labels, groups))
    return [(learned, held_out) for learned, held_out in rows if _can_learn(labels[learned]) and len(held_out)]


def _can_learn(labels: Labels) -> bool:
    return labels.ndim == 2 or len(np.unique(labels)) > 1


def score_of(labels: Labels, answers: npt.NDArray[Any]) -> float:
    """Return the share of files that are right; of several classes the mean average precision over classes."""
    if labels.ndim == 1:
        return float((labels == answers).mean())
    from sklearn.metrics import average_precision_score

    present = labels.any(0)
    return float(average_precision_score(labels[:, present], answers[:, present], average="macro"))


def knn(vectors: Vectors, labels: Labels, folds: Sequence[Split], queried: Vectors) -> Probe:
    """Fit nearest neighbours by cosine, which vote by closeness; their number is cross-validated.

    Args:
        vectors: (N, D) of the files to learn from.
        labels: Their classes, (N,) or (N, K).
        folds: See `folds_of`.
        queried: (M, D) of the files to predict.
    """
    most = min(len(learned) for learned, _ in folds)
    names = {f"k = {k}": k for k in NEIGHBOURS if k <= most}
    scores, best = _chosen(neighbours, names, vectors, labels, folds)
    return Probe("knn", best, scores, answers_of(neighbours(names[best], vectors, labels), queried))


def linear(vectors: Vectors, labels: Labels, folds: Sequence[Split], queried: Vectors) -> tuple[Probe, float]:
    """Fit logistic regression on standardised vectors, with cross-validated regularisation; see `knn`.

    Returns:
        The probe, and the chosen C.
    """
    names = {f"C = {c:g}": c for c in STRENGTHS}
    scores, best = _chosen(regression, names, vectors, labels, folds)
    model = regression(names[best], vectors, labels)
    fit = score_of(labels, answers_of(model, vectors))
    return Probe("linear", best, scores, answers_of(model, queried), fit), names[best]


def neighbours(count: int, vectors: Vectors, labels: Labels) -> Any:
    """Return scikit-learn's nearest neighbours by cosine of standardised vectors.

    Where files have several classes, the answer is the mean of the neighbours' labels.
    """
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kind: Any = KNeighborsClassifier if labels.ndim == 1 else KNeighborsRegressor
    target = labels if labels.ndim == 1 else labels.astype(np.float64)
    model = kind(count, metric="cosine", algorithm="brute", weights="distance")
    return make_pipeline(StandardScaler(), model).fit(vectors, target)


def regression(strength: float, vectors: Vectors, labels: Labels) -> Any:
    """Return scikit-learn's logistic regression on standardised vectors, one for each class if a file has several."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model: Any = LogisticRegression(C=strength, max_iter=STEPS)
    if labels.ndim == 2:
        model, labels = OneVsRestClassifier(model), labels.astype(np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Label .* is present in all", UserWarning)  # of a fold without a class
        return make_pipeline(StandardScaler(), model).fit(vectors, labels)


def answers_of(model: Any, vectors: Vectors) -> npt.NDArray[Any]:
    """Return a model's classes (N,), or where a file has several their probabilities (N, K)."""
    from sklearn.multiclass import OneVsRestClassifier

    has_several = isinstance(model[-1], OneVsRestClassifier)
    answers: npt.NDArray[Any] = model.predict_proba(vectors) if has_several else model.predict(vectors)
    return answers


def _chosen(
    fitted: Callable[[Any, Vectors, Labels], Any],
    names: Mapping[str, Any],
    vectors: Vectors,
    labels: Labels,
    folds: Sequence[Split],
) -> tuple[dict[str, float], str]:
    """Return the mean score over folds by setting, and the best setting, the first of equal ones."""
    scores = {}
    for name, value in tqdm(names.items(), disable=None, unit="setting"):
        of_folds = []
        for learned, held_out in folds:
            model = fitted(value, vectors[learned], labels[learned])
            of_folds.append(score_of(labels[held_out], answers_of(model, vectors[held_out])))
        scores[name] = float(np.mean(of_folds))
    return scores, max(scores, key=lambda name: scores[name])
