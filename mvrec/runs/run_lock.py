"""One run at a time in a directory."""

import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from mvrec.errors import UserError
from mvrec.machine import machine_fault

NAME = ".lock"
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def lock_run(run_dir: Path, checkpoints: Path, *, fresh: bool) -> "list[RunLock]":
    """Keep the directories of a run for this process.

    Args:
        run_dir: The run directory.
        checkpoints: Where its checkpoints go, which may be elsewhere.
        fresh: Whether the run begins here.

    Returns:
        What is to be released when the run has ended.

    Raises:
        UserError: Another process is at work there, or checkpoints of another run are in a folder outside.
    """
    outside = run_dir.resolve() not in checkpoints.resolve().parents
    if outside and fresh and (found := sorted(checkpoints.glob("*.ckpt"))):
        raise UserError(
            f"checkpoint.dirpath {checkpoints} holds checkpoints of another run ({found[0].name}): name another "
            "folder, or go on with that run by --resume auto"
        )
    locks: list[RunLock] = []
    try:
        for folder in [run_dir, *([checkpoints] if outside else [])]:
            lock = RunLock(folder)
            lock.acquire()
            locks.append(lock)
    except BaseException:
        for lock in locks:
            lock.release()
        raise
    return locks


class RunLock:
    """Keeps a directory for this process, by a lock of the system on a file in it.

    The system gives the lock back when a process ends in whatever way, so that nothing is ever stale. The file says
    who has it. Where a file system has no locks, the process that the file names decides, if it was on this machine.

    Args:
        folder: The directory; it is made where it is missing, and goes again when nothing was written into it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._handle = -1
        self._made: list[Path] = []

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            UserError: Another process has it, or no directory can be there.
        """
        folder = self.path.parent
        while True:
            self._open()
            try:
                fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                owner = self._owner()
                if error.errno not in UNSUPPORTED or _is_alive(owner):
                    os.close(self._handle)
                    self._handle = -1
                    raise UserError(_refusal(folder, owner)) from None
            if self._is_the_file_of_the_name():
                break
            os.close(self._handle)  # who had it before has just removed it
        me = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid()), "time": time.time()}
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, json.dumps(me).encode(), 0)

    def _open(self) -> None:
        folder = self.path.parent
        try:
            self._made = self._made or [one for one in (folder, *folder.parents) if not one.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            if machine_fault(error) is not None:
                raise
            raise UserError(
                f"{folder}: cannot be the directory of a run ({error.strerror}): name another one with --run_dir"
            ) from error

    def release(self) -> None:
        """Give it back, and leave no trace of it."""
        if self._handle < 0:
            return
        self.path.unlink(missing_ok=True)
        os.close(self._handle)
        self._handle = -1
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:  # the run has left something in it
                break

    def _owner(self) -> dict[str, Any]:
        try:
            found = json.loads(os.pread(self._handle, 4096, 0))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _is_the_file_of_the_name(self) -> bool:
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._handle))
        except FileNotFoundError:
            return False


def _refusal(folder: Path, owner: dict[str, Any]) -> str:
    who = f"process {owner['pid']} on {owner['host']}" if "pid" in owner and "host" in owner else "another process"
    return f"{folder}: {who} is training in this directory: name another one with --run_dir, or wait until it has ended"


def _is_alive(owner: dict[str, Any]) -> bool:
    """Return whether the process that a lock names still runs here; a reused process id does not count."""
    pid = owner.get("pid")
    return owner.get("host") == socket.gethostname() and isinstance(pid, int) and _started(pid) == owner.get("started")


def _started(pid: int) -> str | None:
    """When a process of this machine has begun, in ticks since the machine has; `None` where it does not live."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        return None
