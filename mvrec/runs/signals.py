"""Signals that ask a run to end, noted from the first moment on and acted upon at a step of its own choice.

A handler only raises a flag: what a signal interrupts may hold a lock or be in the middle of a collective. Importing
this module costs nothing, so that a signal during the import of torch, which takes seconds, is not lost.

A run that stands still never comes to that step, so a thread ends the process some time after the signal. Python's
handlers wait until native code returns; the thread learns of a signal from the system, by a pipe.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from mvrec.errors import UserError

# How urgent a request is, 0 for none. Who asks to stop decides what comes after, who asks to requeue leaves it to us.
STOP, REQUEUE = 1, 2
STOP_EXIT = 143  # what a shell says of a process that SIGTERM has ended
STOP_SECONDS = 25.0  # MVREC_STOP_SECONDS: from a signal to stop until the process ends in any case
SAVE_SECONDS = 300.0  # the same from the moment on in which saving has begun
VARIABLES = {"MVREC_STOP_SIGNALS": (STOP, "TERM"), "MVREC_REQUEUE_SIGNALS": (REQUEUE, "USR1")}


class Requests:
    """The signals that have come.

    Attributes:
        level: The most that was asked for: 0, `STOP` or `REQUEUE`.
        names: Of the signals, in order.
    """

    def __init__(self) -> None:
        self.level = 0
        self.names: list[str] = []
        self._levels: dict[int, int] = {}
        self._before: dict[int, Any] = {}
        self._pid = os.getpid()
        self._deadline: Deadline | None = None

    def listen(self, *, interrupts: bool = False) -> None:
        """Take over the signals that the environment names, by default USR1 and TERM; again, if others did since.

        Args:
            interrupts: Also Ctrl-C, of which the second one ends the process at once.

        Raises:
            UserError: The environment names a signal that does not exist.
        """
        if threading.current_thread() is not threading.main_thread():
            return  # where Python takes no handlers
        self._levels = _levels(os.environ) | ({signal.SIGINT: STOP} if interrupts else {})
        self._pid = os.getpid()
        for number in self._levels:
            before = signal.signal(number, self._note)
            self._before.setdefault(number, before)
        self._watch()

    def leave(self) -> None:
        """SIGTERM ends the process from now on, by an exception that lets it clean up: there is nothing to save."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._levels, self._pid = {signal.SIGTERM: STOP}, os.getpid()
        self._before.setdefault(signal.SIGTERM, signal.signal(signal.SIGTERM, _leave))
        self._watch()

    def saving(self) -> None:
        """What was trained is being saved: give it the time."""
        if self._deadline is not None:
            self._deadline.seconds = SAVE_SECONDS

    def _watch(self) -> None:
        if self._deadline is None:
            stops = {number for number, level in self._levels.items() if level == STOP}
            self._deadline = Deadline(stops, _stop_seconds(os.environ))

    def ignore(self) -> None:
        """From now on let them pass: the run is over, and what is left to do should not be cut short."""
        if threading.current_thread() is threading.main_thread():
            for number in self._levels:
                signal.signal(number, signal.SIG_IGN)

    def restore(self) -> None:
        """Give the signals back to whom they belonged, and forget those that have come."""
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)
        self._before, self.level, self.names = {}, 0, []
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # Slurm signals every process of a step, also forks, which have no say
            return
        if number == signal.SIGINT and "SIGINT" in self.names:
            raise KeyboardInterrupt
        self.level = max(self.level, self._levels[number])
        self.names.append(signal.Signals(number).name)


class Deadline:
    """A thread that ends this process and its children when it has not ended some time after a signal.

    Args:
        signals: That ask for the end; others do not count.
        seconds: From the first of them on.
        end: What ends the process.

    Attributes:
        seconds: May be changed at any time.
    """

    def __init__(self, signals: set[int], seconds: float, *, end: Callable[[int], Any] = os._exit) -> None:
        self.signals, self.seconds, self.end = signals, seconds, end
        self._over = threading.Event()
        self._pipe, theirs = os.pipe()
        os.set_blocking(theirs, False)
        self._theirs = theirs
        self._before = signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._wait, name="deadline", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Let the process live."""
        self._over.set()
        signal.set_wakeup_fd(self._before)
        os.write(self._theirs, b"\0")  # wakes the thread
        self._thread.join()
        os.close(self._theirs)
        os.close(self._pipe)

    def _wait(self) -> None:
        while not self._over.is_set() and not self.signals.intersection(os.read(self._pipe, 64)):
            pass
        begin = time.monotonic()
        while (rest := begin + self.seconds - time.monotonic()) > 0:
            if self._over.wait(min(rest, 0.5)):
                return
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        place = f" in {frame.f_code.co_name} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})" if frame else ""
        text = f"asked to end and still not done after {self.seconds:g} s{place}: ended without saving"
        print(f"mvrec: error: {text}", file=sys.stderr, flush=True)  # noqa: T201
        _kill_children()
        self.end(STOP_EXIT)


def _kill_children() -> None:
    """End the processes of this one: other ranks, loader workers. Where the system does not name them, none."""
    children: set[str] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has ended
            children.update(path.read_text().split())
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGKILL)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(STOP_EXIT)


def _stop_seconds(environ: "os._Environ[str]") -> float:
    text = environ.get("MVREC_STOP_SECONDS", str(STOP_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise UserError(f"MVREC_STOP_SECONDS={text}: must be a number of seconds above 0")
    return seconds


def _after_fork() -> None:
    signal.set_wakeup_fd(-1)  # signals of a child are no news for its parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _levels(environ: "os._Environ[str]") -> dict[int, int]:
    levels: dict[int, int] = {}
    for variable, (level, default) in VARIABLES.items():
        for word in environ.get(variable, default).replace(",", " ").split():
            name = f"SIG{word.upper().removeprefix('SIG')}"
            if name in ("SIGKILL", "SIGSTOP") or not hasattr(signal, name):
                raise UserError(f"{variable}={environ.get(variable)}: {word!r} is no signal that can be caught")
            levels[getattr(signal, name)] = level
    return levels


requests = Requests()
