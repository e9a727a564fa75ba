"""A decoder that does to some files what the worst ones do: it loops, crashes or eats memory, in native code."""

import collections
import ctypes
import itertools
import os
import sys
import time
from pathlib import Path

from mvrec.data.loading import clips
from mvrec.data.loading.guard import Reader
from mvrec.data.video import opening


def eat_memory():
    chunks = []
    while True:
        chunks.append(bytearray(256 << 20))


def forget():
    raise AssertionError("a fault of our own")


FAULTS = {
    "spin": lambda: collections.deque(itertools.repeat(0), maxlen=0),  # never ends and never lets go of Python's lock
    "segfault": lambda: ctypes.string_at(0),
    "eat_memory": eat_memory,
    "leave": lambda: os._exit(3),
    "wait": lambda: time.sleep(1000),
    "forget": forget,
}


def open_video(path, *args, **kwargs):
    """`mvrec.data.open_video`, but for files whose name begins with that of a fault."""
    for name, fault in FAULTS.items():
        if Path(path).name.startswith(name):
            with Path(os.environ["FAULTS_LOG"]).open("a") as log:
                log.write(f"{Path(path).name} {os.getpid()}\n")
            fault()
    return opening.open_video(path, *args, **kwargs)


def attempts(process=None):
    """Names of the faulty files that a process, or any, has opened."""
    log = Path(os.environ["FAULTS_LOG"])
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return sorted(name for name, number in lines if process in (None, int(number)))


def is_hung(reader):
    """Stand in for the deadline: true of a reading process that is inside a decoder that never returns.

    So a busy machine makes no healthy file late, and no test waits for a hung one.
    """
    return any(name.startswith(("spin", "wait")) for name in attempts(reader.pid))


def install():
    """Read clips by this decoder, and notice at once when it hangs."""
    clips.open_video = open_video
    Reader.is_late = property(is_hung)


if __name__ == "__main__":  # python faulty_decoder.py fit ...: the command line with this decoder
    install()
    from mvrec.cli.main import main

    main(sys.argv[1:])
