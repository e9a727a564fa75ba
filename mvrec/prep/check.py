"""Decode every file of a data set, name the bad ones, and write lists without them."""

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
from mvrec.messages import CommandParser
from mvrec.prep import console, masks, sources
from mvrec.prep.console import shown
from mvrec.prep.jobs import Failure, run_jobs
from mvrec.prep.journal import Journal, stamp, write_json
from mvrec.processes import Limits

if TYPE_CHECKING:
    from mvrec.data.listing.archive import FilePath
    from mvrec.data.listing.lists import Row

STATUSES = ("ok", "corrupt", "missing", "timeout", "short")
_FRAMES_AT_ONCE = 32


class Task(NamedTuple):
    """A file to decode.

    Attributes:
        file: The file.
        kind: "video" or "image".
        stamp: Size and modification time of the file on disk.
    """

    file: "FilePath"
    kind: str
    stamp: list[int]


@dataclass(frozen=True)
class Settings:
    """The requirements of a good file.

    Attributes:
        every_frame: Decode all frames, not only the first, the middle and the last.
        min_frames: A video with fewer is too short.
        min_seconds: A video of less time is too short.
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
        facts = {"frames": video.num_frames, "fps": video.fps, "duration": video.duration}
        return {**facts, "height": height, "width": width}


def check_files(
    source: sources.Source, journal: Journal, *, settings: Settings, workers: int, limits: Limits, again: bool = False
) -> dict[str, dict[str, Any]]:
    """Decode every file of a source that is not in the journal yet.

    Args:
        source: The files.
        journal: Records by path; new ones are added.
        settings: Whether to decode every frame.
        workers: Processes.
        limits: The limits of each file.
        again: Decode bad files again.

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
        record = journal.get(key)
        if record is not None and _still_counts(record, now, settings, limits, again=again):
            records[key] = record
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


def _still_counts(record: dict[str, Any], now: list[int], settings: Settings, limits: Limits, *, again: bool) -> bool:
    if record["stamp"] != now or (again and record["status"] != "ok"):
        return False
    if record["status"] == "ok":
        return record["every_frame"] or not settings.every_frame
    # With more time or memory it may succeed.
    allowed = all(
        (record[name] or float("inf")) >= (value or float("inf"))
        for name, value in (("seconds", limits.seconds), ("memory", limits.memory))
    )
    return allowed and (not record["every_frame"] or settings.every_frame)


def _why_missing(file: "FilePath", error: OSError) -> str:
    path = sources.archive_of(file)
    if isinstance(error, FileNotFoundError):
        return "is a broken link" if path.is_symlink() else "no such file"
    return error.strerror or str(error)


def _unique_files(source: sources.Source) -> Iterator[tuple[str, "FilePath"]]:
    keys = set()
    for row in _rows(source):
        key = file_key(source, row)
        if key not in keys:
            keys.add(key)
            yield key, sources.file_of(source.root, row)


def _rows(source: sources.Source) -> Iterator["Row"]:
    return (row for rows in source.rows.values() for row in rows)


def file_key(source: sources.Source, row: "Row") -> str:
    """Return a row's key in a journal: the file's absolute path, and for a member its place in the tar."""
    path = os.path.abspath(source.root / row.path)  # noqa: PTH100 - without following links
    return path if row.offset < 0 else f"{path}\0{row.offset}+{row.size}"


def judge(row: "Row", record: dict[str, Any], settings: Settings) -> tuple[str, str]:
    """Return status and cause of a row: its file's, or "short"."""
    from mvrec.data.listing.index import Sample
    from mvrec.data.views.timeline import Timeline

    if record["status"] != "ok" or not record["fps"]:
        return record["status"], record["cause"]
    frames = record["frames"]
    seconds = record.get("duration", frames / record["fps"])  # earlier journals have no duration
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
    """The result, row by row.

    Attributes:
        counts: For each split the number of rows by status.
        good: The good rows of each split.
        bad: Split, row, status and cause of the others.
        repeated: The number of rows that repeat a file and span of their split.
    """

    counts: dict[str, Counter[str]]
    good: dict[str, list["Row"]]
    bad: list[tuple[str, "Row", str, str]]
    repeated: int


def verdict(source: sources.Source, records: dict[str, dict[str, Any]], settings: Settings) -> Verdict:
    """Sort the rows of a source into good and bad ones."""
    result = Verdict({}, {}, [], _repeated(source))
    for split, rows in source.rows.items():
        counts, good = result.counts.setdefault(split, Counter()), result.good.setdefault(split, [])
        for row in rows:
            status, cause = judge(row, records[file_key(source, row)], settings)
            counts[status] += 1
            if status == "ok":
                good.append(row)
            else:
                result.bad.append((split, row, status, cause))
    return result


def _repeated(source: sources.Source) -> int:
    # As text, because nan differs from itself.
    return sum(
        len(rows) - len({(row.path, repr(row.start_seconds), repr(row.end_seconds)) for row in rows})
        for rows in source.rows.values()
    )


def summary(result: Verdict) -> str:
    """Return the tables: rows by status, and the most frequent causes with an example."""
    counted = dict(result.counts)
    if len(counted) > 1:
        counted["total"] = sum(result.counts.values(), Counter())
    rows = [[split, *(counts[s] for s in STATUSES), counts.total()] for split, counts in counted.items()]
    text = console.table(["split", *STATUSES, "all"], rows)
    bad = ((status, cause, row.path) for _, row, status, cause in result.bad)
    text += console.causes_table(bad, noun="rows")
    if result.repeated:
        text += f"\n\n{result.repeated} rows repeat an earlier one; they were checked once and stay in the lists"
    return text


def write_lists(source: sources.Source, result: Verdict, folder: Path, *, suffix: str) -> list[Path]:
    """Write `<split><suffix>` with the good rows of each split, and `classes.txt` if the root has one.

    Paths stay relative if the lists are written into the root, and become absolute elsewhere.

    Raises:
        UserError: A list would overwrite one that was read.
    """
    from mvrec.data.listing.lists import write_rows

    is_root = folder.resolve() == source.root.resolve()
    written = []
    for split, rows in result.good.items():
        target = folder / f"{split}{suffix}"
        if not rows or any(not row.label and not row.multi_label for row in rows):
            continue  # files outside class folders cannot be trained on
        remove_leftovers(target)
        write_rows(target, rows if is_root else (_absolute(row, source.root) for row in rows))
        written.append(target)
    if written:
        source.copy_class_names(folder)
    return written


def _absolute(row: "Row", root: Path) -> "Row":
    return row._replace(path=os.path.abspath(root / row.path))  # noqa: PTH100


def check_targets(source: sources.Source, folder: Path) -> None:
    """Raise `UserError` if clean lists would overwrite the lists that were read."""
    for path in source.lists.values():
        for split in source.rows:
            if (folder / f"{split}.csv").resolve() == path.resolve():
                raise UserError(
                    f"--write-lists {folder}: would overwrite {path}, which is checked; choose another folder"
                )


def report(source: sources.Source, result: Verdict, settings: Settings) -> dict[str, Any]:
    """Return the content of `report.json`."""
    return {
        "root": str(source.root.resolve()),
        "lists": {split: str(path) for split, path in source.lists.items()},
        "every_frame": settings.every_frame,
        "min_frames": settings.min_frames,
        "min_seconds": settings.min_seconds,
        "counts": {split: {status: counts[status] for status in STATUSES} for split, counts in result.counts.items()},
        "repeated_rows": result.repeated,
        "bad": [
            {"split": split, "path": row.path, "label": row.label, "status": status, "cause": cause}
            for split, row, status, cause in result.bad
        ],
    }


def arguments() -> CommandParser:
    """Build the parser."""
    parser = console.parser("check", __doc__ or "")
    parser.add_argument("root", type=at_home, help="a data set: a folder of files or with lists, or one list")
    parser.add_argument("--list", type=at_home, action="append", default=[], help="check these lists (paths from ROOT)")
    parser.add_argument(
        "--out", type=at_home, default=Path("runs/check"), help="folder of journal, report, clean lists"
    )
    parser.add_argument("--write-lists", type=at_home, metavar="DIR", help="write <split>.csv without bad files here")
    parser.add_argument("--all", action="store_true", help="decode every frame, not only first, middle and last")
    parser.add_argument("--min-frames", type=int, default=8, help="a video with fewer frames is too short")
    parser.add_argument("--min-seconds", type=float, default=0.0, help="a video of less time is too short")
    parser.add_argument("--again", action="store_true", help="check files again that an earlier run found bad")
    parser.add_argument("--layout", choices=("auto", *masks.LAYOUTS), default="auto", help="the layout, for masks")
    console.add_limits(parser, seconds=60.0)
    masks.add_arguments(parser)
    return parser


def main(words: list[str]) -> int:
    """Check a data set; return the exit code."""
    options = arguments().parse_args(words)
    settings = Settings(options.all, options.min_frames, options.min_seconds)
    limits = Limits(options.timeout, options.memory)
    if not options.list and (data := masks.find_data(options)) is not None:
        return masks.check(data, options)
    source = sources.read_source(options.root, lists=options.list)
    if options.write_lists is not None:
        check_targets(source, options.write_lists)
    with Journal(options.out / "journal.jsonl", dry=options.dry_run) as journal:
        if options.dry_run:
            num_known = sum(journal.get(key) is not None for key, _ in _unique_files(source))
            files = sum(1 for _ in _unique_files(source))
            print(f"{files} files of {len(source)} rows to check, {num_known} of them are known from {journal.path}")
            return console.ALL_FINE
        records = check_files(
            source, journal, settings=settings, workers=options.workers, limits=limits, again=options.again
        )
        result = verdict(source, records, settings)
        write_json(options.out / "report.json", report(source, result, settings))
        written = write_lists(source, result, options.out, suffix=".clean.csv")
        if options.write_lists is not None:
            written += write_lists(source, result, options.write_lists, suffix=".csv")
    print(summary(result))
    print(f"\nreport: {options.out / 'report.json'}", *(f"list: {shown(path)}" for path in written), sep="\n")
    return console.SOME_BAD if result.bad else console.ALL_FINE
