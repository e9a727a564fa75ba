"""Signals that ask a run to end, noted from the first moment on and acted upon at a step of its own choice.

A handler only raises a flag: what a signal interrupts may hold a lock or be in the middle of a collective. Importing
this module costs nothing, so that a signal during the import of torch, which takes seconds, is not lost.
"""

import os
import signal
import threading
from types import FrameType
from typing import Any

from mvrec.errors import UserError

# How urgent a request is, 0 for none. Who asks to stop decides what comes after, who asks to requeue leaves it to us.
STOP, REQUEUE = 1, 2
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

    def listen(self) -> None:
        """Take over the signals that the environment names, by default USR1 and TERM; again, if others did since.

        Raises:
            UserError: The environment names a signal that does not exist.
        """
        if threading.current_thread() is not threading.main_thread():
            return  # where Python takes no handlers
        self._levels = _levels(os.environ)
        self._pid = os.getpid()
        for number in self._levels:
            before = signal.signal(number, self._note)
            self._before.setdefault(number, before)

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

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # Slurm signals every process of a step, also forks, which have no say
            return
        self.level = max(self.level, self._levels[number])
        self.names.append(signal.Signals(number).name)


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
