"""Datasets of images: index x decoder x pixels. An image is a clip of one frame without the axis T.

libjpeg-turbo decodes what it can (simplejpeg, with Pillow's own settings and bit for bit its pixels, in two thirds of
its time), Pillow the rest. As in the published recipes, by default an EXIF rotation is ignored (see `upright`), an
alpha channel is dropped and not blended, and an animation is its first frame.
"""

import io
import os
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeGuard

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps
from torch import Tensor

from mvrec.data.listing.archive import ArchiveMember, FilePath
from mvrec.data.listing.file_kinds import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from mvrec.data.listing.index import Sample, SampleIndex
from mvrec.data.loading.samples import EvalSamples, FileViews, TrainSamples
from mvrec.data.loading.step_times import stage
from mvrec.data.video.video import check_is_file_with_content
from mvrec.data.views.protocol import DetectionProtocol, ImageProtocol
from mvrec.data.views.transforms import Augment, views_of
from mvrec.errors import DecodeError

_ORIENTATION = 0x0112  # EXIF's tag
_LYING = (5, 6, 7, 8)  # orientations in which rows are columns
_PHOTOMETRIC = 262  # TIFF's tag for the meaning of the values
_MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Pillow refuses larger images with a message


class _GreyRangeError(ValueError):
    """Grey values of unknown range."""


def read_image(path: FilePath, *, upright: bool = True) -> npt.NDArray[np.uint8]:
    """Decode an image file of any format, whatever its file extension.

    Grey, palette, CMYK and other colours become RGB. Of 16-bit grey the upper 8 bits are kept; 32-bit grey is read as
    16 bits if it is in that range. Floating-point grey must lie in 0..1 or in 0..255.

    Args:
        path: The file; one in an archive is read in place.
        upright: Turn and mirror the image as its EXIF block says, like viewers do. Pillow always turns TIFF files as
            they say.

    Returns:
        uint8 (H, W, 3).

    Raises:
        DecodeError: The file is missing, damaged, cut short or not an image.
    """
    content = _content(path)
    # Rotations are rare: only a file with an EXIF block is opened a second time.
    plain = not upright or b"Exif\0" not in content
    pixels = _plain_jpeg(content) if plain else None
    if pixels is not None:
        return pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of broken EXIF blocks, such as ImageNet has
            with Image.open(io.BytesIO(content)) as image:
                if upright and _is_turned(image):
                    return pillow_pixels(image)
                pixels = _plain_jpeg(content)
                return _rgb(image) if pixels is None else pixels
    except MemoryError:
        raise
    except Exception as error:  # Pillow's parsers raise any error
        unknown = isinstance(error, Image.UnidentifiedImageError)
        cause = _other_kind(path) if unknown else f"damaged or cut short ({error})"
        if isinstance(error, _GreyRangeError):
            cause = str(error)
        raise DecodeError(path, cause) from error


def _other_kind(path: FilePath) -> str:
    """Return what a file is whose content is no image."""
    is_video = Path(str(path)).suffix.lower() in VIDEO_EXTENSIONS - IMAGE_EXTENSIONS
    return "a video, not an image" if is_video else "not an image, or a damaged one"


def is_pillow(value: object) -> TypeGuard[Image.Image]:
    """Return whether a value is an image of Pillow."""
    return isinstance(value, Image.Image)


def pillow_pixels(image: Image.Image, *, upright: bool = True) -> npt.NDArray[np.uint8]:
    """Return an image of Pillow as `read_image` returns a file: uint8 (H, W, 3).

    Args:
        image: The image.
        upright: Turn and mirror it as its EXIF block says.
    """
    return _rgb(ImageOps.exif_transpose(image) if upright and _is_turned(image) else image)


def _is_turned(image: Image.Image) -> bool:
    return image.getexif().get(_ORIENTATION, 1) != 1


def is_turned(path: FilePath) -> bool:
    """Return whether the EXIF block of an image file turns or mirrors it.

    Raises:
        DecodeError: The file is missing or no image.
    """
    content = _content(path)
    if b"Exif\0" not in content:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                return _is_turned(image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's parsers raise any error
        raise DecodeError(path, _other_kind(path)) from error


def image_size(path: FilePath, *, upright: bool = True) -> tuple[int, int]:
    """Return height and width of an image in pixels, as its header says them.

    Args:
        path: The file.
        upright: Whether the image is turned as its EXIF block says.

    Raises:
        DecodeError: The file is missing or no image.
    """
    try:
        with warnings.catch_warnings(), _opened(path) as image:
            warnings.simplefilter("ignore")
            width, height = image.size
            # Of a TIFF Pillow turns the size itself; a PNG without this block in front would be decoded in full for it.
            may_be_turned = upright and image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
            is_turned = may_be_turned and image.getexif().get(_ORIENTATION, 1) in _LYING
            return (width, height) if is_turned else (height, width)
    except (MemoryError, DecodeError):
        raise
    except Exception as error:  # Pillow's parsers raise any error
        raise DecodeError(path, _other_kind(path)) from error


def _opened(path: FilePath) -> Image.Image:
    """Return an image whose header alone is read; one in an archive is read whole."""
    if isinstance(path, ArchiveMember):
        return Image.open(io.BytesIO(path.read()))
    check_is_file_with_content(os.fspath(path))
    return Image.open(path)


def _content(path: FilePath) -> bytes:
    if isinstance(path, ArchiveMember):
        return path.read()
    check_is_file_with_content(os.fspath(path))
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DecodeError(path, error.strerror or str(error)) from error


def _plain_jpeg(content: bytes) -> npt.NDArray[np.uint8] | None:
    """Decode a faultless JPEG file in YCbCr or grey; `None` for any other file, which Pillow judges."""
    if not content.startswith(b"\xff\xd8\xff"):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if height * width > _MOST_PIXELS or colours not in ("YCbCr", "Gray"):
            return None
        return simplejpeg.decode_jpeg(content, colorspace="RGB")
    except ValueError:
        return None


def _rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode.startswith("I") or image.mode == "F":
        grey = _eight_bits(image)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.array(image.convert("RGB"))  # a copy, because Pillow's own memory is read-only


def _eight_bits(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Reduce grey of more than 8 bits, which Pillow's own conversion would clip at 255.

    Raises:
        _GreyRangeError: The value of white is unknown.
    """
    values = np.asarray(image)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 65535:
        raise _GreyRangeError(f"grey values {low:g}..{high:g}: convert the image to 8 or 16 bits")
    if image.mode == "F":
        if high > 255:
            raise _GreyRangeError(f"floating-point grey values up to {high:g}: scale them to 0..1")
        return np.rint(values * (255 if high <= 1 else 1)).astype(np.uint8)
    if image.format == "FITS":  # its header may shift and scale the values, which Pillow ignores
        raise _GreyRangeError("grey values of FITS: convert the image to 8 bits")
    is_tiff = image.format == "TIFF"
    if is_tiff and image.getexif().get(_PHOTOMETRIC) == 0:  # white is 0, which Pillow respects up to 8 bits only
        raise _GreyRangeError("more than 8 bits with white as 0: convert the image to 8 bits")
    narrow = is_tiff and image.mode == "I" and high <= 255  # 32 bits with 8-bit values
    return (values.astype(np.int64) >> (0 if narrow else 8)).astype(np.uint8)


@dataclass(frozen=True)
class TrainImages(TrainSamples):
    """Random augmented views of the images of an index; see `TrainSamples`.

    Args:
        index: The images.
        size: Side of the square view in pixels.
        augment: Augmentation.
        repeats: Augmented views per image, unless a key names them.
        seed: Root of all randomness.
        upright: Apply the EXIF orientation.
    """

    index: SampleIndex
    size: int
    augment: Augment
    repeats: int = 1
    seed: int = 0
    upright: bool = False
    is_video: ClassVar[bool] = False

    def frames(self, sample: Sample, rng: random.Random) -> np.ndarray:
        """Return the image: uint8 (1, H, W, C)."""
        with stage("decode"):
            return self.read(sample.path)[None]

    def read(self, path: FilePath) -> npt.NDArray[np.uint8]:
        """Read a file; a subclass may get its pixels elsewhere."""
        return read_image(path, upright=self.upright)


@dataclass(frozen=True)
class EvalImages(EvalSamples):
    """The centre view of each image of an index; see `EvalSamples`.

    Args:
        index: The images.
        protocol: Pixels of the view.
    """

    index: SampleIndex
    protocol: ImageProtocol

    def views(self, sample: Sample, number: int, *, only: Sequence[int] | None = None) -> FileViews:
        """Return the one view."""
        image = self.read(sample.path)
        return FileViews(protocol_view(image, self.protocol), tuple(self.protocol.geometries(*image.shape[:2])))

    def read(self, path: FilePath) -> npt.NDArray[np.uint8]:
        """Read a file; a subclass may get its pixels elsewhere."""
        return read_image(path, upright=self.protocol.upright)


def protocol_view(image: npt.NDArray[np.uint8], protocol: ImageProtocol | DetectionProtocol) -> Tensor:
    """Return the view of an image (H, W, C) that a protocol scores: uint8 (1, C, h, w)."""
    return views_of(image[None], protocol.geometries(*image.shape[:2]))[:, 0]
