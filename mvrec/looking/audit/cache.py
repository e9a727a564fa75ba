"""Looks of files that an earlier audit has read, so that a second or interrupted one does not decode them again."""

import hashlib
import logging
import sqlite3
import threading
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mvrec.data.listing.archive import ArchiveMember
from mvrec.files import user_cache
from mvrec.looking.audit.looks import GRID, LARGE, PARTS, SMALL, Look

VERSION = f"2 {len(PARTS)} {GRID} {LARGE} {SMALL}"  # of what is stored; another one begins afresh
COMMIT_SECONDS = 5.0  # of work that an interruption may cost
TABLE = (
    "CREATE TABLE IF NOT EXISTS looks (path TEXT PRIMARY KEY, changed TEXT, digest TEXT, height INT, width INT, "
    "seconds REAL, frames INT, moments INT, compared INT, arrays BLOB) WITHOUT ROWID"
)

log = logging.getLogger(__name__)

FilePath = Path | ArchiveMember


def cache_of(root: Path) -> Path:
    """Return the place of the looks of a data set's files."""
    digest = hashlib.blake2b(str(root.resolve()).encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()
    return user_cache() / "audit" / f"{digest}.sqlite"


class LookCache:
    """Looks by path, size and time of change of a file. A cache that cannot be used says so once and stays empty.

    Args:
        path: The file of the cache.
        clear: Forget what it holds.
    """

    def __init__(self, path: Path, *, clear: bool = False) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._committed = time.monotonic()
        self._database: sqlite3.Connection | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
            self._prepare(VERSION if not clear else None)
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    def _prepare(self, version: str | None) -> None:
        assert self._database is not None
        self._database.execute("CREATE TABLE IF NOT EXISTS versions (version TEXT)")
        if self._database.execute("SELECT version FROM versions").fetchall() != [(version,)]:
            self._database.execute("DROP TABLE IF EXISTS looks")
            self._database.execute("DELETE FROM versions")
            self._database.execute("INSERT INTO versions VALUES (?)", (VERSION,))
        self._database.execute(TABLE)
        self._database.commit()

    def get(self, path: FilePath) -> tuple[Look, str] | None:
        """Return look and digest of a file that has not changed since; `None` if it must be read."""
        key, changed = str(path), state_of(path)
        database = self._database
        if database is None or not changed:
            return None
        try:
            with self._lock:
                row = database.execute("SELECT * FROM looks WHERE path = ?", (_text(key),)).fetchone()
        except sqlite3.Error as error:
            self._give_up(error)
            return None
        return None if row is None or row[1] != changed else _unpacked(row[2:])

    def put(self, path: FilePath, look: Look, digest: str) -> None:
        """Keep what a file shows."""
        changed = state_of(path)
        database = self._database
        if database is None or not changed:
            return
        arrays: Sequence[Any] = (look.hashes, look.moments, look.pictures, look.large, look.colours)
        packed = zlib.compress(b"".join(array.tobytes() for array in arrays), 1)
        row = (_text(str(path)), changed, digest, *look.size, look.seconds, look.frames, len(look.moments))
        try:
            with self._lock:
                values = (*row, len(look.large), packed)
                database.execute(f"INSERT OR REPLACE INTO looks VALUES ({', '.join('?' * len(values))})", values)
                if time.monotonic() - self._committed > COMMIT_SECONDS:
                    database.commit()
                    self._committed = time.monotonic()
        except sqlite3.Error as error:
            self._give_up(error)

    def close(self) -> None:
        """Write what is left."""
        if self._database is not None:
            try:
                self._database.commit()
                self._database.close()
            except sqlite3.Error as error:
                self._give_up(error)
        self._database = None

    def _give_up(self, error: Exception) -> None:
        log.warning("%s cannot be used (%s): the next audit will read all files again", self.path, error)
        self._database = None


def state_of(path: FilePath) -> str:
    """Return size and time of change of a file, and its place in an archive; "" if it is missing."""
    inside = f" {path.offset} {path.size}" if isinstance(path, ArchiveMember) else ""
    try:
        stat = (path.archive if isinstance(path, ArchiveMember) else path).stat()
    except OSError:
        return ""
    return f"{stat.st_size} {stat.st_mtime_ns}{inside}"


def _text(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _unpacked(row: Sequence[Any]) -> tuple[Look, str] | None:
    digest, height, width, seconds, frames, moments, compared, packed = row
    shapes: list[tuple[Any, tuple[int, ...]]] = [
        (np.uint64, (len(PARTS), compared)),
        (np.uint64, (moments,)),
        (np.uint8, (moments, SMALL, SMALL)),
        (np.uint8, (compared, LARGE, LARGE)),
        (np.uint8, (compared, 3, SMALL, SMALL)),
    ]
    try:
        content, place = zlib.decompress(packed), 0
        arrays: list[Any] = []
        for kind, shape in shapes:
            count = int(np.prod(shape))
            arrays.append(np.frombuffer(content, kind, count, place).reshape(shape))
            place += arrays[-1].nbytes
    except (zlib.error, ValueError):
        return None
    hashes, of_moments, pictures, large, colours = arrays
    return Look(hashes, of_moments, pictures, large, colours, (height, width), seconds, frames), digest
