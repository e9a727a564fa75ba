"""Scenes of handwritten digits on textures, as images and masks: a small data set, generated locally."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mvrec.data.generated.moving_digits_video import appearing_at_once
from mvrec.data.generated.splits import RECORD, handwritten_digits, is_generated
from mvrec.data.sets.segmentation.mask_folder import MaskFolder
from mvrec.data.views.mask_augment import MaskAugment
from mvrec.ranges import COUNT_OR_NONE, Range, check_range

SPLITS = ("train", "val", "test")
CLASSES = ("horizontal stripes", "vertical stripes", "checks", "blobs", "ink")
INK = 4
NOUN = "digit scenes"
# RGB of each class in viewers of the masks, dark to light.
PALETTE = ((68, 119, 170), (102, 204, 238), (34, 136, 51), (204, 187, 68), (238, 102, 119))

_VERSION = 1
_SPLIT_ENDS = {"train": 0.7, "val": 0.85, "test": 1.0}  # end of each split's share of the handwriting
_LEAST_PIXELS = 64
_DIGIT_PIXELS = (22, 53)  # of a scene of 128 pixels
_SCENE = 128
_IS_INK = 0.5  # ink above which a pixel is of class "ink"

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


class DigitScenes(MaskFolder):
    """`MaskFolder` on generated scenes: handwritten digits in light ink on regions of four textures.

    A toy to see that networks learn to segment, not a benchmark. The classes are the textures and the ink. Flips are
    harmless, because no class has a left and a right.

    Args:
        root: The folder of the scenes, generated if it does not exist.
        train_images: Scenes in the training split.
        val_images: Scenes in the validation split.
        test_images: Scenes in the test split.
        size: Side of the training crops in pixels.
        augment: See `MaskFolder`.
        batch_size: See `SegmentationData`.
        max_bad_fraction: See `SegmentationData`.
        **knobs: See `MaskFolder`.

    Raises:
        UserError: From `prepare_data`: `root` holds something else, or scikit-learn is missing.
    """

    def __init__(
        self,
        root: str = "data/digit_scenes",
        *,
        train_images: int = 400,
        val_images: int = 50,
        test_images: int = 50,
        size: int = 128,
        augment: MaskAugment = MaskAugment(  # noqa: B008 - frozen, and shown in --help
            scale=None, ratio=(0.8, 1.25), largest_share=1.0, photometric=None
        ),
        batch_size: int = 8,
        max_bad_fraction: float = 0.0,
        **knobs: Any,
    ) -> None:
        super().__init__(
            root, size=size, augment=augment, batch_size=batch_size, max_bad_fraction=max_bad_fraction, **knobs
        )
        self.images = {"train": train_images, "val": val_images, "test": test_images}

    def prepare_data(self) -> None:
        """Generate the scenes unless they exist."""
        generate_digit_scenes(self.root, images=self.images)
        super().prepare_data()


def generate_digit_scenes(root: Path, *, images: Mapping[str, int], seed: int = 0, size: int = _SCENE) -> None:
    """Write the data set to `root`, or leave it unchanged if it exists there.

    `root` then holds `images/{train,val,test}/<number>.png` in RGB, masks of the same names with a palette in `masks/`,
    `classes.txt`, and `dataset.json` with the parameters. The splits share no handwriting. The folder appears in one
    step once it is complete, so several processes may generate it at once.

    Args:
        root: A folder that does not exist, is empty, or holds the same data set.
        images: Number of scenes in "train", "val" and "test".
        seed: Determines all content.
        size: Height and width in pixels.

    Raises:
        UserError: `root` holds something else, a parameter is impossible, or scikit-learn is missing.
    """
    counts = {split: images.get(split) for split in SPLITS}
    for split, count in counts.items():
        check_range(f"digit scenes: images[{split!r}]", count or 0)
    check_range("digit scenes: seed", seed, COUNT_OR_NONE)
    check_range("digit scenes: size", size, Range(_LEAST_PIXELS))
    parameters = {"version": _VERSION, "images": counts, "seed": seed, "size": size}
    root = Path(root)
    if is_generated(root, parameters, noun=NOUN):
        return
    digits = split_digits(seed)
    with appearing_at_once(root, parameters, noun=NOUN) as draft:
        for path, scene in scenes(parameters, digits):
            write_image(draft / "images" / path, scene.pixels)
            _write_mask(draft / "masks" / path, scene.classes)
        (draft / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
        (draft / RECORD).write_text(json.dumps(parameters, indent=2) + "\n")


@dataclass(frozen=True)
class Scene:
    """A drawn scene.

    Attributes:
        pixels: uint8 (H, W, 3).
        classes: uint8 (H, W), the class of each pixel.
        owners: uint8 (H, W), 1 where the ink is that of the first digit and so on, 0 where there is none.
        digits: The number of each digit among the handwriting, in the order of drawing.
    """

    pixels: Bytes
    classes: Bytes
    owners: Bytes
    digits: tuple[int, ...]


def split_digits(seed: int, *, noun: str = NOUN) -> dict[str, tuple[Floats, npt.NDArray[np.int64]]]:
    """Return handwriting (n, 8, 8) from 0 to 1 and its digits (n,) for each split; no two splits share any.

    Args:
        seed: Determines the splits.
        noun: The name of the data set in messages.

    Raises:
        UserError: Scikit-learn is not installed.
    """
    images, digits = handwritten_digits(noun=noun)
    order = np.random.default_rng(seed).permutation(len(images))
    ends = [round(len(images) * _SPLIT_ENDS[split]) for split in SPLITS]
    parts = np.split(order, ends[:-1])
    return {split: (images[part], digits[part]) for split, part in zip(SPLITS, parts, strict=True)}


def scenes(
    parameters: Mapping[str, Any], digits: Mapping[str, tuple[Floats, npt.NDArray[np.int64]]]
) -> Iterator[tuple[str, Scene]]:
    """Yield path and scene for each of a data set.

    Args:
        parameters: Those of `generate_digit_scenes`: images, seed and size.
        digits: See `split_digits`.
    """
    for split_number, split in enumerate(SPLITS):
        for number in range(parameters["images"][split]):
            rng = np.random.default_rng((parameters["seed"], split_number, number))
            yield f"{split}/{number:05d}.png", draw_scene(digits[split][0], rng, size=parameters["size"])


def draw_scene(digits: Floats, rng: np.random.Generator, *, size: int) -> Scene:
    """Draw 2 to 4 regions of textures and 1 to 5 digits over them; later digits hide earlier ones.

    Args:
        digits: Handwriting (n, h, w), ink from 0 to 1.
        rng: Source of all random choices.
        size: Height and width in pixels.
    """
    regions = _regions(rng, size)
    pixels = np.zeros((size, size, 3), np.float32)
    classes, owners = np.zeros((2, size, size), np.uint8)
    for region in range(int(regions.max()) + 1):
        texture = int(rng.integers(INK))
        inside = regions == region
        pixels[inside] = _texture(texture, rng, size)[inside]
        classes[inside] = texture
    numbers = []
    for number in range(int(rng.integers(1, 6))):
        numbers.append(int(rng.integers(len(digits))))
        is_ink = _add_digit(pixels, digits[numbers[-1]], rng)
        classes[is_ink], owners[is_ink] = INK, number + 1
    pixels += rng.normal(0, 4, pixels.shape).astype(np.float32)
    return Scene(np.clip(pixels, 0, 255).astype(np.uint8), classes, owners, tuple(numbers))


def _regions(rng: np.random.Generator, size: int) -> npt.NDArray[np.intp]:
    """Return the number of the nearest of 2 to 4 random points for each pixel: (size, size), Voronoi cells."""
    points = rng.uniform(0, size, (int(rng.integers(2, 5)), 2)).astype(np.float32)
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    distances = [(rows - row) ** 2 + (columns - column) ** 2 for row, column in points]
    return np.argmin(distances, axis=0)


def _texture(number: int, rng: np.random.Generator, size: int) -> Floats:
    """Draw a texture of random period, colour and contrast: (size, size, 3)."""
    period, phases = rng.uniform(6, 14), rng.uniform(0, 2 * np.pi, 2)
    waves = [np.sin(2 * np.pi * np.arange(size) / period + phase) for phase in phases]
    down, across = waves[0][:, None], waves[1][None]
    pattern = {
        0: lambda: np.sign(down) + 0 * across,
        1: lambda: np.sign(across) + 0 * down,
        2: lambda: np.sign(down * across),
        3: lambda: np.clip(3 * _smooth_noise(rng, size, period), -1, 1),
    }[number]()
    colour = rng.uniform(40, 130, 3)
    contrast = rng.uniform(18, 45)
    return (colour + contrast * pattern[..., None]).astype(np.float32)


def _smooth_noise(rng: np.random.Generator, size: int, period: float) -> Floats:
    """Return noise (size, size) around 0 whose spots are about a period wide."""
    nodes = max(round(2 * size / period), 2)
    return _sampled(rng.normal(0, 1, (nodes, nodes)).astype(np.float32), *_grid(size, nodes))


def _grid(size: int, nodes: int) -> tuple[Floats, Floats]:
    at = np.linspace(0, nodes - 1, size, dtype=np.float32)
    return np.broadcast_to(at[:, None], (size, size)), np.broadcast_to(at, (size, size))


def _add_digit(pixels: Floats, digit: Floats, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Draw a digit of random place, size and slant over a scene, in place; return where its ink is: (H, W)."""
    size = len(pixels)
    extent = rng.uniform(*_DIGIT_PIXELS) * size / _SCENE
    top, left = rng.uniform(0, size - extent, 2)
    slant = rng.uniform(-0.3, 0.3)
    rows, columns = np.mgrid[:size, :size].astype(np.float32) + 0.5
    along = (rows - top) / extent  # 0..1 within the digit
    across = (columns - left) / extent + slant * (along - 0.5)
    inside = (along >= 0) & (along < 1) & (across >= 0) & (across < 1)
    height, width = digit.shape
    ink = inside * np.clip(1.4 * _sampled(digit, along * height - 0.5, across * width - 0.5), 0, 1)
    pen = rng.uniform(185, 255, 3).astype(np.float32)
    pixels += ink[..., None] * (pen - pixels)
    return ink > _IS_INK


def _sampled(image: Floats, rows: Floats, columns: Floats) -> Floats:
    """Interpolate `image` (h, w) between its pixels; places outside have the border's values."""
    height, width = image.shape
    rows, columns = np.clip(rows, 0, height - 1.001), np.clip(columns, 0, width - 1.001)
    top, left = rows.astype(np.intp), columns.astype(np.intp)
    down, right = rows - top, columns - left
    upper = image[top, left] * (1 - right) + image[top, left + 1] * right
    lower = image[top + 1, left] * (1 - right) + image[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def write_image(path: Path, pixels: Bytes) -> None:
    """Write pixels (H, W, 3) as a PNG, and its folder before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)  # twice as quick


def _write_mask(path: Path, classes: Bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    indexed = Image.fromarray(classes).convert("P")
    indexed.putpalette([value for colour in PALETTE for value in colour])
    indexed.save(path)
