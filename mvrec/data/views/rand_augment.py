"""RandAugment for clips, in the form of the published video and image recipes.

The recipes write `rand-m7-n4-mstd0.5-inc1`: `num_ops` operations per sample, each applied with probability
0.5 at a magnitude drawn from N(m, mstd), with every operation growing stronger as the magnitude grows ("inc").
torchvision's own RandAugment has neither the noise, nor the probability, nor the increasing scale. Geometric
operations are bilinear, the only choice of torchvision for tensors; the recipes draw between bilinear and
bicubic.
Cubuk et al. 2020, https://arxiv.org/abs/1909.13719, in the variant made popular by timm.
"""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mvrec.data.views import pixel_operations as tvf
from mvrec.ranges import check_ranges

MAX_MAGNITUDE = 10.0


@dataclass(frozen=True)
class RandAugment:
    """Random photometric and geometric operations, the same on all frames of a clip.

    Attributes:
        num_ops: n, operations drawn per clip (with replacement).
        magnitude: m, on the scale 0..10.
        magnitude_std: mstd, spread of the magnitude.
        probability: Chance that a drawn operation is applied.
        fill: RGB of pixels from outside the frame.
    """

    num_ops: int = 4
    magnitude: float = 7.0
    magnitude_std: float = 0.5
    probability: float = 0.5
    fill: tuple[int, int, int] = (124, 116, 104)  # the ImageNet mean

    def __post_init__(self) -> None:
        check_ranges("", vars(self))

    def __call__(self, clip: Tensor, rng: random.Random) -> Tensor:
        """Augment one clip.

        Args:
            clip: uint8 (T, C, H, W).
            rng: Source of all random choices.

        Returns:
            uint8 (T, C, H, W).
        """
        for _, _, augmented in self.steps(clip, rng):
            clip = augmented
        return clip

    def steps(self, clip: Tensor, rng: random.Random) -> Iterator[tuple[str, float, Tensor]]:
        """Yield the name and magnitude of each applied operation, and the clip after it."""
        for name in rng.choices(list(OPERATIONS), k=self.num_ops):
            if rng.random() >= self.probability:
                continue
            magnitude = min(max(rng.gauss(self.magnitude, self.magnitude_std), 0.0), MAX_MAGNITUDE)
            clip = OPERATIONS[name](clip, magnitude / MAX_MAGNITUDE, rng, self.fill)
            yield name, magnitude, clip


Fill = tuple[int, int, int]
Operation = Callable[[Tensor, float, random.Random, Fill], Tensor]


def _signed(value: float, rng: random.Random) -> float:
    return -value if rng.random() < 0.5 else value


Row = tuple[float, float, float]  # factors of x, y and 1


def _affine(clip: Tensor, fill: Fill, *, of_x: Row = (1, 0, 0), of_y: Row = (0, 1, 0)) -> Tensor:
    """Move pixels: `of_x` and `of_y` give the source of the pixel (x, y), both counted from the centre.

    The rows are factors of kernels, not a tensor, because a copy waits for the device.
    """
    height, width = clip.shape[-2:]
    x = torch.arange(width, device=clip.device) - (width - 1) / 2
    y = (torch.arange(height, device=clip.device) - (height - 1) / 2)[:, None]
    source = [(a * x + b * y + c) * (2 / size) for (a, b, c), size in ((of_x, width), (of_y, height))]
    grid = torch.stack(source, -1)[None]  # (1, H, W, 2)
    # All frames are channels of one picture, so that the source of each pixel is read once.
    frames = F.grid_sample(clip.float().reshape(1, -1, height, width), grid, align_corners=False).view(clip.shape)
    inside = F.grid_sample(torch.ones((1, 1, height, width), device=clip.device), grid, align_corners=False)
    colour = _colour(fill, clip.device)
    return frames.sub_(colour).mul_(inside).add_(colour).round_().to(torch.uint8)


@lru_cache(maxsize=16)
def _colour(fill: Fill, device: torch.device) -> Tensor:
    """Return the colour as float32 (1, 3, 1, 1); cached, because a copy waits for the device."""
    with torch.inference_mode(False):
        return torch.tensor(fill, dtype=torch.float32, device=device).view(1, 3, 1, 1)


def rotate(clip: Tensor, strength: float, rng: random.Random, fill: Fill) -> Tensor:
    """Rotate by up to 30 degrees."""
    angle = math.radians(_signed(30.0 * strength, rng))
    sine, cosine = math.sin(angle), math.cos(angle)
    return _affine(clip, fill, of_x=(cosine, sine, 0), of_y=(-sine, cosine, 0))


def shear_x(clip: Tensor, strength: float, rng: random.Random, fill: Fill) -> Tensor:
    """Slant rows by up to 0.3 pixels per pixel; the first one stays, as in PIL."""
    slope = _signed(0.3 * strength, rng)
    return _affine(clip, fill, of_x=(1, slope, slope * clip.shape[-2] / 2))


def shear_y(clip: Tensor, strength: float, rng: random.Random, fill: Fill) -> Tensor:
    """Slant columns by up to 0.3 pixels per pixel; the first one stays, as in PIL."""
    slope = _signed(0.3 * strength, rng)
    return _affine(clip, fill, of_y=(slope, 1, slope * clip.shape[-1] / 2))


def translate_x(clip: Tensor, strength: float, rng: random.Random, fill: Fill) -> Tensor:
    """Move sideways by up to 0.45 of the width."""
    return _affine(clip, fill, of_x=(1, 0, -_signed(0.45 * strength, rng) * clip.shape[-1]))


def translate_y(clip: Tensor, strength: float, rng: random.Random, fill: Fill) -> Tensor:
    """Move up or down by up to 0.45 of the height."""
    return _affine(clip, fill, of_y=(0, 1, -_signed(0.45 * strength, rng) * clip.shape[-2]))


def auto_contrast(clip: Tensor, strength: float, rng: random.Random, fill: Fill) -> Tensor:
    """Stretch each channel of each frame to the full range."""
    return tvf.autocontrast(clip)


def equalize(clip: Tensor, strength: float, rng: random.Random, fill: Fill) -> Tensor:
    """Equalise the histogram of each channel of each frame."""
    return tvf.equalize(clip)


def invert(clip: Tensor, strength: float, rng: random.Random, fill: Fill) -> Tensor:
    """Invert all levels (photographic negative)."""
    return tvf.invert(clip)


def posterize(clip: Tensor, strength: float, rng: random.Random, fill: Fill) -> Tensor:
    """Keep 4 bits per channel at strength 0 and none at 1."""
    return tvf.posterize(clip, bits=4 - int(4 * strength))


def solarize(clip: Tensor, strength: float, rng: random.Random, fill: Fill) -> Tensor:
    """Invert everything at or above a threshold that falls from 256 to 0."""
    threshold = 256 - int(256 * strength)
    if threshold > 255:  # more than uint8 holds
        return clip
    return clip ^ ((clip >= threshold).to(torch.uint8) * 255)


def solarize_add(clip: Tensor, strength: float, rng: random.Random, fill: Fill) -> Tensor:
    """Add up to 110 to the dark half of the levels."""
    return clip + (clip < 128).to(torch.uint8) * int(110 * strength)  # 237 at most


def _factor(strength: float, rng: random.Random) -> float:
    return max(0.1, 1.0 + _signed(0.9 * strength, rng))


def color(clip: Tensor, strength: float, rng: random.Random, fill: Fill) -> Tensor:
    """Change the saturation by up to 0.9."""
    return tvf.adjust_saturation(clip, _factor(strength, rng))


def contrast(clip: Tensor, strength: float, rng: random.Random, fill: Fill) -> Tensor:
    """Change the contrast by up to 0.9."""
    return tvf.adjust_contrast(clip, _factor(strength, rng))


def brightness(clip: Tensor, strength: float, rng: random.Random, fill: Fill) -> Tensor:
    """Change the brightness by up to 0.9."""
    return tvf.adjust_brightness(clip, _factor(strength, rng))


def sharpness(clip: Tensor, strength: float, rng: random.Random, fill: Fill) -> Tensor:
    """Change the sharpness by up to 0.9; pixels at the border stay."""
    factor = _factor(strength, rng)
    if min(clip.shape[-2:]) < 3:
        return clip
    pixels = clip.float()
    inner = pixels[..., 1:-1, 1:-1]
    rows = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    smooth = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = smooth.add_(inner, alpha=4).div_(13).round_()  # the centre counts 5 times
    inner.add_(smooth.sub_(inner), alpha=1 - factor)
    return pixels.clamp_(0, 255).to(torch.uint8)


OPERATIONS: dict[str, Operation] = {
    "auto_contrast": auto_contrast,
    "equalize": equalize,
    "invert": invert,
    "rotate": rotate,
    "posterize": posterize,
    "solarize": solarize,
    "solarize_add": solarize_add,
    "color": color,
    "contrast": contrast,
    "brightness": brightness,
    "sharpness": sharpness,
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
}
