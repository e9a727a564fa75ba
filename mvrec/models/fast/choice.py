"""The choice between the plain and the fast form of an operation, by measurement on this machine.

A fast form wins by up to eight times on one processor and loses by three on another: it depends on their instructions
and caches, and on the libraries. So the first network that computes on a CPU measures all operations of its precision
in turns, which takes a second or two, and the user's cache keeps the result by processor, torch, threads and precision.
"""

import logging
import os
import threading
import time
from collections.abc import Callable

import torch
from torch.utils.data import get_worker_info

from mvrec.fast_forms import FAST, PLAIN, UNCLEAR, conditions, keep_forms, path_of, read_forms, verdict

SWITCH = "MVREC_MEASURE"  # 0 measures nothing and takes the fast form of each operation
FIRST, FAR = 2, 1.5  # rounds that suffice if times differ by this factor
ROUNDS, SERIES = 5, 3

Forms = dict[str, str]
Step = Callable[[], object]
Table = dict[str, Callable[[], tuple[Step, Step]]]  # the plain and the fast form of each operation, ready to run

log = logging.getLogger(__name__)
_settled: dict[tuple[torch.dtype, int], Forms] = {}
_lock = threading.RLock()
_measuring = threading.local()  # the forms so far, in the thread that measures
_main_process = os.getpid()
_tables: list[Callable[[torch.dtype], Table]] = []


def measure_by(table: Callable[[torch.dtype], Table]) -> None:
    """Measure the operations of this table, which needs the modules that ask for forms."""
    _tables[:] = [table]


def is_faster(operation: str, dtype: torch.dtype) -> bool:
    """Return whether an operation's fast form is faster here, by the present number of threads."""
    forms: Forms | None = getattr(_measuring, "forms", None)
    if forms is None:
        forms = _settled.get((dtype, torch.get_num_threads()))
    if forms is None:
        forms = settle(dtype)
    return forms.get(operation, FAST) == FAST


def settle(dtype: torch.dtype) -> Forms:
    """Return the form of each measured operation in a precision, from the cache or by measuring."""
    with _lock:
        group = dtype, torch.get_num_threads()
        if group not in _settled:
            _settled[group] = _found(dtype)
        return _settled[group]


def adopt(dtype: torch.dtype, forms: Forms) -> None:
    """Take these forms from now on, for example those of rank 0."""
    _settled[dtype, torch.get_num_threads()] = forms


def _measurable(dtype: torch.dtype) -> Table:
    return {name: build for table in _tables for name, build in table(dtype).items()}


def _found(dtype: torch.dtype) -> Forms:
    names = list(_measurable(dtype))
    if not names or os.environ.get(SWITCH, "1") in ("", "0"):
        return {}
    where = conditions(
        torch=torch.__version__,
        instructions=torch.backends.cpu.get_cpu_capability(),
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )
    forms = read_forms(where, names)
    if forms is not None:
        return forms
    # A forked process may hold locks of libraries, and a loader worker shares its core with others.
    if os.getpid() != _main_process or get_worker_info() is not None:
        return dict.fromkeys(names, PLAIN)
    begin = time.perf_counter()
    forms = keep_forms(where, _in_a_fresh_thread(dtype, torch.get_num_threads()))
    threads = "1 thread" if where["threads"] == "1" else f"{where['threads']} threads"
    text = "measured the forms of operations in %s on %s in %.1f s, kept in %s"
    log.info(text, where["dtype"], threads, time.perf_counter() - begin, path_of(where))
    return forms


def _in_a_fresh_thread(dtype: torch.dtype, threads: int) -> Forms:
    """Measure without the caller's modes: autocast, gradients, devices and those that record or fake operations."""
    forms: Forms = {}

    def run() -> None:
        torch.set_num_threads(threads)
        _measuring.forms = forms  # an operation may use one above it in the table
        clock = time.thread_time if threads == 1 else time.perf_counter
        for name, build in _measurable(dtype).items():
            try:
                forms[name] = measured(*build(), clock=clock)
            except RuntimeError:  # torch's, of an operator that this processor or version lacks
                forms[name] = PLAIN

    thread = threading.Thread(target=run, name="mvrec-forms")
    thread.start()
    thread.join()
    return forms


def measured(plain: Step, fast: Step, *, clock: Callable[[], float]) -> str:
    """Run both forms in turns; return the verdict, after more series if load has disturbed the first."""
    plain(), fast()
    for count in (FIRST, *[ROUNDS] * SERIES):
        rounds = [[_seconds(step, clock) for step in (plain, fast)] for _ in range(count)]
        ratios = [slow / quick for slow, quick in rounds]
        if count == FIRST and max(ratios) > 1 / FAR and min(ratios) < FAR:
            continue
        result = verdict(ratios)
        if result != UNCLEAR:
            break
    return result


def _seconds(step: Step, clock: Callable[[], float]) -> float:
    begin = clock()
    step()
    return max(clock() - begin, 1e-9)
