"""Datasets of images: index x decoder x pixels. An image is a clip of one frame without the axis T.

Pillow decodes, as in the published recipes, and what they do not do is not done here: a rotation that EXIF asks for is
not applied, an alpha channel is dropped and not blended, an animation is its first frame.
"""

import os
import random
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from mvrec.data.index import Sample, VideoIndex
from mvrec.data.protocol import ImageProtocol
from mvrec.data.samples import EvalSamples, TrainSamples
from mvrec.data.transforms import Augment, image_view, train_view
from mvrec.data.video import check_is_file_with_content
from mvrec.errors import DecodeError


def read_image(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """Decode an image file of any format, whatever its name ends with.

    Grey, palette, CMYK and other colours become RGB; of 16-bit grey the upper 8 bits are kept.

    Returns:
        uint8 (H, W, 3).

    Raises:
        DecodeError: The file is missing, damaged, cut short or no image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on EXIF blocks, of which ImageNet has broken ones
            with Image.open(path) as image:
                return _rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise whatever their parsers come across
        check_is_file_with_content(os.fspath(path))
        unknown = isinstance(error, Image.UnidentifiedImageError)
        cause = "no image, or a damaged one" if unknown else f"damaged or cut short ({error})"
        raise DecodeError(path, cause) from error


def _rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)  # Pillow's own conversion would clip at 255
        return np.repeat(grey[..., None], 3, axis=2)
    return np.array(image.convert("RGB"))  # a copy, because Pillow's own memory is read-only


@dataclass(frozen=True)
class TrainImages(TrainSamples):
    """Random augmented views of the images of an index; see `TrainSamples`.

    Args:
        index: The images.
        size: Side of the square view in pixels.
        augment: Augmentation.
        repeats: Augmented views per image, when a key does not say which.
        seed: Root of all randomness.
    """

    index: VideoIndex
    size: int
    augment: Augment
    repeats: int = 1
    seed: int = 0

    def views(self, sample: Sample, *, seeds: tuple[int, ...], rng: random.Random) -> Tensor:
        """One image, augmented once per seed: uint8 (V, C, size, size)."""
        frames = read_image(sample.path)[None]  # (1, H, W, C)
        views = [train_view(frames, size=self.size, augment=self.augment, seed=seed) for seed in seeds]
        return torch.cat(views)  # (V, C, size, size): the one frame of each


@dataclass(frozen=True)
class EvalImages(EvalSamples):
    """The centre view of each image of an index; see `EvalSamples`.

    Args:
        index: The images.
        protocol: Which pixels make the view.
    """

    index: VideoIndex
    protocol: ImageProtocol

    def views(self, sample: Sample, number: int) -> Tensor:
        """uint8 (1, C, size, size)."""
        protocol = self.protocol
        view = image_view(
            read_image(sample.path),
            short_side=protocol.short_side,
            size=protocol.size,
            interpolation=protocol.interpolation,
        )
        return view[None]
