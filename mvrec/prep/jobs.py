"""Work on many files in processes that can be killed, so that no file can stop the others.

A `processes.Child` handles each file. If it takes too long, crashes or exceeds its memory, it is killed and replaced,
and its file is reported with the reason.
"""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from mvrec.errors import DecodeError
from mvrec.machine import FULL_DISK
from mvrec.processes import Channel, Child, ChildError, Limits, is_out_of_memory, watch

stop = threading.Event()  # set by Ctrl-C; some libraries swallow its exception

Item = TypeVar("Item")
Result = TypeVar("Result")

_FILES_PER_PROCESS = 500  # then a new process starts, which frees memory that decoders leak
_IDLE_DEATHS = 20


class Failure(NamedTuple):
    """The reason for a missing result of a file.

    Attributes:
        kind: "error", "timeout", "crash" or "memory".
        cause: The reason in a few words.
    """

    kind: str
    cause: str


class _Fatal(NamedTuple):
    """A fault of the output's disk, which ends the run."""

    number: int
    text: str
    path: str | None


def run_jobs(
    work: Callable[[Item], Result], items: Iterable[Item], *, workers: int, limits: Limits
) -> Generator[tuple[Item, Result | Failure], None, None]:
    """Run `work` on every item in killable processes, which end when the generator is closed.

    Args:
        work: A function of a module (or a partial of one). Its exceptions become `Failure`s of kind "error".
        items: The items; taken as processes become free.
        workers: The number of processes.
        limits: The limits of one item.

    Yields:
        Each item with its result, in the order of completion.

    Raises:
        OSError: The output disk is full or read-only.
        RuntimeError: Processes die while idle.
    """
    crew: list[_Worker[Item, Result]] = [_Worker(work, limits) for _ in range(max(1, workers))]
    queue = iter(items)
    try:
        while True:
            if stop.is_set():
                raise KeyboardInterrupt
            for worker in crew:
                if worker.is_idle and not worker.take(queue):
                    break
            busy = {worker.child: worker for worker in crew if worker.child is not None and not worker.is_idle}
            if not busy:
                return
            ready = watch(list(busy))
            for child, worker in busy.items():
                if child in ready or child.is_late:
                    yield worker.receive()
    finally:
        for worker in crew:
            worker.kill()


class _Worker(Generic[Item, Result]):
    """A slot for a process, filled when there is work."""

    def __init__(self, work: Callable[[Item], Result], limits: Limits) -> None:
        self.work, self.limits = work, limits
        self.is_idle = True
        self.child: Child | None = None
        self._item: Item
        self._done = 0

    def take(self, queue: Iterator[Item]) -> bool:
        """Start the next item; return False if there is none."""
        for item in queue:
            self._give(item)
            return True
        return False

    def _give(self, item: Item) -> None:
        for _ in range(_IDLE_DEATHS):
            if self.child is None or self._done >= _FILES_PER_PROCESS:
                self.kill()
                self.child, self._done = Child(self._serve, self.limits), 0
            try:
                self.child.send(item)
            except ChildError:  # killed from outside while it was idle
                self.kill()
                continue
            self._item, self.is_idle = item, False
            return
        raise RuntimeError(f"{_IDLE_DEATHS} processes died before they had anything to do")

    def receive(self) -> tuple[Item, Result | Failure]:
        """Return the process's answer, or why there is none."""
        assert self.child is not None
        self.is_idle = True
        self._done += 1
        if self.child.is_late:
            self.kill()
            return self._item, Failure("timeout", f"took longer than {self.limits.seconds:g} s")
        try:
            answer = self.child.receive()
        except ChildError as fault:
            self.kill()
            return self._item, Failure("crash", f"the process working on it {fault}")
        if isinstance(answer, _Fatal):
            raise OSError(answer.number, answer.text, answer.path)
        if isinstance(answer, Failure) and answer.kind == "memory":
            self.kill()  # its memory may be corrupt
        return self._item, answer

    def kill(self) -> None:
        """End the process."""
        if self.child is not None:
            self.child.kill()
        self.child = None

    def _serve(self, channel: Channel) -> None:
        while True:
            channel.send(_answer(self.work, channel.receive(), self.limits))


def _answer(work: Callable[[Any], Any], item: Any, limits: Limits) -> Any:
    try:
        return work(item)
    except DecodeError as error:
        return _failure(error.cause, limits)
    except MemoryError:
        return _failure("not enough memory", limits)
    except OSError as error:
        if error.errno in FULL_DISK:  # every other file would fail, too
            return _Fatal(error.errno, error.strerror or str(error), error.filename)
        return _failure(error.strerror or str(error), limits)
    except Exception as error:  # an unforeseen error of one file must not end the work on the others
        return _failure(f"{type(error).__name__}: {error}", limits)


def _failure(cause: str, limits: Limits) -> Failure:
    text = " ".join(cause.split())[:300]
    if limits.memory is not None and is_out_of_memory(text):
        return Failure("memory", f"needs more than {limits.memory:g} GiB of memory")
    return Failure("error", text)
