"""Handwritten digits as image files: a small data set of real JPEGs and PNGs, generated locally."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mvrec.data.generated.moving_digits_video import Motion, render
from mvrec.data.generated.splits import RECORD, handwritten_digits, is_generated
from mvrec.data.sets.folder import ImageFolder
from mvrec.data.views.transforms import Augment
from mvrec.errors import UserError
from mvrec.ranges import COUNT_OR_NONE, Range, check_range

SPLITS = ("train", "val", "test")
CLASSES = tuple("0123456789")
NOUN = "digit images"

_VERSION = 1
_SPLIT_ENDS = {"train": 0.7, "val": 0.85, "test": 1.0}  # end of each split's share of the handwriting
_LEAST_PIXELS = 16

Floats = npt.NDArray[np.float32]


class DigitImages(ImageFolder):
    """`ImageFolder` on generated images: a handwritten digit of random place, size, slant and colour on a texture.

    A toy to see that image networks learn, not a benchmark.

    Args:
        root: The folder of the images, generated if it does not exist.
        images_per_class: Images of each digit in the training split.
        val_images_per_class: Images of each digit in the validation split.
        test_images_per_class: Images of each digit in the test split.
        size: Side of the model's input in pixels, and of the files.
        crop_fraction: See `ImageData`.
        augment: See `ImageData`. Flips are refused: a mirrored digit is not a digit.
        batch_size: See `ImageData`.
        max_bad_fraction: See `ImageData`.
        **knobs: See `ImageData`.

    Raises:
        UserError: Flips are enabled; from `prepare_data`: `root` holds something else, or scikit-learn is missing.
    """

    def __init__(
        self,
        root: str = "data/digit_images",
        *,
        images_per_class: int = 400,
        val_images_per_class: int = 30,
        test_images_per_class: int = 50,
        size: int = 64,
        crop_fraction: float = 1.0,
        augment: Augment = Augment(  # noqa: B008 - frozen, and shown in --help
            crop_area=(0.8, 1.0), flip_probability=0.0, rand_augment=None, random_erasing=None
        ),
        batch_size: int = 16,
        max_bad_fraction: float = 0.0,
        **knobs: Any,
    ) -> None:
        super().__init__(
            root,
            size=size,
            crop_fraction=crop_fraction,
            augment=augment,
            batch_size=batch_size,
            max_bad_fraction=max_bad_fraction,
            **knobs,
        )
        if augment.flip_probability > 0:
            raise UserError(
                f"data.augment.flip_probability must be 0, got {augment.flip_probability}: a mirrored digit is none"
            )
        self.images_per_class = {
            "train": images_per_class,
            "val": val_images_per_class,
            "test": test_images_per_class,
        }

    def prepare_data(self) -> None:
        """Generate the images unless they exist."""
        generate_digit_images(self.root, images_per_class=self.images_per_class, size=self.size)
        super().prepare_data()


def generate_digit_images(root: Path, *, images_per_class: Mapping[str, int], seed: int = 0, size: int = 64) -> None:
    """Write the data set to `root`, or leave it unchanged if it exists there.

    `root` then holds `{train,val,test}/{0..9}/<number>.jpg` for even numbers and `.png` for odd ones, and
    `dataset.json` with the parameters. The splits share no handwriting. The folder appears in one step once it is
    complete, so several processes may generate it at once.

    Args:
        root: A folder that does not exist, is empty, or holds the same data set.
        images_per_class: Images of each digit in "train", "val" and "test".
        seed: Determines all content.
        size: Height and width in pixels.

    Raises:
        UserError: `root` holds something else, a parameter is impossible, or scikit-learn is missing.
    """
    counts = {split: images_per_class.get(split) for split in SPLITS}
    parameters = {"version": _VERSION, "images_per_class": counts, "seed": seed, "size": size}
    _check(parameters)
    root = Path(root)
    if is_generated(root, parameters, noun=NOUN):
        return
    digits = _handwriting(seed)
    root.parent.mkdir(parents=True, exist_ok=True)
    box = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        draft = box / root.name  # the box itself is closed to other users
        for path, image in _draw(parameters, digits):
            _write(draft / path, image)
        (draft / RECORD).write_text(json.dumps(parameters, indent=2) + "\n")
        try:
            draft.rename(root)
        except OSError:  # another process may have been faster
            if not is_generated(root, parameters, noun=NOUN):
                raise
    finally:
        shutil.rmtree(box, ignore_errors=True)


def _check(parameters: Mapping[str, Any]) -> None:
    for split, count in parameters["images_per_class"].items():
        check_range(f"digit images: images_per_class[{split!r}]", count or 0)
    check_range("digit images: seed", parameters["seed"], COUNT_OR_NONE)
    check_range("digit images: size", parameters["size"], Range(_LEAST_PIXELS))


def _handwriting(seed: int) -> dict[str, dict[str, Floats]]:
    """Return digits (n, 8, 8) from 0 to 1 for each split and class; no two splits share one."""
    images, labels = handwritten_digits(noun=NOUN)
    order = np.random.default_rng(seed).permutation(len(images))
    images, labels = images[order], labels[order]
    shares: dict[str, dict[str, Floats]] = {split: {} for split in SPLITS}
    for label, name in enumerate(CLASSES):
        digits, begin = images[labels == label], 0
        for split in SPLITS:
            end = round(len(digits) * _SPLIT_ENDS[split])
            shares[split][name], begin = digits[begin:end], end
    return shares


def _draw(
    parameters: Mapping[str, Any], digits: Mapping[str, Mapping[str, Floats]]
) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """Yield path and pixels (H, W, C) of every image."""
    for split_number, split in enumerate(SPLITS):
        for label, name in enumerate(CLASSES):
            for number in range(parameters["images_per_class"][split]):
                rng = np.random.default_rng((parameters["seed"], split_number, label, number))
                digit = digits[split][name][rng.integers(len(digits[split][name]))]
                suffix = "png" if number % 2 else "jpg"
                yield f"{split}/{name}/{number:05d}.{suffix}", _image(digit, rng, size=parameters["size"])


def _image(digit: Floats, rng: np.random.Generator, *, size: int) -> npt.NDArray[np.uint8]:
    """Draw one digit in light ink on dark paper, both of random colours."""
    extent = rng.uniform(0.5, 0.8)
    room = (1 - extent) / 2  # keeps the digit inside the picture
    pose = Motion(
        x=rng.uniform(0.5 - room, 0.5 + room),
        y=rng.uniform(0.5 - room, 0.5 + room),
        extent=extent,
        angle=rng.uniform(-0.04, 0.04),
        speed=0.0,
        radius=0.0,
    )
    return render("grow", pose, digit, rng, num_frames=1, size=size)[0]


def _write(path: Path, image: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=90)  # PNG ignores the quality
