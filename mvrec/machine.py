"""Resources of this machine for a process, and one line about it when they run out.

Importing this module costs nothing.
"""

import errno
import os
import re
import shutil
import sys
from collections.abc import Container, Iterator, Mapping, MutableMapping
from pathlib import Path

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
# The form of the error number after torch has carried an error from a worker to the main process.
_FULL_DISK_TEXT = re.compile(
    rf"\[Errno (?:{'|'.join(map(str, FULL_DISK))})\] ({'|'.join(map(os.strerror, FULL_DISK))})(: '.*?')?"
)
# The path is of another kind or forbidden to us. A missing file is not listed: that has many causes.
_CLOSED = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
_MANY_FILES = 65536
_PAGE, _PAGES_PER_WORKER, _PAGES_PER_LOADER = 4096, 3, 12  # semaphores of queues and events, with a margin
# A thread that waits spins for about as long as falling asleep takes, and then sleeps. The first is for every OpenMP
# runtime, the second one for GNU's, that of torch on Linux; benchmarks/busy.py compares it with other counts.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
WAITING_VARIABLES = (*WAITING, "KMP_BLOCKTIME")
_LONG_SPIN = 100_000  # about a millisecond, the time slice of a scheduler
set_by_mvrec: dict[str, str] = {}  # variables of this process's environment
_WORKER_DIED = re.compile(r"DataLoader worker \(pid(?:\(s\))? (\d+)[^)]*\) (.*)", re.DOTALL)


def visible_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_per_process(processes: int = 1, environ: Mapping[str, str] = os.environ) -> int:
    """Return the cores of each of so many processes on this machine: Slurm's per task, else an equal share; min. 1."""
    return max(1, int(environ.get("SLURM_CPUS_PER_TASK") or visible_cores() // max(processes, 1)))


def let_waiting_threads_sleep(
    environ: MutableMapping[str, str] = os.environ, loaded: Container[str] = sys.modules
) -> None:
    """Let OpenMP's threads sleep while they wait for one another: by default they spin and keep others from computing.

    A policy that the user has set stays. After the import of torch the call does nothing, because the runtime reads the
    environment once, when it is loaded.

    Args:
        environ: The environment to change.
        loaded: The names of the imported modules.
    """
    if "torch" in loaded or any(environ.get(name) for name in WAITING_VARIABLES):
        return
    environ.update(WAITING)
    set_by_mvrec.update(WAITING)


def waiting_policy(environ: Mapping[str, str] = os.environ) -> tuple[str, bool]:
    """Return the variables of the waiting policy with their origin, and whether waiting threads spin for long."""
    values = {name: environ[name] for name in WAITING_VARIABLES if environ.get(name)}
    if not values:
        return "no variable sets it", True
    origin = "mvrec" if values.items() <= set_by_mvrec.items() else "the environment"
    text = f"{' '.join(f'{name}={value}' for name, value in values.items())}, set by {origin}"
    spins = values.get("GOMP_SPINCOUNT", "").strip()
    if spins:
        return text, not spins.isdigit() or int(spins) >= _LONG_SPIN  # "infinite", or with a unit such as k
    return text, values.get("OMP_WAIT_POLICY", "").strip().upper() != "PASSIVE"


def shared_memory_fault(num_workers: int, *, folder: Path = Path("/dev/shm"), memfd: bool | None = None) -> str | None:
    """Return the fault of shared memory for the workers of one loader, before the first one starts.

    Queues and events of processes use a page each in /dev/shm. On Linux, batches go through memory without a file
    and use no space there.

    Args:
        num_workers: Workers of the loader.
        folder: The shared memory's mount point.
        memfd: Whether there is memory without a file; by default whether this system has it.

    Returns:
        The fault and its remedy; `None` without a fault.
    """
    memfd = hasattr(os, "memfd_create") if memfd is None else memfd
    if num_workers == 0 or not memfd:
        return None
    advice = "docker run --ipc=host (or --shm-size=1g), mount -o remount,size=1g /dev/shm, or --data.num_workers 0"
    if not folder.is_dir():
        return (
            f"there is no {folder}, which loader workers need: mount -t tmpfs tmpfs /dev/shm, or --data.num_workers 0"
        )
    free, needed = shutil.disk_usage(folder).free, _PAGE * (_PAGES_PER_WORKER * num_workers + _PAGES_PER_LOADER)
    if free >= needed:
        return None
    return f"{folder} has {free // 1024} KiB free, and {num_workers} loader workers need {needed // 1024} KiB: {advice}"


def allow_open_files() -> None:
    """Raise this process's soft limit of open files, often 1024, as far as the system allows."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, _MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def machine_fault(error: BaseException) -> str | None:
    """Return one line, with the remedy, about an error of the machine rather than of a file or of mvrec.

    Args:
        error: Of this process or of a loader's; its causes are searched too.

    Returns:
        `None` for every other error.
    """
    for cause in reversed(list(_causes(error))):  # the first cause is the most precise
        if isinstance(cause, OSError) and cause.errno in FULL_DISK:
            place = f": {cause.filename}" if cause.filename else ""
            return f"{cause.strerror}{place}; nothing half-written is left"
        match = _FULL_DISK_TEXT.search(str(cause)) if isinstance(cause, OSError) else None
        if match is not None:
            return f"{match[1]}{match[2] or ''}; nothing half-written is left"
        if (isinstance(cause, OSError) and cause.errno in TOO_MANY_FILES) or "Too many open files" in str(cause):
            return f"too many open files: raise the limit with `ulimit -n {_MANY_FILES}`, or lower data.num_workers"
        died = _WORKER_DIED.match(str(cause)) if isinstance(cause, RuntimeError) else None
        if died is not None:
            return _worker_died(*died.groups())
    return None


def closed_path(error: BaseException) -> str | None:
    """Return the message for an error by which the system refuses a path; `None` for every other error."""
    if not isinstance(error, OSError) or error.errno not in _CLOSED or error.filename is None:
        return None
    return f"{error.filename}: {error.strerror}: choose another path, or change its permissions"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _worker_died(pid: str, end: str) -> str:
    if "Killed" in end:
        cause = "was killed, as the system does when memory runs out: give the run more memory (docker run --memory, "
        return f"a loader worker (process {pid}) {cause}#SBATCH --mem), or lower data.num_workers or data.batch_size"
    if "Bus error" in end:
        cause = "found no room in shared memory: docker run --ipc=host (or --shm-size=8g), or lower data.num_workers"
        return f"a loader worker (process {pid}) {cause}"
    end = end.split(". ")[0].rstrip(". ")
    return f"a loader worker (process {pid}) {end}: find the cause with `mvrec doctor`, or set --data.num_workers 0"
