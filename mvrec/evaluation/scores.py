"""Scores that do not depend on how many processes computed them.

Every process adds the softmax of each view to its sample's sum; at the end the sums of all processes are added per
sample. So a video counts once, wherever its views went.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mvrec.data.batch import PADDING_ID, BadSample
from mvrec.errors import UserError


@dataclass(frozen=True)
class Scores:
    """What an evaluation found.

    Attributes:
        sample_ids: int64 (N,), rising; the samples that were scored.
        probabilities: float64 (N, K), mean softmax over views.
        labels: int64 (N,).
        failed: Samples that could not be read. They count as wrong.
        expected: Samples that should have been scored.
    """

    sample_ids: Tensor
    probabilities: Tensor
    labels: Tensor
    failed: tuple[BadSample, ...]
    expected: int

    @property
    def num_classes(self) -> int:
        """K."""
        return self.probabilities.shape[1]

    def top_k(self, k: int) -> float:
        """Share of all expected samples whose class is among the k most probable ones."""
        if not self.expected:
            return 0.0
        best = self.probabilities.topk(min(k, self.num_classes), dim=1).indices
        return float((best == self.labels[:, None]).any(dim=1).sum()) / self.expected

    def mean_class_accuracy(self) -> float:
        """Top-1 averaged over the classes that occur among the scored samples."""
        hits = (self.probabilities.argmax(dim=1) == self.labels).double()
        counts = torch.bincount(self.labels, minlength=self.num_classes)
        right = torch.bincount(self.labels, weights=hits, minlength=self.num_classes)
        return float((right[counts > 0] / counts[counts > 0]).mean()) if len(hits) else 0.0

    def loss(self) -> float:
        """Cross-entropy of the mean softmax in nats, over the scored samples."""
        chosen = self.probabilities.gather(1, self.labels[:, None]).clamp_min(1e-12)
        return float(-chosen.log().mean()) if len(chosen) else 0.0

    def metrics(self) -> dict[str, float]:
        """Named values; "top5" becomes "top<K>" with fewer than five classes."""
        k = min(5, self.num_classes)
        values = {"top1": self.top_k(1), f"top{k}": self.top_k(k), "mean_class": self.mean_class_accuracy()}
        return {**values, "loss": self.loss()}

    def counts(self, noun: str = "videos") -> str:
        """How many samples the score speaks of, by the name that the caller gives them."""
        return f"{len(self.sample_ids)}/{self.expected} {noun} scored, {len(self.failed)} failed"


class ScoreKeeper:
    """Collects softmax sums per sample on one process and joins them over all.

    Args:
        num_classes: K.
        num_views: Views that each sample must have.
        expected: Samples over all processes; `None` when only a part is scored on purpose.
    """

    def __init__(self, *, num_classes: int, num_views: int, expected: int | None) -> None:
        self.num_classes, self.num_views, self.expected = num_classes, num_views, expected
        self._sums: dict[int, Tensor] = {}
        self._counts: dict[int, int] = {}
        self._labels: dict[int, int] = {}
        self._failed: list[BadSample] = []

    def add(self, logits: Tensor, labels: Tensor, sample_ids: Tensor) -> None:
        """Add views: logits (B, K), labels (B,), sample_ids (B,) where `PADDING_ID` does not count."""
        probabilities = logits.detach().float().softmax(dim=1).double().cpu()
        for row, label, sample in zip(probabilities, labels.tolist(), sample_ids.tolist(), strict=True):
            if sample == PADDING_ID:
                continue
            self._sums[sample] = self._sums[sample] + row if sample in self._sums else row
            self._counts[sample] = self._counts.get(sample, 0) + 1
            self._labels[sample] = label

    def fail(self, bad: tuple[BadSample, ...]) -> None:
        """Note samples that could not be read."""
        self._failed.extend(bad)

    def gather(self) -> Scores:
        """Join all processes; every process must call it, also one that saw no sample.

        Raises:
            UserError: A sample with more or fewer views than the protocol says, or samples missing.
        """
        total = ScoreKeeper(num_classes=self.num_classes, num_views=self.num_views, expected=self.expected)
        for state in self._all_states():
            total._merge(*state)
        return total._scores()

    def _all_states(self) -> list[Any]:
        samples = sorted(self._sums)
        sums = torch.stack([self._sums[sample] for sample in samples]) if samples else torch.empty(0)
        state = (
            samples,
            sums,
            [self._counts[s] for s in samples],
            [self._labels[s] for s in samples],
            self._failed,
        )
        if not (dist.is_available() and dist.is_initialized()):
            return [state]
        states: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(states, state)
        return states

    def _merge(
        self, samples: list[int], sums: Tensor, counts: list[int], labels: list[int], failed: list[BadSample]
    ) -> None:
        for sample, row, count, label in zip(samples, sums, counts, labels, strict=True):
            self._sums[sample] = self._sums[sample] + row if sample in self._sums else row
            self._counts[sample] = self._counts.get(sample, 0) + count
            self._labels[sample] = label
        self._failed.extend(failed)

    def _scores(self) -> Scores:
        for sample, count in self._counts.items():
            if count != self.num_views:
                raise UserError(f"sample {sample} was scored on {count} views, the protocol has {self.num_views}")
        came = len(self._sums) + len(self._failed)
        if self.expected is not None and came != self.expected:
            raise UserError(f"{came} samples came in, {self.expected} were expected")
        samples = sorted(self._sums)
        rows = torch.stack([self._sums[sample] for sample in samples]) if samples else torch.empty(0, self.num_classes)
        return Scores(
            sample_ids=torch.tensor(samples, dtype=torch.int64),
            probabilities=rows.double() / self.num_views,
            labels=torch.tensor([self._labels[sample] for sample in samples], dtype=torch.int64),
            failed=tuple(sorted(self._failed)),
            expected=came,
        )
