"""From an uploaded file to the answer of `mvrec recognize`, or to a picture of the heat."""

import base64
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mvrec.data.listing.file_kinds import IMAGES, VIDEOS
from mvrec.data.listing.index import Sample
from mvrec.data.views.protocol import ImageProtocol, KeyFrameProtocol
from mvrec.errors import DecodeError, UserError
from mvrec.inference.explaining import explained
from mvrec.inference.inputs import STILL, Item, is_still
from mvrec.inference.overlay import write_png
from mvrec.inference.recogniser import Recogniser
from mvrec.inference.recognising import is_video_file, recognise_files
from mvrec.inference.results import PicturePrediction, Prediction
from mvrec.inference.timeline.prediction import check_timeline, merged, windows_of
from mvrec.inference.timeline.segments import TimelineKnobs

PICTURE_SECONDS, MOST_PICTURES = 1.0, 40  # of a video that is recognised frame by frame


class LateError(Exception):
    """An answer took longer than a request may."""


@dataclass(frozen=True)
class Question:
    """A request about a file.

    Attributes:
        path: The uploaded file.
        name: Its name at the sender's, for the answer.
        deadline: By `time.monotonic`, when the sender is no longer waiting.
        top: Classes per result.
        window: Seconds of a piece, where a video is to be answered piece by piece.
        stride: Seconds from piece to piece; adjacent ones by default, of a timeline half a piece.
        timeline: Thresholds of segments, where they are asked for; pieces are as long as a clip by default.
        pictures: Whether boxes and masks are drawn.
        class_name: The class whose heat is asked for; the most probable one by default.
    """

    path: Path
    name: str
    deadline: float
    top: int = 5
    window: float | None = None
    stride: float | None = None
    timeline: TimelineKnobs | None = None
    pictures: bool = False
    class_name: str | None = None


def check_servable(recogniser: Recogniser) -> None:
    """Check that a network answers about a file alone.

    Raises:
        UserError: It also needs boxes of people.
    """
    if isinstance(recogniser.protocol, KeyFrameProtocol):
        raise UserError(
            f"{recogniser.source} is an action detector, which needs boxes of people as well: use "
            "`mvrec recognize --people auto` or `--boxes LIST`"
        )


def check_file(recogniser: Recogniser, name: str) -> None:
    """Check by its name that a file may be one for the network.

    Raises:
        UserError: It is neither a video nor an image, or a video for a classifier of images.
    """
    ending = Path(name).suffix.lower()
    if ending not in VIDEOS.extensions | IMAGES.extensions:
        raise UserError(f"{name}: neither a video nor an image by its name: send one such as clip.mp4 or photo.jpg")
    if isinstance(recogniser.protocol, ImageProtocol) and is_video_file(name):
        raise UserError(f"{name} is a video, and this network takes images: send a single frame as .png or .jpg")


def recognised(recogniser: Recogniser, question: Question) -> dict[str, Any]:
    """Answer as `mvrec recognize --format jsonl` does, one entry per line of it: `results`.

    With `pictures` the entry of a segmenter or detector also has `picture`, a PNG as data URI; of a video one a second.
    Of a single picture, where the network takes videos, there are `notes`: lines that say so.
    With a timeline there are also its `segments`, one entry per line of `mvrec recognize --timeline --format jsonl`.

    Raises:
        LateError: The deadline passes.
        UserError: The file cannot be read, or the question does not fit the network.
    """
    if question.window is not None and not recogniser.is_video:
        raise UserError("window is for networks that take videos, and this one takes images")
    if question.stride is not None and question.window is None and question.timeline is None:
        raise UserError("stride is the distance between windows: send window as well")
    item = Item(Sample(question.path, 0))
    spans = (question.window, question.stride)
    if question.timeline is None:
        results = recognise_files(recogniser, [item], window_seconds=spans[0], stride_seconds=spans[1], num_threads=1)
        answer: dict[str, Any] = {"results": list(_entries(results, question))}
    else:
        check_timeline(recogniser, question.timeline)
        windows = list(_in_time(windows_of(recogniser, [item], *spans, num_threads=1), question))
        video = merged(question.name, windows, recogniser.outputs.class_names, question.timeline)
        segments = [segment.as_dict() for segment in video.as_predictions()]
        answer = {"results": list(_entries(iter(windows), question)), "segments": segments}
    if recogniser.is_video and _is_still(item):
        answer["notes"] = [f"{question.name}: {STILL}"]
    entries = answer["results"]
    if all("error" in entry for entry in entries):
        raise UserError(f"{question.name}: {entries[0]['error']}" if entries else f"{question.name}: it has no frames")
    return answer


def _is_still(item: Item) -> bool:
    try:
        with item.open("auto") as video:
            return is_still(video)
    except DecodeError:  # which the results say
        return False


def _in_time(results: Iterator[Prediction], question: Question) -> Iterator[Prediction]:
    for result in results:
        _check_time(question)
        yield result


def _entries(results: Iterator[Prediction], question: Question) -> Iterator[dict[str, Any]]:
    shown, next_seconds = 0, 0.0
    for result in _in_time(results, question):
        entry = replace(result, source=question.name).as_dict(question.top)
        seconds = result.start_seconds or 0.0
        is_due = question.pictures and shown < MOST_PICTURES and seconds >= next_seconds
        if is_due and isinstance(result, PicturePrediction) and not result.error:
            entry["picture"] = _data_uri(result)
            shown, next_seconds = shown + 1, seconds + PICTURE_SECONDS
        yield entry


def heat(recogniser: Recogniser, question: Question) -> bytes:
    """Return the heat of a class over the file as PNG; a sheet of frames of a video.

    Raises:
        LateError: The deadline passes.
        UserError: The file cannot be read, or the network has no such class.
    """
    _check_time(question)
    explanation = explained(recogniser, question.path, class_name=question.class_name)
    with tempfile.TemporaryDirectory(prefix="mvrec-heat-") as folder:
        picture = Path(folder) / "heat.png"
        replace(explanation, source=question.name).save(picture)
        return picture.read_bytes()


def _data_uri(result: PicturePrediction) -> str:
    with tempfile.TemporaryDirectory(prefix="mvrec-picture-") as folder:
        picture = Path(folder) / "picture.png"
        write_png(picture, result.overlay())
        return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode("ascii")


def _check_time(question: Question) -> None:
    if time.monotonic() > question.deadline:
        raise LateError
