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
    """Lock the directories of a run for this process.

    Args:
        run_dir: The run directory.
        checkpoints: The folder of its checkpoints, which may be elsewhere.
        fresh: Whether a new run starts.

    Returns:
        The locks to release when the run has ended.

    Raises:
        UserError: Another process works there, or a folder outside holds checkpoints of another run.
    """
    outside = run_dir.resolve() not in checkpoints.resolve().parents
    if outside and fresh and (earlier := sorted(checkpoints.glob("*.ckpt"))):
        raise UserError(
            f"checkpoint.dirpath {checkpoints} holds checkpoints of another run ({earlier[0].name}): choose another "
            "folder, or resume that run with --resume auto"
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
    """A lock of a directory for this process, by a system lock on a file in it.

    The system releases the lock when its process ends in any way, so no lock is ever stale. The file names the owner.
    Where a file system has no locks, the process that the file names decides, if it was on this machine.

    Args:
        folder: The directory; it is created if missing, and removed again if nothing was written into it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._handle = -1
        self._made: list[Path] = []

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            UserError: Another process holds it, or the directory cannot be created.
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
            os.close(self._handle)  # its former owner has just removed the file
        owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "time": time.time(),
        }
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, json.dumps(owner).encode(), 0)

    def _open(self) -> None:
        folder = self.path.parent
        try:
            self._made = self._made or [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            if machine_fault(error) is not None:
                raise
            raise UserError(
                f"{folder}: cannot be the directory of a run ({error.strerror}): choose another one with --run_dir"
            ) from error

    def release(self) -> None:
        """Release the lock and remove its file."""
        if self._handle < 0:
            return
        self.path.unlink(missing_ok=True)
        os.close(self._handle)
        self._handle = -1
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:  # the run has written into it
                break

    def _owner(self) -> dict[str, Any]:
        try:
            owner = json.loads(os.pread(self._handle, 4096, 0))
        except ValueError:
            return {}
        return owner if isinstance(owner, dict) else {}

    def _is_the_file_of_the_name(self) -> bool:
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._handle))
        except FileNotFoundError:
            return False


def _refusal(folder: Path, owner: dict[str, Any]) -> str:
    holder = f"process {owner['pid']} on {owner['host']}" if "pid" in owner and "host" in owner else "another process"
    return f"{folder}: {holder} is training in this directory: choose another --run_dir, or wait until it has ended"


def _is_alive(owner: dict[str, Any]) -> bool:
    """Return whether the process that a lock names still runs here; a reused process id does not count."""
    pid = owner.get("pid")
    return owner.get("host") == socket.gethostname() and isinstance(pid, int) and _started(pid) == owner.get("started")


def _started(pid: int) -> str | None:
    """Return the start of a process on this machine, in ticks since boot; `None` if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        return None
