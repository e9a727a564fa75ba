"""`mvrec recognize`: what is to be seen in files, folders, cameras and streams."""

import argparse
import contextlib
import csv
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, get_args

from mvrec.data.listing.file_kinds import IMAGES, VIDEOS
from mvrec.data.video.own_decoder import check_decoder
from mvrec.data.video.stream import Stream, is_stream
from mvrec.data.video.video import BuiltInDecoder
from mvrec.data.views.presets import PRESETS
from mvrec.data.views.protocol import NAMED_MASK_PROTOCOLS, MaskProtocol
from mvrec.errors import UserError
from mvrec.files import at_home, atomic_path, json_text
from mvrec.inference.class_maps.files import MapFiles
from mvrec.inference.reading import add_limits, start_readers
from mvrec.inference.recogniser import Recogniser, load_recogniser
from mvrec.inference.recognising import recognise_files, recognise_stream
from mvrec.inference.results import Prediction
from mvrec.inference.sources import find_sources, output_names
from mvrec.messages import CommandParser
from mvrec.ranges import POSITIVE, check_range
from mvrec.tasks.outputs import TaskOutputs

SOME_FAILED = 1  # exit code
EACH_FRAME = 1e-3  # seconds from window to window, less than from frame to frame
LONG_SECONDS = 60.0  # above it a hint says that there are windows
FORMATS = ("table", "csv", "jsonl")

log = logging.getLogger("mvrec")


def main(arguments: list[str]) -> None:
    """Print the most probable classes of videos, images, cameras or streams.

    A file, and each row of a list with its span, gets the score that `mvrec test` gives it; with --window a video is
    scored piece by piece. Streams always are, until they end or Ctrl-C. A file that cannot be read is named, the others
    are done, and the exit code is 1.

    A segmenter gives the share of each class in an image, with --overlays its colours over the image and with --masks
    the class of each pixel; videos, cameras and streams go frame by frame.
    """
    options = _parser().parse_args(arguments)
    _check(options)
    start_readers(options, count=options.threads)
    recogniser = load_recogniser(options.ckpt, classes=options.classes, device=options.device)
    if options.protocol is not None:
        recogniser = recogniser.under_name(options.protocol)
    recogniser = recogniser.sliding() if options.slide else recogniser
    _check_maps(recogniser, options)
    if options.window is not None and not recogniser.is_video:
        raise UserError(f"--window is for videos, and {recogniser.source} is a network for images")
    streams = [source for source in options.sources if is_stream(source)]
    if streams and len(options.sources) > 1:
        raise UserError(f"a camera or stream is recognised by itself: {streams[0]} came with other sources")
    log.info("%s: %s, %s", recogniser.source, recogniser.outputs.describe(), recogniser.protocol)
    failed = []
    results = _of_stream(recogniser, options) if streams else _of_files(recogniser, options)
    ending = options.output.suffix[1:] if options.output else ""
    form = options.format or (ending if ending in FORMATS else "table")
    maps = MapFiles(overlays=options.overlays, masks=options.masks, names=_names(options))
    with _output(options.output, form, live=bool(streams)) as file, maps, contextlib.suppress(KeyboardInterrupt):
        writer = WRITERS[form](file, recogniser.outputs, options.top)
        for result in results:
            writer.write(result)
            file.flush()
            maps.write(result)
            if result.error:
                failed.append(result)
    for result in failed:
        log.warning("unreadable: %s: %s", result.source, result.error)
    if failed:
        sys.exit(SOME_FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="mvrec recognize", description=main.__doc__)
    parser.add_argument(
        *("sources",),
        nargs="+",
        metavar="SOURCE",
        help="files, folders, lists (.txt, .csv), patterns; or a camera's number, or a stream's address",
    )
    parser.add_argument("--ckpt", required=True, metavar="PATH", help="a checkpoint, a run directory or weights")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes per result (default: %(default)s)")
    parser.add_argument("--window", type=float, metavar="S", help="cut videos into pieces of this many seconds")
    parser.add_argument("--stride", type=float, metavar="S", help="seconds from piece to piece (default: --window)")
    parser.add_argument("--format", choices=FORMATS, help="default: as --output ends (.csv, .jsonl), else table")
    parser.add_argument("-o", "--output", type=at_home, metavar="FILE", help="write there (default: print)")
    protocols = ", ".join([*PRESETS, *NAMED_MASK_PROTOCOLS])
    parser.add_argument("--protocol", metavar="NAME", help=f"in place of the checkpoint's: {protocols}")
    parser.add_argument(
        "--overlays", type=at_home, metavar="FOLDER", help="segmenters: colours over images, as PNG, MP4"
    )
    parser.add_argument(
        "--masks", type=at_home, metavar="FOLDER", help="segmenters: class numbers, as PNG with palette"
    )
    parser.add_argument(
        "--slide", action="store_true", help="segmenters: window by window in the image's own size, for large images"
    )
    parser.add_argument("--views_per_forward", type=int, metavar="N", help="views at a time (default: all of a video)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="files decoded at a time (default: 2)")
    decoders = f"{', '.join(get_args(BuiltInDecoder))}, or the class path of your own (default: %(default)s)"
    parser.add_argument("--decoder", default="auto", metavar="NAME", help=decoders)
    parser.add_argument("--classes", metavar="LIST", help="names of the classes, where the checkpoint has none")
    parser.add_argument("--device", default="auto", help="default: the first GPU where there is one, else the CPU")
    add_limits(parser)
    return parser


def _check(options: argparse.Namespace) -> None:
    for name in ("top", "views_per_forward", "threads"):
        check_range(f"--{name}", getattr(options, name))
    for name in ("window", "stride"):
        check_range(f"--{name}", getattr(options, name), POSITIVE)
    check_decoder(options.decoder, key="--decoder")
    streams = any(is_stream(source) for source in options.sources)
    if options.stride is not None and options.window is None and not streams:
        raise UserError("--stride is the distance between windows: add --window")


def _check_maps(recogniser: Recogniser, options: argparse.Namespace) -> None:
    """Refuse files of class maps from a network without, before the first result."""
    flag = "--overlays" if options.overlays else "--masks" if options.masks else None
    if flag is not None and not isinstance(recogniser.protocol, MaskProtocol):
        raise UserError(f"{flag} is for segmenters, and {recogniser.source} is for {recogniser.outputs.task}")
    if options.overlays is not None and options.overlays == options.masks:
        raise UserError(
            f"--overlays and --masks are the same folder, and their files have the same names: {options.masks}"
        )


def _names(options: argparse.Namespace) -> dict[str, Path]:
    """Return the name of each source among overlays and masks: its own, without ending, in its place in a folder.

    Raises:
        UserError: Two sources would have the same name.
    """
    if options.overlays is None and options.masks is None:
        return {}
    if is_stream(options.sources[0]):
        return {options.sources[0]: Path("camera" if options.sources[0].isdecimal() else "stream")}
    names: dict[str, Path] = {}
    owners: dict[Path, str] = {}
    for path, sample in output_names(options.sources, kind=IMAGES).items():
        source = str(sample.path)
        name = path.with_name(Path(source).stem)
        if name in owners:
            raise UserError(f"{owners[name]} and {source} would both be written as {name}: recognize them apart")
        owners[name], names[source] = source, name
    return names


def _of_files(recogniser: Recogniser, options: argparse.Namespace) -> Iterator[Prediction]:
    files = find_sources(options.sources, kind=VIDEOS if recogniser.is_video else IMAGES)
    results = recognise_files(
        recogniser,
        files,
        window_seconds=options.window,
        stride_seconds=options.stride,
        views_per_forward=options.views_per_forward,
        decoder=options.decoder,
        num_threads=options.threads,
    )
    for result in results:
        yield result
        lasts = (result.end_seconds or 0) - (result.start_seconds or 0)
        if options.window is None and not result.error and lasts > LONG_SECONDS:
            log.info("%s lasts %.0f s: --window 10 recognises it piece by piece", result.source, lasts)


def _of_stream(recogniser: Recogniser, options: argparse.Namespace) -> Iterator[Prediction]:
    window = options.window or (EACH_FRAME if isinstance(recogniser.protocol, MaskProtocol) else None)
    window = window or _clip_seconds(recogniser.protocol)
    with Stream(options.sources[0]) as stream:
        yield from recognise_stream(
            recogniser,
            stream,
            window_seconds=window,
            stride_seconds=options.stride or window,
            views_per_forward=options.views_per_forward,
        )


def _clip_seconds(protocol: Any) -> float:
    """Return the length of a clip, the default for a window of a stream."""
    if not protocol.is_video:
        return 1.0
    clip = protocol.clip
    if clip.sampling == "segments":
        raise UserError("this network looks at segments of a whole action: say with --window how long one may take")
    return clip.num_frames * clip.stride_frames / (clip.target_fps or 30.0)


@contextlib.contextmanager
def _output(path: Path | None, form: str, *, live: bool) -> Iterator[IO[str]]:
    """Open the output: a file appears once it is complete, except for a stream, which has no end."""
    if path is None:
        yield sys.stdout
        return
    encoding = "utf-8-sig" if form == "csv" else "utf-8"  # with a byte order mark for spreadsheets
    options: dict[str, Any] = {"newline": "", "encoding": encoding, "errors": "surrogateescape"}  # as file names are
    if live:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", **options) as file:
            yield file
    else:
        with atomic_path(path) as temporary, temporary.open("w", **options) as file:
            yield file


class Writer:
    """Writes results as they come.

    Args:
        file: Where to.
        outputs: Of the task.
        top: Predictions per result, where they have an order.
    """

    def __init__(self, file: IO[str], outputs: TaskOutputs, top: int) -> None:
        self.file, self.outputs, self.top = file, outputs, top

    def write(self, result: Prediction) -> None:
        """Write one result."""
        raise NotImplementedError


class TableWriter(Writer):
    """A line per result, for people."""

    def write(self, result: Prediction) -> None:
        """Write source, time span and prediction."""
        span = ""
        if result.start_seconds is not None or result.end_seconds is not None:
            end = "end" if result.end_seconds is None else _clock(result.end_seconds)
            span = f"  {_clock(result.start_seconds or 0)}-{end}"
        text = f"unreadable: {result.error}" if result.output is None else result.output.text(self.top)
        self.file.write(f"{result.source}{span}  {text}\n")


class CsvWriter(Writer):
    """A row per result, with the columns of `predictions.csv`."""

    def __init__(self, file: IO[str], outputs: TaskOutputs, top: int) -> None:
        super().__init__(file, outputs, top)
        self._rows = csv.writer(file, lineterminator="\n")
        self._rows.writerow(["path", "start_seconds", "end_seconds", *outputs.columns(top), "error"])

    def write(self, result: Prediction) -> None:
        """Write times in seconds, empty if there are none."""
        span = ["" if value is None else f"{value:.3f}" for value in (result.start_seconds, result.end_seconds)]
        cells = [""] * len(self.outputs.columns(self.top)) if result.output is None else result.output.cells(self.top)
        self._rows.writerow([result.source, *span, *cells, result.error])


class JsonWriter(Writer):
    """A JSON object per line."""

    def write(self, result: Prediction) -> None:
        """Write numbers in full."""
        line = result.as_dict(self.top)
        if result.error:
            line = {**self.outputs.no_fields(), **line}
        self.file.write(json_text(line) + "\n")


WRITERS = {"table": TableWriter, "csv": CsvWriter, "jsonl": JsonWriter}


def _clock(seconds: float) -> str:
    minutes, tenths = divmod(round(10 * seconds), 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{tenths / 10:04.1f}"
