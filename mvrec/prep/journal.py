"""A record of finished work: a file of JSON lines that survives kills; and removal of temporary files."""

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mvrec.errors import UserError
from mvrec.files import atomic_path, remove_leftovers

_WAIT_SECONDS = 10.0  # the processes of a run that was just killed may still be ending


class Journal:
    """Records by key, appended to a file as they come; also a lock against a second run on the same output.

    A line that a killed run left incomplete is dropped, so its work is repeated. Of records with the same key the
    last one counts.

    Args:
        path: The file. It is created with its folder, unless `dry`.
        dry: Read only, and take no lock.

    Raises:
        UserError: Another run has the journal open, or it cannot be written.
    """

    def __init__(self, path: Path, *, dry: bool = False) -> None:
        self.path = path
        self.unreadable = 0
        self._lines: dict[str, bytes] = {}  # a parsed record takes several times the memory
        self._file = -1
        if dry:
            self._read(path.read_bytes() if path.is_file() else b"")
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); choose another output folder") from None
        try:
            self._lock()
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.ftruncate(self._file, whole)
            self._read(content[:whole])
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        end = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    return  # a file system without locks
                if time.monotonic() > end:
                    raise UserError(f"{self.path}: another run is writing there; wait for it or end it") from None
                time.sleep(0.05)

    def _read(self, content: bytes) -> None:
        for line in content.splitlines():
            try:
                self._lines[json.loads(line)["key"]] = line
            except (ValueError, KeyError, TypeError):  # its work is repeated
                self.unreadable += 1

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the last record of a key."""
        line = self._lines.get(key)
        return None if line is None else json.loads(line)

    def add(self, key: str, **record: Any) -> None:
        """Append a record; it is in the file when this returns."""
        line = json.dumps({"key": key, **record}).encode()  # ASCII: names of any bytes pass
        self._lines[key] = line
        data = line + b"\n"
        if os.write(self._file, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def close(self) -> None:
        """Close the file and free the lock."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_json(path: Path, content: Any) -> None:
    """Write a report completely or not at all."""
    remove_leftovers(path)
    with atomic_path(path, durable=True) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="ascii")


def stamp(path: Path) -> list[int]:
    """Return size in bytes and modification time in ns; a file with the same stamp is unchanged."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


@contextmanager
def without_leftovers(folders: Iterable[Path]) -> Iterator[None]:
    """Remove incomplete files of killed processes from these folders, before the block and after.

    All processes that may still write there must have ended when the block ends.
    """
    places = set(folders)
    for place in places:
        remove_leftovers(place)
    try:
        yield
    finally:
        for place in places:
            remove_leftovers(place)
