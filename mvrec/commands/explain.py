"""`mvrec explain`: what in a video or an image the score of a class rests on, drawn over its frames."""

import argparse
import logging
import sys
from pathlib import Path

from mvrec.data.listing.file_kinds import IMAGES, VIDEOS
from mvrec.data.listing.index import Sample
from mvrec.data.views.protocol import DetectionProtocol
from mvrec.errors import DecodeError, UserError
from mvrec.files import at_home
from mvrec.inference.explaining import check_explainable, check_output, class_number, explained
from mvrec.inference.heat import METHODS
from mvrec.inference.reading import add_limits, start_readers
from mvrec.inference.recogniser import Recogniser, load_recogniser
from mvrec.inference.sources import LISTS, find_sources
from mvrec.messages import CommandParser
from mvrec.ranges import COUNT_OR_NONE, check_range

SOME_FAILED = 1  # exit code

log = logging.getLogger("mvrec")


def main(arguments: list[str]) -> None:
    """Draw what a network's score for a class rests on over the frames that it saw, and print its best classes.

    The methods: cam (Grad-CAM) and layercam (LayerCAM) weigh a stage of the network's feature maps, for every network.
    For MViT there are also rollout, the attention of all blocks followed back to the patches, whatever the class, and
    relevance, the same with the attention that speaks for the class.

    For a segmenter the score is that of the pixels which have the class, by default the class with the most pixels. For
    a detector it is that of one object, by default the one with the highest score; --detection takes another one by its
    number in the printed list, and with --class among those of the class.

    Of a list with several rows each one is drawn, with its span: OUT gets the row's number behind its name. A file that
    cannot be read is named, the others are drawn, and the exit code is 1.
    """
    options = _parser().parse_args(arguments)
    _check(options)
    start_readers(options)
    recogniser = load_recogniser(options.ckpt, classes=options.classes, device=options.device)
    check_explainable(recogniser, command="mvrec explain")
    if options.detection is not None and not isinstance(recogniser.protocol, DetectionProtocol):
        task = recogniser.outputs.task
        raise UserError(f"--detection is for detectors, and {recogniser.source} is for {task}")
    check_output(options.output, is_video=recogniser.is_video)
    if options.class_name is not None:
        class_number(options.class_name, recogniser.class_names)
    is_list = options.source.suffix.lower() in LISTS and options.source.is_file()
    kind = VIDEOS if recogniser.is_video else IMAGES
    samples = find_sources([str(options.source)], kind=kind) if is_list else [Sample(options.source, 0)]
    failed: list[DecodeError] = []
    for row, sample in enumerate(samples, start=1):
        output = options.output
        if len(samples) > 1:
            output = output.with_stem(f"{output.stem}_{row:0{len(str(len(samples)))}d}")
        try:
            _explain(recogniser, sample, output, options)
        except DecodeError as error:
            failed.append(error)
    if failed and len(samples) == 1:
        raise UserError(str(failed[0]))
    for fault in failed:
        log.warning("unreadable: %s", fault)
    if failed:
        sys.exit(SOME_FAILED)


def _check(options: argparse.Namespace) -> None:
    check_output(options.output, is_video=True)
    if options.output.resolve() == options.source.resolve():
        raise UserError(f"--output is the source itself: {options.output}")
    check_range("--top", options.top)
    check_range("--detection", options.detection, COUNT_OR_NONE)


def _explain(recogniser: Recogniser, sample: Sample, output: Path, options: argparse.Namespace) -> None:
    """Draw one view of a file or span, and print what the network says of it."""
    heat = explained(
        recogniser,
        sample,
        class_name=options.class_name,
        method=options.method,
        stage=options.stage,
        clip=options.clip,
        crop=options.crop,
        detection=options.detection,
    )
    heat.save(output, full_frame=options.full_frame)
    best = [f"{100 * value:6.2f} %  {name}" for name, value in heat.top(options.top)]
    best = [f"{place:3d} {line}" for place, line in enumerate(best)] if heat.box is not None else best
    assert heat.shown_view is not None
    about = f"{output}: {heat.method} for {heat.subject}"
    print("\n".join([f"{sample.path}: {heat.shown_view.where}", *best, about]))  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="mvrec explain", description=main.__doc__)
    parser.add_argument("source", type=at_home, metavar="SOURCE", help="a video, an image or a list")
    parser.add_argument("--ckpt", required=True, metavar="PATH", help="a checkpoint, a run directory or weights")
    parser.add_argument("-o", "--output", type=at_home, required=True, metavar="OUT", help="the .mp4 or .png to write")
    parser.add_argument(
        "--method", choices=METHODS, help="default: relevance for MViT, cam for others, layercam for detectors"
    )
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="default: the most probable one")
    parser.add_argument(
        "--stage", type=int, metavar="N", help="of cam, layercam: 0 is the finest map (default: the coarsest)"
    )
    parser.add_argument("--clip", type=int, metavar="N", help="which of the protocol's clips (default: the middle one)")
    parser.add_argument("--crop", type=int, metavar="N", help="which of its crops (default: the middle one)")
    parser.add_argument("--detection", type=int, metavar="N", help="detectors: which object (default: 0, the first)")
    parser.add_argument("--full_frame", action="store_true", help="draw whole frames, with the crop marked in them")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes to print (default: %(default)s)")
    parser.add_argument("--classes", metavar="LIST", help="names of the classes, where the checkpoint has none")
    parser.add_argument("--device", default="auto", help="default: the first GPU where there is one, else the CPU")
    add_limits(parser)
    return parser
