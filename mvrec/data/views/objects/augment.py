"""Training views of images with objects: their size, crop and flip, colours, and rotation.

The defaults are those of the 1x recipes for COCO. A crop is cut first and scaled then: its box in the image is that of
the recipe's crop of the scaled image, rounded to whole pixels.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mvrec.data.views import pixel_operations as tvf
from mvrec.data.views.geometry import Box, Geometry, Interpolation, rescaled_size
from mvrec.data.views.mask_augment import PhotometricDistortion
from mvrec.data.views.own_augment import Transforms
from mvrec.data.views.transforms import Colour
from mvrec.ranges import PIXELS, check_range, check_ranges
from mvrec.seeds import derive_seed


@dataclass(frozen=True)
class ObjectCrop:
    """A random crop before the image is scaled, as in the recipes for 36 epochs (Carion et al. 2020, DETR).

    Attributes:
        probability: Chance of a crop.
        short_sides: Pixels of the short side of the image out of which it is cut, one of which is drawn.
        longest: Most pixels of the long side of that image.
        sides: Least and greatest pixels of the crop's height and width, each drawn evenly.
    """

    probability: float = 0.5
    short_sides: tuple[int, ...] = (400, 500, 600)
    longest: int = 1333
    sides: tuple[int, int] = (384, 600)

    def __post_init__(self) -> None:
        check_ranges("", vars(self))
        _check_sides(self.short_sides)
        least, greatest = self.sides
        if not 1 <= least <= greatest:
            raise ValueError(f"sides must be two ascending numbers of pixels, got {least}, {greatest}")

    def size(self, scaled: tuple[int, int], rng: random.Random) -> tuple[int, int]:
        """Draw (height, width) of a crop out of an image of a size."""
        least, greatest = self.sides
        height, width = (rng.randint(min(least, side), min(greatest, side)) for side in scaled)
        return height, width


@dataclass(frozen=True)
class ScaleJitter:
    """A random scale and a crop of a fixed size, padded at the bottom and the right (Ghiasi et al. 2021, LSJ).

    Attributes:
        side: Side of the square view in pixels.
        ratio: Least and greatest factor of the scale at which the image fits the view.
    """

    side: int = 1024
    ratio: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        check_ranges("", vars(self))
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be two ascending positive numbers, got {self.ratio[0]}, {self.ratio[1]}")


@dataclass(frozen=True)
class ObjectAugment:
    """Training augmentation of images with objects; the defaults are those of 12 epochs on COCO.

    Attributes:
        short_sides: Pixels of the short side of a view, one of which is drawn; the proportions stay. `None` takes
            images in their own size.
        longest: Most pixels of the long side, which may make the short side shorter.
        crop: A random crop before that, or `None`.
        jitter: A random scale and crop of a fixed size in place of `short_sides`, `longest` and `crop`, or `None`.
        flip_probability: Chance of a horizontal flip.
        rotation: Most degrees by which an image is turned to either side. Boxes stay tight, because outlines turn too;
            so all objects need outlines.
        interpolation: How pixels are scaled.
        photometric: Random brightness, contrast, saturation and hue, or `None`.
        after_crop: Augmentation of one's own on the view, after `photometric`, or a list: a class path such as
            `torchvision.transforms.v2.GaussianBlur`, from uint8 (1, C, H, W) to the same. Objects do not follow it.
    """

    short_sides: tuple[int, ...] | None = (800,)
    longest: int = 1333
    crop: ObjectCrop | None = None
    jitter: ScaleJitter | None = None
    flip_probability: float = 0.5
    rotation: float = 0.0
    interpolation: Interpolation = "bilinear"
    photometric: PhotometricDistortion | None = None
    after_crop: Transforms | None = None

    def __post_init__(self) -> None:
        check_ranges("", vars(self))
        if self.short_sides is not None:
            _check_sides(self.short_sides)


def _check_sides(short_sides: Sequence[int]) -> None:
    if not short_sides:
        raise ValueError("short_sides must have a number of pixels, or be null for images in their own size")
    for side in short_sides:
        check_range("short_sides", side, PIXELS)


def choose_object_geometry(height: int, width: int, *, augment: ObjectAugment, seed: int) -> Geometry:
    """Choose the geometry of a training view of an image of this size in pixels.

    Args:
        height: Of the image.
        width: Of the image.
        augment: The ranges of the choice.
        seed: Determines all random choices.
    """
    rng = random.Random(seed)
    flip = rng.random() < augment.flip_probability
    box, padded = Box(0, 0, height, width), None
    if augment.jitter is not None:
        side = augment.jitter.side
        scaled = rescaled_size(height, width, (side, side), rng.uniform(*augment.jitter.ratio))
        size = min(scaled[0], side), min(scaled[1], side)
        box = _cut_out(box, size, scaled, rng)
        padded = None if size == (side, side) else (side, side)
    else:
        crop = augment.crop
        if crop is not None and rng.random() < crop.probability:
            scaled = rescaled_size(height, width, (crop.longest, rng.choice(crop.short_sides)))
            box = _cut_out(box, crop.size(scaled, rng), scaled, rng)
        scale = None if augment.short_sides is None else (augment.longest, rng.choice(augment.short_sides))
        size = rescaled_size(box.height, box.width, scale)
    antialias = size[0] >= box.height  # without where pixels are scaled down, as in the recipes; else it is faster
    interpolation = augment.interpolation
    return Geometry(box, size, flip=flip, interpolation=interpolation, antialias=antialias, padded=padded)


def _cut_out(whole: Box, size: tuple[int, int], scaled: tuple[int, int], rng: random.Random) -> Box:
    """Draw the place of a crop of a size out of a scaled image, and return its box in the image."""
    rows = min(max(round(size[0] * whole.height / scaled[0]), 1), whole.height)
    columns = min(max(round(size[1] * whole.width / scaled[1]), 1), whole.width)
    return Box(rng.randint(0, whole.height - rows), rng.randint(0, whole.width - columns), rows, columns)


def choose_angle(augment: ObjectAugment, *, seed: int) -> float:
    """Choose the angle in degrees by which an image is turned counterclockwise."""
    return random.Random(derive_seed("angle", seed)).uniform(-augment.rotation, augment.rotation)


def turned_frames(frames: np.ndarray, angle: float, *, padding: Colour) -> np.ndarray:
    """Turn frames counterclockwise about their centre; their size stays.

    Args:
        frames: uint8 (T, H, W, C).
        angle: In degrees.
        padding: RGB of pixels that come from outside.

    Returns:
        uint8 (T, H, W, C).
    """
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    mode = tvf.InterpolationMode.BILINEAR
    return tvf.rotate(pixels, angle, interpolation=mode, fill=list(padding)).permute(0, 2, 3, 1).numpy()
