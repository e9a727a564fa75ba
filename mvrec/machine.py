"""What this machine lets a process use, and what it says in one line when it gives out.

Importing this costs nothing.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
# What is left of the number when torch has carried an error from a worker to the main process.
_FULL_DISK_TOLD = re.compile(
    rf"\[Errno (?:{'|'.join(map(str, FULL_DISK))})\] ({'|'.join(map(os.strerror, FULL_DISK))})(: '.*?')?"
)
# Where a path is not what it is taken for, or not ours to use. A file that is missing may be anybody's mistake.
_CLOSED = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
_MANY_FILES = 65536
_PAGE, _PAGES_PER_WORKER, _PAGES_PER_LOADER = 4096, 3, 12  # of the semaphores of queues and events, with some to spare
_WORKER_DIED = re.compile(r"DataLoader worker \(pid(?:\(s\))? (\d+)[^)]*\) (.*)", re.DOTALL)


def visible_cores() -> int:
    """Return cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_per_process(processes: int = 1, environ: Mapping[str, str] = os.environ) -> int:
    """Return the cores of each of so many processes on this machine: Slurm's per task, else an equal share; min. 1."""
    return max(1, int(environ.get("SLURM_CPUS_PER_TASK") or visible_cores() // max(processes, 1)))


def shared_memory_fault(num_workers: int, *, folder: Path = Path("/dev/shm"), memfd: bool | None = None) -> str | None:
    """What is wrong with shared memory for so many loader workers of a loader, found before the first of them starts.

    Queues and events of processes have a page each in /dev/shm. Batches go through memory without a file on Linux, and
    take no room there.

    Args:
        num_workers: Of one loader.
        folder: Where shared memory is.
        memfd: Whether there is memory without a file; by default whether this system has it.

    Returns:
        What, and what to do; `None` where nothing is.
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
    """Let this process open as many files as the system lets it without asking: the soft limit is often 1024."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, _MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def machine_fault(error: BaseException) -> str | None:
    """What to say, in one line with what to do, of an error that is the machine's and neither the file's nor ours.

    Args:
        error: Of this or of a loader's process; what it was raised from counts too.

    Returns:
        `None` for every other error.
    """
    for one in reversed(list(_causes(error))):  # what came first knows most
        if isinstance(one, OSError) and one.errno in FULL_DISK:
            place = f": {one.filename}" if one.filename else ""
            return f"{one.strerror}{place}; nothing half-written is left"
        told = _FULL_DISK_TOLD.search(str(one)) if isinstance(one, OSError) else None
        if told is not None:
            return f"{told[1]}{told[2] or ''}; nothing half-written is left"
        if (isinstance(one, OSError) and one.errno in TOO_MANY_FILES) or "Too many open files" in str(one):
            return f"too many open files: raise the limit with `ulimit -n {_MANY_FILES}`, or lower data.num_workers"
        died = _WORKER_DIED.match(str(one)) if isinstance(one, RuntimeError) else None
        if died is not None:
            return _worker_died(*died.groups())
    return None


def closed_path(error: BaseException) -> str | None:
    """What to say of an error by which the system refuses a path; `None` for every other error."""
    if not isinstance(error, OSError) or error.errno not in _CLOSED or error.filename is None:
        return None
    return f"{error.filename}: {error.strerror}: name another path, or change who may use it"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _worker_died(pid: str, how: str) -> str:
    if "Killed" in how:
        cause = "was killed, as the system does when memory runs out: give the run more memory (docker run --memory, "
        return f"a loader worker (process {pid}) {cause}#SBATCH --mem), or lower data.num_workers or data.batch_size"
    if "Bus error" in how:
        cause = "found no room in shared memory: docker run --ipc=host (or --shm-size=8g), or lower data.num_workers"
        return f"a loader worker (process {pid}) {cause}"
    how = how.split(". ")[0].rstrip(". ")
    return f"a loader worker (process {pid}) {how}: `mvrec doctor` looks for causes, --data.num_workers 0 does without"
