"""Repeated files of a data set: by path or by content."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mvrec.errors import DecodeError
from mvrec.prep import console, sources
from mvrec.prep.jobs import Failure, run_jobs
from mvrec.prep.journal import Journal, stamp
from mvrec.processes import Limits

if TYPE_CHECKING:
    from mvrec.data.listing.archive import FilePath
    from mvrec.data.listing.lists import Row

_CHUNK_BYTES = 1 << 20


class Place(NamedTuple):
    """A row in its split."""

    split: str
    row: "Row"


@dataclass(frozen=True)
class Repeats:
    """Repeated files.

    Attributes:
        duplicates: Groups of rows of one split with the same content.
        leaks: Groups with rows of more than one split.
        conflicts: Groups whose rows have different labels.
        unread: Files that could not be read, with the reason.
        by_content: Whether content was compared, not only paths.
    """

    duplicates: list[list[Place]]
    leaks: list[list[Place]]
    conflicts: list[list[Place]]
    unread: list[tuple[str, str]]
    by_content: bool


def find_repeats(
    splits: dict[str, list["Row"]], root: Path, journal: Journal | None, *, workers: int, limits: Limits
) -> Repeats:
    """Find repeated files.

    Files are equal if they have the same size and the same BLAKE2b hash of all bytes; so only files with equal sizes
    are read.

    Args:
        splits: The rows of each split.
        root: The folder to which their paths are relative.
        journal: Known hashes; `None` compares paths instead of content.
        workers: Processes.
        limits: The limits of each file.
    """
    places: dict[str, list[Place]] = defaultdict(list)  # by file
    files: dict[str, FilePath] = {}
    for name, rows in splits.items():
        for row in rows:
            file = sources.file_of(root, row)
            key = f"{os.path.abspath(file)}\0{row.offset}"  # noqa: PTH100
            places[key].append(Place(name, row))
            files[key] = file
    content = {key: key for key in files}
    unread: list[tuple[str, str]] = []
    if journal is not None:
        hashes, unread = _hashes(files, journal, workers=workers, limits=limits)
        content.update(hashes)
    groups: dict[str, list[Place]] = defaultdict(list)
    for key, same in places.items():
        groups[content[key]] += same
    repeated = [group for group in groups.values() if len(group) > 1]
    return Repeats(
        duplicates=[group for group in repeated if len({split for split, _ in group}) == 1 and _is_repeat(group)],
        leaks=[group for group in repeated if len({split for split, _ in group}) > 1],
        conflicts=[group for group in repeated if len({frozenset(row.labels) for _, row in group}) > 1],
        unread=unread,
        by_content=journal is not None,
    )


def _is_repeat(group: Sequence[Place]) -> bool:
    # A file with several spans is several samples of one video, and not a fault within a split.
    spans = {repr((row.start_seconds, row.end_seconds)) for _, row in group}
    return len(spans) < len(group)


def _hashes(
    files: dict[str, "FilePath"], journal: Journal, *, workers: int, limits: Limits
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Return size and hash of the files whose size is not unique, and the unreadable files."""
    stamps = {key: _stamp(file) for key, file in files.items()}
    sizes = Counter(size for size, _ in stamps.values())
    todo, hashes = {}, {}
    for key, (size, changed) in stamps.items():
        if sizes[size] < 2:
            continue
        record = journal.get(key)
        if record is not None and record["stamp"] == [size, changed]:
            hashes[key] = f"{size}-{record['hash']}"
        else:
            todo[key] = files[key]
    unread = []
    with (
        console.progress(len(hashes) + len(todo), label="hash") as bar,
        closing(run_jobs(hash_file, todo.items(), workers=workers, limits=limits)) as outcomes,
    ):
        bar.update(len(hashes))
        for (key, file), digest in outcomes:
            if isinstance(digest, Failure):
                unread.append((str(file), digest.cause))
            else:
                journal.add(key, stamp=list(stamps[key]), hash=digest)
                hashes[key] = f"{stamps[key][0]}-{digest}"
            bar.update()
    return hashes, unread


def _stamp(file: "FilePath") -> tuple[int, int]:
    from mvrec.data.listing.archive import ArchiveMember

    size, changed = stamp(sources.archive_of(file))
    return (file.size if isinstance(file, ArchiveMember) else size), changed


def hash_file(item: tuple[str, "FilePath"]) -> str:
    """Return the BLAKE2b hash of a whole file.

    Raises:
        DecodeError: The file cannot be read.
    """
    from mvrec.data.listing.archive import ArchiveMember

    _, file = item
    if isinstance(file, ArchiveMember):
        return hashlib.blake2b(file.read(), digest_size=20).hexdigest()
    digest = hashlib.blake2b(digest_size=20)
    try:
        with Path(file).open("rb") as reader:
            while data := reader.read(_CHUNK_BYTES):
                digest.update(data)
    except OSError as error:
        raise DecodeError(file, error.strerror or str(error)) from error
    return digest.hexdigest()
