"""Work in processes that hang, crash and eat memory."""

import ctypes
import errno
import os
import signal
import time
from pathlib import Path

import pytest

from mvrec.errors import DecodeError
from mvrec.prep import jobs
from mvrec.prep.jobs import Failure, run_jobs
from mvrec.processes import Limits


def work(item):
    kind, *rest = item if isinstance(item, tuple) else (item,)
    faults = {
        "hang": lambda: ctypes.PyDLL(None).sleep(60),  # holds Python's lock
        "crash": lambda: ctypes.string_at(0),
        "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "leave": lambda: os._exit(3),
        "memory": lambda: bytearray(2**31),
        "decode": lambda: _raise(DecodeError("a.mp4", "damaged")),
        "bug": lambda: _raise(KeyError("oops")),
        "full": lambda: _raise(OSError(errno.ENOSPC, "No space left on device", "/out/a")),
        "denied": lambda: _raise(OSError(errno.EIO, "Input/output error")),
        "pid": os.getpid,
        "sleep": lambda: time.sleep(rest[0]),
    }
    return faults[kind]() if kind in faults else kind * 2


def _raise(error):
    raise error


def results(items, *, workers=2, seconds=30.0, memory=1.0):
    return dict(run_jobs(work, items, workers=workers, limits=Limits(seconds, memory)))


def test_every_item_is_done_once_whatever_the_number_of_processes():
    for workers in (1, 2, 5):
        assert results(range(12), workers=workers) == {n: 2 * n for n in range(12)}
    assert results([]) == {}


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("crash", "crash", "SIGSEGV"),
        ("killed", "crash", "SIGKILL, which the system sends when memory runs out"),
        ("leave", "crash", "exit code 3"),
        ("memory", "memory", "more than 1 GiB"),
        ("decode", "error", "damaged"),
        ("bug", "error", "KeyError: 'oops'"),
        ("denied", "error", "Input/output error"),
    ],
)
def test_a_fault_is_told_and_the_others_are_done(fault, kind, words):
    found = results([1, fault, 2, 3], workers=1)
    assert found.pop(fault).kind == kind
    assert found == {1: 2, 2: 4, 3: 6}
    assert words in results([fault])[fault].cause


def test_a_process_that_holds_pythons_lock_is_ended_in_time():
    begin = time.monotonic()
    found = results(["hang", 1, 2], seconds=0.7)
    assert time.monotonic() - begin < 5
    assert found == {"hang": Failure("timeout", "took longer than 0.7 s"), 1: 2, 2: 4}


def test_time_counts_per_file():
    found = results([("sleep", 0.4 + n / 1000) for n in range(4)], workers=1, seconds=0.9)
    assert all(result is None for result in found.values())


def test_a_full_disk_ends_the_work():
    with pytest.raises(OSError, match="No space left") as caught:
        results([*range(5), "full", *range(5, 500)])
    assert caught.value.filename == "/out/a"


def test_processes_are_replaced_after_a_while(monkeypatch):
    monkeypatch.setattr(jobs, "_FILES_PER_PROCESS", 2)
    pids = [pid for _, pid in run_jobs(work, [("pid", n) for n in range(6)], workers=1, limits=Limits())]
    assert len(set(pids)) == 3


def test_no_process_is_left_when_the_caller_goes_away():
    stream = run_jobs(work, [("pid", 0), ("sleep", 60), ("sleep", 61)], workers=2, limits=Limits())
    _, pid = next(stream)
    stream.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_process_killed_while_idle_costs_no_item():
    stream = run_jobs(work, [("pid", 0), 4, 5], workers=1, limits=Limits())
    _, pid = next(stream)
    os.kill(pid, signal.SIGKILL)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert dict(stream) == {4: 8, 5: 10}


def test_an_interrupt_that_a_library_swallowed_is_heard():
    stream = run_jobs(work, [1, *[("sleep", 60 + n) for n in range(9)]], workers=2, limits=Limits())
    next(stream)
    jobs.stop.set()
    try:
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    finally:
        jobs.stop.clear()
