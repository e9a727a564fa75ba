"""The files that a run does not open again because they broke a limit: `quarantine/rank_<n>.csv`."""

import contextlib
import csv
import io
import time
from pathlib import Path

from mvrec.files import append_whole

_HEADER = ("path", "cause")
_LOOK_SECONDS = 5.0


class Quarantine:
    """The files of a run that hung, crashed or took too much memory, as all its loader processes know them.

    Each rank appends to a file of its own, which the loader processes of all ranks read now and then. So a bad file
    costs its deadline once, not once per process and epoch, and a resumed run knows it from the start. Removing the
    folder forgets all.

    Args:
        folder: The folder of the lists; `None` keeps them in memory.
        rank: This process's rank.
    """

    def __init__(self, folder: Path | None, *, rank: int = 0) -> None:
        self.folder, self.rank = folder, rank
        self.files: dict[str, str] = {}
        self._read_bytes: dict[Path, int] = {}
        self._looked = -_LOOK_SECONDS

    def add(self, path: str, cause: str) -> None:
        """Add a file."""
        self.files[path] = cause
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._append(self.folder / f"rank_{self.rank}.csv", (path, cause))

    def entries(self) -> dict[str, str]:
        """Return the causes of all files so far; read the lists at most every few seconds."""
        now = time.monotonic()
        if self.folder is not None and now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            for path in sorted(self.folder.glob("rank_*.csv")):
                self._read(path)
        return self.files

    def _read(self, path: Path) -> None:
        if path.stat().st_size == self._read_bytes.get(path):
            return
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        self._read_bytes[path] = len(text.encode("utf-8", "surrogateescape"))
        for row in csv.reader(io.StringIO(text)):
            if len(row) == len(_HEADER) and tuple(row) != _HEADER:
                self.files.setdefault(row[0], row[1])

    @staticmethod
    def _append(path: Path, row: tuple[str, ...]) -> None:
        import fcntl  # not on Windows, where nothing is forked and nothing quarantined

        with path.open("ab") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)  # one of several loader processes writes the header
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([row] if path.stat().st_size else [_HEADER, row])
            append_whole(path, text.getvalue())
