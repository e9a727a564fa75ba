"""Tubes of UCF101-24 and JHMDB as their pickles have them: a box per frame of each person."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mvrec.array_pickles import read_pickle
from mvrec.data.listing.boxes.rows import BoxRow
from mvrec.errors import UserError

KEYS = ("labels", "gttubes", "train_videos", "test_videos")


class Tubes(NamedTuple):
    """The contents of a pickle.

    Attributes:
        labels: The names of the actions.
        boxes: Of each video, by action number: float (frames, 5), number of the frame from 1 on, left, top, right and
            bottom in pixels.
        train: The training videos of each official split.
        test: The test videos.
    """

    labels: list[str]
    boxes: dict[str, dict[int, list[npt.NDArray[np.float64]]]]
    train: list[list[str]]
    test: list[list[str]]


def read_tubes(path: Path) -> Tubes:
    """Return the contents of a pickle, of which only containers and arrays are made: no code of it runs.

    Raises:
        UserError: The file cannot be read, names other things than arrays, or is not a pickle of tubes.
    """
    content = read_pickle(path, noun="tubes")
    missing = [key for key in KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f"{path}: not a pickle of tubes: it lacks {missing[0]!r}, expected {', '.join(KEYS)}")
    try:
        boxes = {
            str(video): {
                int(label): [np.asarray(tube, np.float64).reshape(-1, 5) for tube in tubes]
                for label, tubes in actions.items()
            }
            for video, actions in content["gttubes"].items()
        }
        splits = {
            key: [[str(video) for video in videos] for videos in content[key]]
            for key in ("train_videos", "test_videos")
        }
        labels = [str(label) for label in content["labels"]]
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a pickle of tubes: {error}") from None
    return Tubes(labels, boxes, splits["train_videos"], splits["test_videos"])


def tube_rows(tubes: Tubes, videos: list[str], *, fps: float, step: int, source: str) -> Iterator[BoxRow]:
    """Yield the boxes of some videos.

    Args:
        tubes: The contents of a pickle.
        videos: Their names.
        fps: Frames per second by which numbers of frames become times.
        step: Every which frame is a key frame, from the first of the video on.
        source: The pickle, for messages.

    Raises:
        UserError: A number of an action without a name.
    """
    for video in videos:
        for label, boxes in tubes.boxes.get(video, {}).items():
            if not 0 <= label < len(tubes.labels):
                raise UserError(f"{source}: {video} has the action {label}, names are for 0 to {len(tubes.labels) - 1}")
            for person, tube in enumerate(boxes):
                for frame, x1, y1, x2, y2 in tube.tolist():
                    number = round(frame) - 1
                    if number % step == 0:
                        corners, name = (x1, y1, x2, y2), tubes.labels[label]
                        yield BoxRow(video, number / fps, corners, False, name, str(person), source=source)
