"""The source of a view's pixels: one rectangle, one scale and one flip for all frames of a clip.

A `Geometry` is decided once per view and then applied to the pixels (`mvrec.data.views.transforms`) and to the target
(`mvrec.data.views.targets`) alike. It reads no pixel and holds for any number of frames.
"""

import math
import random
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

Interpolation = Literal["bilinear", "bicubic"]
TrainInterpolation = Literal["bilinear", "bicubic", "random"]
Rounding = Literal["slowfast", "torchvision"]
Sides = int | tuple[int, int]  # in pixels: of a square, or height and width


def height_and_width(sides: Sides) -> tuple[int, int]:
    """Return the sides of a square or rectangle."""
    if isinstance(sides, int):
        return sides, sides
    height, width = sides
    return height, width


def sides_text(sides: Sides) -> str:
    """Return sides in words: "64 x 64 pixels", "512 pixels high, 1024 wide"."""
    height, width = height_and_width(sides)
    return f"{height} x {width} pixels" if height == width else f"{height} pixels high, {width} wide"


class Box(NamedTuple):
    """A rectangle in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Geometry:
    """The way from a frame to a view: cut `box` out, scale it to `size`, cut `crop` out of that, flip, and pad.

    Attributes:
        box: The kept part of the frame.
        size: (height, width) in pixels of the scaled box.
        crop: The kept part after scaling; `None` for all of it. Training cuts before it scales, evaluation after.
        flip: Whether left and right are exchanged.
        interpolation: How pixels are scaled; targets take the nearest.
        antialias: Whether scaling down averages over all covered pixels.
        padded: (height, width) in pixels to which the view is padded at the bottom and the right; `None` pads nothing.
            Padding has a colour of its own and no target.
    """

    box: Box
    size: tuple[int, int]
    crop: Box | None = None
    flip: bool = False
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    padded: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        height, width = self.content_size
        if self.padded is not None and (self.padded[0] < height or self.padded[1] < width):
            raise ValueError(f"a view of {height}x{width} pixels cannot be padded to {self.padded[0]}x{self.padded[1]}")

    @property
    def content_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the view without its padding."""
        return self.size if self.crop is None else (self.crop.height, self.crop.width)

    @property
    def view_size(self) -> tuple[int, int]:
        """(height, width) of the view in pixels."""
        return self.content_size if self.padded is None else self.padded


class Cropping(Protocol):
    """The part of an augmentation about places; see `Augment`."""

    @property
    def crop_area(self) -> tuple[float, float]:
        """Least and greatest share of the frame."""

    @property
    def crop_aspect(self) -> tuple[float, float]:
        """Least and greatest ratio of width to height."""

    @property
    def crop_side(self) -> tuple[float, float] | None:
        """Least and greatest side of a square crop, as a share of the short side."""

    @property
    def interpolation(self) -> TrainInterpolation:
        """The interpolation of crops."""

    @property
    def flip_probability(self) -> float:
        """Chance of a horizontal flip."""


def choose_geometry(height: int, width: int, *, size: int, augment: Cropping, seed: int) -> Geometry:
    """Choose the geometry of a training view.

    Args:
        height: Pixels of a frame.
        width: Pixels of a frame.
        size: Side of the square view in pixels.
        augment: The ranges of the choice.
        seed: Determines all random choices.
    """
    rng = random.Random(seed)
    box = random_crop_box(height, width, augment, rng)
    choices: tuple[Interpolation, ...] = ("bilinear", "bicubic")
    interpolation = rng.choice(choices) if augment.interpolation == "random" else augment.interpolation
    flip = rng.random() < augment.flip_probability
    return Geometry(box, (size, size), flip=flip, interpolation=interpolation)


def random_crop_box(height: int, width: int, augment: Cropping, rng: random.Random) -> Box:
    """Choose a box of random area and aspect ratio in a frame (Szegedy et al. 2015); the centre if none fits.

    With `crop_side`, choose a square of random size.
    """
    if augment.crop_side is not None:
        side = max(round(rng.uniform(*augment.crop_side) * min(height, width)), 1)
        return Box(rng.randint(0, height - side), rng.randint(0, width - side), side, side)
    low, high = (math.log(aspect) for aspect in augment.crop_aspect)
    for _ in range(10):
        area = rng.uniform(*augment.crop_area) * height * width
        aspect = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(rng.randint(0, height - h), rng.randint(0, width - w), h, w)
    aspect = min(max(width / height, augment.crop_aspect[0]), augment.crop_aspect[1])
    w = min(width, round(height * aspect))
    h = min(height, round(w / aspect))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def eval_geometries(
    height: int,
    width: int,
    *,
    short_side: int,
    size: int,
    num_crops: int = 1,
    interpolation: Interpolation,
    antialias: bool = True,
    rounding: Rounding = "slowfast",
) -> list[Geometry]:
    """Return the spatial views for scoring: short side scaled, then cropped.

    Args:
        height: Pixels of a frame.
        width: Pixels of a frame.
        short_side: Pixels of the short side after scaling.
        size: Side of the square crops in pixels.
        num_crops: 1 (centre) or 3; with torchvision's rounding 1.
        interpolation: How frames are scaled.
        antialias: See `Geometry`.
        rounding: Whose rounding the long side and the place of the crops have; they differ by a pixel at most.

    Raises:
        ValueError: The number of crops is not supported, or a frame is smaller than the crop.
    """
    if rounding == "torchvision":
        scaled = _torchvision_short_side(height, width, short_side)
        crops = [Box(round((scaled[0] - size) / 2), round((scaled[1] - size) / 2), size, size)]
    else:
        scaled = short_side_size(height, width, short_side)
        crops = spatial_crops(*scaled, size, num_crops)
    whole = Box(0, 0, height, width)
    return [Geometry(whole, scaled, crop, interpolation=interpolation, antialias=antialias) for crop in crops]


def short_side_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return (height, width) for a given short side, with the long one in proportion, rounded down."""
    if width < height:
        return math.floor(height / width * short_side), short_side
    return short_side, math.floor(width / height * short_side)


def rescaled_size(height: int, width: int, scale: tuple[int, int] | None, ratio: float = 1.0) -> tuple[int, int]:
    """Return (height, width) of an image within a long and a short side, by the rounding of mmsegmentation.

    Args:
        height: Pixels of the image.
        width: Pixels of the image.
        scale: Most pixels of the long and of the short side; `None` for the image's own size.
        ratio: A factor of the result.
    """
    factor = ratio
    if scale is not None:
        longest, shortest = (int(side * ratio) for side in scale)
        factor = min(longest / max(height, width), shortest / min(height, width))
    return max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)


def spatial_crops(height: int, width: int, size: int, num_crops: int) -> list[Box]:
    """Return square crops for evaluation: the centre one, or three along the long side (left to right, top to bottom).

    Raises:
        ValueError: The number of crops is not 1 or 3, or a frame is smaller than the crop.
    """
    if min(height, width) < size:
        raise ValueError(f"a crop of {size} pixels does not fit in frames of {height}x{width}")
    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    if num_crops == 1:
        return [Box(top, left, size, size)]
    if num_crops != 3:
        raise ValueError(f"crops per clip must be 1 or 3, got {num_crops}")
    if height > width:
        return [Box(y, left, size, size) for y in (0, top, height - size)]
    return [Box(top, x, size, size) for x in (0, left, width - size)]


def _torchvision_short_side(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Compute `short_side_size` in the order of operations, and so with the rounding, of torchvision's `resize`."""
    if width <= height:
        return int(short_side * height / width), short_side
    return short_side, int(short_side * width / height)
