"""The arguments of a command (files, folders, lists, patterns) as one list of files and parts of files."""

import glob
import logging
import math
import os
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


def output_names(sources: Sequence[str], *, kind: Kind) -> dict[Path, Sample]:
    """Return where each file's or span's results go in an output folder, without suffix, and the file.

    A file keeps its place in the folder that was given, or that a list or pattern stands in, and its suffix, since
    `a.mp4` and `a.avi` may lie side by side.

    Raises:
        UserError: A source means no file, or two files would write to one.
    """
    files: dict[Path, Sample] = {}
    places: set[tuple[Path, str]] = set()
    for source in sources:
        base = _base(source)
        for sample in find_sources([source], kind=kind):
            place = Path(os.path.abspath(sample.path))  # noqa: PTH100 - resolve() would follow links, and change names
            span = _span_name(sample)
            if (place, span) in places:  # named by two sources or rows
                continue
            places.add((place, span))
            name = place.relative_to(base) if place.is_relative_to(base) else place.relative_to(place.anchor)
            name = name.with_name(name.name + span)
            if name in files:
                raise UserError(
                    f"{files[name].path} and {sample.path} would both be written as {name}: give a folder above both"
                )
            files[name] = sample
    return files


def _span_name(sample: Sample) -> str:
    """Return the suffix of the name of a row's features after that of its file."""
    if sample.start_seconds is None and sample.end_seconds is None:
        return ""
    end = "end" if sample.end_seconds is None else repr(sample.end_seconds).removesuffix(".0")
    return f"_{repr(sample.start_seconds or 0.0).removesuffix('.0')}-{end}"


def _base(source: str) -> Path:
    path = at_home(source)
    if not path.is_dir():
        fixed = [part for part in path.parents if not glob.has_magic(str(part)) or part.exists()]
        path = fixed[0] if fixed else Path()
    return Path(os.path.abspath(path))  # noqa: PTH100


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
