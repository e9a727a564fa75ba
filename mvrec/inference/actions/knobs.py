"""Action detection from Python: its choices, and the predictions of videos."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from mvrec.data.video.video import Decoder
from mvrec.errors import UserError
from mvrec.inference.actions.people import DetectedPeople, Detector, GivenPeople, ListedPeople, People
from mvrec.inference.actions.recognising import recognise_actions
from mvrec.inference.actions.results import ActionPrediction
from mvrec.inference.inputs import Item
from mvrec.inference.recogniser import Recogniser
from mvrec.ranges import POSITIVE, SHARE, Range, check_range

EVERY, SMOOTH = 1.0, 1.0  # seconds: AVA's key frames, and the neighbours of each
AUTO_SCORE = 0.8  # least score of a detector's boxes, that of SlowFast's configurations for AVA
PixelChoice = Literal["centre", "full"]


@dataclass(frozen=True)
class ActionKnobs:
    """Choices of action detection.

    Attributes:
        every: Seconds from one key frame to the next, at least.
        smooth: Scores are averaged over a person's key frames within so many seconds; 0 leaves them as they are.
        detect_every: Seconds from one look of a detector to the next, `every` by default; boxes between key frames
            help to follow people who move fast.
        min_score: Least score of a box: 0.8 of a detector's by default, of a list's that of training.
        pixels: Whether the network looks at "full" frames, or at their "centre", as training and `mvrec test` may do.

    Raises:
        UserError: A value is out of range.
    """

    every: float = EVERY
    smooth: float = SMOOTH
    detect_every: float | None = None
    min_score: float | None = None
    pixels: PixelChoice = "full"

    def applied(self, recogniser: Recogniser) -> Recogniser:
        """Return an action detector that looks at the chosen pixels."""
        protocol: Any = recogniser.protocol
        return recogniser.under(replace(protocol, pixels=self.pixels))

    def __post_init__(self) -> None:
        for name, allowed in (
            ("every", POSITIVE),
            ("detect_every", POSITIVE),
            ("smooth", Range(0)),
            ("min_score", SHARE),
        ):
            check_range(name, getattr(self, name), allowed)
        if self.pixels not in get_args(PixelChoice):
            raise UserError(f"pixels must be one of {', '.join(get_args(PixelChoice))}, got {self.pixels!r}")


def actions_of(
    recogniser: Recogniser,
    items: Iterable[Item],
    *,
    boxes: Any = None,
    people: Detector | None = None,
    actions: ActionKnobs | None = None,
    views_per_forward: int = 1,
    decoder: Decoder = "auto",
) -> Iterator[ActionPrediction]:
    """Return the actions of people in videos, key frame by key frame.

    Args:
        recogniser: An action detector.
        items: Videos, or spans of videos.
        boxes: A list of boxes, or a dictionary from seconds to boxes.
        people: In place of `boxes`: from a frame to boxes and scores.
        actions: Choices.
        views_per_forward: Key frames per forward pass.
        decoder: Name of the decoder.

    Raises:
        UserError: Neither or both of `boxes` and `people` are given, or the list cannot be read.
    """
    knobs = actions or ActionKnobs()
    is_list = isinstance(boxes, str | os.PathLike)
    items = list(items) if is_list else items  # whose names a list of frames needs
    videos = [Path(item.source) for item in items] if is_list else []
    return recognise_actions(
        knobs.applied(recogniser),
        items,
        _people(recogniser, boxes, people, knobs, videos=videos, decoder=decoder),
        every=knobs.every,
        smooth=knobs.smooth,
        views_per_forward=views_per_forward,
        decoder=decoder,
    )


def _people(
    recogniser: Recogniser,
    boxes: Any,
    detector: Detector | None,
    knobs: ActionKnobs,
    *,
    videos: Sequence[Path],
    decoder: Decoder,
) -> People:
    if (boxes is None) == (detector is None):
        excess = f"{recogniser.source} tells what people do, not where they are" if boxes is None else "both are given"
        raise UserError(f"say where people are, with boxes or people: {excess}")
    if detector is not None:
        least = AUTO_SCORE if knobs.min_score is None else knobs.min_score
        return DetectedPeople(detector, every=knobs.detect_every or knobs.every, min_score=least)
    if isinstance(boxes, Mapping):
        return GivenPeople(boxes)
    protocol: Any = recogniser.protocol
    least = protocol.min_score if knobs.min_score is None else knobs.min_score
    return ListedPeople(boxes, min_score=least, videos=videos, decoder=decoder)
