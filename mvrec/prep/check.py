"""Really decode every file of a data set, name the bad ones, and write lists without them."""

import functools
import math
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mvrec.errors import DecodeError, UserError
from mvrec.files import at_home, remove_leftovers
from mvrec.prep import console, sources
from mvrec.prep.console import shown
from mvrec.prep.jobs import Failure, run_jobs
from mvrec.prep.journal import Journal, stamp, write_json
from mvrec.processes import Limits

if TYPE_CHECKING:
    from mvrec.data.listing.archive import FilePath
    from mvrec.data.listing.lists import Row

STATUSES = ("ok", "corrupt", "missing", "timeout", "short")
_FRAMES_AT_ONCE = 32
_CAUSES = 10  # that the table names; the report names every file


class Task(NamedTuple):
    """A file to decode.

    Attributes:
        file: It.
        kind: "video" or "image".
        stamp: Size and time of change of the file on disk.
    """

    file: "FilePath"
    kind: str
    stamp: list[int]


@dataclass(frozen=True)
class Settings:
    """What counts as fine.

    Attributes:
        every_frame: Decode all frames, not only the first, the middle and the last.
        min_frames: A video with fewer is too short.
        min_seconds: The same in seconds.
    """

    every_frame: bool = False
    min_frames: int = 8
    min_seconds: float = 0.0


def decode(task: Task, *, every_frame: bool) -> dict[str, Any]:
    """Decode a file.

    Returns:
        frames, fps and duration in seconds (both 0 for an image), height and width in pixels.

    Raises:
        DecodeError: The file cannot be read.
    """
    if task.kind == "image":
        from mvrec.data.loading.images import read_image

        height, width, _ = read_image(task.file).shape
        return {"frames": 1, "fps": 0.0, "duration": 0.0, "height": height, "width": width}
    from mvrec.data.video import opening as decoders

    with decoders.open_video(task.file) as video:
        last = video.num_frames - 1
        steps = (
            (range(at, min(at + _FRAMES_AT_ONCE, last + 1)) for at in range(0, last + 1, _FRAMES_AT_ONCE))
            if every_frame
            else ((number,) for number in sorted({0, last // 2, last}))
        )
        for numbers in steps:
            video.frames(list(numbers))
        height, width = video.size
        sources.compare_with_promise(task.file, video.duration)
        known = {"frames": video.num_frames, "fps": video.fps, "duration": video.duration}
        return {**known, "height": height, "width": width}


def check_files(
    source: sources.Source, journal: Journal, *, settings: Settings, workers: int, limits: Limits, again: bool = False
) -> dict[str, dict[str, Any]]:
    """Decode every file of a source that the journal does not know yet.

    Args:
        source: The files.
        journal: What is known, by path; what is found out is added.
        settings: Whether to decode every frame.
        workers: Processes.
        limits: For each file.
        again: Decode the files again that were bad.

    Returns:
        A record for each file by its key: status, cause, and what `decode` returns.
    """
    records: dict[str, dict[str, Any]] = {}
    tasks: dict[str, Task] = {}
    for key, file in _unique_files(source):
        try:
            now = stamp(sources.archive_of(file))
        except OSError as error:
            records[key] = {"status": "missing", "cause": _why_missing(file, error)}
            continue
        known = journal.get(key)
        if known is not None and _still_counts(known, now, settings, limits, again=again):
            records[key] = known
        else:
            tasks[key] = Task(file, sources.media_kind(key.partition("\0")[0]) or "video", now)
    sources.load_decoders()
    work = functools.partial(_decode_keyed, every_frame=settings.every_frame)
    bad = Counter(record["status"] for record in records.values() if record["status"] != "ok")
    with (
        console.progress(len(records) + len(tasks)) as bar,
        closing(run_jobs(work, tasks.items(), workers=workers, limits=limits)) as outcomes,
    ):
        bar.update(len(records))
        for (key, task), result in outcomes:
            records[key] = _record(task, result, settings=settings, limits=limits)
            journal.add(key, **records[key])
            bad.update([] if records[key]["status"] == "ok" else [records[key]["status"]])
            bar.set_postfix(bad=bad.total(), refresh=False)
            bar.update()
    return records


def _decode_keyed(item: tuple[str, Task], *, every_frame: bool) -> dict[str, Any]:
    return decode(item[1], every_frame=every_frame)


def _record(task: Task, result: dict[str, Any] | Failure, *, settings: Settings, limits: Limits) -> dict[str, Any]:
    record: dict[str, Any] = {"stamp": task.stamp, "every_frame": settings.every_frame}
    if isinstance(result, Failure):
        status = "timeout" if result.kind == "timeout" else "corrupt"
        return {"status": status, "cause": result.cause, **record, "seconds": limits.seconds, "memory": limits.memory}
    return {"status": "ok", "cause": "", **record, **result}


def _still_counts(known: dict[str, Any], now: list[int], settings: Settings, limits: Limits, *, again: bool) -> bool:
    if known["stamp"] != now or (again and known["status"] != "ok"):
        return False
    if known["status"] == "ok":
        return known["every_frame"] or not settings.every_frame
    # With more time or memory it may go well.
    allowed = all(
        (known[name] or float("inf")) >= (value or float("inf"))
        for name, value in (("seconds", limits.seconds), ("memory", limits.memory))
    )
    return allowed and (not known["every_frame"] or settings.every_frame)


def _why_missing(file: "FilePath", error: OSError) -> str:
    path = sources.archive_of(file)
    if isinstance(error, FileNotFoundError):
        return "is a broken link" if path.is_symlink() else "no such file"
    return error.strerror or str(error)


def _unique_files(source: sources.Source) -> Iterator[tuple[str, "FilePath"]]:
    seen = set()
    for row in _rows(source):
        key = file_key(source, row)
        if key not in seen:
            seen.add(key)
            yield key, sources.file_of(source.root, row)


def _rows(source: sources.Source) -> Iterator["Row"]:
    return (row for rows in source.rows.values() for row in rows)


def file_key(source: sources.Source, row: "Row") -> str:
    """What a journal knows a row's file by: its absolute path, and the place of a member in its tar."""
    path = os.path.abspath(source.root / row.path)  # noqa: PTH100 - without following links
    return path if row.offset < 0 else f"{path}\0{row.offset}+{row.size}"


def judge(row: "Row", record: dict[str, Any], settings: Settings) -> tuple[str, str]:
    """Status and cause of a row: its file's, or "short"."""
    from mvrec.data.listing.index import Sample
    from mvrec.data.views.timeline import Timeline

    if record["status"] != "ok" or not record["fps"]:
        return record["status"], record["cause"]
    frames = record["frames"]
    seconds = record.get("duration", frames / record["fps"])  # earlier journals have none
    if frames < settings.min_frames:
        return "short", f"{frames} frames, fewer than {settings.min_frames}"
    if seconds < settings.min_seconds:
        return "short", f"{seconds:.2f} s, less than {settings.min_seconds:g} s"
    start, end = (None if math.isnan(second) else second for second in (row.start_seconds, row.end_seconds))
    try:
        Timeline(frames, record["fps"], seconds).check_span(Sample(Path(row.path), 0, start, end))
    except DecodeError as error:
        return "short", error.cause
    return "ok", ""


@dataclass(frozen=True)
class Verdict:
    """What was found, row by row.

    Attributes:
        counts: For each split how many rows have each status.
        good: The rows of each split that are fine.
        bad: Split, row, status and cause of the others.
        repeated: Rows that name a file and a span that an earlier row of their split names.
    """

    counts: dict[str, Counter[str]]
    good: dict[str, list["Row"]]
    bad: list[tuple[str, "Row", str, str]]
    repeated: int


def verdict(source: sources.Source, records: dict[str, dict[str, Any]], settings: Settings) -> Verdict:
    """Sort the rows of a source into good and bad ones."""
    found = Verdict({}, {}, [], _repeated(source))
    for split, rows in source.rows.items():
        counts, good = found.counts.setdefault(split, Counter()), found.good.setdefault(split, [])
        for row in rows:
            status, cause = judge(row, records[file_key(source, row)], settings)
            counts[status] += 1
            if status == "ok":
                good.append(row)
            else:
                found.bad.append((split, row, status, cause))
    return found


def _repeated(source: sources.Source) -> int:
    # As text, because nan is unlike itself.
    return sum(
        len(rows) - len({(row.path, repr(row.start_seconds), repr(row.end_seconds)) for row in rows})
        for rows in source.rows.values()
    )


def summary(found: Verdict) -> str:
    """The tables for people: rows by status, and the most frequent causes with an example."""
    counted = dict(found.counts)
    if len(counted) > 1:
        counted["total"] = sum(found.counts.values(), Counter())
    rows = [[split, *(counts[s] for s in STATUSES), counts.total()] for split, counts in counted.items()]
    text = console.table(["split", *STATUSES, "all"], rows)
    causes: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    for _, row, status, cause in found.bad:
        causes[status, cause] += 1
        examples.setdefault((status, cause), row.path)
    if causes:
        lines = [[f"{s}: {c}", n, shown(examples[s, c])] for (s, c), n in causes.most_common(_CAUSES)]
        text += "\n\n" + console.table(["cause", "rows", "for example"], lines)
        if len(causes) > _CAUSES:
            text += f"\n... and {len(causes) - _CAUSES} more causes, see report.json"
    if found.repeated:
        text += f"\n\n{found.repeated} rows repeat an earlier one; they were checked once and stay in the lists"
    return text


def write_lists(source: sources.Source, found: Verdict, folder: Path, *, suffix: str) -> list[Path]:
    """Write `<split><suffix>` with the good rows of each split, and `classes.txt` where the root has one.

    Paths stay relative where the lists come to lie in the root, and become absolute elsewhere.

    Raises:
        UserError: A list would take the place of one that was read.
    """
    from mvrec.data.listing.lists import write_rows

    is_root = folder.resolve() == source.root.resolve()
    written = []
    for split, rows in found.good.items():
        target = folder / f"{split}{suffix}"
        if not rows or any(not row.label and not row.multi_label for row in rows):
            continue  # files outside class folders make no list to train on
        remove_leftovers(target)
        write_rows(target, rows if is_root else (_absolute(row, source.root) for row in rows))
        written.append(target)
    if written:
        source.copy_class_names(folder)
    return written


def _absolute(row: "Row", root: Path) -> "Row":
    return row._replace(path=os.path.abspath(root / row.path))  # noqa: PTH100


def check_targets(source: sources.Source, folder: Path) -> None:
    """Raises `UserError` where clean lists would take the place of the lists that were read."""
    for path in source.lists.values():
        for split in source.rows:
            if (folder / f"{split}.csv").resolve() == path.resolve():
                raise UserError(
                    f"--write-lists {folder}: would overwrite {path}, which is checked; name another folder"
                )


def report(source: sources.Source, found: Verdict, settings: Settings) -> dict[str, Any]:
    """What `report.json` holds."""
    return {
        "root": str(source.root.resolve()),
        "lists": {split: str(path) for split, path in source.lists.items()},
        "every_frame": settings.every_frame,
        "min_frames": settings.min_frames,
        "min_seconds": settings.min_seconds,
        "counts": {split: {status: counts[status] for status in STATUSES} for split, counts in found.counts.items()},
        "repeated_rows": found.repeated,
        "bad": [
            {"split": split, "path": row.path, "label": row.label, "status": status, "cause": cause}
            for split, row, status, cause in found.bad
        ],
    }


def arguments() -> console.Parser:
    """The command line."""
    made = console.parser("check", __doc__ or "")
    made.add_argument("root", type=at_home, help="a data set: a folder of files or with lists, or one list")
    made.add_argument("--list", type=at_home, action="append", default=[], help="check these lists (paths from ROOT)")
    made.add_argument("--out", type=at_home, default=Path("runs/check"), help="folder of journal, report, clean lists")
    made.add_argument("--write-lists", type=at_home, metavar="DIR", help="write <split>.csv without bad files here")
    made.add_argument("--all", action="store_true", help="decode every frame, not only first, middle and last")
    made.add_argument("--min-frames", type=int, default=8, help="a video with fewer frames is too short")
    made.add_argument("--min-seconds", type=float, default=0.0, help="a video of less time is too short")
    made.add_argument("--again", action="store_true", help="check files again that an earlier run found bad")
    console.add_limits(made, seconds=60.0)
    return made


def main(given: list[str]) -> int:
    """Check a data set; returns the exit code."""
    options = arguments().parse_args(given)
    settings = Settings(options.all, options.min_frames, options.min_seconds)
    limits = Limits(options.timeout, options.memory)
    source = sources.read_source(options.root, lists=options.list)
    if options.write_lists is not None:
        check_targets(source, options.write_lists)
    with Journal(options.out / "journal.jsonl", dry=options.dry_run) as journal:
        if options.dry_run:
            known = sum(journal.get(key) is not None for key, _ in _unique_files(source))
            files = sum(1 for _ in _unique_files(source))
            print(f"{files} files of {len(source)} rows to check, {known} of them are known from {journal.path}")
            return console.ALL_FINE
        records = check_files(
            source, journal, settings=settings, workers=options.workers, limits=limits, again=options.again
        )
        found = verdict(source, records, settings)
        write_json(options.out / "report.json", report(source, found, settings))
        written = write_lists(source, found, options.out, suffix=".clean.csv")
        if options.write_lists is not None:
            written += write_lists(source, found, options.write_lists, suffix=".csv")
    print(summary(found))
    print(f"\nreport: {options.out / 'report.json'}", *(f"list: {shown(path)}" for path in written), sep="\n")
    return console.SOME_BAD if found.bad else console.ALL_FINE
