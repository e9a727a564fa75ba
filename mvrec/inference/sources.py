"""The arguments of a command (files, folders, lists, patterns) as one list of files and parts of files."""

import glob
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mvrec.data.listing.archive import ArchiveMember
from mvrec.data.listing.file_kinds import Kind
from mvrec.data.listing.index import Sample
from mvrec.data.listing.layouts import SPLITS, files_below, placed_rows, skipped_text
from mvrec.data.listing.lists import Row, read_files
from mvrec.errors import UserError, nearest_path
from mvrec.files import at_home

log = logging.getLogger("mvrec")

LISTS = (".txt", ".csv")
TABLE_COLUMNS = ("path", "start_seconds", "end_seconds", "label", "vector")  # of a table of features


def find_sources(sources: Sequence[str], *, kind: Kind) -> list[Sample]:
    """Return the files that sources mean, in order: each file once, but a list's row each time.

    Args:
        sources: Files, with any extension; folders, which are searched; lists (`.txt`, `.csv`), as training reads them
            or with paths only, see `read_files`, relative to the list; patterns.
        kind: The kind of files to search folders for.

    Returns:
        Files with the spans of lists; the label is always 0.

    Raises:
        UserError: A source means no file, or is a malformed list.
    """
    samples: list[Sample] = []
    listed: set[tuple[str, float | None, float | None]] = set()
    for source in sources:
        samples_of_source = _of_one(source, kind)
        if not samples_of_source:
            raise UserError(f"there is no {kind.noun} in {source}; this network takes {kind.noun}s")
        keys = [(str(sample.path), sample.start_seconds, sample.end_seconds) for sample in samples_of_source]
        samples += [sample for sample, key in zip(samples_of_source, keys, strict=True) if key not in listed]
        listed.update(keys)
    return samples


def columns_of(sources: Sequence[str], samples: Sequence[Sample]) -> list[dict[str, str]]:
    """Return what sources say of each file: `label`, if it is known, and the other columns of lists.

    A file in a folder of a folder that was given has the name of its own folder as its label.

    Args:
        sources: As for `find_sources`.
        samples: What `find_sources` found in them.
    """
    listed: dict[tuple[str, float | None, float | None], dict[str, str]] = {}
    folders = [path for path in map(at_home, sources) if path.is_dir()]
    for path in map(at_home, sources):
        if path.suffix.lower() not in LISTS or not path.is_file():
            continue
        for row, sample in zip(_rows_of(path), _of_list(path), strict=True):
            label = {"label": row.label} if row.label else {}
            key = (str(sample.path), sample.start_seconds, sample.end_seconds)
            listed.setdefault(key, {**label, **{_other(name): value for name, value in row.others}})
    return [
        listed.get((str(sample.path), sample.start_seconds, sample.end_seconds)) or _by_folder(sample, folders)
        for sample in samples
    ]


def _other(name: str) -> str:
    return f"list_{name}" if name in TABLE_COLUMNS else name


def _by_folder(sample: Sample, folders: Sequence[Path]) -> dict[str, str]:
    path = Path(str(sample.path))
    below = any(path.is_relative_to(folder) and path.parent != folder for folder in folders)
    return {"label": path.parent.name} if below else {}


def as_sample(file: Path | Sample) -> Sample:
    """Return a file, or a part of one, as a sample."""
    return file if isinstance(file, Sample) else Sample(file, 0)


def _of_one(source: str, kind: Kind) -> list[Sample]:
    path = at_home(source)
    if path.is_dir():
        skipped: list[str] = []
        names = list(files_below(str(path), replace(kind, nested=True), skipped=skipped))
        if skipped:
            log.warning("%s", skipped_text(path, skipped, kind.noun))
        return [Sample(file, 0) for file in sorted(path / name for name in names)]
    if path.suffix.lower() in LISTS and path.is_file():
        return _of_list(path)
    if path.exists():
        return [Sample(path, 0)]
    if glob.has_magic(source):
        matches = glob.glob(str(path), recursive=True)  # noqa: PTH207 - Path.glob wants to know where to begin
        return [Sample(match, 0) for match in sorted(map(Path, matches)) if match.is_file()]
    raise UserError(f"there is no file or folder {source!r}{nearest_path(path)}")


def _of_list(path: Path) -> list[Sample]:
    return [
        Sample(_file(path.parent, row), 0, _seconds(row.start_seconds), _seconds(row.end_seconds), row.where)
        for row in _rows_of(path)
    ]


def _rows_of(path: Path) -> list[Row]:
    split = next((name for name in SPLITS if re.search(rf"(^|_){name}(_|$)", path.stem)), path.stem)
    return list(placed_rows(path.parent, split, read_files(path), []))  # missing files are reported one by one


def _file(root: Path, row: Row) -> Path | ArchiveMember:
    if row.offset < 0:
        return root / row.path
    for end in (match.end() for match in re.finditer(r"\.tar(?=/)", row.path)):
        if (root / row.path[:end]).is_file():
            return ArchiveMember(root / row.path[:end], row.path[end + 1 :], row.offset, row.size)
    raise UserError(f"{row.where}: {row.path!r} has an offset, but no part of it is a tar below {root}")


def _seconds(value: float) -> float | None:
    return None if math.isnan(value) else value
