"""Scores of any task, independent of the number of processes.

Every process tallies the views that it sees; at the end the tallies of all processes are merged. So a file counts
once, wherever its views went. Only the task's tally and scores know targets and metrics.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from mvrec.data.loading.batch import PADDING_ID, BadSample
from mvrec.data.views.targets import NoTarget, Target
from mvrec.errors import UserError

NOT_FINITE = "the network's outputs are not finite"  # the cause of failure of a readable sample


@dataclass(frozen=True, kw_only=True)
class Extent:
    """The samples that a score covers.

    Attributes:
        failed: Samples that could not be read, or whose outputs are not finite.
        expected: Samples that should have been scored.
        num_views: Views of each sample.
        failed_are_wrong: Whether failed samples count as wrong; else the score excludes them.
        total: Samples of the whole split, if known.
    """

    failed: tuple[BadSample, ...]
    expected: int
    num_views: int = 1
    failed_are_wrong: bool = True
    total: int | None = None

    @property
    def partial(self) -> bool:
        """Whether only a part of the split was to be scored."""
        return self.total is not None and self.expected < self.total

    @property
    def not_finite(self) -> tuple[BadSample, ...]:
        """Readable samples whose outputs are not finite."""
        return tuple(bad for bad in self.failed if bad.cause == NOT_FINITE)

    @property
    def unreadable(self) -> tuple[BadSample, ...]:
        """The failed samples that could not be read."""
        return tuple(bad for bad in self.failed if bad.cause != NOT_FINITE)


@dataclass(frozen=True, kw_only=True)
class Scores(Extent, ABC):
    """The result of an evaluation.

    Attributes:
        sample_ids: int64 (N,), ascending; the scored samples.
    """

    sample_ids: Tensor

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Return values by name; the first one ranks models."""

    def headline(self) -> dict[str, float]:
        """Return the values of a score line and a validation's curves: all of `metrics` by default."""
        return self.metrics()

    def chance(self) -> dict[str, float]:
        """Return the value of each metric that an answer without a look at the files would have, by the metric's name.

        Metrics without such a value are left out, and by default all are.
        """
        return {}

    def text_of(self, name: str, value: float) -> str:
        """Return a metric's value for readers."""
        return f"{value:.4f}"

    def facts(self) -> dict[str, Any]:
        """Return the entries of `metrics.json` about these scores besides their values."""
        return {}

    def all_ids(self) -> list[int]:
        """Return the ids of all samples, those that failed included, ascending: the rows of `predictions.csv`."""
        return sorted([*self.sample_ids.tolist(), *(bad.index for bad in self.failed)])

    def counts(self, noun: str = "videos") -> str:
        """Return the number of samples in the score, as text with the caller's noun."""
        counted = " and left out" if self.failed and not self.failed_are_wrong else ""
        part = f"only {self.expected} of {self.total} {noun}: " if self.partial else ""
        return f"{part}{len(self.sample_ids)}/{self.expected} {noun} scored, {len(self.failed)} failed{counted}"


class Tally(ABC):
    """The samples as one process has seen them, until scores are computed."""

    @abstractmethod
    def usable(self, outputs: Any) -> Sequence[bool]:
        """Return whether the outputs of each view of a batch are finite."""

    @abstractmethod
    def add(self, outputs: Any, targets: Any, sample_ids: Sequence[int], places: Sequence[int]) -> None:
        """Add views of a batch.

        Args:
            outputs: The result of the task's `predict` for the batch.
            targets: The targets of the batch.
            sample_ids: The sample of each view.
            places: The places in the batch of the views that count.
        """

    @abstractmethod
    def drop(self, sample: int) -> None:
        """Forget a sample, some of whose views may have been added."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Add the tally of another process, which may hold other views of the same samples."""

    @abstractmethod
    def scores(self, **extent: Any) -> Scores:
        """Return the scores of all samples; `extent` are the fields of `Extent`."""

    def target(self, row: Any) -> Target:
        """Return the target, where scores need it, of a sample with non-finite outputs, from its row of a batch."""
        return NoTarget()


class MeanTally(Tally):
    """Keeps the sum of a sample's values over its views, so that its value is their mean.

    A subclass defines the values of a batch (`values`) and the scores (`scores`).
    """

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}
        self._views: dict[int, int] = {}
        self._targets: dict[int, Tensor] = {}

    @abstractmethod
    def values(self, outputs: Tensor) -> Tensor:
        """Return the values of each view that are averaged, float64 (B, D) on the CPU, of outputs (B, D)."""

    def usable(self, outputs: Tensor) -> list[bool]:
        """Return whether all outputs of a view are finite."""
        return outputs.detach().flatten(1).isfinite().all(dim=1).tolist()

    def add(self, outputs: Tensor, targets: Tensor, sample_ids: Sequence[int], places: Sequence[int]) -> None:
        """Add the values of views to the sums of their samples."""
        values, targets = self.values(outputs.detach()), targets.cpu()
        for place in places:
            self._join(sample_ids[place], values[place], 1, targets[place])

    def _join(self, sample: int, value: Tensor, views: int, target: Tensor) -> None:
        self._sums[sample] = self._sums[sample] + value if sample in self._sums else value
        self._views[sample] = self._views.get(sample, 0) + views
        self._targets[sample] = target

    def drop(self, sample: int) -> None:
        """Forget a sample."""
        for table in (self._sums, self._views, self._targets):
            table.pop(sample, None)

    def merge(self, other: Self) -> None:
        """Add the sums of another process."""
        for sample, value in other._sums.items():
            self._join(sample, value, other._views[sample], other._targets[sample])

    def means(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return sample ids int64 (N,), ascending, their means float64 (N, D), and their targets (N, ...)."""
        samples = sorted(self._sums)
        means = stacked(self._sums[sample] / self._views[sample] for sample in samples)
        return torch.tensor(samples, dtype=torch.int64), means, stacked(self._targets[sample] for sample in samples)


class ScoreKeeper:
    """Keeps the tally of one process, checks that every sample has all its views, and merges all processes.

    Args:
        tally: An empty tally of the task.
        num_views: Views that each sample must have.
        expected: Samples over all processes; `None` if only a part is scored on purpose.
        failed_are_wrong: See `Extent`.
        total: See `Extent`.
        path_of: The file of a sample id, to name it when its outputs are not finite.
    """

    def __init__(
        self,
        tally: Tally,
        *,
        num_views: int,
        expected: int | None,
        failed_are_wrong: bool = True,
        total: int | None = None,
        path_of: Callable[[int], str] = str,
    ) -> None:
        self.tally, self.num_views, self.expected = tally, num_views, expected
        self.failed_are_wrong, self.total, self.path_of = failed_are_wrong, total, path_of
        self._views: dict[int, int] = {}
        self._failed: dict[int, BadSample] = {}  # by row: several processes may share a file's views

    def add(self, outputs: Any, targets: Any, sample_ids: Tensor) -> None:
        """Add the views of a batch; a sample with a view whose outputs are not finite fails.

        Args:
            outputs: What the task's `predict` gives for the batch.
            targets: The targets of the batch.
            sample_ids: int64 (B,); `PADDING_ID` does not count.
        """
        places, ids = [], sample_ids.tolist()
        for place, (sample, usable) in enumerate(zip(ids, self.tally.usable(outputs), strict=True)):
            if sample == PADDING_ID:
                continue
            if not usable:
                target = self.tally.target(targets[place])
                self.fail((BadSample(sample, self.path_of(sample), NOT_FINITE, target=target),))
            self._views[sample] = self._views.get(sample, 0) + 1
            places.append(place)
        self.tally.add(outputs, targets, ids, places)

    def fail(self, bad: tuple[BadSample, ...]) -> None:
        """Note samples that could not be scored."""
        self._failed.update((entry.index, entry) for entry in bad)

    def gather(self) -> Scores:
        """Join all processes; every process must call it, also one that saw no sample.

        Raises:
            UserError: A sample with more or fewer views than the protocol says, or samples missing.
        """
        (tally, views, failed), *others = self._all_states()
        for other, its_views, its_failed in others:
            tally.merge(other)
            failed |= its_failed
            for sample, count in its_views.items():
                views[sample] = views.get(sample, 0) + count
        for sample in failed:  # a part of its views may have been read
            tally.drop(sample)
            views.pop(sample, None)
        for sample, count in views.items():
            if count != self.num_views:
                raise UserError(f"sample {sample} was scored on {count} views, the protocol has {self.num_views}")
        came = len(views) + len(failed)
        if self.expected is not None and came != self.expected:
            raise UserError(f"{came} samples came in, {self.expected} were expected")
        return tally.scores(
            failed=tuple(sorted(failed.values())),
            expected=came,
            num_views=self.num_views,
            failed_are_wrong=self.failed_are_wrong,
            total=self.total,
        )

    def _all_states(self) -> list[Any]:
        state = (self.tally, dict(self._views), dict(self._failed))
        if not (dist.is_available() and dist.is_initialized()):
            return [state]
        states: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(states, state)
        return states


def stacked(rows: Iterable[Tensor]) -> Tensor:
    """Return rows as one tensor; without any an empty one."""
    rows = list(rows)
    return torch.stack(rows) if rows else torch.empty(0)
