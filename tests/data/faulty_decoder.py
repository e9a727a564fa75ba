"""A decoder that does to some files what the worst ones do: it loops, crashes or eats memory, in native code."""

import collections
import ctypes
import itertools
import os
import sys
import time
from pathlib import Path

from mvrec.data.loading import clips
from mvrec.data.video import opening


def spin():
    collections.deque(itertools.repeat(0), maxlen=0)  # C code that never ends and never lets go of the lock


def segfault():
    ctypes.string_at(0)


def eat_memory():
    kept = []
    while True:
        kept.append(b"x" * (32 << 20))


def leave():
    os._exit(3)


def wait():
    time.sleep(1000)


def forget():
    raise AssertionError("a fault of our own")


FAULTS = {function.__name__: function for function in (spin, segfault, eat_memory, leave, wait, forget)}


def open_video(path, *args, **kwargs):
    """`mvrec.data.open_video`, but for files whose name begins with that of a fault."""
    for name, fault in FAULTS.items():
        if Path(path).name.startswith(name):
            with Path(os.environ["FAULTS_LOG"]).open("a") as log:
                log.write(f"{Path(path).name}\n")
            fault()
    return opening.open_video(path, *args, **kwargs)


if __name__ == "__main__":  # python faulty_decoder.py fit ...: the command line with this decoder
    clips.open_video = open_video
    from mvrec.cli.main import main

    main(sys.argv[1:])
