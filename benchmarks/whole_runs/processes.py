"""A measured process with those that it starts: their CPU time and memory, by /proc."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

BENCHMARKS = Path(__file__).resolve().parents[1]
TICKS = os.sysconf("SC_CLK_TCK")


class Memory(NamedTuple):
    """Memory of a session's processes in MiB: RSS counts a page once per process, PSS once."""

    rss: float
    pss: float


def _stats(session: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the processes of a session, with the fields of their `stat` from the state on."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            words = path.read_text().rpartition(")")[2].split()
            if int(words[3]) == session:
                yield int(path.parent.name), words


def cpu_of_session(session: int | None = None) -> float:
    """Return CPU seconds of the other processes of a session, by default this one's, and of those they waited for."""
    session, this = os.getsid(0) if session is None else session, os.getpid()
    others = sum(sum(map(int, words[11:15])) for pid, words in _stats(session) if pid != this)
    waited = os.times()
    return others / TICKS + waited.children_user + waited.children_system


def memory_of_session(session: int | None = None) -> Memory:
    """Return the memory of all processes of a session, by default this one's."""
    rss = pss = 0
    for pid, _ in _stats(os.getsid(0) if session is None else session):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                rss += int(rest.split()[0]) if name == "Rss" else 0
                pss += int(rest.split()[0]) if name == "Pss" else 0
    return Memory(rss / 1024, pss / 1024)


def measured(module: str, spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run `python -m whole_runs.MODULE` in a session of its own, and return its report with the peak of its memory.

    Args:
        module: A module of this folder.
        spec: Its argument, as YAML: JSON has no keys that are numbers.
        folder: An empty folder for what it writes.

    Raises:
        RuntimeError: It ended without a report.
    """
    folder.mkdir(parents=True)
    report, log = folder / "report.json", folder / "log.txt"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(BENCHMARKS)}
    spec = {**spec, "folder": str(folder), "report": str(report), "begun": time.time()}
    words = [sys.executable, "-m", f"whole_runs.{module}", yaml.safe_dump(spec)]
    peak = Memory(0, 0)
    with log.open("w") as output:
        process = subprocess.Popen(
            words, stdout=output, stderr=output, env=environment, cwd=folder, start_new_session=True
        )
        try:
            while process.poll() is None:
                now = memory_of_session(process.pid)
                peak = Memory(max(peak.rss, now.rss), max(peak.pss, now.pss))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1)
        finally:
            with contextlib.suppress(ProcessLookupError):  # what it has left behind, as loader workers
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if not report.is_file():
        raise RuntimeError(f"{module} wrote no report: {' '.join(log.read_text().split())[-600:]}")
    return {**json.loads(report.read_text()), "peak": peak._asdict()}
