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


def raising(error):
    raise error


FAULTS = {
    "crash": lambda: ctypes.string_at(0),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "leave": lambda: os._exit(3),
    "memory": lambda: bytearray(2**31),
    "decode": lambda: raising(DecodeError("a.mp4", "damaged")),
    "bug": lambda: raising(KeyError("oops")),
    "denied": lambda: raising(OSError(errno.EIO, "Input/output error")),
}


def work(item):
    kind, *rest = item if isinstance(item, tuple) else (item,)
    if kind == "pid":
        return os.getpid()
    if kind == "sleep":
        return time.sleep(rest[0])
    return FAULTS[kind]() if kind in FAULTS else kind * 2


def results(items, *, workers=2, memory=1.0):
    return dict(run_jobs(work, items, workers=workers, limits=Limits(60.0, memory)))


def test_every_item_is_done_once_by_any_number_of_processes():
    for workers in (1, 3):
        assert results(range(12), workers=workers) == {n: 2 * n for n in range(12)}
    assert results([]) == {}


def test_items_that_crash_fail_or_eat_memory_are_named_and_the_others_are_done():
    outcomes = {
        "crash": ("crash", "SIGSEGV"),
        "killed": ("crash", "SIGKILL, which the system sends when memory runs out"),
        "leave": ("crash", "exit code 3"),
        "memory": ("memory", "more than 1 GiB"),
        "decode": ("error", "damaged"),
        "bug": ("error", "KeyError: 'oops'"),
        "denied": ("error", "Input/output error"),
    }
    failures = results([1, *outcomes, 2, 3], workers=1)
    assert [failures.pop(number) for number in (1, 2, 3)] == [2, 4, 6]
    assert failures.keys() == outcomes.keys()
    for fault, (kind, words) in outcomes.items():
        assert failures[fault].kind == kind
        assert words in failures[fault].cause


def test_an_item_that_holds_pythons_lock_is_late_and_the_others_are_done(hang, monkeypatch):
    monkeypatch.setitem(FAULTS, "hang", hang)
    assert results(["hang", 1, 2]) == {"hang": Failure("timeout", "took longer than 60 s"), 1: 2, 2: 4}


def test_a_process_is_replaced_after_so_many_items(monkeypatch):
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


def test_an_interrupt_that_a_library_swallowed_ends_the_work():
    stream = run_jobs(work, [1, *[("sleep", 60 + n) for n in range(9)]], workers=2, limits=Limits())
    next(stream)
    jobs.stop.set()
    try:
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    finally:
        jobs.stop.clear()
