"""Work on many files in processes that can be killed, so that no file can stop the others.

Every file is worked on in a `processes.Child`. One that takes too long, crashes or asks for too much memory is killed
and replaced, and its file is named with the reason.
"""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from mvrec.errors import DecodeError
from mvrec.machine import FULL_DISK
from mvrec.processes import Channel, Child, ChildError, Limits, is_out_of_memory, watch

stop = threading.Event()  # Ctrl-C was pressed; some libraries swallow the exception that says so

Item = TypeVar("Item")
Result = TypeVar("Result")

_FILES_PER_PROCESS = 500  # then a fresh one takes over: what a decoder leaks is freed
_IDLE_DEATHS = 20


class Failure(NamedTuple):
    """Why there is no result for a file.

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
    """Do `work` on every item in killable processes, which are ended when the generator is closed.

    Args:
        work: A function of a module (or a partial of one). Its exceptions become `Failure`s of kind "error".
        items: What to work on; taken as processes become free.
        workers: How many processes.
        limits: What one item may take.

    Yields:
        Each item with its result, in the order in which they are done.

    Raises:
        OSError: The disk that is written to is full or read-only.
        RuntimeError: Processes die although they have nothing to do.
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
    """A place for a process, filled when there is something to do."""

    def __init__(self, work: Callable[[Item], Result], limits: Limits) -> None:
        self.work, self.limits = work, limits
        self.is_idle = True
        self.child: Child | None = None
        self._item: Item
        self._done = 0

    def take(self, queue: Iterator[Item]) -> bool:
        """Begin with the next item; False when there is none."""
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
        """What the process answered, or why it cannot."""
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
            self.kill()  # its memory may be in pieces
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
        if error.errno in FULL_DISK:  # every other file would meet it too
            return _Fatal(error.errno, error.strerror or str(error), error.filename)
        return _failure(error.strerror or str(error), limits)
    except Exception as error:  # a file that our code did not foresee must not end the work on the others
        return _failure(f"{type(error).__name__}: {error}", limits)


def _failure(cause: str, limits: Limits) -> Failure:
    text = " ".join(cause.split())[:300]
    if limits.memory is not None and is_out_of_memory(text):
        return Failure("memory", f"needs more than {limits.memory:g} GiB of memory")
    return Failure("error", text)
