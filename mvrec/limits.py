"""What a process that works on one file at a time may take, and how to tell why it ended.

Shared by the loader's reading processes and by `data_prep`; importing it costs nothing.
"""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

_OUT_OF_MEMORY = ("Cannot allocate memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True)
class Limits:
    """What the work on one file may take.

    Attributes:
        seconds: Time without an answer; `None` for no limit.
        memory: GiB on top of what the process has when it starts; `None` for no limit. Linux only.
    """

    seconds: float | None = 60.0
    memory: float | None = 8.0


def settle_in(limits: Limits, *, parent: int) -> None:
    """Make the calling process, a child of `parent`, one that its parent can do with as it likes.

    It crashes without a word, leaves Ctrl-C and the signals of clusters to the parent, does not outlive it, is the
    first that the system ends when memory runs out, and gets no more memory than the limit.
    """
    for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTERM"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    for name in ("SIGINT", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if not sys.platform.startswith("linux"):
        return
    import ctypes
    import resource

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: also a stuck process ends with its parent
    if os.getppid() != parent:
        os._exit(0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is expected and told; no dump of it
    Path("/proc/self/oom_score_adj").write_text("700")
    if limits.memory is not None:
        status = Path("/proc/self/status").read_text().split()
        bytes_now = 1024 * int(status[status.index("VmData:") + 1])
        most = bytes_now + int(limits.memory * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def is_out_of_memory(error: BaseException | str) -> bool:
    """Whether an error, of whichever library, says that memory ran out."""
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in _OUT_OF_MEMORY)


def how_it_ended(exit_code: int | None) -> str:
    """What became of a process: "was ended by SIGSEGV".

    Args:
        exit_code: As `multiprocessing` has it, a signal as a negative number; `None` when nobody knows.
    """
    if exit_code is None:
        return "ended"
    if exit_code >= 0:
        return f"left with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"was ended by {name}" + (", which the system sends when memory runs out" if name == "SIGKILL" else "")
