"""The moving digits: a small action data set of real video files, generated from real handwriting.

One handwritten digit moves over a noisy texture, and the action is how it moves. Actions come in opposite pairs:
one is the other played backwards, and every motion is symmetric about the middle of its clip. So a single frame cannot
tell the two apart; only the order of the frames can.
"""

import csv
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mvrec.data.generated.splits import RECORD, handwritten_digits, is_generated
from mvrec.errors import UserError
from mvrec.ranges import Range, check_range

NOUN = "moving digits"
SPLITS = ("train", "val", "test")

# Each action with its reverse.
OPPOSITES = {
    "move_left": "move_right",
    "move_up": "move_down",
    "move_up_right": "move_down_left",
    "rotate_clockwise": "rotate_counterclockwise",
    "orbit_clockwise": "orbit_counterclockwise",
    "grow": "shrink",
}
_FORWARD_OF = {backward: forward for forward, backward in OPPOSITES.items()}
ACTIONS = tuple(sorted((*OPPOSITES, *_FORWARD_OF)))

_VERSION = 2
_SPLIT_FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}
# (x, y) per unit of travel; y points down, as pixels do.
_DIRECTIONS = {"move_left": (-1.0, 0.0), "move_up": (0.0, -1.0), "move_up_right": (0.75, -0.75)}

Floats = npt.NDArray[np.float32]
Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Motion:
    """The random parts of a clip of an action. Lengths are in widths of the picture, angles in turns.

    Attributes:
        x: Horizontal position of the digit (or of its orbit's centre) in the middle of the clip.
        y: Vertical position, downwards.
        extent: Size of the digit in the middle of the clip.
        angle: Clockwise rotation in the middle of the clip; for an orbit, the digit's place on it.
        speed: Distance in one clip, as a share of the action's maximum.
        radius: Radius of the orbit.
    """

    x: float
    y: float
    extent: float
    angle: float
    speed: float
    radius: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Motion":
        """Draw a random motion, from the same distribution for every action."""
        return cls(
            x=rng.uniform(0.4, 0.6),
            y=rng.uniform(0.4, 0.6),
            extent=rng.uniform(0.35, 0.5),
            angle=rng.uniform(-0.07, 0.07),
            speed=rng.uniform(0.7, 1.0),
            radius=rng.uniform(0.2, 0.3),
        )


def poses(action: str, motion: Motion, num_frames: int) -> npt.NDArray[np.float64]:
    """Compute the digit's pose in each frame.

    Returns:
        (T, 4): x, y and extent in widths of the picture, and the angle in clockwise turns. x and y are not
        wrapped into 0..1.
    """
    if action in _FORWARD_OF:
        return poses(_FORWARD_OF[action], motion, num_frames)[::-1]
    travel = motion.speed * ((np.arange(num_frames) + 0.5) / num_frames - 0.5)  # -speed / 2 to speed / 2
    x, y, extent, angle = (np.full(num_frames, v) for v in (motion.x, motion.y, motion.extent, motion.angle))
    if action in _DIRECTIONS:
        towards_x, towards_y = _DIRECTIONS[action]
        x, y = x + towards_x * 0.7 * travel, y + towards_y * 0.7 * travel
    elif action == "rotate_clockwise":
        angle = angle + 0.7 * travel
    elif action == "orbit_clockwise":
        turn = 2 * np.pi * (angle + travel)
        x, y, angle = x + motion.radius * np.cos(turn), y + motion.radius * np.sin(turn), 0 * angle
    elif action == "grow":
        extent = extent * 4**travel
    else:
        raise ValueError(f"unknown action {action!r}; there are {', '.join(ACTIONS)}")
    return np.stack([x, y, extent, angle], axis=1)


def render(
    action: str, motion: Motion, digit: Floats, rng: np.random.Generator, *, num_frames: int, size: int
) -> Frames:
    """Draw one clip.

    Args:
        action: One of `ACTIONS`.
        motion: The motion of the digit.
        digit: (h, w) ink from 0 to 1.
        rng: Source of colours, texture and noise.
        num_frames: T.
        size: Height and width of the picture in pixels.

    Returns:
        (T, size, size, 3) uint8.
    """
    return draw_poses(poses(action, motion, num_frames), digit, rng, size=size)


def draw_poses(pose: npt.NDArray[np.float64], digit: Floats, rng: np.random.Generator, *, size: int) -> Frames:
    """Draw one clip of a digit (h, w) in poses (T, 4); see `poses` and `render`."""
    ink = np.float32(rng.uniform(0.75, 1.0)) * draw_ink(pose, digit, size)[..., None]
    paper = rng.uniform(20, 90, 3).astype(np.float32) + draw_texture(rng, size)
    pen = rng.uniform(190, 255, 3).astype(np.float32)
    noise = 5 * rng.standard_normal((len(pose), size, size, 1), np.float32)
    frames = paper + noise + ink * (pen - paper)
    return np.clip(frames, 0, 255).astype(np.uint8)


def draw_ink(pose: npt.NDArray[np.float64], digit: Floats, size: int, *, wraps: bool = True) -> Floats:
    """Compute the ink of `digit` (h, w) on each pixel in each `pose` (T, 4): (T, size, size).

    What leaves the picture comes back at the opposite edge if it `wraps`.
    """
    x, y, extent, angle = pose.astype(np.float32).T[..., None, None]  # (T, 1, 1) each
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    right, down = centres - x, centres[:, None] - y  # (T, 1, W) and (T, H, 1)
    if wraps:  # the shortest way to the digit may lead over the edge of the picture
        right, down = (right + 0.5) % 1 - 0.5, (down + 0.5) % 1 - 0.5
    cos, sin = np.cos(2 * np.pi * angle) / extent, np.sin(2 * np.pi * angle) / extent
    across = cos * right + sin * down  # in extents of the digit, -0.5..0.5 within it
    along = cos * down - sin * right
    return _sample_bilinear(digit, (along + 0.5) * digit.shape[0] - 0.5, (across + 0.5) * digit.shape[1] - 0.5)


def _sample_bilinear(image: Floats, rows: Floats, columns: Floats) -> Floats:
    """Interpolate `image` (h, w) between its pixels, 0 outside."""
    padded = np.pad(image, 1)
    rows = np.clip(rows + 1, 0, padded.shape[0] - 1.001)
    columns = np.clip(columns + 1, 0, padded.shape[1] - 1.001)
    top, left = np.floor(rows), np.floor(columns)
    below, across = rows - top, columns - left
    corner = (top * padded.shape[1] + left).astype(np.intp)
    flat = padded.ravel()
    upper = flat[corner] * (1 - across) + flat[corner + 1] * across
    corner += padded.shape[1]
    lower = flat[corner] * (1 - across) + flat[corner + 1] * across
    return upper * (1 - below) + lower * below


def draw_texture(rng: np.random.Generator, size: int) -> Floats:
    """Draw a still background (size, size, 1) of soft blotches around 0."""
    blotches = rng.normal(0, 22, (8, 8)).astype(np.float32)
    at = np.linspace(0, 7, size, dtype=np.float32)
    return _sample_bilinear(blotches, at[:, None] + 0 * at, at + 0 * at[:, None])[..., None]


def generate_moving_digits(
    root: Path,
    *,
    clips_per_class: Mapping[str, int],
    seed: int = 0,
    num_frames: int = 32,
    size: int = 64,
    fps: int = 16,
) -> None:
    """Write the data set to `root`, or leave it unchanged if it exists there.

    `root` then holds `{train,val,test}/<action>/<clip>.mp4`, the indices `{train,val,test}.csv` with columns
    path (from `root`) and label, `classes.txt`, and `dataset.json` with the parameters. The splits share no
    handwriting. The folder appears in one step once it is complete, so several processes may generate it at once; a
    killed process leaves a hidden folder next to it.

    Args:
        root: A folder that does not exist, is empty, or holds the same data set.
        clips_per_class: Clips of each action in "train", "val" and "test".
        seed: Determines all content.
        num_frames: Frames in a clip.
        size: Height and width in pixels; even.
        fps: Frames per second.

    Raises:
        UserError: `root` holds something else, a parameter is impossible, or scikit-learn is missing.
    """
    parameters = _check_parameters(
        version=_VERSION,
        clips_per_class={split: clips_per_class.get(split) for split in SPLITS},
        seed=seed,
        num_frames=num_frames,
        size=size,
        fps=fps,
    )
    root = Path(root)
    if is_generated(root, parameters, noun=NOUN):
        return
    digits = split_digits(seed)
    with appearing_at_once(root, parameters) as draft:
        with ThreadPoolExecutor(2) as pool:  # drawing and encoding release Python's lock
            jobs = [
                pool.submit(_write_clip, draft / path, digits[split], (seed, *key), label, parameters)
                for split, path, label, key in _plan(parameters)
            ]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        _write_indices(draft, parameters)


def _check_parameters(**parameters: Any) -> dict[str, Any]:
    for split, count in parameters["clips_per_class"].items():
        check_range(f"moving digits: clips_per_class[{split!r}]", count or 0)
    for name, least in {"num_frames": 1, "fps": 1, "seed": 0, "size": 16}.items():
        check_range(f"moving digits: {name}", parameters[name], Range(least))
    if parameters["size"] % 2:
        raise UserError(f"moving digits: size must be even, got {parameters['size']}")
    return parameters


def split_digits(seed: int, *, noun: str = NOUN) -> dict[str, Floats]:
    """Return handwritten digits (n, 8, 8) from 0 to 1 for each split; no two splits share one."""
    images, _ = handwritten_digits(noun=noun)
    images = np.random.default_rng(seed).permutation(images)
    ends = np.cumsum([round(len(images) * _SPLIT_FRACTIONS[split]) for split in SPLITS])
    return dict(zip(SPLITS, np.split(images, ends[:-1]), strict=True))


def _plan(parameters: dict[str, Any]) -> Iterator[tuple[str, str, str, tuple[int, int, int]]]:
    """Yield split, path, label and seed of each clip."""
    for split_number, split in enumerate(SPLITS):
        for label_number, label in enumerate(ACTIONS):
            for index in range(parameters["clips_per_class"][split]):
                yield split, f"{split}/{label}/{index:05d}.mp4", label, (split_number, label_number, index)


def _write_clip(path: Path, digits: Floats, key: tuple[int, ...], label: str, parameters: dict[str, Any]) -> None:
    rng = np.random.default_rng(key)
    motion = Motion.draw(rng)
    digit = digits[rng.integers(len(digits))]
    frames = render(label, motion, digit, rng, num_frames=parameters["num_frames"], size=parameters["size"])
    path.parent.mkdir(parents=True, exist_ok=True)
    encode(path, frames, parameters["fps"])


def encode(path: Path, frames: Frames, fps: int) -> None:
    """Write frames (T, H, W, 3) as a video, the same bytes on every machine."""
    import av

    with av.open(str(path), "w") as container:
        # On small pictures x264's mbtree reads uninitialised memory, and its result depends on the number of threads:
        # without these two options, equal frames become different bytes.
        options = {"crf": "26", "preset": "veryfast", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.codec_context.thread_count = 1
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _write_indices(root: Path, parameters: dict[str, Any]) -> None:
    for split in SPLITS:
        with (root / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["path", "label"])
            rows.writerows((path, label) for of, path, label, _ in _plan(parameters) if of == split)
    (root / "classes.txt").write_text("".join(f"{action}\n" for action in ACTIONS))
    (root / RECORD).write_text(json.dumps(parameters, indent=2) + "\n")


@contextmanager
def appearing_at_once(root: Path, parameters: dict[str, Any], *, noun: str = NOUN) -> Iterator[Path]:
    """Yield a draft folder, renamed to `root` after a successful block and removed otherwise."""
    root.parent.mkdir(parents=True, exist_ok=True)
    box = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        draft = box / root.name  # mkdtemp's own folder is closed to other users
        draft.mkdir()
        yield draft
        try:
            draft.rename(root)
        except OSError:  # another process may have been faster
            if not is_generated(root, parameters, noun=noun):
                raise
    finally:
        shutil.rmtree(box, ignore_errors=True)
