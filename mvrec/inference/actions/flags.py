"""Flags of a command about people and their actions."""

import argparse

from mvrec.data.views.protocol import DetectionProtocol, KeyFrameProtocol
from mvrec.errors import UserError
from mvrec.files import at_home
from mvrec.inference.actions.detectors import DEFAULT, check_detector, load_detector
from mvrec.inference.actions.knobs import AUTO_SCORE, EVERY, SMOOTH, ActionKnobs
from mvrec.inference.actions.people import Detector
from mvrec.inference.recogniser import Recogniser
from mvrec.ranges import POSITIVE, SHARE, Range, check_range

FLAGS = (
    *("boxes", "people", "detector", "detector_weights", "detect_every", "every", "smooth", "min_score"),
    *("min_action", "pixels"),
)


def add_action_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    group = parser.add_argument_group("action detectors: who does what")
    group.add_argument("--boxes", type=at_home, metavar="LIST", help="boxes of people: a list as training reads it")
    group.add_argument("--people", choices=("auto",), help="auto: a detector finds people")
    group.add_argument(
        "--detector",
        metavar="NAME",
        help=f"of torchvision.models.detection, or the class path of your own (default: {DEFAULT})",
    )
    group.add_argument("--detector_weights", type=at_home, metavar="FILE", help="the detector's weights")
    group.add_argument("--detect_every", type=float, metavar="S", help="seconds from look to look (default: --every)")
    group.add_argument("--every", type=float, metavar="S", help=f"seconds between key frames (default: {EVERY:g})")
    smooth = f"average a person's scores within so many seconds; 0: leave them (default: {SMOOTH:g})"
    group.add_argument("--smooth", type=float, metavar="S", help=smooth)
    least = f"least score of a box (default: {AUTO_SCORE:g}; for --boxes that of training; of objects 0.5)"
    group.add_argument("--min_score", type=float, metavar="P", help=least)
    group.add_argument(
        "--min_action", type=float, metavar="P", help="least score of a drawn or printed action (default: 0.5)"
    )
    pixels = "look at full frames, or at their centre as `mvrec test` may do (default: full)"
    group.add_argument("--pixels", choices=("centre", "full"), help=pixels)


def check_action_flags(recogniser: Recogniser, options: argparse.Namespace) -> None:
    """Check flags for an action detector, or for another network, before anything is read.

    Raises:
        UserError: They contradict one another or the network.
    """
    named = [name for name in FLAGS if getattr(options, name) is not None]
    if not isinstance(recogniser.protocol, KeyFrameProtocol):
        if isinstance(recogniser.protocol, DetectionProtocol):  # whose objects have scores too
            named = [name for name in named if name != "min_score"]
        if named:
            task = recogniser.outputs.task
            raise UserError(f"--{named[0]} is for action detectors, and {recogniser.source} is for {task}")
        return
    strange = [name for name in ("window", "stride", "masks", "slide", "protocol") if getattr(options, name)]
    if strange:
        raise UserError(f"--{strange[0]} is not for action detectors: {recogniser.source} looks at key frames")
    _check_sources(recogniser, options)
    for name, allowed in (("every", POSITIVE), ("detect_every", POSITIVE), ("smooth", Range(0))):
        check_range(f"--{name}", getattr(options, name), allowed)
    for name in ("min_score", "min_action"):
        check_range(f"--{name}", getattr(options, name), SHARE)


def _check_sources(recogniser: Recogniser, options: argparse.Namespace) -> None:
    """Check the flags that say where people are."""
    if (options.boxes is None) == (options.people is None):
        excess = "both are given" if options.boxes else f"{recogniser.source} tells what people do, not where they are"
        raise UserError(f"say where people are, with --boxes LIST or --people auto: {excess}")
    for name in ("detector", "detector_weights", "detect_every"):
        if options.boxes is not None and getattr(options, name) is not None:
            raise UserError(f"--{name} goes with --people auto, and --boxes is given")
    if options.detector is not None:
        check_detector(options.detector, key="--detector")


def knobs_of(options: argparse.Namespace) -> ActionKnobs:
    """Return the choices that flags make."""
    names = ("every", "smooth", "detect_every", "min_score", "pixels")
    return ActionKnobs(**{name: getattr(options, name) for name in names if getattr(options, name) is not None})


def detector_of(recogniser: Recogniser, options: argparse.Namespace) -> Detector | None:
    """Return the detector of `--people auto`, on the network's device; `None` with `--boxes`.

    Raises:
        UserError: Its weights are missing, or do not fit it.
    """
    if options.people is None:
        return None
    return load_detector(options.detector or DEFAULT, options.detector_weights, device=recogniser.device)
