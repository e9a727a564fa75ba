"""Scores of classification: one class per file, or any number of classes per file."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mvrec.data.views.targets import ClassIndex, MultiHot, Target, classes_of
from mvrec.tasks.chance import chance, top_names
from mvrec.tasks.classification.targets import probabilities_of
from mvrec.tasks.scores import MeanTally, Scores

THRESHOLD = 0.5  # a class with a greater probability counts as predicted, in multi-label data


class ClassTally(MeanTally):
    """Sums of probabilities per sample.

    Args:
        num_classes: K.
        multi_label: Whether a sample may have several classes, or none: targets are multi-hot (B, K), else (B,).
    """

    def __init__(self, num_classes: int, *, multi_label: bool = False) -> None:
        super().__init__()
        self.num_classes, self.multi_label = num_classes, multi_label

    def add(self, outputs: Tensor, targets: Tensor, sample_ids: Sequence[int], places: Sequence[int]) -> None:
        """Add the probabilities of views to the sums of their samples."""
        assert targets.ndim == 1 + self.multi_label, targets.shape
        super().add(outputs, targets, sample_ids, places)

    def values(self, outputs: Tensor) -> Tensor:
        """Return probabilities of logits (B, K)."""
        return probabilities_of(outputs, multi_label=self.multi_label)

    def target(self, row: Tensor) -> Target:
        """Return the classes of a sample."""
        if self.multi_label:
            return MultiHot(tuple(torch.nonzero(row).flatten().tolist()), self.num_classes)
        return ClassIndex(int(row))

    def scores(self, **extent: Any) -> "ClassScores":
        """Return the scores of all samples."""
        samples, means, labels = self.means()
        means = means.double().reshape(-1, self.num_classes)
        if self.multi_label:
            labels = labels.bool().reshape(means.shape)
            return MultiLabelScores(sample_ids=samples, probabilities=means, labels=labels, **extent)
        return SingleLabelScores(sample_ids=samples, probabilities=means, labels=labels.long(), **extent)


@dataclass(frozen=True, kw_only=True)
class ClassScores(Scores):
    """The result of an evaluation of classes.

    Attributes:
        probabilities: float64 (N, K), means over views.
        labels: int64 (N,), or multi-hot, bool (N, K).
        own_metrics: Values of the user's metrics by name.
    """

    probabilities: Tensor
    labels: Tensor
    own_metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """K."""
        return self.probabilities.shape[1]

    def ranked(self, k: int) -> Tensor:
        """Return the k most probable classes of each sample, the most probable first: int64 (N, k)."""
        return self.probabilities.topk(min(k, self.num_classes), dim=1).indices

    @staticmethod
    @abstractmethod
    def names(num_classes: int) -> tuple[str, ...]:
        """Return the names of `metrics`."""

    @abstractmethod
    def counted_per_class(self) -> Tensor:
        """Return the number of samples of each class in the score: int64 (K,)."""

    def chance(self) -> dict[str, float]:
        """Return the metrics of the best constant answer; see `mvrec.tasks.chance.chance`."""
        counted = self.expected if self.failed_are_wrong else len(self.sample_ids)
        several = isinstance(self, MultiLabelScores)
        return chance(self.counted_per_class().tolist(), num_files=counted, multi_label=several)

    def text_of(self, name: str, value: float) -> str:
        """Return a loss as it is, shares in percent."""
        return f"{value:.4f}" if name == "loss" or name in self.own_metrics else f"{100 * value:.2f} %"

    def facts(self) -> dict[str, Any]:
        """Return whether a sample may have several classes."""
        return {"multi_label": isinstance(self, MultiLabelScores)}

    def failed_per_class(self) -> Tensor:
        """Return the number of failed samples of each class: int64 (K,)."""
        labels = [label for bad in self.failed for label in classes_of(bad.target)]
        return torch.bincount(torch.tensor(labels, dtype=torch.int64), minlength=self.num_classes)

    def _missed(self) -> Tensor:
        """Return the number of samples of each class that count as wrong because they failed: int64 (K,)."""
        failed = self.failed_per_class()
        return failed if self.failed_are_wrong else torch.zeros_like(failed)


@dataclass(frozen=True, kw_only=True)
class SingleLabelScores(ClassScores):
    """Scores for one class per sample: means of softmax, labels are int64 (N,)."""

    def ranked(self, k: int) -> Tensor:
        """Return the k most probable classes of each sample, int64 (N, k), the label last among equally probable ones.

        So a class counts as correct only if no wrong one is as probable, and a network that rates all classes equally
        is right about none, not about all samples of the first class.
        """
        best = super().ranked(k)
        labels = self.labels[:, None]
        tied = torch.nonzero((self.probabilities == self.probabilities.gather(1, labels)).sum(dim=1) > 1).flatten()
        if len(tied):
            wrong_first = one_hot(self.labels[tied], self.num_classes).argsort(dim=1, stable=True)
            values = self.probabilities[tied].gather(1, wrong_first)
            order = values.argsort(dim=1, descending=True, stable=True)[:, :k]
            best[tied] = wrong_first.gather(1, order)
        return best

    def top_k(self, k: int) -> float:
        """Return the share of samples whose class is among the k most probable ones; see `ranked` for ties."""
        total = self.expected if self.failed_are_wrong else len(self.sample_ids)
        if not total:
            return 0.0
        return float((self.ranked(k) == self.labels[:, None]).any(dim=1).sum()) / total

    def confusion(self) -> Tensor:
        """Count the scored samples of each class (row) by predicted class (column): int64 (K, K)."""
        pairs = self.labels * self.num_classes + self.ranked(1).flatten()
        return torch.bincount(pairs, minlength=self.num_classes**2).reshape(self.num_classes, self.num_classes)

    def class_accuracies(self) -> Tensor:
        """Return top-1 within each class, also called recall: float64 (K,), nan for a class without samples."""
        return self.confusion().diag().double() / self.counted_per_class()

    def f1_per_class(self) -> Tensor:
        """Return the harmonic mean of accuracy and precision of each class, float64 (K,); nan without samples."""
        confusion, counted = self.confusion(), self.counted_per_class()
        f1 = 2 * confusion.diag().double() / (confusion.sum(dim=0) + counted)
        return f1.where(counted > 0, torch.nan)

    def counted_per_class(self) -> Tensor:
        """Return the number of samples of each class in the score: int64 (K,)."""
        return torch.bincount(self.labels, minlength=self.num_classes) + self._missed()

    def mean_class_accuracy(self) -> float:
        """Return top-1 averaged over the classes that occur."""
        accuracies = self.class_accuracies()
        accuracies = accuracies[~accuracies.isnan()]
        return float(accuracies.mean()) if len(accuracies) else 0.0

    def loss(self) -> float:
        """Return the cross-entropy of the mean softmax in nats over the scored samples; nan if there is none."""
        likelihood = self.probabilities.gather(1, self.labels[:, None]).clamp_min(1e-12)
        return math.nan if self.not_finite else float(-likelihood.log().mean())

    def metrics(self) -> dict[str, float]:
        """Return named values."""
        accuracies = {name: self.top_k(int(name[3:])) for name in top_names(self.num_classes)}
        return {**accuracies, "mean_class": self.mean_class_accuracy(), "loss": self.loss(), **self.own_metrics}

    @staticmethod
    def names(num_classes: int) -> tuple[str, ...]:
        """Return the names of `metrics`."""
        return *top_names(num_classes), "mean_class", "loss"


@dataclass(frozen=True, kw_only=True)
class MultiLabelScores(ClassScores):
    """Scores for any number of classes per sample: means of sigmoids, labels are bool (N, K).

    For an unreadable sample that counts as wrong, the model predicts nothing: its classes are missed at every
    threshold, and no other class has a false alarm.
    """

    def counted_per_class(self) -> Tensor:
        """Return the number of samples of each class in the score: int64 (K,)."""
        return self.labels.sum(dim=0) + self._missed()

    def average_precisions(self) -> Tensor:
        """Return the area under each class's precision-recall curve, by steps: float64 (K,), nan without samples.

        This is scikit-learn's `average_precision_score`, over all samples, also those without any class. The recall
        counts failed samples, which lower it.
        """
        from torchmetrics.functional.classification import binary_average_precision  # takes seconds

        positives, missed = self.labels.sum(dim=0), self._missed()
        values = torch.full((self.num_classes,), torch.nan, dtype=torch.float64)
        values[missed > 0] = 0.0
        for number in torch.nonzero(positives).flatten().tolist():
            precision = binary_average_precision(
                self.probabilities[:, number], self.labels[:, number].long(), validate_args=False
            )
            values[number] = precision.double() * positives[number] / (positives[number] + missed[number])
        return values

    def mean_average_precision(self) -> float:
        """Return the mean of `average_precisions` over the classes that occur, as SlowFast reports Charades."""
        values = self.average_precisions()
        values = values[~values.isnan()]
        return float(values.mean()) if len(values) else 0.0

    def micro_f1(self) -> float:
        """Return F1 of all decisions on samples and classes together; above `THRESHOLD` a class is predicted."""
        predicted = self.probabilities > THRESHOLD
        right = int((predicted & self.labels).sum())
        both = int(predicted.sum()) + int(self.labels.sum()) + int(self._missed().sum())
        return 2 * right / both if both else 0.0

    def loss(self) -> float:
        """Return the binary cross-entropy of the mean sigmoid in nats over the scored samples; nan if there is none."""
        likely = torch.where(self.labels, self.probabilities, 1 - self.probabilities).clamp_min(1e-12)
        return math.nan if self.not_finite else float(-likely.log().mean())

    def metrics(self) -> dict[str, float]:
        """Return named values; "map" is the mean average precision."""
        return {
            "map": self.mean_average_precision(),
            "micro_f1": self.micro_f1(),
            "loss": self.loss(),
            **self.own_metrics,
        }

    @staticmethod
    def names(num_classes: int) -> tuple[str, ...]:
        """Return the names of `metrics`."""
        return "map", "micro_f1", "loss"

    def counts(self, noun: str = "videos") -> str:
        """Return the counts, and the number of classes in the mean average precision."""
        occurring = int((self.counted_per_class() > 0).sum())
        return f"{super().counts(noun)}, map of {occurring}/{self.num_classes} classes"
