"""Work on many files in processes that can be killed, so that no file can stop the others.

A decoder that loops in native code keeps Python's lock: no timeout or signal handler of its own process ever runs
again. So every file is worked on in a child process that is watched from outside. One that takes too long, crashes or
asks for too much memory is killed and replaced, and its file is named with the reason.
"""

import contextlib
import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, NamedTuple, TypeVar

from mvrec.errors import DecodeError
from mvrec.processes import Limits, how_it_ended, is_out_of_memory, settle_in

stop = threading.Event()  # Ctrl-C was pressed; some libraries swallow the exception that says so

Item = TypeVar("Item")
Result = TypeVar("Result")

_TICK_SECONDS = 0.1
_FILES_PER_PROCESS = 500  # then a fresh one takes over: what a decoder leaks is freed
_IDLE_DEATHS = 20
# Faults of the disk that is written to; every other file would meet them too.
_DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}


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
            busy = {worker.channel: worker for worker in crew if not worker.is_idle}
            if not busy:
                return
            begin = time.monotonic()
            ready = {channel for channel in wait(list(busy), timeout=_TICK_SECONDS) if isinstance(channel, Connection)}
            # Only time that this process has watched counts: it may be suspended.
            watched = min(time.monotonic() - begin, 2 * _TICK_SECONDS)
            for channel, worker in busy.items():
                outcome = worker.receive() if channel in ready else worker.age(watched)
                if outcome is not None:
                    yield outcome
    finally:
        for worker in crew:
            worker.kill()


class _Worker(Generic[Item, Result]):
    """A place for a process, filled when there is something to do."""

    def __init__(self, work: Callable[[Item], Result], limits: Limits) -> None:
        self.work, self.limits = work, limits
        self.is_idle = True
        self._item: Item
        self._seconds = 0.0
        self._done = 0
        self._process: Any = None
        self.channel: Any = None

    def take(self, queue: Iterator[Item]) -> bool:
        """Begin with the next item; False when there is none."""
        for item in queue:
            self._give(item)
            return True
        return False

    def _give(self, item: Item) -> None:
        for _ in range(_IDLE_DEATHS):
            if self._process is None or self._done >= _FILES_PER_PROCESS:
                self._start()
            try:
                self.channel.send(item)
            except ConnectionError:  # killed from outside while it was idle
                self.kill()
                continue
            self._item, self._seconds, self.is_idle = item, 0.0, False
            return
        raise RuntimeError(f"{_IDLE_DEATHS} processes died before they had anything to do")

    def receive(self) -> tuple[Item, Result | Failure]:
        """What the process answered, or why it cannot."""
        self.is_idle = True
        self._done += 1
        try:
            answer = self.channel.recv()
        except (EOFError, ConnectionError):
            return self._item, Failure("crash", self._death())
        if isinstance(answer, _Fatal):
            raise OSError(answer.number, answer.text, answer.path)
        if isinstance(answer, Failure) and answer.kind == "memory":
            self.kill()  # its memory may be in pieces
        return self._item, answer

    def age(self, seconds: float) -> tuple[Item, Result | Failure] | None:
        """Count time without an answer; beyond the limit the process is killed."""
        self._seconds += seconds
        if self.limits.seconds is None or self._seconds < self.limits.seconds:
            return None
        self.kill()
        self.is_idle = True
        return self._item, Failure("timeout", f"took longer than {self.limits.seconds:g} s")

    def _start(self) -> None:
        self.kill()
        context = multiprocessing.get_context("fork" if sys.platform.startswith("linux") else "spawn")
        self.channel, theirs = context.Pipe()
        arguments = (theirs, self.work, self.limits, os.getpid())
        self._process = context.Process(target=_serve, args=arguments, daemon=True)  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            # Python warns of forks beside threads. This process has none but those of libraries that rest.
            warnings.simplefilter("ignore", DeprecationWarning)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the child keeps it so
            try:
                self._process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()
        self._done = 0

    def kill(self) -> None:
        """End the process. One that waits for a dead disk cannot be ended and is left behind."""
        if self._process is None:
            return
        self.channel.close()
        self._process.kill()
        self._process.join(1.0)
        self._process = None

    def _death(self) -> str:
        self._process.join(5.0)
        code = self._process.exitcode
        self.kill()
        return f"the process working on it {how_it_ended(code)}"


# -- the child -------------------------------------------------------------------------------------------------------


def _serve(channel: Connection, work: Callable[[Any], Any], limits: Limits, parent: int) -> None:
    settle_in(limits, parent=parent)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            item = channel.recv()
            channel.send(_answer(work, item, limits))


def _answer(work: Callable[[Any], Any], item: Any, limits: Limits) -> Any:
    try:
        return work(item)
    except DecodeError as error:
        return _failure(error.cause, limits)
    except MemoryError:
        return _failure("not enough memory", limits)
    except OSError as error:
        if error.errno in _DISK_FAULTS:
            return _Fatal(error.errno, error.strerror or str(error), error.filename)
        return _failure(error.strerror or str(error), limits)
    except Exception as error:  # a file that our code did not foresee must not end the work on the others
        return _failure(f"{type(error).__name__}: {error}", limits)


def _failure(cause: str, limits: Limits) -> Failure:
    text = " ".join(cause.split())[:300]
    if limits.memory is not None and is_out_of_memory(text):
        return Failure("memory", f"needs more than {limits.memory:g} GiB of memory")
    return Failure("error", text)
