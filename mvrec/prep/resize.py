"""Write smaller copies of videos or images, which cost training a fraction of the reading time."""

import functools
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvrec.errors import UserError
from mvrec.files import at_home, remove_leftovers
from mvrec.messages import CommandParser
from mvrec.prep import boxes, console, masks, objects, sources
from mvrec.prep.console import shown
from mvrec.prep.jobs import Failure, run_jobs
from mvrec.prep.journal import Journal, stamp, without_leftovers, write_json
from mvrec.prep.transcode import Recipe, Task, resize
from mvrec.processes import Limits

if TYPE_CHECKING:
    from mvrec.data.listing.lists import Row

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
FAST_DECODE_GOP = 12
_NAMED = 10  # failures in the table; the report has all


def plan(source: sources.Source, out: Path, *, kind: str) -> dict[str, Task]:
    """Return a task for each file of a kind, by the row's path.

    Results have the files' paths, with `.mp4` or `.jpg`. If two would have the same name (`a.avi` next to
    `a.mp4`), the one with another ending keeps it before the new one (`a.avi.mp4`).

    Raises:
        UserError: A file is outside the root, or names still collide.
    """
    files: dict[str, Row] = {}
    for rows in source.rows.values():
        for row in rows:
            if (sources.media_kind(row.path, prefer=kind) or "video") == kind:
                files.setdefault(row.path, row)
    endings = {".mp4"} if kind == "video" else {".jpg", ".jpeg"}
    names = {_renamed(_relative(source, row), endings, keep=False) for row in files.values() if _has(row, endings)}
    tasks: dict[str, Task] = {}
    owner: dict[str, str] = {}
    for path, row in files.items():
        relative = _relative(source, row)
        name = _renamed(relative, endings, keep=False)
        if not _has(row, endings) and (name in names or name in owner):
            name = _renamed(relative, endings, keep=True)
        if owner.setdefault(name, path) != path:
            raise UserError(f"{row.where}: {shown(path)} and {shown(owner[name])} would both become {shown(name)}")
        tasks[path] = Task(sources.file_of(source.root, row), out / name, kind)
    return tasks


def _has(row: "Row", endings: set[str]) -> bool:
    return Path(row.path).suffix.lower() in endings


def _relative(source: sources.Source, row: "Row") -> Path:
    path = Path(row.path)
    if path.is_absolute():
        root = source.root.absolute()
        if not path.is_relative_to(root):
            raise UserError(f"{row.where}: {shown(path)} lies outside {source.root}: choose a root above all files")
        path = path.relative_to(root)
    if ".." in path.parts:
        raise UserError(f"{row.where}: {shown(path)} lies outside {source.root}: choose a root above all files")
    # A member of a tar is written into a folder.
    return path if row.offset < 0 else Path(*(part.removesuffix(".tar") for part in path.parts[:-1]), path.name)


def _renamed(path: Path, endings: set[str], *, keep: bool) -> str:
    if path.suffix.lower() in endings:
        return path.as_posix()
    ending = ".mp4" if ".mp4" in endings else ".jpg"
    return path.with_name((path.name if keep else path.stem) + ending).as_posix()


def resize_files(
    tasks: dict[str, Task], journal: Journal, *, recipe: Recipe, workers: int, limits: Limits
) -> dict[str, dict[str, Any] | Failure]:
    """Do the unfinished tasks.

    Returns:
        For each row's path the result of `resize`, or why it failed.
    """
    results: dict[str, dict[str, Any] | Failure] = {}
    open_tasks = []
    for path, task in tasks.items():
        record = journal.get(str(task.target))
        if record is not None and _is_current(record, task, recipe):
            results[path] = {**record["result"], "state": "kept"}
        else:
            open_tasks.append((path, task))
    sources.load_decoders()
    work = functools.partial(_resize_keyed, recipe=recipe)
    failed = 0
    with (
        without_leftovers(task.target.parent for task in tasks.values()),
        console.progress(len(tasks)) as bar,
        closing(run_jobs(work, open_tasks, workers=workers, limits=limits)) as outcomes,
    ):
        bar.update(len(results))
        for (path, task), result in outcomes:
            results[path] = result
            if isinstance(result, Failure):
                remove_leftovers(task.target)
                failed += 1
            else:
                journal.add(str(task.target), **_stamps(task), mark=recipe.mark, result=result)
            bar.set_postfix(failed=failed, refresh=False)
            bar.update()
    return results


def _resize_keyed(item: tuple[str, Task], *, recipe: Recipe) -> dict[str, Any]:
    return resize(item[1], recipe=recipe)


def _stamps(task: Task) -> dict[str, Any]:
    return {"source": stamp(sources.archive_of(task.source)), "target": stamp(task.target)}


def _is_current(record: dict[str, Any], task: Task, recipe: Recipe) -> bool:
    """Return whether source and result are those in the journal. Others are opened and compared."""
    try:
        return record["mark"] == recipe.mark and all(record[name] == value for name, value in _stamps(task).items())
    except OSError:
        return False


def write_lists(source: sources.Source, tasks: dict[str, Task], done: set[str], out: Path) -> list[Path]:
    """Write the lists again, with the new paths and without failed files; and `classes.txt`."""
    from mvrec.data.listing.lists import write_rows

    written = []
    for split in source.lists:
        rows = [
            row._replace(path=tasks[row.path].target.relative_to(out).as_posix(), offset=-1, size=-1)
            for row in source.rows[split]
            if row.path in done
        ]
        target = out / f"{split}.csv"
        remove_leftovers(target)
        write_rows(target, rows)
        written.append(target)
    source.copy_class_names(out)
    return written


def summary(tasks: dict[str, Task], results: dict[str, dict[str, Any] | Failure]) -> tuple[str, dict[str, Any]]:
    """Return the table as text, and the report."""
    states: Counter[str] = Counter()
    failures = []
    for path, result in results.items():
        if isinstance(result, Failure):
            states["failed"] += 1
            failures.append({"path": path, "kind": result.kind, "cause": result.cause})
        else:
            states[result["state"]] += 1
    failures.sort(key=lambda failure: failure["path"])
    counts = {name: states[name] for name in ("done", "kept", "failed")}
    text = console.table(["files", *counts], [[len(tasks), *counts.values()]])
    if failures:
        lines = [[shown(failure["path"]), failure["cause"]] for failure in failures[:_NAMED]]
        text += "\n\n" + "\n".join(f"{path}: {cause}" for path, cause in lines)
        text += f"\n... and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
    return text, {"counts": counts, "failures": failures}


def arguments() -> CommandParser:
    """Build the parser."""
    parser = console.parser("resize", __doc__ or "")
    parser.add_argument("root", type=at_home, help="a data set: a folder of files or with lists, or one list")
    parser.add_argument("out", type=at_home, help="folder of the smaller files, in the same tree")
    parser.add_argument("--list", type=at_home, action="append", default=[], help="use the files of these lists")
    parser.add_argument("--images", action="store_true", help="images instead of videos")
    parser.add_argument("--short-side", type=console.positive(int), default=256, help="pixels, even for videos")
    parser.add_argument("--gop", type=console.positive(int), help="frames per key frame (16; 12 with fastdecode)")
    parser.add_argument("--crf", type=int, default=23, help="x264's quality: lower is better and larger")
    parser.add_argument(
        "--preset", default="fast", choices=(*PRESETS, "fastdecode"), help="x264's; fastdecode decodes fastest"
    )
    parser.add_argument("--quality", type=int, default=95, help="of JPEG")
    parser.add_argument("--enlarge", action="store_true", help="enlarge smaller files, too")
    console.add_limits(parser, seconds=600.0)
    return parser


def recipe_of(options: Any) -> Recipe:
    """Return the recipe of a command line.

    Raises:
        UserError: A number is out of range.
    """
    if not options.images and options.short_side % 2:
        raise UserError(f"--short-side must be even for videos, got {options.short_side}")
    for name, least, most in (("crf", 0, 51), ("quality", 1, 100)):
        if not least <= getattr(options, name) <= most:
            raise UserError(f"--{name} must be in {least}..{most}, got {getattr(options, name)}")
    fast_decode = options.preset == "fastdecode"
    return Recipe(
        short_side=options.short_side,
        gop=options.gop or (FAST_DECODE_GOP if fast_decode else Recipe.gop),
        crf=options.crf,
        preset="fast" if fast_decode else options.preset,
        fast_decode=fast_decode,
        enlarge=options.enlarge,
        quality=options.quality,
    )


def main(words: list[str]) -> int:
    """Resize a data set; return the exit code."""
    options = arguments().parse_args(words)
    masks.refuse(options.root, job="resize", reason="which it would resize apart: training scales both itself")
    objects.refuse(options.root, job="resize", reason="which would not fit then: training scales both itself")
    reason = "in pixels, which would not fit smaller videos: give them as shares of the frame, or leave the videos"
    boxes.refuse(options.root, job="resize", reason=reason, pixels_only=True)
    recipe, kind = recipe_of(options), "image" if options.images else "video"
    source = sources.read_source(options.root, lists=options.list, only=kind)
    if options.out.resolve().is_relative_to(source.root.resolve()):
        raise UserError(
            f"{options.out} lies in {source.root}: choose a folder outside, or its files would be read again"
        )
    tasks = plan(source, options.out, kind=kind)
    if not tasks:
        raise UserError(f"{options.root}: no {kind}s in it{'' if options.images else ' (--images for images)'}")
    with Journal(options.out / "resize.jsonl", dry=options.dry_run) as journal:
        if options.dry_run:
            num_done = sum(task.target.is_file() for task in tasks.values())
            print(f"{len(tasks)} {kind}s to resize to short side {recipe.short_side}, {num_done} of them exist")
            return console.ALL_FINE
        results = resize_files(
            tasks, journal, recipe=recipe, workers=options.workers, limits=Limits(options.timeout, options.memory)
        )
        done = {path for path, result in results.items() if not isinstance(result, Failure)}
        written = write_lists(source, tasks, done, options.out)
        text, content = summary(tasks, results)
        write_json(options.out / "resize.json", {"root": str(source.root.resolve()), "recipe": vars(recipe), **content})
    print(text)
    print(f"\nreport: {options.out / 'resize.json'}", *(f"list: {shown(path)}" for path in written), sep="\n")
    return console.SOME_BAD if len(done) < len(tasks) else console.ALL_FINE
