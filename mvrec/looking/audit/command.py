"""`mvrec data audit`: faults of a data set, before they cost a training."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvrec.errors import UserError
from mvrec.files import at_home, check_target, json_text, write_atomically
from mvrec.looking.show import source_flags
from mvrec.messages import CommandParser, counted
from mvrec.ranges import COUNT, check_range

if TYPE_CHECKING:
    from mvrec.data.listing.index import SampleIndex
    from mvrec.looking.audit.findings import File, Finding, Settings
    from mvrec.looking.audit.labels import Doubt
    from mvrec.looking.audit.reading import Seen

SPLITS = ("train", "val", "test")
INTERRUPT_EXIT = 130  # 128 + SIGINT, as shells have it

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> None:
    """Look for faults in all files of a data set: unreadable and odd ones, copies across splits, flips of directions.

    Copies are found after re-encoding, scaling, mirroring, cutting off borders, and cutting in time. With --run a
    trained network names labels that it doubts. Each finding says what to do; the page shows the files. Files that an
    earlier audit has read are not read again unless they change.
    """
    parser = CommandParser(prog="mvrec data audit", description=main.__doc__, allow_abbrev=False)
    parser.add_argument("source", type=at_home, metavar="CONFIG|RUN|FOLDER", help="a configuration, run, or data set")
    parser.add_argument("--run", type=at_home, metavar="RUN", help="a trained run, which judges the labels")
    text = "the page (default: audit.html)"
    parser.add_argument("--out", type=at_home, default=Path("audit.html"), metavar="FILE", help=text)
    parser.add_argument("--json", action="store_true", help="print the findings for programs, and write no page")
    parser.add_argument("--strict", action="store_true", help="end with status 1 if anything was found")
    parser.add_argument("--fresh", action="store_true", help="read all files again")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes that read (default: one per core)")
    options, flags = parser.parse_known_args(arguments)
    check_range("--jobs", options.jobs, COUNT)
    if not options.json:
        check_target(options.out, flag="--out")
    if flags and not flags[0].startswith("--data."):
        raise UserError(f"unexpected {flags[0]!r}: mvrec data audit takes one source and --data. flags")
    if options.run is not None and not options.run.is_dir():
        raise UserError(f"--run={options.run}: there is no such run directory")
    try:
        has_findings = _audit(options, flags)
    except KeyboardInterrupt:
        log.warning("interrupted: the next audit goes on with the files that were not read")
        raise SystemExit(INTERRUPT_EXIT) from None
    if options.strict and has_findings:
        raise SystemExit(1)


def _audit(options: Any, flags: Sequence[str]) -> bool:
    """Read everything, write the page or print JSON; returns whether anything was found."""
    from mvrec.looking.audit.findings import as_json
    from mvrec.looking.audit.page import audit_page

    data = data_of(options.source, flags)
    indices = indices_of(data)
    files = [file for split, index in indices.items() for file in _rows(split, index, list(data.class_names))]
    reads = _read(data, indices, options)
    every = _findings(data, indices, files, reads, options)
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


def _read(data: Any, indices: "dict[str, SampleIndex]", options: Any) -> "list[Seen]":
    """Return what the file of each row shows; each file is read once, or was read by an earlier audit."""
    from mvrec.looking.audit.cache import LookCache, cache_of
    from mvrec.looking.audit.reading import see
    from mvrec.processes import Limits

    paths = [sample.path for index in indices.values() for sample in index]
    unique = list(dict.fromkeys(paths))
    limits = Limits(data.decode_timeout, data.decode_memory)
    cache = LookCache(cache_of(data.root), clear=options.fresh)
    try:
        looks = see(unique, is_video=hasattr(data, "clip"), limits=limits, jobs=options.jobs, cache=cache)
    finally:
        cache.close()
    by_path = dict(zip(unique, looks, strict=True))
    return [by_path[path] for path in paths]


def _findings(
    data: Any, indices: "dict[str, SampleIndex]", files: "list[File]", reads: "list[Seen]", options: Any
) -> "list[Finding]":
    """Return all faults of a data set."""
    import numpy as np

    from mvrec.data.views.targets import ActionBoxes, Values
    from mvrec.looking.audit.copies import WHOLE, copies
    from mvrec.looking.audit.findings import far_values, findings, leaks
    from mvrec.looking.audit.left_out import cropped_boxes, left_out

    rows = list({file.path: number for number, file in reversed(list(enumerate(files)))}.values())[::-1]
    group_of = [file.path for file in files] if issubclass(data.target_type, ActionBoxes) else _groups(data, files)
    pairs = [
        copy._replace(first=rows[copy.first], second=rows[copy.second])
        for copy in copies([reads[row].look for row in rows], [reads[row].digest for row in rows])
    ]
    # Clips of one recording look like parts and pieces of each other; `leaks` names those in several splits.
    pairs = [copy for copy in pairs if copy.kind in WHOLE or group_of[copy.first] != group_of[copy.second]]
    names = list(data.class_names) if any(file.labels for file in files) else []
    settings = settings_of(data)
    doubted = _doubted(data, indices, reads, options) if options.run is not None else []
    every = findings(files, reads, pairs, class_names=names, settings=settings, doubted=doubted)
    if issubclass(data.target_type, Values):
        every += far_values(data.value_names, np.array([target.values for target in _targets(indices)]))
    if has_places(data):
        every += cropped_boxes(data, files, reads)
    else:
        every += left_out(files, reads, settings, data.val_protocol, data.augment)
    return [*every, *leaks(files, group_of)]


def _targets(indices: "dict[str, SampleIndex]") -> list[Any]:
    return [index.target(number) for index in indices.values() for number in range(len(index))]


def data_of(source: Path, flags: Sequence[str] = ()) -> Any:
    """Return the data module of a configuration, a run or a data set.

    Raises:
        UserError: The source is missing, or its data are of a task that an audit does not know.
    """
    from mvrec.cli.lightning import instantiate
    from mvrec.data.sets.image_data import ImageFiles
    from mvrec.data.sets.video_data import VideoData

    data = instantiate(["fit", *source_flags(source), *flags], tells_plan=False).datamodule
    if not isinstance(data, VideoData | ImageFiles):
        raise UserError(f"{source}: an audit reads videos and images, not {type(data).__name__}")
    data.prepare_data()
    data.setup("fit")
    if data.layout.has("test"):
        data.setup("test")
    return data


def has_places(data: Any) -> bool:
    """Return whether the targets of a data module are places in the picture: masks, objects or boxes with actions."""
    from mvrec.data.views.objects import Objects
    from mvrec.data.views.targets import ActionBoxes, MaskMap

    return issubclass(data.target_type, ActionBoxes | MaskMap | Objects)


def indices_of(data: Any) -> "dict[str, SampleIndex]":
    """Return the rows of each split that the data have."""
    return {split: data.index(split) for split in SPLITS if data.layout.has(split)}


def _groups(data: Any, files: "Sequence[File]") -> list[str]:
    """Return the group of each row by `data.group`, or as it is guessed for data without that key; tell of a guess.

    Folders of splits are no part of a guess, so that a recording in two of them is one group.
    """
    from mvrec.data.listing.file_kinds import SPLIT_FOLDERS
    from mvrec.data.listing.groups.rules import AUTO
    from mvrec.data.listing.groups.splits import groups_of_files

    rows = (row for split in SPLITS if data.layout.has(split) for row in data.layout.rows(split))
    rule = vars(data).get("group", AUTO)
    group_of, note = groups_of_files(rows, data.root, rule)
    if note:
        log.info("%s", note)
    split_folders = {name for names in SPLIT_FOLDERS.values() for name in names}
    for path, group in group_of.items():
        first, _, rest = group.partition("/")
        if rule == AUTO and first in split_folders and rest and path != str(data.root / group):
            group_of[path] = rest
    return [group_of.get(file.path, file.path) for file in files]


def settings_of(data: Any) -> "Settings":
    """Return what the data module will do with its files."""
    from mvrec.looking.audit.findings import Settings

    side = data.size if isinstance(data.size, int) else min(data.size)
    return Settings(data.augment.flip_probability, side, None if has_places(data) else getattr(data, "clip", None))


def _rows(split: str, index: "SampleIndex", names: Sequence[str]) -> "list[File]":
    """Return the rows of a split with the names of their classes; of masks, which are in files, without names."""
    from mvrec.looking.audit.findings import File

    files = []
    for number, sample in enumerate(index):
        labels = () if index.target_type.in_file else _classes_in(index.target(number))
        span = sample.start_seconds, sample.end_seconds
        files.append(File(split, str(sample.path), tuple(names[label] for label in labels), span))
    return files


def _classes_in(target: Any) -> tuple[int, ...]:
    """Return the numbers of all classes in a target, each once."""
    import numpy as np

    from mvrec.data.views.objects import Objects
    from mvrec.data.views.targets import ActionBoxes, classes_of

    if isinstance(target, Objects):
        return tuple(np.unique(target.annotations.labels).tolist())
    if isinstance(target, ActionBoxes):
        return tuple(np.flatnonzero(target.true_actions.any(0)).tolist())
    return classes_of(target)


def _doubted(data: Any, indices: "dict[str, SampleIndex]", reads: "Sequence[Seen]", options: Any) -> "list[Doubt]":
    """Return the labels that a run's network doubts.

    Raises:
        UserError: The run has no checkpoint or other classes, or files have several labels or none.
    """
    import numpy as np

    from mvrec.data.views.targets import ClassIndex
    from mvrec.inference.recogniser import load_recogniser
    from mvrec.looking.audit.labels import doubts
    from mvrec.looking.audit.scoring import scored
    from mvrec.report.reading import read_run

    run, names = options.run, data.class_names
    if not issubclass(data.target_type, ClassIndex):
        raise UserError("--run judges files of one class each, and these have several or none: leave --run out")
    checkpoint = read_run(run).results.checkpoint
    if checkpoint is None:
        raise UserError(f"--run={run}: this run has no checkpoint")
    recogniser = load_recogniser(checkpoint, where="--run")
    if list(recogniser.class_names) != list(names):
        raise UserError(f"--run={run}: its {len(recogniser.class_names)} classes are not the {len(names)} of the data")
    parts, begin = [], 0
    for index in indices.values():
        readable = [row for row in range(len(index)) if reads[begin + row].look is not None]
        parts.append(scored(data, index, recogniser, rows=readable, jobs=options.jobs))
        begin += len(index)
    return doubts(np.concatenate(parts), np.concatenate([index.labels for index in indices.values()]))
