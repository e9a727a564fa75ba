"""Scores that do not depend on how many processes computed them.

Every process adds the softmax of each view, in multi-label data its sigmoid, to its sample's sum; at the end the sums
of all processes are added per sample. So a video counts once, wherever its views went.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import one_hot
from torchmetrics.functional.classification import binary_average_precision

from mvrec.data.loading.batch import PADDING_ID, BadSample
from mvrec.data.views.targets import ClassIndex, MultiHot, Target, classes_of
from mvrec.errors import UserError

NOT_FINITE = "the network's outputs are not finite"  # why a sample failed that was read
THRESHOLD = 0.5  # a class with a greater probability is one that the model predicts, in multi-label data


@dataclass(frozen=True)
class Scores(ABC):
    """What an evaluation found.

    Attributes:
        sample_ids: int64 (N,), rising; the samples that were scored.
        probabilities: float64 (N, K), means over views.
        labels: int64 (N,), or multi-hot, bool (N, K).
        failed: Samples that could not be read, or whose logits are not finite.
        expected: Samples that should have been scored.
        num_views: Views of each sample.
        failed_are_wrong: Whether samples that failed count as wrong; else the score is that of the others.
        total: Samples of the whole split, where that is known.
    """

    sample_ids: Tensor
    probabilities: Tensor
    labels: Tensor
    failed: tuple[BadSample, ...]
    expected: int
    num_views: int = 1
    failed_are_wrong: bool = True
    total: int | None = None

    @property
    def num_classes(self) -> int:
        """K."""
        return self.probabilities.shape[1]

    @property
    def partial(self) -> bool:
        """Whether only a part of the split was to be scored."""
        return self.total is not None and self.expected < self.total

    @property
    def not_finite(self) -> tuple[BadSample, ...]:
        """Samples that were read, and whose logits are not finite."""
        return tuple(bad for bad in self.failed if bad.cause == NOT_FINITE)

    def ranked(self, k: int) -> Tensor:
        """The k most probable classes of each sample, the most probable first: int64 (N, k)."""
        return self.probabilities.topk(min(k, self.num_classes), dim=1).indices

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Named values, the one that says which of two models is better first."""

    @staticmethod
    @abstractmethod
    def names(num_classes: int) -> tuple[str, ...]:
        """Those of `metrics`."""

    def counts(self, noun: str = "videos") -> str:
        """How many samples the score speaks of, by the name that the caller gives them."""
        counted = " and left out" if self.failed and not self.failed_are_wrong else ""
        part = f"only {self.expected} of {self.total} {noun}: " if self.partial else ""
        return f"{part}{len(self.sample_ids)}/{self.expected} {noun} scored, {len(self.failed)} failed{counted}"

    def failed_per_class(self) -> Tensor:
        """How many samples of each class failed: int64 (K,)."""
        labels = [label for bad in self.failed for label in classes_of(bad.target)]
        return torch.bincount(torch.tensor(labels, dtype=torch.int64), minlength=self.num_classes)

    def _missed(self) -> Tensor:
        """How many samples of each class count as wrong because they failed: int64 (K,)."""
        failed = self.failed_per_class()
        return failed if self.failed_are_wrong else torch.zeros_like(failed)


@dataclass(frozen=True)
class SingleLabelScores(Scores):
    """What an evaluation found where a sample has one class: means of softmax, labels are int64 (N,)."""

    def ranked(self, k: int) -> Tensor:
        """The k most probable classes of each sample, its own last of those that are equally probable: int64 (N, k).

        So a class counts as found only where no wrong one is as probable, and a network that says the same of all
        classes is right about none, instead of about all samples of the first.
        """
        best = super().ranked(k)
        own = self.labels[:, None]
        tied = torch.nonzero((self.probabilities == self.probabilities.gather(1, own)).sum(dim=1) > 1).flatten()
        if len(tied):
            wrong_first = one_hot(self.labels[tied], self.num_classes).argsort(dim=1, stable=True)
            values = self.probabilities[tied].gather(1, wrong_first)
            order = values.argsort(dim=1, descending=True, stable=True)[:, :k]
            best[tied] = wrong_first.gather(1, order)
        return best

    def top_k(self, k: int) -> float:
        """Share of the samples whose class is among the k most probable ones; see `ranked` for ties."""
        total = self.expected if self.failed_are_wrong else len(self.sample_ids)
        if not total:
            return 0.0
        return float((self.ranked(k) == self.labels[:, None]).any(dim=1).sum()) / total

    def confusion(self) -> Tensor:
        """How many scored samples of a class (row) were taken for which (column): int64 (K, K)."""
        pairs = self.labels * self.num_classes + self.ranked(1).flatten()
        return torch.bincount(pairs, minlength=self.num_classes**2).reshape(self.num_classes, self.num_classes)

    def class_accuracies(self) -> Tensor:
        """Top-1 within each class, also called recall: float64 (K,), nan for a class without samples."""
        return self.confusion().diag().double() / self.counted_per_class()

    def f1_per_class(self) -> Tensor:
        """Harmonic mean of accuracy and precision of each class: float64 (K,), nan for a class without samples."""
        confusion, counted = self.confusion(), self.counted_per_class()
        f1 = 2 * confusion.diag().double() / (confusion.sum(dim=0) + counted)
        return f1.where(counted > 0, torch.nan)

    def counted_per_class(self) -> Tensor:
        """Samples of each class that the score speaks of: int64 (K,)."""
        return torch.bincount(self.labels, minlength=self.num_classes) + self._missed()

    def mean_class_accuracy(self) -> float:
        """Top-1 averaged over the classes that occur."""
        accuracies = self.class_accuracies()
        accuracies = accuracies[~accuracies.isnan()]
        return float(accuracies.mean()) if len(accuracies) else 0.0

    def loss(self) -> float:
        """Cross-entropy of the mean softmax in nats, over the scored samples; nan when nothing was, or not finite."""
        chosen = self.probabilities.gather(1, self.labels[:, None]).clamp_min(1e-12)
        return math.nan if self.not_finite else float(-chosen.log().mean())

    def metrics(self) -> dict[str, float]:
        """Named values."""
        values = (self.top_k(1), self.top_k(min(5, self.num_classes)), self.mean_class_accuracy(), self.loss())
        return dict(zip(self.names(self.num_classes), values, strict=True))

    @staticmethod
    def names(num_classes: int) -> tuple[str, ...]:
        """Those of `metrics`; "top5" becomes "top<K>" with fewer than five classes."""
        return "top1", f"top{min(5, num_classes)}", "mean_class", "loss"


@dataclass(frozen=True)
class MultiLabelScores(Scores):
    """What an evaluation found where a sample has any number of classes: means of sigmoids, labels are bool (N, K).

    For a sample that could not be read and counts as wrong the model predicts nothing: its classes are missed, whatever
    the threshold, and it is no false alarm of any other class.
    """

    def average_precisions(self) -> Tensor:
        """Area under the precision-recall curve of each class, by steps: float64 (K,), nan for one without samples.

        That is scikit-learn's `average_precision_score`, over all samples, also those without any class. The recall is
        that of all samples, so that those that failed lower it.
        """
        found, missed = self.labels.sum(dim=0), self._missed()
        values = torch.full((self.num_classes,), torch.nan, dtype=torch.float64)
        values[missed > 0] = 0.0
        for number in torch.nonzero(found).flatten().tolist():
            precision = binary_average_precision(
                self.probabilities[:, number], self.labels[:, number].long(), validate_args=False
            )
            values[number] = precision.double() * found[number] / (found[number] + missed[number])
        return values

    def mean_average_precision(self) -> float:
        """The mean of `average_precisions` over the classes that occur, as SlowFast reports Charades."""
        values = self.average_precisions()
        values = values[~values.isnan()]
        return float(values.mean()) if len(values) else 0.0

    def micro_f1(self) -> float:
        """F1 of all decisions on samples and classes together, a class being predicted above `THRESHOLD`."""
        predicted = self.probabilities > THRESHOLD
        right = int((predicted & self.labels).sum())
        both = int(predicted.sum()) + int(self.labels.sum()) + int(self._missed().sum())
        return 2 * right / both if both else 0.0

    def loss(self) -> float:
        """Binary cross-entropy of the mean sigmoid in nats, averaged over the scored samples and classes; else nan."""
        likely = torch.where(self.labels, self.probabilities, 1 - self.probabilities).clamp_min(1e-12)
        return math.nan if self.not_finite else float(-likely.log().mean())

    def metrics(self) -> dict[str, float]:
        """Named values; "map" is the mean average precision."""
        return {"map": self.mean_average_precision(), "micro_f1": self.micro_f1(), "loss": self.loss()}

    @staticmethod
    def names(num_classes: int) -> tuple[str, ...]:
        """Those of `metrics`."""
        return "map", "micro_f1", "loss"

    def counts(self, noun: str = "videos") -> str:
        """Also how many classes the mean average precision speaks of."""
        occurring = int(((self.labels.sum(dim=0) + self._missed()) > 0).sum())
        return f"{super().counts(noun)}, map of {occurring}/{self.num_classes} classes"


class ScoreKeeper:
    """Collects sums of probabilities per sample on one process and joins them over all.

    Args:
        num_classes: K.
        num_views: Views that each sample must have.
        expected: Samples over all processes; `None` when only a part is scored on purpose.
        multi_label: Whether a sample may have several classes, or none.
        failed_are_wrong: See `Scores`.
        total: See `Scores`.
        path_of: The file of a sample id, to name it when its logits are not finite.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        num_views: int,
        expected: int | None,
        multi_label: bool = False,
        failed_are_wrong: bool = True,
        total: int | None = None,
        path_of: Callable[[int], str] = str,
    ) -> None:
        self.num_classes, self.num_views, self.expected = num_classes, num_views, expected
        self.multi_label, self.failed_are_wrong, self.total = multi_label, failed_are_wrong, total
        self.path_of = path_of
        self._sums: dict[int, Tensor] = {}
        self._counts: dict[int, int] = {}
        self._labels: dict[int, Tensor] = {}
        self._failed: dict[int, BadSample] = {}  # by row: each process that shares a file's views may meet it

    def add(self, logits: Tensor, labels: Tensor, sample_ids: Tensor) -> None:
        """Add views: logits (B, K), labels (B,) or multi-hot (B, K), ids (B,) where `PADDING_ID` does not count.

        A sample with a view whose logits are not finite fails.
        """
        assert labels.ndim == 1 + self.multi_label, labels.shape
        logits = logits.detach().float().cpu()
        # In float32 the sigmoid of all logits above 17 is 1: their order, which is what counts, would be lost.
        probabilities = logits.double().sigmoid() if self.multi_label else logits.softmax(dim=1).double()
        labels = labels.cpu().to(self._label_dtype)
        finite = logits.isfinite().all(dim=1).tolist()
        for row, label, sample, usable in zip(probabilities, labels, sample_ids.tolist(), finite, strict=True):
            if sample == PADDING_ID:
                continue
            if not usable:
                self.fail((BadSample(sample, self.path_of(sample), NOT_FINITE, target=self._target(label)),))
            self._sums[sample] = self._sums[sample] + row if sample in self._sums else row
            self._counts[sample] = self._counts.get(sample, 0) + 1
            self._labels[sample] = label

    def _target(self, label: Tensor) -> Target:
        if self.multi_label:
            return MultiHot(tuple(torch.nonzero(label).flatten().tolist()), self.num_classes)
        return ClassIndex(int(label))

    def fail(self, bad: tuple[BadSample, ...]) -> None:
        """Note samples that could not be scored."""
        self._failed.update((entry.index, entry) for entry in bad)

    def gather(self) -> Scores:
        """Join all processes; every process must call it, also one that saw no sample.

        Raises:
            UserError: A sample with more or fewer views than the protocol says, or samples missing.
        """
        total = ScoreKeeper(
            num_classes=self.num_classes,
            num_views=self.num_views,
            expected=self.expected,
            multi_label=self.multi_label,
            failed_are_wrong=self.failed_are_wrong,
            total=self.total,
        )
        for state in self._all_states():
            total._merge(*state)
        return total._scores()

    def _all_states(self) -> list[Any]:
        samples = sorted(self._sums)
        state = (
            samples,
            _stacked([self._sums[sample] for sample in samples]),
            [self._counts[sample] for sample in samples],
            _stacked([self._labels[sample] for sample in samples]),
            tuple(self._failed.values()),
        )
        if not (dist.is_available() and dist.is_initialized()):
            return [state]
        states: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(states, state)
        return states

    def _merge(
        self, samples: list[int], sums: Tensor, counts: list[int], labels: Tensor, failed: tuple[BadSample, ...]
    ) -> None:
        for sample, row, count, label in zip(samples, sums, counts, labels, strict=True):
            self._sums[sample] = self._sums[sample] + row if sample in self._sums else row
            self._counts[sample] = self._counts.get(sample, 0) + count
            self._labels[sample] = label
        self.fail(failed)

    def _scores(self) -> Scores:
        for sample in self._failed:  # a part of its views may have been read
            self._sums.pop(sample, None)
            self._counts.pop(sample, None)
        for sample, count in self._counts.items():
            if count != self.num_views:
                raise UserError(f"sample {sample} was scored on {count} views, the protocol has {self.num_views}")
        came = len(self._sums) + len(self._failed)
        if self.expected is not None and came != self.expected:
            raise UserError(f"{came} samples came in, {self.expected} were expected")
        samples = sorted(self._sums)
        sums = _stacked([self._sums[sample] for sample in samples]).double().reshape(-1, self.num_classes)
        labels = _stacked([self._labels[sample] for sample in samples]).to(self._label_dtype)
        return (MultiLabelScores if self.multi_label else SingleLabelScores)(
            sample_ids=torch.tensor(samples, dtype=torch.int64),
            probabilities=sums / self.num_views,
            labels=labels.reshape(sums.shape) if self.multi_label else labels,
            failed=tuple(sorted(self._failed.values())),
            expected=came,
            num_views=self.num_views,
            failed_are_wrong=self.failed_are_wrong,
            total=self.total,
        )

    @property
    def _label_dtype(self) -> torch.dtype:
        return torch.bool if self.multi_label else torch.int64


def _stacked(rows: list[Tensor]) -> Tensor:
    return torch.stack(rows) if rows else torch.empty(0)
