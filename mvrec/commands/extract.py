"""`mvrec extract`: features of videos or images as files, with the time of every clip."""

import argparse
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from mvrec.data.listing.file_kinds import IMAGES, VIDEOS
from mvrec.data.listing.index import Sample
from mvrec.errors import DecodeError, UserError
from mvrec.export.feature_table import check_table, parts_of, read_table, write_table
from mvrec.files import at_home, json_text, sha256, write_atomically
from mvrec.inference.features import FORMATS, POOLS, Format, Selection, extract, is_complete, settings_of
from mvrec.inference.reading import add_limits, start_readers
from mvrec.inference.recogniser import Recogniser, load_recogniser
from mvrec.inference.sources import columns_of, output_names
from mvrec.messages import CommandParser
from mvrec.ranges import check_range

RECORD = "extract.json"
SOME_FAILED = 1  # exit code

Outcome = Literal["written", "complete", "unreadable"]


def main(arguments: list[str]) -> None:
    """Write features of videos or images: the vector before the head, or a stage's maps, pooled or not.

    --table FILE gets a row per clip: path, span, label if it is known, other columns of lists, vector.

    OUT gets one file per source, under its name and its place in the folder that was given; one per row of a list, with
    its span in the name, as in a.mp4_5-7.5.npy. A second run goes on where the first one stopped. A file that cannot be
    read is named, the others are done, and the exit code is 1.
    """
    options = _parser().parse_args(arguments)
    selection = Selection(options.stage, options.pool, options.window, options.stride)
    shard, num_shards = _shard(options.shard)
    check_range("--batch_size", options.batch_size)
    _check_outputs(options)
    with parts_of(options.table) if options.output is None else nullcontext(options.output) as folder:
        failed = _extract(options, folder, selection, shard, num_shards)
    if failed:
        sys.exit(SOME_FAILED)


def _check_outputs(options: argparse.Namespace) -> None:
    if options.table is None:
        if options.output is None:
            raise UserError("where to? -o FOLDER for a file each, --table FILE for one table, or both")
        return
    check_table(options.table)
    if options.shard != "1/1":
        raise UserError("--table joins all parts: run the shards with -o, then once more with --table and no --shard")
    if options.pool != "all" or options.format != "npy":
        raise UserError("--table has one vector per row: leave out --pool and --format")


def _extract(options: argparse.Namespace, folder: Path, selection: Selection, shard: int, num_shards: int) -> int:
    """Write the features of all files, and the table if there is one; return how many could not be read."""
    start_readers(options)
    recogniser = load_recogniser(options.ckpt, classes=options.classes, device=options.device)
    selection.check(recogniser)
    files = output_names(options.sources, kind=VIDEOS if recogniser.is_video else IMAGES)
    settings = settings_of(recogniser, selection, options.format, sha256=sha256(recogniser.source))
    _keep_record(folder / RECORD, settings, overwrite=options.overwrite)
    outcomes: list[Outcome] = []
    for name in tqdm(sorted(files)[shard - 1 :: num_shards], disable=None, unit="file"):
        sample = files[name]
        outcomes.append(
            _one(recogniser, sample, folder / name, selection, options.format, settings, options.batch_size)
        )
    counts = {outcome: outcomes.count(outcome) for outcome in ("written", "complete", "unreadable")}
    part = "" if num_shards == 1 else f" (shard {shard} of {num_shards})"
    print(  # noqa: T201
        f"{options.output or options.table}{part}: {counts['written']} written, {counts['complete']} were there, "
        f"{counts['unreadable']} could not be read"
    )
    if options.table is not None:
        columns = columns_of(options.sources, list(files.values()))
        stems = [(folder / name, sample) for name, sample in files.items()]
        table = read_table(stems, columns, with_spans=recogniser.is_video)
        write_table(options.table, table)
        rows, width = table.vectors.shape
        print(f"{options.table}: {rows} rows of {', '.join(table.columns)} and a vector of {width}")  # noqa: T201
    return counts["unreadable"]


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="mvrec extract", description=main.__doc__)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="files, folders, lists (.txt, .csv) or patterns")
    parser.add_argument("--ckpt", required=True, metavar="PATH", help="a checkpoint, a run directory or weights")
    parser.add_argument("-o", "--output", type=at_home, metavar="OUT", help="the folder to write to, a file per source")
    parser.add_argument(
        "--table", type=at_home, metavar="FILE", help="one table of all vectors: .parquet, .npz or .csv; -o is optional"
    )
    parser.add_argument("--stage", type=int, metavar="N", help="a feature map, 0 for the finest (default: the vector)")
    parser.add_argument("--pool", choices=POOLS, default="all", help="what maps are averaged over (default: all)")
    parser.add_argument("--window", type=float, metavar="S", help="seconds of a window (default: the protocol's clips)")
    parser.add_argument("--stride", type=float, metavar="S", help="seconds from window to window (default: --window)")
    parser.add_argument("--format", choices=FORMATS, default="npy", help="default: %(default)s")
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="do the I-th of N parts; together they do all")
    parser.add_argument("--batch_size", type=int, default=8, metavar="N", help="views at a time (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace what was written with other settings")
    parser.add_argument("--classes", metavar="LIST", help="names of the classes, where the checkpoint has none")
    parser.add_argument("--device", default="auto", help="default: the first GPU where there is one, else the CPU")
    add_limits(parser)
    return parser


def _shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return int(number), int(count)
    raise UserError(f"--shard must be I/N with I in 1..N, such as 2/8, got {text!r}")


def _keep_record(path: Path, settings: dict[str, Any], *, overwrite: bool) -> None:
    """Note the settings in the output folder.

    Raises:
        UserError: Others are noted there, or the folder cannot be written.
    """
    try:
        if path.is_file() and not overwrite:
            noted = json.loads(path.read_text(encoding="utf-8"))
            if noted != settings:
                keys = [key for key in settings if noted.get(key) != settings[key]] or list(settings)
                different = ", ".join(f"{key} {_short(noted.get(key))} and not {_short(settings[key])}" for key in keys)
                raise UserError(
                    f"{path.parent} holds features with {different}: choose another folder, or --overwrite them"
                )
            return
        write_atomically(path, json_text(settings, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    except json.JSONDecodeError:
        raise UserError(f"{path} was not written by mvrec: choose another folder, or add --overwrite") from None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:12]}..."


def _one(
    recogniser: Recogniser,
    sample: Sample,
    stem: Path,
    selection: Selection,
    form: Format,
    settings: dict[str, Any],
    batch_size: int,
) -> Outcome:
    try:
        if is_complete(stem, sample, settings, form):
            return "complete"
        extract(
            recogniser, sample, stem, selection=selection, form=form, settings=settings, views_per_forward=batch_size
        )
    except DecodeError as error:
        print(f"mvrec: unreadable: {error}", file=sys.stderr)  # noqa: T201
        return "unreadable"
    return "written"
