"""`mvrec recognize`: classes of files, folders, cameras and streams, and the actions of people in videos."""

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, get_args

from mvrec.commands.writers import ACTION_WRITERS, OBJECT_WRITERS, WRITERS, Writer, least_action
from mvrec.data.listing.file_kinds import IMAGES, VIDEOS
from mvrec.data.listing.index import Sample
from mvrec.data.video.own_decoder import check_decoder
from mvrec.data.video.stream import Stream, is_stream
from mvrec.data.video.video import BuiltInDecoder
from mvrec.data.views.presets import PRESETS
from mvrec.data.views.protocol import (
    NAMED_DETECTION_PROTOCOLS,
    NAMED_MASK_PROTOCOLS,
    DetectionProtocol,
    KeyFrameProtocol,
)
from mvrec.errors import UserError
from mvrec.files import at_home, atomic_path, write_atomically
from mvrec.inference.actions.files import ActionVideos
from mvrec.inference.actions.flags import add_action_flags, check_action_flags, detector_of, knobs_of
from mvrec.inference.actions.knobs import actions_of
from mvrec.inference.actions.results import ActionPrediction
from mvrec.inference.class_maps.files import PictureFiles
from mvrec.inference.inputs import as_item
from mvrec.inference.objects.knobs import ObjectKnobs, add_object_flags, check_object_flags, object_knobs_of
from mvrec.inference.reading import add_limits, start_readers
from mvrec.inference.recogniser import Recogniser, load_recogniser
from mvrec.inference.recognising import OF_IMAGES, recognise_files, recognise_stream
from mvrec.inference.results import Prediction, writing
from mvrec.inference.sources import find_sources, output_names
from mvrec.inference.timeline.drawing import write_timelines
from mvrec.inference.timeline.flags import Truth, add_timeline_flags, check_timeline_flags, timeline_knobs
from mvrec.inference.timeline.prediction import SegmentColumns, VideoSegments, timelines
from mvrec.inference.timeline.windows import clip_seconds
from mvrec.messages import CommandParser, counted
from mvrec.ranges import POSITIVE, check_range
from mvrec.report.page import page
from mvrec.report.timelines import Bar, colours_of, timeline_sections

SOME_FAILED = 1  # exit code
EACH_FRAME = 1e-3  # seconds from window to window, less than from frame to frame
LONG_SECONDS = 60.0  # above it a hint says that there are windows
ENDINGS = {".csv": "csv", ".jsonl": "jsonl", ".json": "coco"}  # and the form that a file with it gets
FORMATS = ("table", *ENDINGS.values())

log = logging.getLogger("mvrec")


def main(arguments: list[str]) -> None:
    """Print the most probable classes of videos, images, cameras or streams.

    A file, and each row of a list with its span, gets the score that `mvrec test` gives it; with --window a video is
    scored piece by piece. Streams always are, until they end or Ctrl-C. A file that cannot be read is named, the others
    are done, and the exit code is 1.

    A segmenter gives the share of each class in an image, with --overlays its colours over the image and with --masks
    the class of each pixel; videos, cameras and streams go frame by frame.

    A detector finds objects: their classes, scores, boxes and masks. --overlays draws them, --format csv, jsonl or coco
    writes them, and --tiles looks at large images in parts, for small objects. Boxes that overlap from frame to frame
    of a video are one track.

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
    check_object_flags(recogniser, options)
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
    results, pictures = _results(recogniser, options, is_stream=bool(streams))
    outputs: Any = SegmentColumns() if options.timeline else recogniser.outputs
    form, make_writer = _form(recogniser, options)
    with _output(options.output, form, live=bool(streams)) as file:
        writer = make_writer(file, outputs, options)
        with pictures, contextlib.suppress(KeyboardInterrupt):
            for result in results:
                writer.write(result)
                file.flush()
                pictures.write(result)
                if result.error:
                    failed.append(result)
        writer.finish()
    for result in failed:
        log.warning("unreadable: %s: %s", result.source, result.error)
    if failed:
        sys.exit(SOME_FAILED)


def _results(
    recogniser: Recogniser, options: argparse.Namespace, *, is_stream: bool
) -> tuple[Iterator[Any], ActionVideos | PictureFiles]:
    """Return the results as they will be written, and the pictures of them."""
    if isinstance(recogniser.protocol, KeyFrameProtocol) and not options.timeline:
        return _of_people(recogniser, options), _action_videos(options)
    if options.timeline:
        return _timelines(recogniser, options), PictureFiles(overlays=None, masks=None, names={})
    pictures = PictureFiles(overlays=options.overlays, masks=options.masks, names=_names(options))
    return (_of_stream if is_stream else _of_files)(recogniser, options), pictures


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
    endings = ", ".join(ENDINGS)
    parser.add_argument("--format", choices=FORMATS, help=f"default: as --output ends ({endings}), else table")
    parser.add_argument("-o", "--output", type=at_home, metavar="FILE", help="write there (default: print)")
    protocols = ", ".join(dict.fromkeys([*PRESETS, *NAMED_MASK_PROTOCOLS, *NAMED_DETECTION_PROTOCOLS]))
    parser.add_argument("--protocol", metavar="NAME", help=f"in place of the checkpoint's: {protocols}")
    parser.add_argument(
        "--overlays", type=at_home, metavar="FOLDER", help="segmenters and detectors: pictures as PNG, MP4"
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
    add_timeline_flags(parser)
    add_object_flags(parser)
    add_action_flags(parser)
    add_limits(parser)
    return parser


def _check(options: argparse.Namespace) -> None:
    for name in ("top", "views_per_forward", "threads"):
        check_range(f"--{name}", getattr(options, name))
    for name in ("window", "stride"):
        check_range(f"--{name}", getattr(options, name), POSITIVE)
    check_decoder(options.decoder, key="--decoder")
    check_timeline_flags(options)
    streams = any(is_stream(source) for source in options.sources)
    if options.stride is not None and options.window is None and not streams and not options.timeline:
        raise UserError("--stride is the distance between windows: add --window")


def _check_maps(recogniser: Recogniser, options: argparse.Namespace) -> None:
    """Refuse files of class maps from a network without, before the first result."""
    flag = "--overlays" if options.overlays else "--masks" if options.masks else None
    if (
        flag is not None
        and not options.timeline
        and not isinstance(recogniser.protocol, (*OF_IMAGES, KeyFrameProtocol))
    ):
        task = recogniser.outputs.task
        raise UserError(f"{flag} is for segmenters and detectors, and {recogniser.source} is for {task}")
    if options.overlays is not None and options.overlays == options.masks:
        raise UserError(
            f"--overlays and --masks are the same folder, and their files have the same names: {options.masks}"
        )


def _form(recogniser: Recogniser, options: argparse.Namespace) -> tuple[str, type[Writer]]:
    """Return the name of the form of results, and its writer.

    Raises:
        UserError: COCO's form is asked for of a network that finds no objects, or of a stream.
    """
    form = options.format or ENDINGS.get(options.output.suffix.lower() if options.output else "", "table")
    if isinstance(recogniser.protocol, DetectionProtocol):
        writers: dict[str, type[Writer]] = OBJECT_WRITERS
    else:
        writers = ACTION_WRITERS if isinstance(recogniser.protocol, KeyFrameProtocol) else WRITERS
    if form not in writers:
        flag = f"--format {form}" if options.format else f"--output {options.output}"
        raise UserError(
            f"{flag} is for detectors, and {recogniser.source} is for {recogniser.outputs.task}: use .jsonl"
        )
    if form == "coco" and is_stream(options.sources[0]):
        raise UserError(f"COCO's form is for images, and {options.sources[0]} is a stream: --format jsonl or csv")
    return form, writers[form]


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
        objects=_knobs(recogniser, options),
        decoder=options.decoder,
        num_threads=options.threads,
    )
    for result in results:
        yield result
        lasts = (result.end_seconds or 0) - (result.start_seconds or 0)
        if options.window is None and not result.error and lasts > LONG_SECONDS:
            log.info("%s lasts %.0f s: --window 10 recognises it piece by piece", result.source, lasts)


def _timelines(recogniser: Recogniser, options: argparse.Namespace) -> Iterator[Prediction]:
    """Return the segments of each video, and score them by their truth at the end."""
    samples = find_sources(options.sources, kind=VIDEOS)
    truth = None if options.truth is None else Truth(options.truth, recogniser.outputs.class_names)
    if truth is not None:
        truth.check_videos(str(sample.path) for sample in samples)
    written = {} if options.overlays is None else _written_videos(options)
    if options.page is not None:
        with writing(options.page):  # before the work
            pass
    videos = timelines(
        recogniser,
        map(as_item, samples),
        timeline_knobs(options),
        window=options.window,
        stride=options.stride,
        views_per_forward=options.views_per_forward,
        decoder=options.decoder,
        num_threads=options.threads,
    )
    shown = []  # without pixels
    for video in videos if truth is None else truth.scored(videos):
        yield from video.as_predictions()
        shown.append(video)
    if options.overlays is not None:
        true = {} if truth is None else {video.source: truth.of(video.source) for video in shown}
        names = {part.name for video in shown for part in video}
        names |= {part.name for parts in true.values() for part in parts}
        colours = colours_of(names, recogniser.outputs.class_names)
        write_timelines(shown, options.overlays, written, truth=true, colours=colours, decoder=options.decoder)
    if options.page is not None:
        with writing(options.page) as path:
            write_atomically(path, _page(recogniser, shown, truth))


def _page(recogniser: Recogniser, videos: Sequence[VideoSegments], truth: Truth | None) -> str:
    """Return timelines as a page."""
    bars = [
        Bar(
            video.source,
            video.segments,
            None if truth is None else truth.of(video.source),
            video.error,
            video.end_seconds or 0.0,
        )
        for video in videos
    ]
    figures = truth.figures if truth is not None else None
    sections = timeline_sections(
        bars,
        recogniser.outputs.class_names,
        score="" if figures is None else str(figures),
        precisions=None if figures is None else figures.by_class,
    )
    about = f"{recogniser.outputs.describe()}, {recogniser.protocol}"
    return page(
        f"Timelines of {counted(len(videos), 'videos')}",
        "recognize",
        sections,
        subtitle=f"{recogniser.source}: {about}",
    )


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
    samples = {} if options.overlays is None else _written_videos(options)
    return ActionVideos(options.overlays, samples, least_score=least_action(options), decoder=options.decoder)


def _written_videos(options: argparse.Namespace) -> dict[str, tuple[Path, Sample]]:
    """Return the name of each source in the folder of overlays, without ending, and its video or part of one."""
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
    return samples


def _of_stream(recogniser: Recogniser, options: argparse.Namespace) -> Iterator[Prediction]:
    window = options.window or (EACH_FRAME if isinstance(recogniser.protocol, OF_IMAGES) else None)
    with Stream(options.sources[0]) as stream:
        window = window or clip_seconds(recogniser.protocol, stream.fps)
        yield from recognise_stream(
            recogniser,
            stream,
            window_seconds=window,
            stride_seconds=options.stride or window,
            views_per_forward=options.views_per_forward,
            objects=_knobs(recogniser, options),
        )


def _knobs(recogniser: Recogniser, options: argparse.Namespace) -> ObjectKnobs | None:
    return object_knobs_of(options) if isinstance(recogniser.protocol, DetectionProtocol) else None


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
