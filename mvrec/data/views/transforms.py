"""Pixels: crop first and in uint8, float last and on the device.

Random choices come from a `random.Random` or a seed that the caller derives from (seed, epoch, index), never
from global state. All frames of a clip share them.
"""

import math
import random
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvrec.data.views import pixel_operations as tvf
from mvrec.data.views.rand_augment import RandAugment
from mvrec.seeds import derive_seed

Interpolation = Literal["bilinear", "bicubic"]
TrainInterpolation = Literal["bilinear", "bicubic", "random"]
Rounding = Literal["slowfast", "torchvision"]


class Box(NamedTuple):
    """A rectangle in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class RandomErasing:
    """Overwrite a random rectangle of an image with noise, the same rectangle in all frames of a clip.

    Zhong et al. 2020, https://arxiv.org/abs/1708.04896, with the modes that timm and SlowFast have.

    Attributes:
        probability: Chance per clip.
        area: Least and greatest share of the frame.
        aspect: Least ratio of height to width; the greatest is its inverse.
        mode: What is written over the normalised values: "pixel", N(0, 1) for each; "rand", one such colour per frame;
            "const", 0.
    """

    probability: float = 0.25
    area: tuple[float, float] = (0.02, 1 / 3)
    aspect: float = 0.3
    mode: Literal["pixel", "rand", "const"] = "pixel"

    def box(self, height: int, width: int, rng: random.Random) -> Box | None:
        """Where to erase, or `None` for a clip that is left alone."""
        if rng.random() >= self.probability:
            return None
        for _ in range(10):
            area = rng.uniform(*self.area) * height * width
            aspect = math.exp(rng.uniform(math.log(self.aspect), -math.log(self.aspect)))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < h < height and 0 < w < width:
                return Box(rng.randint(0, height - h), rng.randint(0, width - w), h, w)
        return None


@dataclass(frozen=True)
class Augment:
    """Training augmentation; the defaults are the Kinetics recipe of MViT (Fan et al. 2021, appendix).

    Attributes:
        crop_area: Least and greatest share of the frame that a crop takes.
        crop_aspect: Least and greatest ratio of width to height of that crop before it becomes square.
        crop_side: Least and greatest side of a square crop as a share of the frame's short side, up to 1, in place of
            `crop_area` and `crop_aspect`. To scale the short side at random between 256 and 320 pixels and cut out 224
            (SlowFast, drawn evenly over the inverse) is 224/320 to 224/256 of it.
        interpolation: How crops are scaled; "random" draws between bilinear and bicubic for each.
        flip_probability: Chance of a horizontal flip. 0 where left and right are different classes.
        rand_augment: Photometric and geometric operations, or `None`.
        random_erasing: Noise rectangles, or `None`.
    """

    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    crop_side: tuple[float, float] | None = None
    interpolation: TrainInterpolation = "bilinear"
    flip_probability: float = 0.5
    rand_augment: RandAugment | None = field(default_factory=RandAugment)
    random_erasing: RandomErasing | None = field(default_factory=RandomErasing)

    def __post_init__(self) -> None:
        for name in ("crop_area", "crop_aspect"):
            least, greatest = getattr(self, name)
            if not 0 < least <= greatest:
                raise ValueError(f"{name} must be two rising positive numbers, got {least}, {greatest}")
        if self.crop_side is not None and not 0 < self.crop_side[0] <= self.crop_side[1] <= 1:
            raise ValueError(
                f"crop_side must be two rising numbers in 0..1, got {self.crop_side[0]}, {self.crop_side[1]}"
            )


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per RGB channel, on the scale 0..1."""

    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    std: tuple[float, float, float] = (0.225, 0.225, 0.225)

    def __post_init__(self) -> None:
        if not min(self.std) > 0:
            raise ValueError(f"std must be above 0, got {self.std}")

    def __call__(self, clips: Tensor) -> Tensor:
        """uint8 (B, C, T, H, W) or (B, C, H, W) -> float32 of the same shape."""
        shape = (1, 3) + (1,) * (clips.ndim - 2)
        mean = torch.tensor(self.mean, device=clips.device).view(shape)
        std = torch.tensor(self.std, device=clips.device).view(shape)
        return torch.addcmul(-mean / std, clips.float(), 1 / (255 * std))


IMAGENET_NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def random_crop_box(height: int, width: int, augment: Augment, rng: random.Random) -> Box:
    """A box of random area and aspect ratio inside a frame (Szegedy et al. 2015), the centre when none fits.

    With `crop_side` a square of random size.
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


def crop_and_resize(
    frames: np.ndarray, box: Box, size: tuple[int, int], *, interpolation: str, antialias: bool = True
) -> Tensor:
    """Cut a box out of all frames and scale it in uint8.

    Args:
        frames: uint8 (T, H, W, C).
        box: What to keep.
        size: (height, width) of the result in pixels.
        interpolation: "bilinear" or "bicubic".
        antialias: Whether scaling down averages over all pixels that it covers.

    Returns:
        uint8 (T, C, h, w), channels last in memory: torchvision's fast path.
    """
    cut = frames[:, box.top : box.top + box.height, box.left : box.left + box.width]
    clip = torch.from_numpy(np.ascontiguousarray(cut)).permute(0, 3, 1, 2)  # (T, C, h, w)
    if clip.shape[-2:] == torch.Size(size):
        return clip
    return _resized(clip, list(size), interpolation, antialias)


def train_view(frames: np.ndarray, *, size: int, augment: Augment, seed: int) -> Tensor:
    """One augmented training view of decoded frames.

    Args:
        frames: uint8 (T, H, W, C).
        size: Side of the square result in pixels.
        augment: What to do.
        seed: All random choices follow from it.

    Returns:
        uint8 (T, C, size, size).
    """
    rng = random.Random(seed)
    box = random_crop_box(frames.shape[1], frames.shape[2], augment, rng)
    interpolation = augment.interpolation
    if interpolation == "random":
        interpolation = rng.choice(("bilinear", "bicubic"))
    # What follows is quicker with channels apart.
    clip = crop_and_resize(frames, box, (size, size), interpolation=interpolation).contiguous()
    if rng.random() < augment.flip_probability:
        clip = clip.flip(-1)
    if augment.rand_augment is not None:
        clip = augment.rand_augment(clip, _rand_augment_rng(seed))
    return clip.contiguous()


def short_side_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) with the short side given and the long one in proportion, rounded down."""
    if width < height:
        return math.floor(height / width * short_side), short_side
    return short_side, math.floor(width / height * short_side)


def spatial_crops(height: int, width: int, size: int, num_crops: int) -> list[Box]:
    """Square crops for evaluation: the centre one, or three along the long side (left to right, top to bottom).

    Raises:
        ValueError: Another number of crops, or a frame smaller than the crop.
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


def eval_views(
    frames: np.ndarray,
    *,
    short_side: int,
    size: int,
    num_crops: int,
    interpolation: Interpolation,
    antialias: bool = True,
    rounding: Rounding = "slowfast",
) -> Tensor:
    """The spatial views of one clip: short side scaled, then cropped.

    Args:
        frames: uint8 (T, H, W, C).
        short_side: Pixels of the short side after scaling.
        size: Side of the square crops in pixels.
        num_crops: 1 (centre) or 3; with torchvision's rounding 1.
        interpolation: How frames are scaled.
        antialias: See `crop_and_resize`.
        rounding: Whose rounding the long side and the place of the crops follow; they differ by a pixel at most.

    Returns:
        uint8 (num_crops, T, C, size, size).
    """
    if rounding == "torchvision":
        clip = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)  # (T, C, H, W)
        return _torchvision_view(clip, short_side, size, interpolation, antialias)[None]
    height, width = frames.shape[1:3]
    scaled = short_side_size(height, width, short_side)
    clip = crop_and_resize(frames, Box(0, 0, height, width), scaled, interpolation=interpolation, antialias=antialias)
    boxes = spatial_crops(*scaled, size, num_crops)
    return torch.stack([clip[..., b.top : b.top + b.height, b.left : b.left + b.width] for b in boxes])


def image_view(
    image: np.ndarray, *, short_side: int, size: int, interpolation: Interpolation, antialias: bool = True
) -> Tensor:
    """The view that image classification is scored on: short side scaled, then the centre.

    Sizes and the centre are rounded as torchvision rounds them.

    Args:
        image: uint8 (H, W, C).
        short_side: Pixels of the short side after scaling.
        size: Side of the square crop in pixels.
        interpolation: How the image is scaled.
        antialias: See `crop_and_resize`.

    Returns:
        uint8 (C, size, size).
    """
    pixels = torch.from_numpy(image).permute(2, 0, 1)  # (C, H, W)
    return _torchvision_view(pixels, short_side, size, interpolation, antialias)


def _torchvision_view(pixels: Tensor, short_side: int, size: int, interpolation: str, antialias: bool) -> Tensor:
    return tvf.center_crop(_resized(pixels, [short_side], interpolation, antialias), [size, size])


def _resized(pixels: Tensor, size: list[int], interpolation: str, antialias: bool) -> Tensor:
    """Scale uint8 (..., H, W) to `size` as torchvision's `resize` reads it."""
    mode = tvf.InterpolationMode(interpolation)
    if antialias:
        return tvf.resize(pixels, size, mode, antialias=True)
    # SlowFast and torchvision's presets scale floats, which torchvision's quicker way for uint8 misses by a grey level.
    frames = pixels if pixels.ndim == 4 else pixels[None]  # one at a time: floats of all would take much memory
    scaled = [tvf.resize(frame.float(), size, mode, antialias=False) for frame in frames]
    whole = torch.stack([frame.round_().clamp_(0, 255).to(torch.uint8) for frame in scaled])
    return whole if pixels.ndim == 4 else whole[0]


def erase(clips: Tensor, seeds: Tensor, erasing: RandomErasing) -> Tensor:
    """Random erasing on the device, in place; each clip's choice follows from its seed.

    Args:
        clips: Normalised float (B, C, T, H, W) or (B, C, H, W).
        seeds: int64 (B,).
        erasing: What to do.

    Returns:
        `clips`.
    """
    for clip, seed in zip(clips, seeds.tolist(), strict=True):
        box = erasing.box(clip.shape[-2], clip.shape[-1], random.Random(derive_seed("erase", seed)))
        if box is None:
            continue
        cut = clip[..., box.top : box.top + box.height, box.left : box.left + box.width]
        if erasing.mode == "const":
            cut.zero_()
            continue
        generator = torch.Generator(clip.device).manual_seed(derive_seed("noise", seed))
        shape = cut.shape if erasing.mode == "pixel" else (*cut.shape[:-2], 1, 1)
        cut.copy_(torch.randn(shape, generator=generator, device=clip.device, dtype=clip.dtype))
    return clips


def rand_augment_batch(clips: Tensor, seeds: Tensor, rand_augment: RandAugment) -> Tensor:
    """RandAugment on the device: the choices that `train_view` makes for the same seeds, on pixels that are there.

    Args:
        clips: uint8 (B, C, T, H, W) or (B, C, H, W).
        seeds: int64 (B,), as a batch has them.
        rand_augment: What to do.

    Returns:
        uint8 of the same shape.
    """
    augmented = []
    for clip, seed in zip(clips, seeds.tolist(), strict=True):
        frames = clip.transpose(0, 1) if clip.ndim == 4 else clip[None]  # (T, C, H, W)
        frames = rand_augment(frames, _rand_augment_rng(pixel_seed(seed)))
        augmented.append(frames.transpose(0, 1) if clip.ndim == 4 else frames[0])
    return torch.stack(augmented)


def pixel_seed(seed: int) -> int:
    """What is random about the pixels of a view, from the view's seed in a batch."""
    return derive_seed("pixels", seed)


def _rand_augment_rng(seed: int) -> random.Random:
    # Of its own, so that it is the same wherever the operations are applied.
    return random.Random(derive_seed("rand augment", seed))
