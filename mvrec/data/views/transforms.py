"""Pixels: crop first and in uint8, float last and on the device.

Random choices come from a `random.Random` or a seed that the caller derives from (seed, epoch, index), never
from global state. All frames of a clip share them.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mvrec.data.views import pixel_operations as tvf
from mvrec.data.views.geometry import Box, Geometry, TrainInterpolation
from mvrec.data.views.normalisation import Normalisation as Normalisation  # class paths of earlier versions
from mvrec.data.views.own_augment import Transforms, own_on_device
from mvrec.data.views.rand_augment import RandAugment
from mvrec.seeds import derive_seed

RandomPixels = Callable[[Tensor, random.Random], Tensor]  # from uint8 (T, C, H, W) to the same
Colour = tuple[int, int, int]  # RGB, each 0..255
MEAN_COLOUR: Colour = (124, 116, 104)  # of ImageNet: about 0 after normalising


@dataclass(frozen=True)
class RandomErasing:
    """A random rectangle of noise over an image, the same in all frames of a clip.

    Zhong et al. 2020, https://arxiv.org/abs/1708.04896, with the modes of timm and SlowFast.

    Attributes:
        probability: Chance per clip.
        area: Least and greatest share of the frame.
        aspect: Least ratio of height to width; the greatest is its inverse.
        mode: The new normalised values: "pixel", N(0, 1) for each; "rand", one such colour per frame;
            "const", 0.
    """

    probability: float = 0.25
    area: tuple[float, float] = (0.02, 1 / 3)
    aspect: float = 0.3
    mode: Literal["pixel", "rand", "const"] = "pixel"

    def box(self, height: int, width: int, rng: random.Random) -> Box | None:
        """Choose the rectangle, or `None` for a clip that is not erased."""
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
        crop_area: Least and greatest share of the frame in a crop.
        crop_aspect: Least and greatest ratio of width to height of that crop before it becomes square.
        crop_side: Least and greatest side of a square crop as a share of the frame's short side, up to 1, in place of
            `crop_area` and `crop_aspect`. To scale the short side at random between 256 and 320 pixels and cut out 224
            (SlowFast, drawn evenly over the inverse) is 224/320 to 224/256 of it.
        interpolation: How crops are scaled; "random" draws between bilinear and bicubic for each.
        flip_probability: Chance of a horizontal flip. 0 where left and right are different classes.
        rand_augment: Photometric and geometric operations, or `None`.
        random_erasing: Noise rectangles, or `None`.
        before_crop: Augmentation of one's own on whole frames in the worker, or a list: a class path such as
            `torchvision.transforms.v2.ColorJitter`, from uint8 (T, C, H, W) to the same with any H and W.
        after_crop: The same on the crop, after `rand_augment`; the size stays.
        on_device: The same on normalised float clips on the device, before `random_erasing`.
    """

    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    crop_side: tuple[float, float] | None = None
    interpolation: TrainInterpolation = "bilinear"
    flip_probability: float = 0.5
    rand_augment: RandAugment | None = field(default_factory=RandAugment)
    random_erasing: RandomErasing | None = field(default_factory=RandomErasing)
    before_crop: Transforms | None = None
    after_crop: Transforms | None = None
    on_device: Transforms | None = None

    def __post_init__(self) -> None:
        for name in ("crop_area", "crop_aspect"):
            least, greatest = getattr(self, name)
            if not 0 < least <= greatest:
                raise ValueError(f"{name} must be two ascending positive numbers, got {least}, {greatest}")
        if self.crop_side is not None and not 0 < self.crop_side[0] <= self.crop_side[1] <= 1:
            raise ValueError(
                f"crop_side must be two ascending numbers in 0..1, got {self.crop_side[0]}, {self.crop_side[1]}"
            )


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
    mode = tvf.InterpolationMode(interpolation)
    if antialias:
        return tvf.resize(clip, list(size), mode, antialias=True)
    # SlowFast and torchvision's presets scale floats, which torchvision's quicker way for uint8 misses by a grey level.
    scaled = [tvf.resize(frame.float(), list(size), mode, antialias=False) for frame in clip]  # all would take memory
    return torch.stack([frame.round_().clamp_(0, 255).to(torch.uint8) for frame in scaled])


def views_of(frames: np.ndarray, geometries: Sequence[Geometry], *, padding: Colour = MEAN_COLOUR) -> Tensor:
    """Return the views of one clip, all of the same size; those that are scaled alike are scaled once.

    Args:
        frames: uint8 (T, H, W, C).
        geometries: The way to each view.
        padding: RGB of pixels with which views are padded.

    Returns:
        uint8 (V, T, C, h, w).
    """
    scaled: dict[tuple[Any, ...], Tensor] = {}
    views = []
    for geometry in geometries:
        key = (geometry.box, geometry.size, geometry.interpolation, geometry.antialias)
        if key not in scaled:
            scaled[key] = crop_and_resize(
                frames,
                geometry.box,
                geometry.size,
                interpolation=geometry.interpolation,
                antialias=geometry.antialias,
            )
        crop = geometry.crop or Box(0, 0, *geometry.size)
        view = scaled[key][..., crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        view = view.flip(-1) if geometry.flip else view
        views.append(view if geometry.padded is None else padded_frames(view, geometry.padded, padding))
    return torch.stack(views)


def padded_frames(frames: Tensor, size: tuple[int, int], colour: Colour) -> Tensor:
    """Pad frames (T, 3, h, w) at the bottom and the right with a colour, to (height, width) = `size`."""
    padded = torch.tensor(colour, dtype=frames.dtype).view(1, 3, 1, 1).repeat(len(frames), 1, *size)
    padded[..., : frames.shape[-2], : frames.shape[-1]] = frames
    return padded


def train_view(frames: np.ndarray, geometry: Geometry, *, rand_augment: RandomPixels | None, seed: int) -> Tensor:
    """Make one augmented training view of decoded frames.

    Args:
        frames: uint8 (T, H, W, C).
        geometry: The way to the view, as `choose_geometry` gives it for the same seed.
        rand_augment: Operations on the view, such as `RandAugment`.
        seed: All their random choices follow from it.

    Returns:
        uint8 (T, C, h, w).
    """
    clip = views_of(frames, [geometry])[0].contiguous()
    if rand_augment is not None:  # quicker with channels apart
        clip = rand_augment(clip, _rand_augment_rng(seed))
    return clip.contiguous()


def drawn_operations(clip: Tensor, rand_augment: RandAugment, *, seed: int) -> list[tuple[str, float]]:
    """Return name and magnitude of the operations that `train_view` applies to a cropped clip for a seed."""
    return [(name, magnitude) for name, magnitude, _ in rand_augment.steps(clip, _rand_augment_rng(seed))]


def batch_pixels(clips: Tensor, seeds: Tensor, augment: Augment | None, *, normalisation: Normalisation) -> Tensor:
    """Augment and normalise a batch: RandAugment, normalisation, the user's own augmentation, erasing.

    Args:
        clips: uint8 (B, C, T, H, W) or (B, C, H, W).
        seeds: int64 (B,) on the CPU; each clip's choices follow from its own.
        augment: What is left to the device; `None` in evaluation.
        normalisation: Mean and standard deviation.

    Returns:
        float32 of the same shape.
    """
    if augment is None:
        return normalisation(clips)
    if augment.rand_augment is not None:
        clips = rand_augment_batch(clips, seeds, augment.rand_augment)
    clips = normalisation(clips)
    if augment.on_device is not None:
        clips = own_on_device(clips, seeds, augment.on_device)
    return clips if augment.random_erasing is None else erase(clips, seeds, augment.random_erasing)


def erase(clips: Tensor, seeds: Tensor, erasing: RandomErasing) -> Tensor:
    """Return random erasing on the device, in place; each clip's choice follows from its seed.

    Args:
        clips: Normalised float (B, C, T, H, W) or (B, C, H, W).
        seeds: int64 (B,) on the CPU.
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
    """Apply RandAugment on the device, with the choices that `train_view` makes in a worker for the same seeds.

    Args:
        clips: uint8 (B, C, T, H, W) or (B, C, H, W).
        seeds: int64 (B,) on the CPU, as a batch has them.
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
    """Return the seed of a view's random pixels, from the view's seed in a batch."""
    return derive_seed("pixels", seed)


def _rand_augment_rng(seed: int) -> random.Random:
    # Of its own, so that it is the same wherever the operations are applied.
    return random.Random(derive_seed("rand augment", seed))
