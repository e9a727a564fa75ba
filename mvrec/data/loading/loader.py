"""Batches in an order that is a function of (seed, epoch) alone, resumable at any batch.

Only this module of the package deals with ranks and worker counts.
"""

import atexit
import logging
import math
import weakref
from collections.abc import Iterator
from importlib import import_module
from itertools import groupby
from multiprocessing import active_children
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
    """The samples of each training batch of this rank.

    Step g of an epoch trains on a slice of one order that all ranks share: ranks take consecutive parts of it, and
    with accumulation consecutive batches. So the samples of a step do not depend on the number of ranks and batches
    that share them, and a position is one number. The last, incomplete step is dropped; a data set smaller than one
    step is repeated to fill it.

    With `repeats`, the order contains each sample `repeats` times in a row (a, a, a, b, b, b, ...), and an epoch still
    has `num_samples` draws: a random part of the samples, each several times in the same step. So do the image recipes
    with repeated augmentation (Hoffer et al. 2020; DeiT's sampler).

    With `ratios`, the samples of a step are upright or wide alike, so that padding to a common size is small.

    Args:
        num_samples: Rows of the index.
        batch_size: Draws per rank and batch.
        seed: Root of the order.
        rank: This process's rank.
        world_size: Number of processes.
        accumulate: Batches per step.
        repeats: Draws of the same sample in a row.
        labels: Class of each row (num_samples,), to balance classes.
        balance: See `epoch_order`.
        same_epoch: Whether every epoch repeats the first one, with the same views of the same files.
        ratios: Height over width of each row (num_samples,), by which rows are grouped.
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
        ratios: np.ndarray | None = None,
    ) -> None:
        self.num_samples, self.batch_size, self.seed, self.ratios = num_samples, batch_size, seed, ratios
        self.rank, self.world_size, self.accumulate, self.repeats = rank, world_size, accumulate, repeats
        self.labels, self.balance, self.same_epoch = labels, balance, same_epoch
        self.epoch = 0
        self.consumed = 0  # draws of this epoch on which all ranks together have trained

    @property
    def draws_per_batch(self) -> int:
        """Draws per batch, over all ranks."""
        return self.batch_size * self.world_size

    @property
    def draws_per_step(self) -> int:
        """Draws per optimiser step."""
        return self.draws_per_batch * self.accumulate

    @property
    def sampler(self) -> "TrainBatches":
        """This sampler, because Lightning looks for `set_epoch` at `batch_sampler.sampler`."""
        return self

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch, also after a resume."""
        return max(self.num_samples // self.draws_per_step, 1) * self.accumulate

    def set_epoch(self, epoch: int) -> None:
        """Move to the start of an epoch; the present epoch keeps its position."""
        if epoch != self.epoch:
            self.epoch, self.consumed = epoch, 0

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, first = 0 if self.same_epoch else self.epoch, self.consumed // self.draws_per_batch
        order = epoch_order(
            self.num_samples, seed=derive_seed(self.seed, "order", epoch), labels=self.labels, balance=self.balance
        )
        if self.ratios is not None:
            seed = derive_seed(self.seed, "groups", epoch)
            order = grouped_order(order, self.ratios, draws=self.draws_per_step, seed=seed)
        short = self.draws_per_step - len(order)
        if short > 0:
            order = order.repeat(short // len(order) + 2)[: self.draws_per_step]
        for number in range(first, len(self)):
            begin = number * self.draws_per_batch + self.rank * self.batch_size
            yield self._keys(epoch, order, range(begin, begin + self.batch_size))

    def _keys(self, epoch: int, order: torch.Tensor, draws: range) -> list[SampleKey]:
        if self.repeats == 1:
            return [SampleKey(epoch, index) for index in order[draws.start : draws.stop].tolist()]
        # Draws of one sample in the same batch share a key, so that its file is decoded once.
        groups = groupby(draws, key=lambda draw: draw // self.repeats)
        return [
            SampleKey(epoch, int(order[place]), repeats=tuple(draw % self.repeats for draw in group))
            for place, group in groups
        ]


def epoch_order(num_samples: int, *, seed: int, labels: np.ndarray | None = None, balance: float = 0.0) -> torch.Tensor:
    """Return the order of an epoch's draws: int64 (num_samples,), a function of the seed alone.

    With a balance of 0 each sample is drawn once. Otherwise a class of n samples is drawn in proportion to
    `n ** (1 - balance)`: with 1 all classes equally often, with 0.5 by the square root. A sample's draws are its
    expected number rounded down or up, so a class gets its share in every epoch, not only on average.

    Args:
        num_samples: Rows of the index.
        seed: Determines all choices.
        labels: Class of each row (num_samples,); required by a balance.
        balance: 0..1.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(num_samples, generator=generator)
    if balance == 0:
        return order
    assert labels is not None
    classes = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    order = order[classes[order].argsort(stable=True)]  # class by class, shuffled within each
    sizes = torch.bincount(classes).double()
    shares = torch.where(sizes > 0, sizes ** (1 - balance), 0.0)
    per_sample = num_samples * shares / shares.sum() / sizes.clamp_min(1)
    # Ticks at u, u + 1, u + 2, ... on a line on which each sample's length is its expected number of draws.
    ends = per_sample[classes[order]].cumsum(0)
    ends[-1] = num_samples
    ticks = (ends - torch.rand((), generator=generator, dtype=torch.float64)).ceil().clamp_min(0).long()
    draws = ticks.diff(prepend=torch.zeros(1, dtype=torch.int64))
    drawn = order.repeat_interleave(draws)
    return drawn[torch.randperm(len(drawn), generator=generator)]


def grouped_order(order: torch.Tensor, ratios: np.ndarray, *, draws: int, seed: int) -> torch.Tensor:
    """Return an order in which the draws of a step are upright or wide alike.

    What is left of both kinds makes the last steps. Within a step draws come by their ratio, so that also the
    batches of several processes pad little.

    Args:
        order: int64 (num_samples,), an order of an epoch.
        ratios: Height over width of each row (num_samples,).
        draws: Draws of a step.
        seed: Determines the order of the steps.
    """
    by_row = torch.from_numpy(np.asarray(ratios, dtype=np.float64))
    wide = by_row[order] <= 1
    kinds = [order[wide], order[~wide]]
    whole = [len(kind) // draws * draws for kind in kinds]
    steps = torch.cat([kind[:count] for kind, count in zip(kinds, whole, strict=True)]).view(-1, draws)
    steps = steps[torch.randperm(len(steps), generator=torch.Generator().manual_seed(seed))]
    rest = torch.cat([kind[count:] for kind, count in zip(kinds, whole, strict=True)])
    mixed = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))]
    count = len(mixed) // draws * draws
    steps = torch.cat([steps, mixed[:count].view(-1, draws)])
    steps = steps.gather(1, by_row[steps].argsort(dim=1, stable=True))
    return torch.cat([steps.flatten(), mixed[count:]])


class EvalBatches(Sampler[list[SampleKey]]):
    """Each sample once over all ranks: unpadded, rank r takes r, r + world_size, ...

    With `shared_views` each view comes once: ranks share the views of a sample, and rank r takes every world_size-th
    of all views.

    A rank without samples gets one batch that does not count, because a loader without batches would keep the rank
    from the collective at the end.

    Args:
        num_samples: Rows of the index.
        batch_size: Samples per batch; of shared views, as many as so many samples have.
        rank: This process's rank.
        world_size: Number of processes.
        shared_views: Views per sample that ranks share; 0 leaves a sample's views on one rank.
    """

    def __init__(self, num_samples: int, *, batch_size: int, rank: int, world_size: int, shared_views: int = 0) -> None:
        self.views, self.rank = max(shared_views, 1), rank
        self.shared = shared_views > 1
        self.parts = range(rank, num_samples * self.views, world_size)  # samples, or numbers of views
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
    """Counts files that cannot be read, reports each once, and stops a run with too many.

    The share refers to the samples of this process, because with many ranks each reads only a part.

    Args:
        num_samples: Rows of the index.
        max_fraction: Bad files as a share of the requested samples, above which training stops.
        noun: The name of a file in messages.
    """

    FIRST_LOOK = 100  # a share of fewer samples says little

    def __init__(self, num_samples: int, max_fraction: float, *, noun: str = "video") -> None:
        self.num_samples, self.max_fraction, self.noun = num_samples, max_fraction, noun
        self.requested = 0
        self.bad: dict[int, BadSample] = {}

    def report(self, bad: tuple[BadSample, ...], *, requested: int) -> None:
        """Record the bad files of a training batch of `requested` samples.

        Raises:
            UserError: Too many files are bad.
        """
        self.requested += requested
        for entry in bad:
            if entry.index not in self.bad:
                self.bad[entry.index] = entry
                log.warning("unreadable, another %s takes its place: %s: %s", self.noun, entry.path, entry.cause)
        looked_at = min(self.num_samples, max(self.requested, self.FIRST_LOOK))
        if len(self.bad) > self.max_fraction * looked_at:
            first = next(iter(self.bad.values()))
            raise UserError(
                f"{len(self.bad)} of the first {looked_at} {self.noun}s cannot be read, more than "
                f"data.max_bad_fraction={self.max_fraction:g} allows; the first: {first.path}: {first.cause}; "
                "mvrec prep check names all that cannot be read, mvrec prep index all that do not fit their annotations"
            )


class ClipLoader(DataLoader[ClipBatch]):
    """A `DataLoader` of `ClipBatch`es that knows its position.

    Its state counts batches handed out, not batches that workers have prefetched, so a restored loader continues with
    the next batch whatever the number of workers.

    Args:
        dataset: A dataset with `SampleKey`s as keys.
        batches: `TrainBatches` or `EvalBatches`.
        num_workers: Worker processes.
        pin_memory: Page-lock batches for a faster copy to a GPU.
        max_bad_fraction: See `BadFiles`; `None` in evaluation, where bad files are failed samples instead.
        noun: The name of a file in messages.
        limits: The limits of reading a file before its process is killed; `None` reads without a guard, in the loader
            process itself.
        quarantine: The folder that lists files beyond the limits; `None` keeps them in memory.
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
        # As a generator it starts the workers at the first batch: Lightning calls iter() before it has told the sampler
        # the epoch.
        batches = self.batches
        if not self._has_workers and (fault := shared_memory_fault(self.num_workers)) is not None:
            raise UserError(fault)
        if not self._has_workers:
            atexit.register(_close, weakref.ref(self))
            for library in self.dataset.libraries if CAN_FORK else ():  # type: ignore[attr-defined]
                import_module(library)
        others = set(active_children())
        received = super().__iter__()
        for worker in set(active_children()) - others:
            worker.terminate = worker.kill  # type: ignore[method-assign]  # torch ends late ones, which ignore SIGTERM
        self._has_workers = True
        for batch in received:
            last = next((entry for entry in batch.bad if entry.stop), None)
            if last is not None:
                raise UserError(f"{last.stop}; the last: {last.path}: {last.cause}" if last.cause else last.stop)
            if isinstance(batches, TrainBatches):
                if self.bad_files is not None:
                    self.bad_files.report(batch.bad, requested=max(batches.batch_size // batches.repeats, 1))
                batches.consumed += batches.draws_per_batch
            yield batch

    def close(self) -> None:
        """End the worker processes; the next iteration starts new ones."""
        if self._iterator is not None:
            self._iterator._shutdown_workers()  # type: ignore[attr-defined]
        self._iterator, self._has_workers = None, False

    def state_dict(self) -> dict[str, Any]:
        """Return (seed, epoch, consumed): enough to resume with any number of workers or ranks."""
        if not isinstance(self.batches, TrainBatches):
            return {}
        batches = self.batches
        sizes = {"draws_per_batch": batches.draws_per_batch, "draws_per_step": batches.draws_per_step}
        return {"seed": batches.seed, "epoch": batches.epoch, "consumed": batches.consumed, **sizes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Move to a saved position; `set_epoch` then leaves a finished epoch."""
        if state and isinstance(self.batches, TrainBatches):
            batches = self.batches
            batches.seed, batches.epoch, batches.consumed = state["seed"], state["epoch"], state["consumed"]


def _close(loader: "weakref.ref[ClipLoader]") -> None:
    """Close a loader when Python ends: multiprocessing would wait for its workers, which ignore its SIGTERM."""
    if (living := loader()) is not None:
        living.close()


class Unwrapped:
    """A loader that is not an instance of `DataLoader`.

    When Lightning predicts, it rebuilds the samplers of a `DataLoader`, which fails with ours; it leaves other
    iterables alone.
    """

    def __init__(self, loader: ClipLoader) -> None:
        self.loader, self.dataset = loader, loader.dataset

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[ClipBatch]:
        return iter(self.loader)


def worker_count(setting: int | Literal["auto"], *, processes: int = 1) -> int:
    """Return the number of loader workers of a process.

    "auto" is one per core of this process: `SLURM_CPUS_PER_TASK` in a Slurm job, else its share of this machine's
    cores; at most 16.

    Args:
        setting: A number, or "auto".
        processes: Training processes on this machine.
    """
    if setting != "auto":
        return setting
    return min(cores_per_process(processes), MAX_AUTO_WORKERS)
