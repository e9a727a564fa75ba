"""Videos of two or three digits, each of which moves in a way of its own, with a box and a label for each."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mvrec.data.generated.moving_digits_video import (
    SPLITS,
    Floats,
    Frames,
    Motion,
    appearing_at_once,
    draw_ink,
    draw_texture,
    encode,
    poses,
    split_digits,
)
from mvrec.data.generated.splits import RECORD, is_generated
from mvrec.data.sets.actions.video_boxes import VideoBoxes
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.transforms import Augment
from mvrec.errors import UserError
from mvrec.ranges import COUNT_OR_NONE, Range, check_range

NOUN = "videos of several digits"
COLUMNS = ("path", "time", "x1", "y1", "x2", "y2", "label", "person")
# Opposite ways of moving, of which one is the other played backwards.
OPPOSITES = {
    "move_right": "move_left",
    "move_up": "move_down",
    "grow": "shrink",
    "rotate_clockwise": "rotate_counterclockwise",
}
ACTIONS = tuple(sorted((*OPPOSITES, *OPPOSITES.values())))
NUM_FRAMES, FPS = 32, 16
KEY_FRAME = NUM_FRAMES // 2
PLAY = ("move_right", "grow", "rotate_clockwise")  # of the digits of the longer video, each followed by its opposite
PLAY_PARTS, PLAY_EVERY = 2, 4  # what each digit does in turns, and the frames from one of its boxes to the next
PLAY_FRAMES = 2 * NUM_FRAMES  # of a part, so that clips see most of it without a change

_VERSION = 1
_LEAST_PIXELS = 64
_FIELD = 0.4  # side of the part of the picture in which a digit moves, in widths of the picture
_EXTENT = (0.5, 0.65)  # of a digit in the middle of the video, in sides of its field
_ANGLE = (-0.07, 0.07)  # of its rotation in the middle of the video, in turns
_SPEED = (0.3, 1.0)  # of a motion, as a share of the quickest
_PLAY_SPEED = (0.8, 1.0)  # in a part of the longer video, which takes twice the time
_PLAY_SCALE = 4  # of its sides, so that people see it well
_EDGE = 0.17  # from a digit's middle to the nearest edge of the picture, in widths of it
_DISTANCE = 0.4  # between the middles of digits, across or down


class DigitBoxes(VideoBoxes):
    """`VideoBoxes` on generated videos of two or three handwritten digits, each of which moves in a way of its own.

    A toy to see that networks learn who does what, not a benchmark. The boxes are those of the digits in the middle of
    the video, the actions how they move. Opposite actions differ in the order of the frames alone.

    Args:
        root: The folder of the videos, generated if it does not exist.
        train_videos: Videos in the training split.
        val_videos: Videos in the validation split.
        test_videos: Videos in the test split.
        clip: See `VideoBoxes`; by default it spans the video.
        size: See `VideoBoxes`.
        augment: See `VideoBoxes`. By default clips are whole frames: a mirrored motion is another action.
        batch_size: See `VideoBoxes`.
        max_bad_fraction: See `VideoBoxes`.
        **knobs: See `VideoBoxes`.

    Raises:
        UserError: From `prepare_data`: `root` holds something else, or scikit-learn is missing.
    """

    def __init__(
        self,
        root: str = "data/digit_boxes",
        *,
        train_videos: int = 600,
        val_videos: int = 75,
        test_videos: int = 150,
        clip: ClipSpec = ClipSpec(num_frames=8, stride_frames=4, target_fps=None),  # noqa: B008 - frozen
        size: int = 96,
        augment: Augment = Augment(  # noqa: B008
            crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0), flip_probability=0.0, rand_augment=None, random_erasing=None
        ),
        batch_size: int = 8,
        max_bad_fraction: float = 0.0,
        **knobs: Any,
    ) -> None:
        super().__init__(
            root,
            clip=clip,
            size=size,
            augment=augment,
            batch_size=batch_size,
            max_bad_fraction=max_bad_fraction,
            **knobs,
        )
        self.videos = {"train": train_videos, "val": val_videos, "test": test_videos}

    def prepare_data(self) -> None:
        """Generate the videos unless they exist."""
        generate_digit_boxes(self.root, videos=self.videos)


@dataclass(frozen=True)
class Actor:
    """A digit of a video.

    Attributes:
        action: One of `ACTIONS`.
        pose: (T, 4), its place, extent and rotation in each frame; see `poses`.
        digit: Handwriting (h, w), ink from 0 to 1.
    """

    action: str
    pose: npt.NDArray[np.float64]
    digit: Floats

    def box(self, frame: int) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of the digit in a frame as shares of the picture, cut at its edge."""
        x, y, extent, angle = self.pose[frame]
        turn = 2 * np.pi * angle
        half = extent / 2 * (abs(np.cos(turn)) + abs(np.sin(turn)))  # of the square around the turned digit
        left, top, right, bottom = np.clip([x - half, y - half, x + half, y + half], 0, 1)
        return float(left), float(top), float(right), float(bottom)


def draw_actors(digits: Floats, rng: np.random.Generator) -> list[Actor]:
    """Choose two or three digits that are apart from each other, and how each moves.

    Args:
        digits: Handwriting (n, h, w), ink from 0 to 1.
        rng: Source of all random choices.
    """
    actors = []
    for x, y in _places(int(rng.integers(2, 4)), rng):
        action = ACTIONS[rng.integers(len(ACTIONS))]
        actors.append(Actor(action, _Move(x, y, rng).pose(action), digits[rng.integers(len(digits))]))
    return actors


def _places(count: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw points (count, 2) in widths of the picture, apart from each other across or down."""
    while True:
        points = rng.uniform(_EDGE, 1 - _EDGE, (count, 2))
        apart = np.abs(points[:, None] - points).max(-1)
        if apart[~np.eye(count, dtype=bool)].min() >= _DISTANCE:
            return points


def draw_play(digits: Floats, rng: np.random.Generator) -> list[list[Actor]]:
    """Choose three digits that do one thing and its opposite in turns, as in `PLAY`.

    Returns:
        The digits of each part of a longer video; each goes on where the part before ends.
    """
    places = _places(len(PLAY), rng)
    moves = [_Move(x, y, rng, speed=_PLAY_SPEED) for x, y in places]
    written = digits[rng.choice(len(digits), len(PLAY), replace=False)]
    turns = [(action, OPPOSITES[action]) for action in PLAY]
    return [
        [
            Actor(turn[part % 2], move.pose(turn[part % 2], PLAY_FRAMES), digit)
            for turn, move, digit in zip(turns, moves, written, strict=True)
        ]
        for part in range(PLAY_PARTS)
    ]


class _Move:
    """The random parts of a digit's motion around a point (x, y), in widths of the picture."""

    def __init__(self, x: float, y: float, rng: np.random.Generator, *, speed: tuple[float, float] = _SPEED) -> None:
        self.x, self.y = x, y
        drawn = {"extent": rng.uniform(*_EXTENT), "angle": rng.uniform(*_ANGLE), "speed": rng.uniform(*speed)}
        self.motion = Motion(x=0.5, y=0.5, radius=0.0, **drawn)

    def pose(self, action: str, num_frames: int = NUM_FRAMES) -> npt.NDArray[np.float64]:
        """Return the digit's poses (T, 4) in widths of the picture; see `poses`."""
        pose = poses(action, self.motion, num_frames)
        pose[:, :3] = (pose[:, :3] - [0.5, 0.5, 0]) * _FIELD + [self.x, self.y, 0]
        return pose


def draw_video(actors: list[Actor], rng: np.random.Generator, *, size: int) -> Frames:
    """Draw digits over a still texture with noise.

    Args:
        actors: The digits.
        rng: Source of colours, texture and noise.
        size: Height and width of the picture in pixels.

    Returns:
        (T, size, size, 3) uint8.
    """
    num_frames = len(actors[0].pose)
    frames = rng.uniform(20, 90, 3).astype(np.float32) + draw_texture(rng, size)
    frames = np.broadcast_to(frames, (num_frames, size, size, 3))
    for actor in actors:
        ink = np.float32(rng.uniform(0.75, 1.0)) * draw_ink(actor.pose, actor.digit, size, wraps=False)[..., None]
        frames = frames + ink * (rng.uniform(190, 255, 3).astype(np.float32) - frames)
    noise = 5 * rng.standard_normal((num_frames, size, size, 1), np.float32)
    return np.clip(frames + noise, 0, 255).astype(np.uint8)


def generate_digit_boxes(root: Path, *, videos: Mapping[str, int], seed: int = 0, size: int = 96) -> None:
    """Write the data set to `root`, or leave it unchanged if it exists there.

    `root` then holds what anybody with own videos would write: `{train,val,test}/<number>.mp4`, the lists
    `{train,val,test}.csv` with a box and a label per digit in the key frame of each video, and `classes.txt`; also
    `dataset.json` with the parameters. The splits share no handwriting. `play.mp4` is a longer video of test digits
    that change what they do, with their boxes in `play.csv`. The folder appears in one step.

    Args:
        root: A folder that does not exist, is empty, or holds the same data set.
        videos: Videos in "train", "val" and "test".
        seed: Determines all content.
        size: Height and width in pixels; even.

    Raises:
        UserError: `root` holds something else, a parameter is impossible, or scikit-learn is missing.
    """
    parameters = _check_parameters(
        version=_VERSION, videos={split: videos.get(split) for split in SPLITS}, seed=seed, size=size
    )
    root = Path(root)
    if is_generated(root, parameters, noun=NOUN):
        return
    digits = split_digits(seed, noun=NOUN)
    with appearing_at_once(root, parameters, noun=NOUN) as draft, ThreadPoolExecutor(2) as pool:
        for split_number, split in enumerate(SPLITS):
            (draft / split).mkdir()
            names = [f"{split}/{number:05d}.mp4" for number in range(parameters["videos"][split])]
            keys = [(seed, split_number, number) for number in range(len(names))]
            jobs = [
                pool.submit(_write_video, draft / name, digits[split], key, size)
                for name, key in zip(names, keys, strict=True)
            ]
            boxes = (row for name, job in zip(names, jobs, strict=True) for row in _rows(name, job.result()))
            _write_rows(draft / f"{split}.csv", boxes)
        _write_play(draft, digits["test"], (seed, len(SPLITS), 0), size)
        (draft / "classes.txt").write_text("".join(f"{action}\n" for action in ACTIONS))
        (draft / RECORD).write_text(json.dumps(parameters, indent=2) + "\n")


def _check_parameters(**parameters: Any) -> dict[str, Any]:
    for split, count in parameters["videos"].items():
        check_range(f"{NOUN}: videos[{split!r}]", count or 0)
    check_range(f"{NOUN}: seed", parameters["seed"], COUNT_OR_NONE)
    check_range(f"{NOUN}: size", parameters["size"], Range(_LEAST_PIXELS))
    if parameters["size"] % 2:
        raise UserError(f"{NOUN}: size must be even, got {parameters['size']}")
    return parameters


def _write_video(path: Path, digits: Floats, key: tuple[int, ...], size: int) -> list[Actor]:
    """Write a video, and return its digits."""
    rng = np.random.default_rng(key)
    actors = draw_actors(digits, rng)
    encode(path, draw_video(actors, rng, size=size), FPS)
    return actors


def _write_play(root: Path, digits: Floats, key: tuple[int, ...], size: int) -> None:
    rng = np.random.default_rng(key)
    parts = draw_play(digits, rng)
    whole = [
        Actor("", np.concatenate([actor.pose for actor in turns]), turns[0].digit) for turns in zip(*parts, strict=True)
    ]
    encode(root / "play.mp4", draw_video(whole, rng, size=_PLAY_SCALE * size), FPS)
    frames = range(0, PLAY_PARTS * PLAY_FRAMES, PLAY_EVERY)
    rows = (_rows("play.mp4", parts[frame // PLAY_FRAMES], frame % PLAY_FRAMES, frame / FPS) for frame in frames)
    _write_rows(root / "play.csv", (row for rows_of_frame in rows for row in rows_of_frame))


def _rows(
    path: str, actors: list[Actor], frame: int = KEY_FRAME, seconds: float = KEY_FRAME / FPS
) -> Iterator[tuple[str, ...]]:
    """Yield the row of each digit."""
    for number, actor in enumerate(actors, start=1):
        corners = (f"{corner:.4f}" for corner in actor.box(frame))
        yield path, f"{seconds:g}", *corners, actor.action, f"digit {number}"


def _write_rows(path: Path, rows: Iterable[tuple[str, ...]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
