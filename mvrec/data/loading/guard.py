"""Reading files in a process that can be killed, so that no file can hang a run or take it down.

A decoder that loops in native code holds Python's lock: no timeout, thread or signal handler of its own process ever
runs again. So each loader process hands its samples to a reading process, a fork of itself, and watches it from
outside: one that gives no answer in time, crashes or asks for too much memory is killed, the file it was at is
remembered as one that is not opened again, and a fresh one goes on with the same sample. To the rest of the program it
is a file that cannot be read, like any other.
"""

import contextlib
import mmap
import os
import pickle
import select
import signal
import socket
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import torch
from torch.utils.data import get_worker_info

from mvrec.data.loading.batch import PADDING_ID, BadSample, Item, SampleKey
from mvrec.data.loading.quarantine import Quarantine
from mvrec.data.loading.samples import EvalSamples, TrainSamples, reading
from mvrec.errors import DecodeError
from mvrec.processes import Limits, how_it_ended, is_out_of_memory, settle_in

MAX_KILLS = 10  # files that may be killed in one training batch or one evaluation before the run stops
CAN_FORK = hasattr(os, "fork")

_TICK_SECONDS = 0.25
_INLINE_BYTES = 1 << 16  # smaller pixels travel in the message itself


class ReaderError(Exception):
    """The reading process is of no more use; says why."""


@dataclass
class GuardedSamples(torch.utils.data.Dataset[Item]):
    """A dataset whose items another process makes; see the module.

    Args:
        dataset: What to read.
        limits: What a file may take.
        quarantine: Where files that broke the limits are remembered.
        rank: This process among all, for messages.
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
        if name.startswith("_") or name == "dataset":  # unpickling asks before there is a dataset
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}

    def __getitem__(self, key: SampleKey) -> Item:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[Item]:
        """The items of a batch, in order; torch's loader calls this instead of `__getitem__` where it exists.

        Raises:
            RuntimeError: A fault in our own code, with the traceback of the reading process.
        """
        # Processes wait for each other at every training step, but only at the end of an evaluation.
        if isinstance(self.dataset, TrainSamples) or keys[0].epoch != self._pass:
            self._kills, self._pass = 0, keys[0].epoch
        items: list[Item] = []
        while len(items) < len(keys):
            reader = self._living_reader()
            try:
                for item in reader.read(keys[len(items) :], self.quarantine.news()):
                    items.append(item)
            except ReaderError as fault:
                self.close()
                items += self._after(fault, reader.file)
            except BaseException:
                self.close()  # it may still be sending what nobody waits for
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

    def _after(self, fault: ReaderError, file: tuple[int, str] | None) -> list[Item]:
        """Remember the file at fault; the item that ends the run when there have been too many."""
        self._kills += 1
        if file is None:  # killed from outside while it was idle
            if self._kills < MAX_KILLS:
                return []
            raise RuntimeError(f"the process that reads files {fault}, {MAX_KILLS} times, at no file in particular")
        info = get_worker_info()
        where = f"rank {self.rank}, worker {info.id}" if info is not None else f"rank {self.rank}"
        self.quarantine.add(file[1], f"the process reading it {fault} ({where})")
        if self._kills < MAX_KILLS:
            return []  # the sample is asked for again, and the file is now one that cannot be read
        scope = "batch" if isinstance(self.dataset, TrainSamples) else "evaluation"
        stop = f"{MAX_KILLS} files of one {scope} broke the limits (data.decode_timeout, data.decode_memory)"
        bad = BadSample(file[0], file[1], f"the process reading it {fault} ({where})", stop=stop)
        return [Item(None, -1, PADDING_ID, bad=(bad,))]


class Reader:
    """A forked process that answers requests for items, seen from the process that watches it.

    Attributes:
        owner: The process that forked it.
        file: Row and path of the file it is at.
    """

    def __init__(self, dataset: Any, limits: Limits) -> None:
        self.owner, self.limits = os.getpid(), limits
        self.file: tuple[int, str] | None = None
        self._channel, theirs = socket.socketpair()
        with warnings.catch_warnings():
            # Python warns of forks beside threads. The child touches nothing that a thread of its parent may hold.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            self._channel.close()
            _serve(theirs, dataset, limits, self.owner)
        theirs.close()
        # Once a message has begun, its rest is a matter of copying.
        self._channel.settimeout(limits.seconds)

    def read(self, keys: Sequence[Any], quarantined: dict[str, str]) -> Iterator[Any]:
        """Items in the order of `keys`, as they come.

        Raises:
            ReaderError: The process is stuck, dead, or out of memory.
            RuntimeError: A fault in our own code.
        """
        try:
            _send(self._channel, ("read", (list(keys), quarantined)))
            for _ in keys:
                yield self._next_item()
        except TimeoutError:
            raise ReaderError(f"stopped in the middle of an answer for {self.limits.seconds:g} s") from None
        except (EOFError, ConnectionError):
            raise ReaderError(self._death()) from None

    def _next_item(self) -> Any:
        while True:
            self._wait()
            kind, content = _receive(self._channel)
            if kind == "item":
                self.file = None
                return content
            if kind == "file":
                self.file = content
            elif kind == "memory":
                raise ReaderError(f"needed more than {self.limits.memory:g} GiB")
            else:
                raise RuntimeError(f"in the process that reads files:\n{content}")

    def _wait(self) -> None:
        """Until there is something to read. Only time that this process has watched counts: it may be suspended."""
        waited, poll = 0.0, select.poll()
        poll.register(self._channel, select.POLLIN)
        while True:
            begin = time.monotonic()
            if poll.poll(1000 * _TICK_SECONDS):
                return
            waited += min(time.monotonic() - begin, 2 * _TICK_SECONDS)
            if self.limits.seconds is not None and waited >= self.limits.seconds:
                raise ReaderError(f"gave no answer for {self.limits.seconds:g} s")

    @property
    def is_open(self) -> bool:
        """Whether it was not killed."""
        return self._channel.fileno() >= 0

    @property
    def is_alive(self) -> bool:
        """Whether there is a process, and it is this one's child."""
        return self.is_open and self.owner == os.getpid() and self._reap(seconds=0.0) is None and self.pid > 0

    def _death(self) -> str:
        status = self._reap(seconds=5.0)
        return how_it_ended(None if status is None else os.waitstatus_to_exitcode(status))

    def kill(self) -> None:
        """End the process. One that waits for a dead disk cannot be ended and is left behind."""
        self._channel.close()
        if self.owner != os.getpid():
            return  # a copy in a process that was forked later
        with contextlib.suppress(ProcessLookupError):
            if self.pid:
                os.kill(self.pid, signal.SIGKILL)
        self._reap(seconds=1.0)

    def __del__(self) -> None:
        self.kill()

    def _reap(self, *, seconds: float) -> int | None:
        end = time.monotonic() + seconds
        while self.pid:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return status
            if time.monotonic() > end:
                break
            time.sleep(0.01)
        return None


# -- the reading process ------------------------------------------------------------------------------------------


def _serve(channel: socket.socket, dataset: Any, limits: Limits, parent: int) -> NoReturn:
    """Answer requests until the other side closes. Never returns into the code that forked."""
    code = 1
    try:
        settle_in(limits, parent=parent)
        torch.set_num_threads(1)
        quarantined: dict[str, str] = {}

        def announce(number: int, path: str) -> None:
            if path in quarantined:
                raise DecodeError(path, quarantined[path])
            _send(channel, ("file", (number, path)))

        reading.announce = announce
        while True:
            _, (keys, news) = _receive(channel)
            quarantined.update(news)
            for key in keys:
                _send(channel, _answer(dataset, key))
    except (EOFError, ConnectionError):
        code = 0
    except BaseException:  # whatever it is, this process ends here
        traceback.print_exc()
    finally:
        os._exit(code)  # nothing of the parent's may be finalised here


def _answer(dataset: Any, key: Any) -> tuple[str, Any]:
    try:
        return "item", dataset[key]
    except Exception as error:  # our own faults are raised in the parent
        return ("memory", None) if is_out_of_memory(error) else ("error", traceback.format_exc())


# -- messages -----------------------------------------------------------------------------------------------------


def _send(channel: socket.socket, message: tuple[str, Any]) -> None:
    """A message; the pixels of an item go through shared memory, where there is such a thing, if they are many."""
    kind, content = message
    pixels = None
    if kind == "item" and content.views is not None:
        pixels, content = content.views.contiguous().numpy(), content._replace(views=None)
    if pixels is None or pixels.nbytes <= _INLINE_BYTES or not hasattr(os, "memfd_create"):
        data = pickle.dumps((kind, content, pixels), protocol=5)  # a tensor would pickle a whole file of torch's
        channel.sendall(len(data).to_bytes(8, "big") + data)
        return
    data = pickle.dumps((kind, content, (pixels.shape, pixels.dtype.str)), protocol=5)
    memory = os.memfd_create("views")
    try:
        rest = memoryview(pixels).cast("B")
        while rest:
            rest = rest[os.write(memory, rest) :]
        socket.send_fds(channel, [len(data).to_bytes(8, "big")], [memory])
    finally:
        os.close(memory)
    channel.sendall(data)


def _receive(channel: socket.socket) -> tuple[str, Any]:
    header, files, _, _ = socket.recv_fds(channel, 8, 1)
    try:
        header += _receive_bytes(channel, 8 - len(header)) if header else b""
        if not header:
            raise EOFError
        kind, content, layout = pickle.loads(_receive_bytes(channel, int.from_bytes(header, "big")))
        if layout is not None:
            pixels = layout
            if isinstance(layout, tuple):
                shape, dtype = layout
                pixels = np.frombuffer(mmap.mmap(files[0], 0), dtype).reshape(shape)
            content = content._replace(views=torch.from_numpy(pixels))
        return kind, content
    finally:
        for file in files:
            os.close(file)


def _receive_bytes(channel: socket.socket, count: int) -> bytearray:
    data = bytearray(count)
    rest = memoryview(data)
    while rest:
        received = channel.recv_into(rest)
        if not received:
            raise EOFError
        rest = rest[received:]
    return data
