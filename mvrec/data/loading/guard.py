"""Reading samples in a process that can be killed, so that no file can hang or crash a run.

Each loader process passes its samples to a reading process, a fork of itself (`processes.Child`). If that gives no
answer in time, crashes or exceeds its memory, it is killed, its file is quarantined, and a new process continues with
the same sample. The rest of the program sees a file that cannot be read, like any other.
"""

import os
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.utils.data import get_worker_info

from mvrec.data.loading.batch import PADDING_ID, BadSample, Item, SampleKey
from mvrec.data.loading.quarantine import Quarantine
from mvrec.data.loading.samples import EvalSamples, TrainSamples, reading
from mvrec.errors import DecodeError, UserError
from mvrec.processes import Channel, Child, ChildError, Limits, is_out_of_memory

MAX_KILLS = 10  # kills in one training batch or one evaluation before the run stops


def reading_limits(seconds: float | None, memory: float | None, *, patience: float | None) -> Limits | None:
    """Return the limits of reading a file; `None` without any.

    Args:
        seconds: `data.decode_timeout`.
        memory: `data.decode_memory`, in GiB.
        patience: Seconds that other processes of the run wait for this one; `None` without others, or for ever.

    Raises:
        UserError: The others would stop waiting before the files that hang are given up.
    """
    if seconds is None and memory is None:
        return None
    longest = MAX_KILLS * (seconds or 0)
    if patience is not None and longest >= patience:
        raise UserError(
            f"data.decode_timeout={seconds:g}: {MAX_KILLS} files that hang would take {longest:g} s, and the other "
            f"processes wait {patience:g} s: set a shorter one, or a longer timeout for trainer.strategy"
        )
    return Limits(seconds, memory)


@dataclass
class GuardedSamples(torch.utils.data.Dataset[Item]):
    """A dataset whose items another process reads; see the module.

    Args:
        dataset: The dataset to read.
        limits: The limits of a file.
        quarantine: The files that broke the limits.
        rank: This process's rank, for messages.
    """

    dataset: TrainSamples | EvalSamples
    limits: Limits
    quarantine: Quarantine
    rank: int = 0
    _reader: "Reader | None" = field(default=None, init=False, repr=False)
    _kills: int = field(default=0, init=False)
    _pass: int = field(default=-1, init=False)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "dataset":  # unpickling asks before `dataset` exists
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}

    def __getitem__(self, key: SampleKey) -> Item:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[Item]:
        """Return the items of a batch in order; torch's loader prefers this to `__getitem__`.

        Raises:
            RuntimeError: A fault in mvrec's code, with the traceback of the reading process.
        """
        # Processes wait for each other at every training step, but only at the end of an evaluation.
        if isinstance(self.dataset, TrainSamples) or keys[0].epoch != self._pass:
            self._kills, self._pass = 0, keys[0].epoch
        items: list[Item] = []
        while len(items) < len(keys):
            reader = self._living_reader()
            try:
                for item in reader.read(keys[len(items) :], self.quarantine.entries()):
                    items.append(item)
            except ChildError as fault:
                self.close()
                items += self._after(fault, reader.file)
            except BaseException:
                self.close()  # it may still be sending items that nobody reads
                raise
        return items

    def close(self) -> None:
        """End the reading process."""
        if self._reader is not None:
            self._reader.kill()
        self._reader = None

    def _living_reader(self) -> "Reader":
        if self._reader is None or self._reader.owner != os.getpid():
            self._reader = Reader(self.dataset, self.limits)
        return self._reader

    def _after(self, fault: ChildError, file: tuple[int, str] | None) -> list[Item]:
        """Quarantine the file at fault; return the item that ends the run after too many kills."""
        self._kills += 1
        if file is None:  # killed from outside while it was idle
            if self._kills < MAX_KILLS:
                return []
            raise RuntimeError(f"the process that reads files {fault}, {MAX_KILLS} times, without reading a file")
        info = get_worker_info()
        where = f"rank {self.rank}, worker {info.id}" if info is not None else f"rank {self.rank}"
        self.quarantine.add(file[1], f"the process reading it {fault} ({where})")
        if self._kills < MAX_KILLS:
            return []  # the sample is requested again, and its file is now unreadable
        scope = "batch" if isinstance(self.dataset, TrainSamples) else "evaluation"
        stop = f"{MAX_KILLS} files of one {scope} broke the limits (data.decode_timeout, data.decode_memory)"
        bad = BadSample(file[0], file[1], f"the process reading it {fault} ({where})", stop=stop)
        return [Item(None, (), PADDING_ID, bad=(bad,))]


class Reader(Child):
    """A child that answers requests for items and announces the file that it reads.

    Attributes:
        file: Row and path of the current file.
    """

    def __init__(self, dataset: Any, limits: Limits) -> None:
        self.file: tuple[int, str] | None = None
        super().__init__(partial(_serve, dataset), limits)

    def read(self, keys: Sequence[Any], quarantined: dict[str, str]) -> Iterator[Any]:
        """Yield items in the order of `keys` as they arrive.

        Raises:
            ChildError: The process is hung, dead, or out of memory.
            RuntimeError: A fault in mvrec's code.
        """
        self.send((list(keys), quarantined))
        for _ in keys:
            yield self._next_item()

    def _next_item(self) -> Any:
        while True:
            kind, content = self.receive()
            if kind == "item":
                self.file = None
                return content
            if kind == "file":
                self.file = content
            elif kind == "memory":
                raise ChildError(f"needed more than {self.limits.memory:g} GiB")
            else:
                raise RuntimeError(f"in the process that reads files:\n{content}")


def _serve(dataset: Any, channel: Channel) -> None:
    """Answer requests, in the child."""
    torch.set_num_threads(1)
    quarantined: dict[str, str] = {}

    def announce(number: int, path: str) -> None:
        if path in quarantined:
            raise DecodeError(path, quarantined[path])
        channel.send(("file", (number, path)))

    reading.announce = announce
    while True:
        keys, entries = channel.receive()
        quarantined.update(entries)
        for key in keys:
            channel.send(_answer(dataset, key))


def _answer(dataset: Any, key: Any) -> tuple[str, Any]:
    try:
        return "item", dataset[key]
    except Exception as error:  # the parent raises faults of mvrec's code
        return ("memory", None) if is_out_of_memory(error) else ("error", traceback.format_exc())
