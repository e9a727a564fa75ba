"""`mvrec recognize`: classes of files, folders, cameras and streams, and the actions of people in videos."""

import argparse
import contextlib
import csv
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, get_args

from mvrec.data.listing.file_kinds import IMAGES, VIDEOS
from mvrec.data.listing.index import Sample
from mvrec.data.video.own_decoder import check_decoder
from mvrec.data.video.stream import Stream, is_stream
from mvrec.data.video.video import BuiltInDecoder
from mvrec.data.views.presets import PRESETS
from mvrec.data.views.protocol import NAMED_MASK_PROTOCOLS, KeyFrameProtocol, MaskProtocol
from mvrec.errors import UserError
from mvrec.files import at_home, atomic_path, json_text
from mvrec.inference.actions.drawing import LEAST_SCORE
from mvrec.inference.actions.files import ActionVideos
from mvrec.inference.actions.flags import add_action_flags, check_action_flags, detector_of, knobs_of
from mvrec.inference.actions.knobs import actions_of
from mvrec.inference.actions.results import ActionPrediction
from mvrec.inference.class_maps.files import MapFiles
from mvrec.inference.inputs import as_item
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
CORNERS = ("x1", "y1", "x2", "y2")
BOX_COLUMNS = ("path", "time", *CORNERS, "label", "person", "score")  # of a list of boxes, as training reads it

log = logging.getLogger("mvrec")


def main(arguments: list[str]) -> None:
    """Print the most probable classes of videos, images, cameras or streams.

    A file, and each row of a list with its span, gets the score that `mvrec test` gives it; with --window a video is
    scored piece by piece. Streams always are, until they end or Ctrl-C. A file that cannot be read is named, the others
    are done, and the exit code is 1.

    A segmenter gives the share of each class in an image, with --overlays its colours over the image and with --masks
    the class of each pixel; videos, cameras and streams go frame by frame.

    An action detector tells what each person does, key frame by key frame: people are those of --boxes, or a detector
    finds them (--people auto). Boxes that overlap from moment to moment are one person, whose scores are averaged over
    the neighbouring key frames. --overlays writes videos with boxes, names and actions.
    """
    options = _parser().parse_args(arguments)
    _check(options)
    start_readers(options, count=options.threads)
    recogniser = load_recogniser(options.ckpt, classes=options.classes, device=options.device)
    is_of_people = isinstance(recogniser.protocol, KeyFrameProtocol)
    check_action_flags(recogniser, options)
    if options.protocol is not None:
        recogniser = recogniser.under_name(options.protocol)
    recogniser = recogniser.sliding() if options.slide else recogniser
    recogniser = knobs_of(options).applied(recogniser) if is_of_people else recogniser
    _check_maps(recogniser, options)
    if options.window is not None and not recogniser.is_video:
        raise UserError(f"--window is for videos, and {recogniser.source} is a network for images")
    streams = [source for source in options.sources if is_stream(source)]
    if streams and len(options.sources) > 1:
        raise UserError(f"a camera or stream is recognised by itself: {streams[0]} came with other sources")
    if streams and is_of_people:
        raise UserError(f"an action detector takes files: record {streams[0]} first")
    log.info("%s: %s, %s", recogniser.source, recogniser.outputs.describe(), recogniser.protocol)
    failed = []
    results: Iterator[Any]
    pictures: ActionVideos | MapFiles
    if is_of_people:
        results, pictures = _of_people(recogniser, options), _action_videos(options)
    else:
        results = _of_stream(recogniser, options) if streams else _of_files(recogniser, options)
        pictures = MapFiles(overlays=options.overlays, masks=options.masks, names=_names(options))
    ending = options.output.suffix[1:] if options.output else ""
    form = options.format or (ending if ending in FORMATS else "table")
    with _output(options.output, form, live=bool(streams)) as file, pictures, contextlib.suppress(KeyboardInterrupt):
        writer = (ACTION_WRITERS if is_of_people else WRITERS)[form](file, recogniser.outputs, options)
        for result in results:
            writer.write(result)
            file.flush()
            pictures.write(result)  # type: ignore[arg-type]  # of the same kind of network
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
        "--overlays", type=at_home, metavar="FOLDER", help="segmenters, action detectors: pictures as PNG, MP4"
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
    add_action_flags(parser)
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
    if flag is not None and not isinstance(recogniser.protocol, MaskProtocol | KeyFrameProtocol):
        raise UserError(
            f"{flag} is for segmenters and action detectors, and {recogniser.source} is for {recogniser.outputs.task}"
        )
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


def _of_people(recogniser: Recogniser, options: argparse.Namespace) -> Iterator[ActionPrediction]:
    knobs = knobs_of(options)
    if knobs.smooth:
        means = f"scores are means over a person's key frames within {knobs.smooth:g} s"
        log.info("%s; --smooth 0 leaves them as they are", means)
    return actions_of(
        recogniser,
        map(as_item, find_sources(options.sources, kind=VIDEOS)),
        boxes=options.boxes,
        people=detector_of(recogniser, options),
        actions=knobs,
        views_per_forward=options.views_per_forward or 1,
        decoder=options.decoder,
    )


def _action_videos(options: argparse.Namespace) -> ActionVideos:
    if options.overlays is None:
        return ActionVideos(None, {})
    samples: dict[str, tuple[Path, Sample]] = {}
    for name, sample in output_names(options.sources, kind=VIDEOS).items():
        if str(sample.path) in samples:
            raise UserError(f"{sample.path} has several spans, and --overlays writes one video of it: give its path")
        name = name.with_name(name.stem)
        if (options.overlays / f"{name}.mp4").resolve() == Path(str(sample.path)).resolve():
            raise UserError(f"--overlays would overwrite the source itself: {sample.path}")
        samples[str(sample.path)] = (name, sample)
    places = [name for name, _ in samples.values()]
    twice = next((name for name in places if places.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two sources would both be written as {twice}.mp4: recognize them apart")
    return ActionVideos(options.overlays, samples, least_score=_least_action(options), decoder=options.decoder)


def _least_action(options: argparse.Namespace) -> float:
    return LEAST_SCORE if options.min_action is None else options.min_action


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
        options: `top` is the number of predictions per result, where they have an order.
    """

    def __init__(self, file: IO[str], outputs: TaskOutputs, options: argparse.Namespace) -> None:
        self.file, self.outputs, self.options, self.top = file, outputs, options, options.top

    def write(self, result: Any) -> None:
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

    def __init__(self, file: IO[str], outputs: TaskOutputs, options: argparse.Namespace) -> None:
        super().__init__(file, outputs, options)
        self._rows = csv.writer(file, lineterminator="\n")
        self._rows.writerow(["path", "start_seconds", "end_seconds", *outputs.columns(self.top), "error"])

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


class PeopleTableWriter(Writer):
    """A line per key frame and person, for people."""

    def write(self, result: ActionPrediction) -> None:
        """Write source, time, person and actions."""
        if result.error:
            self.file.write(f"{result.source}  unreadable: {result.error}\n")
        least = _least_action(self.options)
        for person in result.people:
            actions = [f"{name} {100 * score:.1f} %" for name, score in person.top(self.top) if score >= least]
            text = ", ".join(actions) or f"no action of {100 * least:g} % or more"
            self.file.write(f"{result.source}  {_clock(result.seconds)}  {person.name}: {text}\n")


class PeopleCsvWriter(Writer):
    """A row per key frame, person and action, in the form of a list of boxes."""

    def __init__(self, file: IO[str], outputs: TaskOutputs, options: argparse.Namespace) -> None:
        super().__init__(file, outputs, options)
        self._rows = csv.DictWriter(file, BOX_COLUMNS, lineterminator="\n")
        self._rows.writeheader()

    def write(self, result: ActionPrediction) -> None:
        """Write boxes in pixels; a video that cannot be read has no row."""
        for row in result.as_rows(self.top):
            numbers = {"time": f"{row['time']:.3f}", "score": f"{row['score']:.6f}"}
            self._rows.writerow({**row, **{name: f"{row[name]:.2f}" for name in CORNERS}, **numbers})


class PeopleJsonWriter(Writer):
    """A JSON object per key frame and person."""

    def write(self, result: ActionPrediction) -> None:
        """Write numbers in full."""
        lines = [{"path": result.source, "error": result.error}] if result.error else result.as_dicts(self.top)
        self.file.write("".join(json_text(line) + "\n" for line in lines))


WRITERS = {"table": TableWriter, "csv": CsvWriter, "jsonl": JsonWriter}
ACTION_WRITERS = {"table": PeopleTableWriter, "csv": PeopleCsvWriter, "jsonl": PeopleJsonWriter}


def _clock(seconds: float) -> str:
    minutes, tenths = divmod(round(10 * seconds), 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{tenths / 10:04.1f}"
