"""`mvrec data audit`: faults of a data set, before they cost a training."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvrec.errors import UserError
from mvrec.files import at_home, json_text, write_atomically
from mvrec.looking.show import config_of
from mvrec.messages import CommandParser, counted
from mvrec.ranges import COUNT, check_range

if TYPE_CHECKING:
    from mvrec.data.listing.index import SampleIndex
    from mvrec.looking.audit.findings import File, Settings
    from mvrec.looking.audit.labels import Doubt

SPLITS = ("train", "val", "test")


def main(arguments: list[str]) -> None:
    """Look for faults in all files of a data set: unreadable and odd ones, copies across splits, flips of directions.

    Copies are found after re-encoding, scaling, and cutting off borders evenly. With --run a trained network names
    labels that it doubts. Each finding says what to do; the page shows the files.
    """
    parser = CommandParser(prog="mvrec data audit", description=main.__doc__, allow_abbrev=False)
    parser.add_argument("source", type=at_home, metavar="CONFIG|RUN|FOLDER", help="a configuration, run, or data set")
    parser.add_argument("--run", type=at_home, metavar="RUN", help="a trained run, which judges the labels")
    text = "the page (default: audit.html)"
    parser.add_argument("--out", type=at_home, default=Path("audit.html"), metavar="FILE", help=text)
    parser.add_argument("--json", action="store_true", help="print the findings for programs, and write no page")
    parser.add_argument("--strict", action="store_true", help="end with status 1 if anything was found")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes that read (default: one per core)")
    options, flags = parser.parse_known_args(arguments)
    check_range("--jobs", options.jobs, COUNT)
    if options.out.is_dir():
        raise UserError(f"--out={options.out} is a folder: name the HTML file in it")
    if flags and not flags[0].startswith("--data."):
        raise UserError(f"unexpected {flags[0]!r}: mvrec data audit takes one source and --data. flags")
    if options.run is not None and not options.run.is_dir():
        raise UserError(f"--run={options.run}: there is no such run directory")
    has_findings = _audit(options, flags)
    if options.strict and has_findings:
        raise SystemExit(1)


def _audit(options: Any, flags: Sequence[str]) -> bool:
    """Read everything, write the page or print JSON; returns whether anything was found."""
    from mvrec.looking.audit.copies import copies
    from mvrec.looking.audit.findings import as_json, findings, leaks
    from mvrec.looking.audit.page import audit_page
    from mvrec.looking.audit.reading import see
    from mvrec.processes import Limits

    data = data_of(options.source, flags)
    indices = indices_of(data)
    is_video = hasattr(data, "clip")
    files = [file for split, index in indices.items() for file in _rows(split, index)]
    paths = [sample.path for index in indices.values() for sample in index]
    unique = list(dict.fromkeys(paths))
    limits = Limits(data.decode_timeout, data.decode_memory)
    by_path = dict(zip(unique, see(unique, is_video=is_video, limits=limits, jobs=options.jobs), strict=True))
    reads = [by_path[path] for path in paths]
    first = {path: number for number, path in reversed(list(enumerate(paths)))}
    rows = [first[path] for path in unique]
    pairs = [
        copy._replace(first=rows[copy.first], second=rows[copy.second])
        for copy in copies([by_path[path].look for path in unique], [by_path[path].digest for path in unique])
    ]
    names = list(next(iter(indices.values())).class_names)
    doubted = _doubted(options.run, indices, names) if options.run is not None else []
    every = findings(files, reads, pairs, class_names=names, settings=settings_of(data), doubted=doubted)
    every += leaks(files, _groups(data, files))
    if options.json:
        print(json_text(as_json(files, every), indent=2))  # noqa: T201
        return bool(every)
    for finding in every:
        print(f"{finding.kind}: {finding.text}")  # noqa: T201
        for group, remark in list(zip(finding.files, finding.remarks, strict=True))[:3]:
            print(f"  {' = '.join(files[number].path for number in group)}{f' ({remark})' if remark else ''}")  # noqa: T201
        if len(finding.files) > 3:
            print(f"  and {len(finding.files) - 3} more on the page")  # noqa: T201
    try:
        write_atomically(options.out, audit_page(options.source.name, files, reads, every))
    except OSError as error:
        raise UserError(f"{options.out} cannot be written: {error.strerror or error} (--out FILE)") from None
    print(f"{options.out}: {counted(len(every), 'findings')} in {counted(len(files), 'files')}")  # noqa: T201
    return bool(every)


def data_of(source: Path, flags: Sequence[str] = ()) -> Any:
    """Return the data module of a configuration, a run or a data set.

    Raises:
        UserError: The source is missing, or its data are of a task that an audit does not know.
    """
    from mvrec.cli.lightning import instantiate
    from mvrec.data.sets.image_data import ImageData
    from mvrec.data.sets.video_data import VideoData

    is_data = source.is_dir() and not (source / "config.yaml").is_file()
    places = ["--data.root", str(source)] if is_data else ["--config", str(config_of(source))]
    data = instantiate(["fit", *places, *flags]).datamodule
    if not isinstance(data, VideoData | ImageData):
        raise UserError(f"{source}: an audit reads videos and images with classes, not {type(data).__name__}")
    data.prepare_data()
    data.setup("fit")
    if data.layout.has("test"):
        data.setup("test")
    return data


def indices_of(data: Any) -> "dict[str, SampleIndex]":
    """Return the rows of each split that the data have."""
    return {split: data.index(split) for split in SPLITS if data.layout.has(split)}


def _groups(data: Any, files: "Sequence[File]") -> list[str]:
    """Return the group of each row by `data.group`, or as it is guessed for data without that key."""
    from mvrec.data.listing.groups.rules import AUTO
    from mvrec.data.listing.groups.splits import grouping_of

    rows = [row for split in SPLITS if data.layout.has(split) for row in data.layout.rows(split)]
    grouping = grouping_of(rows, vars(data).get("group", AUTO))
    group_of = {str(data.root / row.path): group for row, group in zip(rows, grouping.of, strict=True)}
    return [group_of.get(file.path, file.path) for file in files]


def settings_of(data: Any) -> "Settings":
    """Return what the data module will do with its files."""
    from mvrec.looking.audit.findings import Settings

    clip = getattr(data, "clip", None)
    seconds = None
    if clip is not None and clip.sampling == "dense" and clip.target_fps:
        seconds = clip.num_frames * clip.stride_frames / clip.target_fps
    side = data.size if isinstance(data.size, int) else min(data.size)
    return Settings(data.augment.flip_probability, side, seconds)


def _rows(split: str, index: "SampleIndex") -> "list[File]":
    from mvrec.looking.audit.findings import File

    files = []
    for sample in index:
        numbers = sample.label if isinstance(sample.label, tuple) else (sample.label,)
        labels = tuple(index.class_names[number] for number in numbers) if index.class_names else ()
        files.append(File(split, str(sample.path), labels, (sample.start_seconds, sample.end_seconds)))
    return files


def _doubted(run: Path, indices: "dict[str, SampleIndex]", names: Sequence[str]) -> "list[Doubt]":
    """Return the labels that a run's network doubts.

    Raises:
        UserError: The run has no checkpoint or other classes, or files have several labels.
    """
    import numpy as np

    from mvrec.errors import DecodeError
    from mvrec.inference.recogniser import load_recogniser
    from mvrec.looking.audit.labels import doubts
    from mvrec.report.reading import read_run

    samples = [sample for index in indices.values() for sample in index]
    if not names or any(isinstance(sample.label, tuple) for sample in samples):
        raise UserError("--run judges files of one class each, and these have several or none: leave --run out")
    checkpoint = read_run(run).results.checkpoint
    if checkpoint is None:
        raise UserError(f"--run={run}: this run has no checkpoint")
    recogniser = load_recogniser(checkpoint, where="--run")
    if list(recogniser.class_names) != list(names):
        raise UserError(f"--run={run}: its {len(recogniser.class_names)} classes are not the {len(names)} of the data")
    probabilities = np.full((len(samples), len(names)), np.nan)
    for number, sample in enumerate(samples):
        try:
            views = recogniser.views(sample.path, start_seconds=sample.start_seconds, end_seconds=sample.end_seconds)
        except DecodeError:
            continue
        probabilities[number] = recogniser.probabilities(views).mean(0).numpy()
    return doubts(probabilities, np.array([sample.label for sample in samples]))
