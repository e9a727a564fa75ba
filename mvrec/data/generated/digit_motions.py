"""Videos of a moving digit with the speed and the angle of its motion: a toy for regression."""

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mvrec.data.generated.moving_digits_video import SPLITS, Floats, appearing_at_once, draw_poses, encode, split_digits
from mvrec.data.generated.splits import RECORD, is_generated
from mvrec.data.sets.video_data import VideoData
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.protocol import Views
from mvrec.data.views.transforms import Augment
from mvrec.ranges import check_ranges

NOUN = "motions of digits"
VALUES = ("speed", "angle")
SPEEDS = (0.05, 0.3)  # widths of the picture per second
ANGLES = (0.0, 180.0)  # degrees: 0 to the right, 90 up, 180 to the left
NUM_FRAMES, FPS = 32, 16
_VERSION = 1


class DigitMotions(VideoData):
    """`VideoData` on generated videos of a digit on a straight way, with the motion's speed and angle to predict.

    A toy to see that regression works. The speed is in widths of the picture per second, the angle in degrees: 0 to the
    right, 90 up, 180 to the left. A single frame shows neither.

    Args:
        root: The folder of the videos, generated if it does not exist.
        train_clips: Videos of the training split.
        eval_clips: Videos of the validation and of the test split each.
        clip: See `VideoData`.
        size: Side of the clips in pixels, and of the videos.
        augment: See `VideoData`. Flips and stretched crops would change the values, which the list keeps.
        val_views: See `VideoData`.
        test_views: See `VideoData`.
        batch_size: See `VideoData`.
        max_bad_fraction: See `VideoData`.
        values: See `VideoData`.
        **knobs: See `VideoData`.
    """

    def __init__(
        self,
        root: str = "data/digit_motions",
        *,
        train_clips: int = 600,
        eval_clips: int = 150,
        clip: ClipSpec = ClipSpec(num_frames=8, stride_frames=4, target_fps=None),  # noqa: B008
        size: int = 64,
        augment: Augment = Augment(  # noqa: B008
            crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0), flip_probability=0.0, rand_augment=None, random_erasing=None
        ),
        val_views: Views = Views(num_clips=1, short_side=64),  # noqa: B008
        test_views: Views = Views(num_clips=1, short_side=64),  # noqa: B008
        batch_size: int = 16,
        max_bad_fraction: float = 0.0,
        values: str | list[str] | None = None,
        **knobs: Any,
    ) -> None:
        super().__init__(
            root,
            clip=clip,
            size=size,
            augment=augment,
            val_views=val_views,
            test_views=test_views,
            batch_size=batch_size,
            max_bad_fraction=max_bad_fraction,
            values=list(VALUES) if values is None else values,
            **knobs,
        )
        check_ranges("data.", {"train_clips": train_clips, "eval_clips": eval_clips})
        self.train_clips, self.eval_clips = train_clips, eval_clips

    def prepare_data(self) -> None:
        """Generate the videos unless they exist."""
        counts = {"train": self.train_clips, "val": self.eval_clips, "test": self.eval_clips}
        generate_digit_motions(self.root, counts, size=self.size)


def generate_digit_motions(root: Path, counts: dict[str, int], *, size: int = 64, seed: int = 0) -> None:
    """Write the data set to `root`, or leave it unchanged if it exists there.

    `root` then holds `{train,val,test}/<number>.mp4`, the lists `{train,val,test}.csv` with the columns path, speed and
    angle, and `dataset.json` with the parameters. The splits share no handwriting. The folder appears in one step.

    Args:
        root: A folder that does not exist, is empty, or holds the same data set.
        counts: Videos in "train", "val" and "test".
        size: Height and width in pixels; even.
        seed: Determines all content.

    Raises:
        UserError: `root` holds something else, or scikit-learn is missing.
    """
    parameters = {"version": _VERSION, "motions": counts, "seed": seed, "size": size}
    if is_generated(root, parameters, noun=NOUN):
        return
    digits = split_digits(seed)
    with appearing_at_once(root, parameters, noun=NOUN) as draft, ThreadPoolExecutor(2) as pool:
        for split_number, split in enumerate(SPLITS):
            (draft / split).mkdir()
            names = [f"{number:05d}.mp4" for number in range(counts[split])]
            jobs = [
                pool.submit(
                    _write_clip, draft / split / f"{number:05d}.mp4", digits[split], (seed, split_number, number), size
                )
                for number in range(counts[split])
            ]
            rows = [(f"{split}/{name}", *job.result()) for name, job in zip(names, jobs, strict=True)]
            with (draft / f"{split}.csv").open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([("path", *VALUES), *rows])
        (draft / RECORD).write_text(json.dumps(parameters, indent=2) + "\n")


def _write_clip(path: Path, digits: Floats, key: tuple[int, ...], size: int) -> tuple[str, str]:
    """Write a video, and return its speed and angle."""
    rng = np.random.default_rng(key)
    speed, angle = rng.uniform(*SPEEDS), rng.uniform(*ANGLES)
    digit = digits[rng.integers(len(digits))]
    encode(path, draw_poses(straight_way(speed, angle, rng), digit, rng, size=size), FPS)
    return f"{speed:.4f}", f"{angle:.2f}"


def straight_way(speed: float, angle: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return the poses (T, 4) of a digit that crosses the picture's middle: x, y, extent, and its rotation in turns."""
    x, y, extent = rng.uniform(0.45, 0.55), rng.uniform(0.45, 0.55), rng.uniform(0.25, 0.3)
    way = speed * ((np.arange(NUM_FRAMES) + 0.5) - NUM_FRAMES / 2) / FPS  # widths from the middle
    across, up = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    still = np.zeros(NUM_FRAMES)
    return np.stack([x + across * way, y - up * way, extent + still, still], axis=1)
