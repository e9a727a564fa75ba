"""Training views of images whose pixels have a class each: scale, crop, flip and photometric distortion.

The defaults are those of mmsegmentation's recipes for ADE20K. Pixels and classes follow one `Geometry`, and only pixels
change their colours.
"""

import random
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mvrec.data.views.geometry import Box, Geometry, Interpolation, Sides, height_and_width, rescaled_size
from mvrec.data.views.own_augment import Transforms
from mvrec.data.views.targets import NOT_LABELLED
from mvrec.data.views.transforms import RandomErasing
from mvrec.ranges import SHARE, check_range, check_ranges

_TRIES = 10  # of a crop without a class that covers too much
_COUNTED = 128  # rows and columns of a crop at which its classes are counted, at least
_HUES = 180  # steps of a whole turn: OpenCV's, in which the published ranges are written


@dataclass(frozen=True)
class PhotometricDistortion:
    """Random brightness, contrast, saturation and hue, each applied to half of the images.

    Liu et al. 2016 (SSD), https://arxiv.org/abs/1512.02325, in the form of mmsegmentation: brightness first, contrast
    second or last, by a throw of a coin. Each change ends within 0..255.

    Attributes:
        brightness: Most that is added to or taken from all values, of 255.
        contrast: Least and greatest factor of all values.
        saturation: Least and greatest factor of the saturation.
        hue: Most steps of the hue, of 180 for a whole turn.
        probability: Chance of each of the four.
    """

    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: int = 18
    probability: float = 0.5

    def __post_init__(self) -> None:
        check_ranges("", vars(self))
        for name in ("contrast", "saturation"):
            least, greatest = getattr(self, name)
            if not 0 <= least <= greatest:
                raise ValueError(f"{name} must be two ascending numbers from 0 on, got {least}, {greatest}")
        if not 0 <= self.hue <= _HUES // 2:
            raise ValueError(f"hue must lie in 0..{_HUES // 2}, got {self.hue}")

    def __call__(self, frames: Tensor, rng: random.Random) -> Tensor:
        """Return distorted frames.

        Args:
            frames: uint8 (T, 3, H, W).
            rng: Source of all random choices.

        Returns:
            uint8 (T, 3, H, W).
        """
        brightness = rng.uniform(-self.brightness, self.brightness) if self._is_drawn(rng) else 0.0
        contrast_is_second = rng.random() < 0.5
        contrast = rng.uniform(*self.contrast) if self._is_drawn(rng) else 1.0
        saturation = rng.uniform(*self.saturation) if self._is_drawn(rng) else 1.0
        hue = rng.randrange(-self.hue, self.hue) if self.hue and self._is_drawn(rng) else 0
        frames = _scaled(frames, 1.0, brightness)
        frames = _scaled(frames, contrast if contrast_is_second else 1.0, 0.0)
        frames = recoloured(frames, turn=hue / _HUES, saturation=saturation)
        return _scaled(frames, 1.0 if contrast_is_second else contrast, 0.0)

    def _is_drawn(self, rng: random.Random) -> bool:
        return rng.random() < self.probability


def _scaled(frames: Tensor, factor: float, shift: float) -> Tensor:
    if factor == 1.0 and shift == 0.0:
        return frames
    return frames.float().mul_(factor).add_(shift).clamp_(0, 255).to(frames.dtype)


def recoloured(frames: Tensor, *, turn: float = 0.0, saturation: float = 1.0) -> Tensor:
    """Turn the hue and scale the saturation of colours as HSV has them; the saturation ends at 1.

    Args:
        frames: uint8 (T, 3, H, W).
        turn: Added to the hue, of 1 for a whole turn.
        saturation: What the saturation is multiplied by.

    Returns:
        uint8 (T, 3, H, W).
    """
    if turn == 0.0 and saturation == 1.0:
        return frames
    red, green, blue = frames.float().unbind(1)  # (T, H, W) each
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    span = chroma.clamp(min=1.0)  # grey has no hue; any does
    hue = torch.where(
        value == red,
        (green - blue) / span,
        torch.where(value == green, (blue - red) / span + 2, (red - green) / span + 4),
    )  # -1..5, of 6 for a whole turn
    chroma = torch.minimum(chroma * saturation, value)  # saturation is chroma / value
    channels = []
    for offset in (5, 3, 1):  # of red, green and blue: how far each is from its own full colour
        place = (hue + (offset + 6 * turn + 6)).remainder_(6)
        channels.append(value - chroma * torch.minimum(place, 4 - place).clamp_(0, 1))
    return torch.stack(channels, 1).round_().to(frames.dtype)


@dataclass(frozen=True)
class MaskAugment:
    """Training augmentation of images with masks; the defaults are mmsegmentation's for ADE20K.

    Attributes:
        scale: Most pixels of the long and of the short side of an image before `ratio`, whose proportions stay; `None`
            takes images in their own size.
        ratio: Least and greatest factor of the scaled size, drawn evenly for each view.
        largest_share: Most of a crop's labelled pixels that one class may cover; another crop is tried 10 times. 1
            takes the first.
        flip_probability: Chance of a horizontal flip.
        interpolation: How pixels are scaled, without antialiasing as in the recipes; classes are those of the nearest
            pixels.
        photometric: Random brightness, contrast, saturation and hue, or `None`.
        random_erasing: Noise rectangles over pixels, whose classes stay, or `None`.
        after_crop: Augmentation of one's own on the crop, after `photometric`, or a list: a class path such as
            `torchvision.transforms.v2.GaussianBlur`, from uint8 (1, C, H, W) to the same. Classes do not follow it.
        on_device: The same on normalised float images (1, C, H, W) on the device.
    """

    scale: tuple[int, int] | None = (2048, 512)
    ratio: tuple[float, float] = (0.5, 2.0)
    largest_share: float = 0.75
    flip_probability: float = 0.5
    interpolation: Interpolation = "bilinear"
    photometric: PhotometricDistortion | None = field(default_factory=PhotometricDistortion)
    random_erasing: RandomErasing | None = None
    after_crop: Transforms | None = None
    on_device: Transforms | None = None

    def __post_init__(self) -> None:
        check_ranges("", vars(self))
        check_range("largest_share", self.largest_share, SHARE)
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be two ascending positive numbers, got {self.ratio[0]}, {self.ratio[1]}")
        if self.scale is not None and not all(side >= 1 for side in self.scale):
            raise ValueError(f"scale must be two positive numbers of pixels, got {self.scale[0]}, {self.scale[1]}")


def choose_mask_geometry(classes: npt.NDArray[np.uint8], *, size: Sides, augment: MaskAugment, seed: int) -> Geometry:
    """Choose the geometry of a training view of an image with a class per pixel.

    The image is scaled at random, a crop is cut out of it, and what is smaller than the crop is padded. Here the cut
    comes first: its box in the image is that of the crop, rounded to whole pixels.

    Args:
        classes: uint8 (H, W), `NOT_LABELLED` where there is no class.
        size: Side of the view in pixels, or its height and width.
        augment: The ranges of the choice.
        seed: Determines all random choices.
    """
    rng = random.Random(seed)
    height, width = classes.shape
    view_size = height_and_width(size)
    scaled = rescaled_size(height, width, augment.scale, rng.uniform(*augment.ratio))
    content = min(view_size[0], scaled[0]), min(view_size[1], scaled[1])
    box = _crop(classes, content, scaled, augment.largest_share, rng)
    return Geometry(
        box,
        content,
        flip=rng.random() < augment.flip_probability,
        interpolation=augment.interpolation,
        antialias=content[0] >= box.height,  # changes nothing where pixels are scaled up, and is faster
        padded=None if content == view_size else view_size,
    )


def _crop(
    classes: npt.NDArray[np.uint8], content: tuple[int, int], scaled: tuple[int, int], share: float, rng: random.Random
) -> Box:
    """Draw the place of a crop until no class covers more than a share of it; the last one if none is so."""
    height, width = classes.shape
    rows = min(max(round(content[0] * height / scaled[0]), 1), height)
    columns = min(max(round(content[1] * width / scaled[1]), 1), width)
    for number in range(_TRIES + 1):
        box = Box(rng.randint(0, height - rows), rng.randint(0, width - columns), rows, columns)
        if share >= 1 or number == _TRIES or largest_share(classes, box) < share:
            break
    return box


def largest_share(classes: npt.NDArray[np.uint8], box: Box) -> float:
    """Return the share of the most frequent class among the labelled pixels of a box; 1 without any.

    Pixels are counted on a grid of at least 128 x 128 where the box is that large.
    """
    step = max(min(box.height, box.width) // _COUNTED, 1)
    cut = classes[box.top : box.top + box.height : step, box.left : box.left + box.width : step]
    counts = np.bincount(cut.ravel(), minlength=NOT_LABELLED + 1)[:NOT_LABELLED]
    return float(counts.max() / counts.sum()) if counts.any() else 1.0
