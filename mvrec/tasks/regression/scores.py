"""Scores of regression: errors in the user's units, and how much of the values' spread is predicted."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from mvrec.data.views.targets import Target, Values
from mvrec.tasks.regression.scale import ValueScale
from mvrec.tasks.scores import MeanTally, Scores

MEANS = ("r2", "spearman")  # without a unit, so that several values have a mean
METRICS = ("r2", "mae", "rmse", "spearman")

Floats = npt.NDArray[np.float64]


class ValueTally(MeanTally):
    """Sums of predicted values per sample.

    Args:
        scale: From outputs to values.
    """

    def __init__(self, scale: ValueScale) -> None:
        super().__init__()
        self.scale = scale

    def values(self, outputs: Tensor) -> Tensor:
        """Return values (B, D) in the user's units."""
        return self.scale.values(outputs)

    def target(self, row: Tensor) -> Target:
        """Return the true values of a sample."""
        return Values(tuple(row.tolist()))

    def scores(self, **extent: Any) -> "ValueScores":
        """Return the scores of all samples."""
        samples, predicted, true = self.means()
        shape = (-1, len(self.scale.names))
        predicted, true = predicted.double().reshape(shape), true.double().reshape(shape)
        return ValueScores(sample_ids=samples, predicted=predicted, true=true, scale=self.scale, **extent)


@dataclass(frozen=True, kw_only=True)
class ValueScores(Scores):
    """The result of an evaluation of values.

    A failed sample that counts as wrong gets the guess that needs no look at it: the mean of the training files.

    Attributes:
        predicted: float64 (N, D), means over views.
        true: float64 (N, D).
        scale: Names and training means of the values.
    """

    predicted: Tensor
    true: Tensor
    scale: ValueScale

    def counted(self) -> tuple[Floats, Floats]:
        """Return predicted and true values in the score, failed samples included if they are wrong: (M, D) each."""
        predicted, true = self.predicted.numpy(), self.true.numpy()
        failed = [bad.target.values for bad in self.failed if isinstance(bad.target, Values)]
        if not (failed and self.failed_are_wrong):
            return predicted, true
        guesses = np.tile(self.scale.means, (len(failed), 1))
        return np.concatenate([predicted, guesses]), np.concatenate([true, np.asarray(failed)])

    def metrics(self) -> dict[str, float]:
        """Return means over the values, then R2, MAE, RMSE and Spearman's correlation of each value.

        Of several values only scores without a unit have a mean.
        """
        predicted, true = self.counted()
        columns = [scores_of(predicted[:, at], true[:, at]) for at in range(len(self.scale.names))]
        if len(columns) == 1:
            return columns[0]
        means = {name: float(np.mean([scores[name] for scores in columns])) for name in MEANS}
        each = {
            f"{metric}_{name}": scores[metric]
            for name, scores in zip(self.scale.names, columns, strict=True)
            for metric in METRICS
        }
        return means | each

    def chance(self) -> dict[str, float]:
        """Return R2 and errors of predicting the mean of the training files for every sample."""
        _, true = self.counted()
        chance: dict[str, float] = {}
        for at, (name, mean) in enumerate(zip(self.scale.names, self.scale.means, strict=True)):
            ending = "" if len(self.scale.names) == 1 else f"_{name}"
            scores = scores_of(np.full(len(true), mean), true[:, at])
            chance |= {f"{metric}{ending}": scores[metric] for metric in METRICS if math.isfinite(scores[metric])}
        return chance

    @staticmethod
    def names(names: Sequence[str]) -> list[str]:
        """Return the names of `metrics` for values of these names."""
        if len(names) == 1:
            return list(METRICS)
        return [*MEANS, *(f"{metric}_{name}" for name in names for metric in METRICS)]

    def text_of(self, name: str, value: float) -> str:
        """Return R2 and correlations with three decimals, errors in the values' units."""
        return f"{value:.3f}" if name.startswith(MEANS) else f"{value:.4g}"


def scores_of(predicted: Floats, true: Floats) -> dict[str, float]:
    """Return R2, mean absolute error, root of the mean squared error, and Spearman's rank correlation.

    R2 is the share of the variance of these samples that is predicted: 1 - (squared errors / squared distances from
    their mean). It and the correlation are nan for samples that are all equal, all scores for none.

    Args:
        predicted: (N,).
        true: (N,).
    """
    if not len(true):
        return dict.fromkeys(METRICS, math.nan)
    off = predicted - true
    squares, spread = float(off @ off), true - true.mean()
    total = float(spread @ spread)
    return {
        "r2": 1 - squares / total if total > 0 else math.nan,
        "mae": float(np.abs(off).mean()),
        "rmse": math.sqrt(squares / len(off)),
        "spearman": _correlation(_ranks(predicted), _ranks(true)),
    }


def _ranks(values: Floats) -> Floats:
    """Return ranks from 1 on; equal values share their mean rank."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks


def _correlation(first: Floats, second: Floats) -> float:
    first, second = first - first.mean(), second - second.mean()
    length = math.sqrt(float(first @ first) * float(second @ second))
    return float(first @ second) / length if length > 0 else math.nan


def loss_of(outputs: Tensor, targets: Tensor, kind: str) -> Tensor:
    """Return the mean error of scaled outputs (B, D): "l1" absolute, "l2" squared, "huber" squared up to 1.

    Beyond 1, which is one standard deviation, "huber" grows like "l1" (Huber 1964).
    """
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "l1": F.l1_loss,
        "l2": F.mse_loss,
        "huber": F.huber_loss,
    }
    return functions[kind](outputs, targets)
