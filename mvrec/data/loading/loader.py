"""Batches in an order that is a function of (seed, epoch) alone, resumable at any batch.

Ranks and worker counts are known here so that nothing else in this package needs them.
"""

import logging
import math
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from mvrec.data.loading.batch import BadSample, ClipBatch, SampleKey, collate
from mvrec.data.loading.guard import GuardedSamples
from mvrec.data.loading.quarantine import Quarantine
from mvrec.data.loading.samples import EvalSamples, TrainSamples
from mvrec.data.loading.workers import start_worker
from mvrec.errors import UserError
from mvrec.machine import cores_per_process, shared_memory_fault
from mvrec.processes import CAN_FORK, Limits
from mvrec.seeds import derive_seed

MAX_AUTO_WORKERS = 16

log = logging.getLogger(__name__)


class TrainBatches(Sampler[list[SampleKey]]):
    """Which samples make each training batch of this rank.

    Step g of an epoch is trained on a slice of one order that all ranks share: ranks take consecutive parts of it, and
    with accumulation consecutive batches. So the samples of a step do not depend on how many ranks and batches share
    them, and a position is one number. The last, incomplete step is dropped; a data set smaller than one step is
    repeated to fill it.

    With `repeats`, the order is read with each sample `repeats` times in a row (a, a, a, b, b, b, ...), and an
    epoch still has `num_samples` draws: it shows a random part of the samples, each several times in the same step.
    That is the epoch of the image recipes with repeated augmentation (Hoffer et al. 2020; DeiT's sampler).

    Args:
        num_samples: Rows of the index.
        batch_size: Draws per rank and batch.
        seed: Root of the order.
        rank: This process.
        world_size: Number of processes.
        accumulate: Batches per step.
        repeats: Draws of the same sample in a row.
        labels: Class of each row (num_samples,), where classes are balanced.
        balance: See `epoch_order`.
        same_epoch: Whether every epoch is the first one over again, with the same views of the same files.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        accumulate: int = 1,
        repeats: int = 1,
        labels: np.ndarray | None = None,
        balance: float = 0.0,
        same_epoch: bool = False,
    ) -> None:
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.rank, self.world_size, self.accumulate, self.repeats = rank, world_size, accumulate, repeats
        self.labels, self.balance, self.same_epoch = labels, balance, same_epoch
        self.epoch = 0
        self.consumed = 0  # draws of this epoch that all ranks together have trained on

    @property
    def draws_per_batch(self) -> int:
        """Draws that all ranks together take per batch."""
        return self.batch_size * self.world_size

    @property
    def draws_per_step(self) -> int:
        """Draws behind one step of the optimiser."""
        return self.draws_per_batch * self.accumulate

    @property
    def sampler(self) -> "TrainBatches":
        """Lightning looks for `set_epoch` at `batch_sampler.sampler`."""
        return self

    def __len__(self) -> int:
        """Return batches in a whole epoch, also after a resume."""
        return max(self.num_samples // self.draws_per_step, 1) * self.accumulate

    def set_epoch(self, epoch: int) -> None:
        """Move to the start of an epoch; staying in the epoch keeps the position."""
        if epoch != self.epoch:
            self.epoch, self.consumed = epoch, 0

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, first = 0 if self.same_epoch else self.epoch, self.consumed // self.draws_per_batch
        order = epoch_order(
            self.num_samples, seed=derive_seed(self.seed, "order", epoch), labels=self.labels, balance=self.balance
        )
        short = self.draws_per_step - len(order)
        if short > 0:
            order = order.repeat(short // len(order) + 2)[: self.draws_per_step]
        for number in range(first, len(self)):
            begin = number * self.draws_per_batch + self.rank * self.batch_size
            yield self._keys(epoch, order, range(begin, begin + self.batch_size))

    def _keys(self, epoch: int, order: torch.Tensor, draws: range) -> list[SampleKey]:
        if self.repeats == 1:
            return [SampleKey(epoch, index) for index in order[draws.start : draws.stop].tolist()]
        # Draws of one sample that fall into the same batch are one key, so that its file is decoded once.
        groups = groupby(draws, key=lambda draw: draw // self.repeats)
        return [
            SampleKey(epoch, int(order[place]), repeats=tuple(draw % self.repeats for draw in group))
            for place, group in groups
        ]


def epoch_order(num_samples: int, *, seed: int, labels: np.ndarray | None = None, balance: float = 0.0) -> torch.Tensor:
    """Return the order of an epoch of `num_samples` draws: int64 (num_samples,), a function of the seed alone.

    With a balance of 0 each sample is drawn once. Above, a class of n samples is drawn in proportion to
    `n ** (1 - balance)`: with 1 all classes equally often, with 0.5 by the square root. A sample's draws are its
    expected number rounded down or up, so that a class gets its share in every epoch, not only on average.

    Args:
        num_samples: Rows of the index.
        seed: All choices follow from it.
        labels: Class of each row (num_samples,); needed for a balance.
        balance: 0..1.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(num_samples, generator=generator)
    if balance == 0:
        return order
    assert labels is not None
    classes = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    order = order[classes[order].argsort(stable=True)]  # class by class, mixed within each
    sizes = torch.bincount(classes).double()
    shares = torch.where(sizes > 0, sizes ** (1 - balance), 0.0)
    per_sample = num_samples * shares / shares.sum() / sizes.clamp_min(1)
    # Ticks at u, u + 1, u + 2, ... on a line on which each sample has its expected draws as length.
    ends = per_sample[classes[order]].cumsum(0)
    ends[-1] = num_samples
    ticks = (ends - torch.rand((), generator=generator, dtype=torch.float64)).ceil().clamp_min(0).long()
    draws = ticks.diff(prepend=torch.zeros(1, dtype=torch.int64))
    drawn = order.repeat_interleave(draws)
    return drawn[torch.randperm(len(drawn), generator=generator)]


class EvalBatches(Sampler[list[SampleKey]]):
    """Each sample once over all ranks: unpadded, rank r takes r, r + world_size, ...

    With `shared_views` it is each view once: ranks share the views of a sample, and rank r takes every world_size-th
    view of all.

    A rank without samples gets one batch that does not count, since a loader without batches would keep the
    rank away from the collective at the end.

    Args:
        num_samples: Rows of the index.
        batch_size: Samples per batch; of shared views as many as so many samples have.
        rank: This process.
        world_size: Number of processes.
        shared_views: Views per sample that ranks share; 0 keeps a sample's views together.
    """

    def __init__(self, num_samples: int, *, batch_size: int, rank: int, world_size: int, shared_views: int = 0) -> None:
        self.views, self.rank = max(shared_views, 1), rank
        self.shared = shared_views > 1
        self.parts = range(rank, num_samples * self.views, world_size)  # samples, or views counted through
        self.parts_per_batch = batch_size * self.views
        self.passes = 0

    def __len__(self) -> int:
        return max(math.ceil(len(self.parts) / self.parts_per_batch), 1)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        self.passes += 1
        epoch = self.passes - 1
        if not self.parts:
            yield [SampleKey(epoch, 0, counted=False)]
        for begin in range(0, len(self.parts), self.parts_per_batch):
            parts = self.parts[begin : begin + self.parts_per_batch]
            if not self.shared:
                yield [SampleKey(epoch, row) for row in parts]
                continue
            rows = groupby(parts, key=lambda part: part // self.views)
            yield [SampleKey(epoch, row, repeats=tuple(part % self.views for part in group)) for row, group in rows]


class BadFiles:
    """Keeps count of files that could not be read, names each once, and stops a run that has too many.

    The share is taken of the samples that this process has asked for, since with many ranks each sees a part only.

    Args:
        num_samples: Rows of the index.
        max_fraction: Distinct bad files, as a share of the samples asked for, above which training stops.
        noun: What messages call a file.
    """

    FIRST_LOOK = 100  # with fewer samples a share says little

    def __init__(self, num_samples: int, max_fraction: float, *, noun: str = "video") -> None:
        self.num_samples, self.max_fraction, self.noun = num_samples, max_fraction, noun
        self.asked = 0
        self.seen: dict[int, BadSample] = {}

    def report(self, bad: tuple[BadSample, ...], *, asked: int) -> None:
        """Note what a training batch of `asked` samples met.

        Raises:
            UserError: Too many.
        """
        self.asked += asked
        for entry in bad:
            if entry.index not in self.seen:
                self.seen[entry.index] = entry
                log.warning("unreadable, another %s takes its place: %s: %s", self.noun, entry.path, entry.cause)
        looked_at = min(self.num_samples, max(self.asked, self.FIRST_LOOK))
        if len(self.seen) > self.max_fraction * looked_at:
            first = next(iter(self.seen.values()))
            raise UserError(
                f"{len(self.seen)} of the first {looked_at} {self.noun}s cannot be read, more than "
                f"data.max_bad_fraction={self.max_fraction:g} allows; the first: {first.path}: {first.cause}"
            )


class ClipLoader(DataLoader[ClipBatch]):
    """A `DataLoader` of `ClipBatch`es that knows its position.

    Its state counts batches handed out, not batches that workers have fetched ahead, so a restored loader goes
    on with the next batch whatever the number of workers.

    Args:
        dataset: Answers `SampleKey`s.
        batches: `TrainBatches` or `EvalBatches`.
        num_workers: Worker processes.
        pin_memory: Page-lock batches for a faster copy to a GPU.
        max_bad_fraction: See `BadFiles`; `None` in evaluation, where bad files are failed samples instead.
        noun: What messages call a file.
        limits: What reading a file may take before its process is killed; `None` reads without a guard, in the loader
            process itself.
        quarantine: The folder in which files that broke the limits are remembered; `None` keeps them in memory.
    """

    def __init__(
        self,
        dataset: TrainSamples | EvalSamples,
        batches: TrainBatches | EvalBatches,
        *,
        num_workers: int,
        pin_memory: bool,
        max_bad_fraction: float | None = None,
        noun: str = "video",
        limits: Limits | None = None,
        quarantine: Path | None = None,
    ) -> None:
        rows = len(dataset)
        source: Dataset[Any] = dataset
        if limits is not None and CAN_FORK:
            source = GuardedSamples(dataset, limits, Quarantine(quarantine, rank=batches.rank), rank=batches.rank)
        super().__init__(
            source,
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=collate,
            pin_memory=pin_memory,
            worker_init_fn=start_worker,
            persistent_workers=num_workers > 0,
        )
        self.batches = batches
        self._has_workers = False
        self.bad_files = None if max_bad_fraction is None else BadFiles(rows, max_bad_fraction, noun=noun)

    def __iter__(self) -> Iterator[ClipBatch]:  # type: ignore[override]
        # Being a generator, this starts the workers at the first batch: Lightning calls iter() at a time when it
        # has not yet told the sampler which epoch it is.
        batches = self.batches
        if not self._has_workers and (fault := shared_memory_fault(self.num_workers)) is not None:
            raise UserError(fault)
        self._has_workers = True
        for batch in super().__iter__():
            last = next((entry for entry in batch.bad if entry.stop), None)
            if last is not None:
                raise UserError(f"{last.stop}; the last: {last.path}: {last.cause}")
            if isinstance(batches, TrainBatches):
                if self.bad_files is not None:
                    self.bad_files.report(batch.bad, asked=max(batches.batch_size // batches.repeats, 1))
                batches.consumed += batches.draws_per_batch
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """(seed, epoch, consumed): enough to go on, with any number of workers or ranks."""
        if not isinstance(self.batches, TrainBatches):
            return {}
        batches = self.batches
        sizes = {"draws_per_batch": batches.draws_per_batch, "draws_per_step": batches.draws_per_step}
        return {"seed": batches.seed, "epoch": batches.epoch, "consumed": batches.consumed, **sizes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position; `set_epoch` then moves on from a finished epoch."""
        if state and isinstance(self.batches, TrainBatches):
            batches = self.batches
            batches.seed, batches.epoch, batches.consumed = state["seed"], state["epoch"], state["consumed"]


class Unwrapped:
    """A loader that does not show that it is one.

    Lightning rebuilds the samplers of a `DataLoader` it predicts with and cannot rebuild ours; other iterables it
    leaves alone.
    """

    def __init__(self, loader: ClipLoader) -> None:
        self.loader, self.dataset = loader, loader.dataset

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[ClipBatch]:
        return iter(self.loader)


def worker_count(wanted: int | Literal["auto"], *, processes: int = 1) -> int:
    """How many loader workers a process gets.

    "auto" is one per core that this process may use: `SLURM_CPUS_PER_TASK` in a Slurm job, else its share of the cores
    of this machine; at most 16.

    Args:
        wanted: A number, or "auto".
        processes: Training processes on this machine.
    """
    if wanted != "auto":
        return wanted
    return min(cores_per_process(processes), MAX_AUTO_WORKERS)
