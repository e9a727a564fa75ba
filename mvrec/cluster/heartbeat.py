"""Signs of life: each process gives its own in a store that rank 0 serves, and any of them may ask who is silent."""

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist


@dataclass(frozen=True)
class Member:
    """A process among all, as it names itself.

    Attributes:
        rank: Its number.
        host: Where it runs.
        pid: Its process id there.
    """

    rank: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} (pid {self.pid})"


def open_store(address: str, port: int, *, patience: float, serves: bool = False) -> Any:
    """A connection to rank 0's store. A call that waits blocks it, so every thread needs one of its own.

    Args:
        address: Of rank 0; where this process serves the store, it listens on all addresses of its host.
        port: Rank 0's; 0 for any that is free, if this process serves the store.
        patience: Seconds after which a call that waits fails.
        serves: Whether this process is rank 0.
    """
    limit = timedelta(seconds=patience)
    return dist.TCPStore(address, port, is_master=serves, timeout=limit, wait_for_workers=False)


class Heartbeat:
    """Gives the signs of this process, and keeps when those of others were last new.

    Args:
        store: Where all processes write.
        rank: This process.
    """

    def __init__(self, store: Any, rank: int) -> None:
        self.store, self.rank = store, rank
        self._count = 0
        self._heard: dict[int, tuple[int, float]] = {}  # by rank: the number of the last sign, and when it was new

    def give(self, content: Any = None) -> None:
        """Say that this process lives, and what else there is to say."""
        self._count += 1
        self.store.set(f"sign/{self.rank}", json.dumps([self._count, content]))

    def hear(self, ranks: Iterable[int], *, now: float) -> dict[int, Any]:
        """What these processes said last, by rank; waits for those that have never said anything."""
        ranks = list(ranks)
        contents = {}
        for rank, sign in zip(ranks, self.store.multi_get([f"sign/{rank}" for rank in ranks]), strict=True):
            count, contents[rank] = json.loads(sign)
            if rank not in self._heard or self._heard[rank][0] != count:
                self._heard[rank] = count, now
        return contents

    def silent(self, *, now: float, seconds: float) -> dict[int, float]:
        """Who has said nothing new for longer than these seconds, and for how long."""
        return {rank: now - time for rank, (_, time) in self._heard.items() if now - time > seconds}


def every(seconds: float, step: Callable[[], None], over: threading.Event) -> threading.Thread:
    """A thread, still to be started, that takes a step every so many seconds, until `over` or until rank 0 is gone."""

    def loop() -> None:
        try:
            while not over.is_set():
                step()
                over.wait(seconds)
        except dist.DistError:
            return  # whoever waits for rank 0 says so

    return threading.Thread(target=loop, daemon=True)
