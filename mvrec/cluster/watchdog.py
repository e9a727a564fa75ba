"""Ends a run in which a process hangs, and names the process, its host and its stage.

A collective that one process never enters keeps all others waiting in silence. Its timeout comes after half an hour,
and the error does not name the missing process.
"""

import faulthandler
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L
import torch.distributed as dist

from mvrec.cluster.heartbeat import Heartbeat, Member, every, open_store

_NAMED = 8  # processes in a line at most
_SILENT_BEATS = 3  # beats without a heartbeat until a process counts as silent


@dataclass(frozen=True)
class Sign(Member):
    """The progress of a process.

    Attributes:
        phase: Number of the current part of the run, such as an epoch or a validation.
        batch: Number of the batch within the phase.
        place: The current work, in words.
    """

    phase: int
    batch: int
    place: str


def judge(signs: Mapping[int, Sign], silent: Mapping[int, float]) -> tuple[tuple[int, ...], str]:
    """Name the processes that hold the others up.

    Args:
        signs: The last heartbeat of every process, by rank.
        silent: Ranks without a heartbeat, with their seconds of silence.

    Returns:
        The ranks, and a line about them. All ranks, if none lags.
    """
    if silent:
        reports = [
            f"{signs[rank]} has given no sign of life for {seconds:.0f} s: it is stopped or its machine hangs; its "
            f"last sign was from {signs[rank].place}"
            for rank, seconds in sorted(silent.items())
        ]
        return tuple(sorted(silent)), _joined(reports)
    positions = {rank: (sign.phase, sign.batch) for rank, sign in sorted(signs.items())}
    if len(set(positions.values())) == 1:
        return tuple(positions), f"all {len(signs)} processes are hung at {signs[0].place}"
    last = min(positions.values())
    named = [signs[rank] for rank, position in positions.items() if position == last]
    reports = [f"{sign} is alive but hung at {sign.place}" for sign in named]
    return tuple(sign.rank for sign in named), f"{_joined(reports)}, while the others wait"


def _joined(reports: list[str]) -> str:
    more = f"; and {len(reports) - _NAMED} more" if len(reports) > _NAMED else ""
    return "; ".join(reports[:_NAMED]) + more


class Watchdog(L.Callback):
    """Ends all processes of a run with exit code 1 after too long without progress.

    A thread of every process reports to rank 0 over TCP that the process lives and where it is. A process without
    progress for `seconds` reads the reports of the others. The launcher (srun with --kill-on-bad-exit, torchrun) ends
    processes that cannot end themselves. Time during which the machine or the process is suspended does not count.

    Args:
        seconds: The longest time without progress; 0 for no limit. A batch, a checkpoint, a compilation must take less.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.watch: Watch | None = None
        self._position = (0, 0)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Start to watch if there is more than one process; every process takes part."""
        if trainer.world_size > 1 and self.seconds > 0 and self.watch is None:
            store, host = shared_store(trainer.global_rank, patience=max(5.0, self.seconds / 4))
            self.watch = Watch(store, host, rank=trainer.global_rank, size=trainer.world_size, seconds=self.seconds)
            self.watch.start()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Stop to watch: the run is over."""
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Stop to watch: the run ends with an error of its own."""
        self._stop()

    def _stop(self) -> None:
        if self.watch is not None:
            self.watch.stop()

    def _phase(self, place: str) -> None:
        self._position = (self._position[0] + 1, 0)
        self._at(place)

    def _batch(self, place: str) -> None:
        self._position = (self._position[0], self._position[1] + 1)
        self._at(place)

    def _at(self, place: str) -> None:
        if self.watch is not None:
            self.watch.at(*self._position, place)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the stage."""
        self._phase(f"the start of epoch {trainer.current_epoch}")

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> Any:
        """Record the stage."""
        self._batch(f"batch {batch_idx} of epoch {trainer.current_epoch}")

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Any) -> None:
        """Record the stage: in the backward pass processes wait for each other."""
        self._batch(f"the backward pass at step {trainer.global_step}")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the stage: the process waits for data next."""
        self._batch(f"the data after batch {batch_idx} of epoch {trainer.current_epoch}")

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Record the stage."""
        self._phase(f"a checkpoint at step {trainer.global_step}")

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the stage."""
        self._phase("the start of an evaluation")

    def on_test_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Record the stage."""
        self._batch(f"batch {batch_idx} of an evaluation")

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Record the stage: the process waits for data next."""
        self._batch(f"the data after batch {batch_idx} of an evaluation")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start a phase: processes may have unequal numbers of batches."""
        self._phase("the scores of an evaluation")

    on_validation_start = on_predict_start = on_test_start
    on_validation_batch_start = on_predict_batch_start = on_test_batch_start
    on_validation_batch_end = on_predict_batch_end = on_test_batch_end
    on_validation_epoch_end = on_predict_epoch_end = on_test_epoch_end


def shared_store(rank: int, *, patience: float) -> tuple[Any, str]:
    """Open a store of rank 0 for all processes and return it with rank 0's host; every process must call it.

    Args:
        rank: This process.
        patience: Seconds after which a request to rank 0 fails.
    """
    address = os.environ.get("MASTER_ADDR", "127.0.0.1")
    addresses: list[Any] = [None]
    store = None
    if rank == 0:
        store = open_store(address, 0, patience=patience, serves=True)
        addresses = [(socket.gethostname(), store.port)]
    dist.broadcast_object_list(addresses, src=0)
    host, port = addresses[0]
    if store is None:
        store = open_store(address, port, patience=patience)
    return store, host


class Watch:
    """The threads of a process's watchdog: one talks to the store and may block, the other one decides.

    Args:
        store: The store that all processes share.
        host: The host of rank 0, which serves the store.
        rank: The rank of this process.
        size: The number of processes.
        seconds: The longest time without progress.
        end: Ends this process.
    """

    def __init__(
        self,
        store: Any,
        host: str,
        *,
        rank: int,
        size: int,
        seconds: float,
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        self.host, self.rank, self.size, self.seconds, self.end = host, rank, size, seconds, end
        self.beat_seconds = min(10.0, seconds / 20)
        self._sign = Sign(rank, socket.gethostname(), os.getpid(), 0, 0, "the start of the run")
        self._over = threading.Event()
        self._clock = self._moved = self._answered = 0.0
        self._signs: dict[int, Sign] = {}
        self._heartbeat = Heartbeat(store, rank)
        self._threads = [
            every(self.beat_seconds, self._talk, self._over),
            threading.Thread(target=self._decide, daemon=True),
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the threads without waiting for one that blocks."""
        self._over.set()

    def at(self, phase: int, batch: int, place: str) -> None:
        """Record progress of the run."""
        self._sign = Sign(self.rank, self._sign.host, self._sign.pid, phase, batch, place)
        self._moved = self._clock

    @property
    def still(self) -> float:
        """Seconds without progress."""
        return self._clock - self._moved

    def _talk(self) -> None:
        self._heartbeat.give(asdict(self._sign))
        if self.still > 0.4 * self.seconds:
            signs = self._heartbeat.hear(range(self.size), now=self._clock)
            self._signs = {rank: Sign(**sign) for rank, sign in signs.items()}
        self._answered = self._clock  # if it grows old, `_decide` sees that rank 0 is silent

    def _decide(self) -> None:
        before = time.monotonic()
        while not self._over.wait(self.beat_seconds):
            now = time.monotonic()
            # A suspended process did not hang: of one sleep, at most two beats count.
            self._clock += min(now - before, 2 * self.beat_seconds)
            before = now
            if self.still > self.seconds:
                self._finish()

    def _finish(self) -> None:
        self._over.set()  # the store ends with rank 0
        ranks, text = self._verdict()
        speaker = min(set(range(self.size)) - set(ranks), default=0)
        if self.rank == speaker:
            message = (
                f"mvrec: error: {text}; the run has made no progress for {self.still:.0f} s (--hang_timeout_minutes)"
            )
            print(message, file=sys.stderr, flush=True)  # noqa: T201
        if self.rank in ranks and (self.rank == speaker or speaker not in ranks):
            print(f"mvrec: {self._sign} hangs here:", file=sys.stderr, flush=True)  # noqa: T201
            faulthandler.dump_traceback(sys.stderr)
        # The first process to end takes all others with it; they reach the same verdict within some beats.
        time.sleep(_SILENT_BEATS * self.beat_seconds + 2)
        self.end(1)

    def _verdict(self) -> tuple[tuple[int, ...], str]:
        silence = _SILENT_BEATS * self.beat_seconds
        if self._clock - self._answered > silence or not self._signs:
            return (0,), f"rank 0 on {self.host} does not answer: it has ended, is stopped, or its machine hangs"
        return judge(self._signs, self._heartbeat.silent(now=self._clock, seconds=silence))
