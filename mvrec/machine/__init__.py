"""Resources of this machine for a process, and one line about it when they run out.

Importing this module costs nothing.
"""

import errno
import math
import os
import re
import shutil
import sys
from collections.abc import Container, Iterator, Mapping, MutableMapping
from pathlib import Path, PurePosixPath

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
# A thread that waits spins for about 0.1 ms, and then sleeps: with fewer spins an idle machine loses speed, with more a
# busy one (benchmarks/busy.py). The first is for every OpenMP runtime, the second for GNU's, that of torch on Linux.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}
WAITING_VARIABLES = (*WAITING, "KMP_BLOCKTIME")
_LONG_SPIN = 100_000  # about a millisecond, the time slice of a scheduler
set_by_mvrec: dict[str, str] = {}  # variables of this process's environment
CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_WORKER_DIED = re.compile(r"DataLoader worker \(pid(?:\(s\))? (\d+)[^)]*\) (.*)", re.DOTALL)


def visible_cores(environ: Mapping[str, str] = os.environ) -> int:
    """Return the cores whose time this process may use: by affinity, control groups and Slurm.

    A part of a core counts in full, because 1.5 cores keep two threads busy for three quarters of the time, and one
    thread would leave a third of them unused.
    """
    cores = _bound_cores()
    quota = cpu_quota()
    if quota is not None:
        cores = min(cores, math.ceil(quota))
    return min(cores, _count(environ, "SLURM_CPUS_ON_NODE") or cores)


def cores_per_process(processes: int = 1, environ: Mapping[str, str] = os.environ) -> int:
    """Return the cores of each process of a run on this machine: Slurm's per task, else an equal share; at least 1.

    Args:
        processes: Processes of the run on this machine, if more than torchrun and Slurm say.
        environ: The environment.
    """
    cores = visible_cores(environ)
    tasks, ranks = _count(environ, "SLURM_NTASKS_PER_NODE"), _count(environ, "LOCAL_WORLD_SIZE")
    per_task = _count(environ, "SLURM_CPUS_PER_TASK")
    if per_task:
        cores, processes = min(cores, per_task), ranks // max(tasks, 1)  # torchrun starts them within a task
    else:
        processes = max(processes, ranks, tasks)
    return max(1, cores // max(processes, 1))


def cpu_quota(cgroups: Path | None = None, membership: Path | None = None) -> float | None:
    """Return the cores whose time the control groups of this process may use, `None` for no limit.

    A group cannot use more than the groups that contain it, so the least limit on the way to the root counts.

    Args:
        cgroups: Where the groups are mounted, of version 1, 2 or both.
        membership: The file that names the groups of this process.
    """
    try:
        lines = (membership or MEMBERSHIP).read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    groups = _groups(cgroups or CGROUPS, [*lines, "0::/", "0:cpu:/"])
    return min((quota for group in groups if (quota := _quota_of(group)) is not None), default=None)


def _groups(cgroups: Path, lines: list[str]) -> Iterator[Path]:
    """Yield the folders of groups for CPU time, from those of lines `number:controllers:path` up to the roots."""
    for line in lines:
        controllers, _, path = line.partition(":")[2].partition(":")
        if not controllers:
            roots = (cgroups, cgroups / "unified")
        elif "cpu" in controllers.split(","):
            roots = (cgroups / "cpu", cgroups / controllers)
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))  # in a container it may be the host's, which does not exist here
        for root in roots:
            yield from (root / level for level in (group, *group.parents))


def _quota_of(group: Path) -> float | None:
    try:
        limit, period = (group / "cpu.max").read_text().split()  # version 2
    except (OSError, ValueError):
        try:
            limit, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return None
    try:
        cores = int(limit) / int(period)
    except (ValueError, ZeroDivisionError):  # "max" is no limit
        return None
    return cores if cores > 0 else None


def _bound_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _count(environ: Mapping[str, str], name: str) -> int:
    """Return a variable's number, 0 without one."""
    text = environ.get(name, "")
    return int(text) if text.isdecimal() else 0


def limit_threads(processes: int = 1, environ: MutableMapping[str, str] = os.environ) -> None:
    """Let torch compute on no more threads than a process has cores, where the user has not set their number.

    Torch's own number follows affinity and physical cores alone. Processes that this one starts get the same number.

    Args:
        processes: Processes of the run on this machine, if more than torchrun and Slurm say.
        environ: The environment to change.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    cores = cores_per_process(processes, environ)
    if any(environ.get(name) and environ[name] != set_by_mvrec.get(name) for name in names) or cores >= _bound_cores():
        return
    environ[names[0]] = set_by_mvrec[names[0]] = str(cores)
    torch = sys.modules.get("torch")
    if torch is not None:  # which has read the environment
        torch.set_num_threads(min(torch.get_num_threads(), cores))


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
