"""Heartbeats: each process writes its own to rank 0's store, and every process can list the silent ones."""

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist


@dataclass(frozen=True)
class Member:
    """A process of a launch.

    Attributes:
        rank: Its rank.
        host: The name of its host.
        pid: Its process id there.
    """

    rank: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} (pid {self.pid})"


def open_store(address: str, port: int, *, patience: float, serves: bool = False) -> Any:
    """Connect to rank 0's store. A waiting call blocks its connection, so every thread needs one of its own.

    Args:
        address: Of rank 0; if this process serves the store, it listens on all addresses of its host.
        port: Of rank 0; 0 for any free port if this process serves the store.
        patience: Seconds after which a waiting call fails.
        serves: Whether this process is rank 0.
    """
    limit = timedelta(seconds=patience)
    return dist.TCPStore(address, port, is_master=serves, timeout=limit, wait_for_workers=False)


class Heartbeat:
    """Sends the heartbeats of this process and remembers when those of others last changed.

    Args:
        store: The store that all processes share.
        rank: The rank of this process.
    """

    def __init__(self, store: Any, rank: int) -> None:
        self.store, self.rank = store, rank
        self._count = 0
        self._heard: dict[int, tuple[int, float]] = {}  # by rank: number and time of the last heartbeat

    def give(self, content: Any = None) -> None:
        """Send a heartbeat of this process, with content for the others."""
        self._count += 1
        self.store.set(f"sign/{self.rank}", json.dumps([self._count, content]))

    def hear(self, ranks: Iterable[int], *, now: float) -> dict[int, Any]:
        """Return the last content of these ranks; wait for ranks that have not sent any."""
        ranks = list(ranks)
        contents = {}
        for rank, sign in zip(ranks, self.store.multi_get([f"sign/{rank}" for rank in ranks]), strict=True):
            count, contents[rank] = json.loads(sign)
            if rank not in self._heard or self._heard[rank][0] != count:
                self._heard[rank] = count, now
        return contents

    def silent(self, *, now: float, seconds: float) -> dict[int, float]:
        """Return the ranks without a new heartbeat for longer than these seconds, with their seconds of silence."""
        return {rank: now - time for rank, (_, time) in self._heard.items() if now - time > seconds}


def every(seconds: float, step: Callable[[], None], over: threading.Event) -> threading.Thread:
    """Return a thread, not started yet, that repeats a step every so many seconds until `over` or rank 0 ends."""

    def loop() -> None:
        try:
            while not over.is_set():
                step()
                over.wait(seconds)
        except dist.DistError:
            return  # whoever waits for rank 0 reports its end

    return threading.Thread(target=loop, daemon=True)
