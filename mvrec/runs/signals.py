"""Signals that ask a run to end: recorded from the first moment on, handled at the end of a step.

A handler only sets a flag: the interrupted code may hold a lock or be within a collective. Importing this module
costs nothing, so that a signal during the import of torch, which takes seconds, is not lost.

A hung run never reaches the end of its step, so a thread ends the process some time after the signal. Python's
handlers wait until native code returns; the thread receives signals from the system, through a pipe.
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

# Urgency of a request, 0 for none. STOP leaves a restart to its sender, REQUEUE leaves it to mvrec.
STOP, REQUEUE = 1, 2
STOP_EXIT = 143  # a shell's code of a process that SIGTERM has ended
STOP_SECONDS = 25.0  # MVREC_STOP_SECONDS: the process ends at the latest so long after a signal to stop
SAVE_SECONDS = 300.0  # the same limit once saving has begun
VARIABLES = {"MVREC_STOP_SIGNALS": (STOP, "TERM"), "MVREC_REQUEUE_SIGNALS": (REQUEUE, "USR1")}


class Requests:
    """The signals received so far.

    Attributes:
        level: The most urgent request: 0, `STOP` or `REQUEUE`.
        names: Names of the signals, in order.
    """

    def __init__(self) -> None:
        self.level = 0
        self.names: list[str] = []
        self._levels: dict[int, int] = {}
        self._before: dict[int, Any] = {}
        self._pid = os.getpid()
        self._deadline: Deadline | None = None

    def listen(self, *, interrupts: bool = False) -> None:
        """Install handlers for the environment's signals, by default USR1 and TERM; again, if others replaced them.

        Args:
            interrupts: Also handle Ctrl-C; a second one ends the process at once.

        Raises:
            UserError: The environment names a signal that does not exist.
        """
        if threading.current_thread() is not threading.main_thread():
            return  # Python allows handlers only in the main thread
        self._levels = _levels(os.environ) | ({signal.SIGINT: STOP} if interrupts else {})
        self._pid = os.getpid()
        for number in self._levels:
            before = signal.signal(number, self._note)
            self._before.setdefault(number, before)
        self._watch()

    def leave(self) -> None:
        """Let SIGTERM end the process from now on, by an exception for cleaning up: there is nothing to save."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._levels, self._pid = {signal.SIGTERM: STOP}, os.getpid()
        self._before.setdefault(signal.SIGTERM, signal.signal(signal.SIGTERM, _leave))
        self._watch()

    def saving(self) -> None:
        """Extend the deadline while a checkpoint is being saved."""
        if self._deadline is not None:
            self._deadline.seconds = SAVE_SECONDS

    def _watch(self) -> None:
        if self._deadline is None:
            stops = {number for number, level in self._levels.items() if level == STOP}
            self._deadline = Deadline(stops, _stop_seconds(os.environ))

    def ignore(self) -> None:
        """Ignore signals from now on: the run is over, and nothing should interrupt the rest."""
        if threading.current_thread() is threading.main_thread():
            for number in self._levels:
                signal.signal(number, signal.SIG_IGN)

    def restore(self) -> None:
        """Restore the earlier handlers, and forget the received signals."""
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)
        self._before, self.level, self.names = {}, 0, []
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # Slurm signals every process of a step, also forks, which do not decide
            return
        if number == signal.SIGINT and "SIGINT" in self.names:
            raise KeyboardInterrupt
        self.level = max(self.level, self._levels[number])
        self.names.append(signal.Signals(number).name)


class Deadline:
    """A thread that ends this process and its children if it still runs some time after a signal.

    Args:
        signals: The numbers of the signals that start the time.
        seconds: Time from the first signal on.
        end: Ends the process.

    Attributes:
        seconds: Time from the first signal on; may be changed at any time.
    """

    def __init__(self, signals: set[int], seconds: float, *, end: Callable[[int], Any] = os._exit) -> None:
        self.signals, self.seconds, self.end = signals, seconds, end
        self._over = threading.Event()
        self._pipe, writer = os.pipe()
        os.set_blocking(writer, False)
        self._writer = writer
        self._before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._wait, name="deadline", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Stop the thread without ending the process."""
        self._over.set()
        signal.set_wakeup_fd(self._before)
        os.write(self._writer, b"\0")  # wakes the thread
        self._thread.join()
        os.close(self._writer)
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
    """Kill this process's children: other ranks, loader workers. None where the system does not list them."""
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
    signal.set_wakeup_fd(-1)  # a child's signals do not concern its parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _levels(environ: "os._Environ[str]") -> dict[int, int]:
    levels: dict[int, int] = {}
    for variable, (level, default) in VARIABLES.items():
        for word in environ.get(variable, default).replace(",", " ").split():
            name = f"SIG{word.upper().removeprefix('SIG')}"
            if name in ("SIGKILL", "SIGSTOP") or not hasattr(signal, name):
                raise UserError(f"{variable}={environ.get(variable)}: {word!r} is not a signal that can be caught")
            levels[getattr(signal, name)] = level
    return levels


requests = Requests()
