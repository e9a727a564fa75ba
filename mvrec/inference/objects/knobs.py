"""Choices of a detector in use, and the flags that make them."""

import argparse
from dataclasses import dataclass

from mvrec.data.views.protocol import DetectionProtocol
from mvrec.errors import UserError
from mvrec.inference.objects.tiles import OVERLAP
from mvrec.inference.recogniser import Recogniser
from mvrec.ranges import PIXELS, SHARE, SHARE_BELOW_1, check_range

LEAST_SCORE = 0.5  # of an object that is drawn and written
LEAST_TILE = 32  # pixels, the least that all image networks of the zoo take


@dataclass(frozen=True)
class ObjectKnobs:
    """Choices of a detector in use.

    Attributes:
        min_score: Least score of an object; 0 gives all that the network answers with, as a test counts them.
        tiles: Side of tiles in pixels, each of which the network sees as an image of its own, for small objects in
            large images; the whole image is looked at too. `None` for the whole image alone.
        overlap: Share of a tile that its neighbour has too; a small object is then whole in one of them.

    Raises:
        UserError: A value is out of range.
    """

    min_score: float = LEAST_SCORE
    tiles: int | None = None
    overlap: float = OVERLAP

    def __post_init__(self) -> None:
        check_range("min_score", self.min_score, SHARE)
        check_range("tiles", self.tiles, PIXELS._replace(least=LEAST_TILE))
        check_range("overlap", self.overlap, SHARE_BELOW_1)


def add_object_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    group = parser.add_argument_group("detectors: boxes and masks of objects (--min_score: default 0.5)")
    tiles = "look at tiles of so many pixels too, for small objects in large images"
    group.add_argument("--tiles", type=int, metavar="PIXELS", help=tiles)
    overlap = f"share of a tile that the next one has too (default: {OVERLAP:g})"
    group.add_argument("--overlap", type=float, metavar="SHARE", help=overlap)


def check_object_flags(recogniser: Recogniser, options: argparse.Namespace) -> None:
    """Check flags for a detector, or for another network, before anything is read.

    Raises:
        UserError: They contradict one another or the network.
    """
    if not isinstance(recogniser.protocol, DetectionProtocol):
        named = next((name for name in ("tiles", "overlap") if getattr(options, name) is not None), None)
        if named is not None:
            raise UserError(f"--{named} is for detectors, and {recogniser.source} is for {recogniser.outputs.task}")
        return
    if options.masks is not None:
        raise UserError(
            "--masks is for segmenters; masks of objects are in --format jsonl and coco, and --overlays shows them"
        )
    if options.overlap is not None and options.tiles is None:
        raise UserError("--overlap is that of tiles: add --tiles PIXELS")
    check_range("--min_score", options.min_score, SHARE)
    check_range("--tiles", options.tiles, PIXELS._replace(least=LEAST_TILE))
    check_range("--overlap", options.overlap, SHARE_BELOW_1)


def object_knobs_of(options: argparse.Namespace) -> ObjectKnobs:
    """Return the choices that flags make."""
    names = ("min_score", "tiles", "overlap")
    return ObjectKnobs(**{name: getattr(options, name) for name in names if getattr(options, name) is not None})
