"""Mask files: the class of each pixel of an image, as grey values, as indices into a palette or as colours.

Values are never scaled, smoothed or clipped: a file that cannot hold class numbers is refused.
"""

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from mvrec.data.video.video import check_is_file_with_content
from mvrec.data.views.targets import NOT_LABELLED
from mvrec.errors import DecodeError

MASK_VALUES = 256  # of 8 bits
_LOSSY = {"JPEG": "JPEG", "MPO": "JPEG", "JPEG2000": "JPEG 2000", "WEBP": "WebP"}
_NARROW_GREY = {"L;2": 85, "L;4": 17}  # what Pillow multiplies grey values of 2 and 4 bits by
Colours = Mapping[tuple[int, int, int], int]  # RGB, and the class number


class MaskError(DecodeError):
    """A mask in a form or with a value that holds no class."""


def read_mask(path: Path, *, colours: Colours | None = None) -> npt.NDArray[np.uint8]:
    """Read the values of a mask, such as a PNG of 8-bit grey or with a palette.

    Grey values stay as they are, also those of less than 8 bits; of a palette the indices are read.

    Args:
        path: The file.
        colours: The number of each colour. It applies to the colours of a palette too.

    Returns:
        uint8 (H, W).

    Raises:
        DecodeError: The file is missing or damaged.
        MaskError: The file has colours without numbers, more than 8 bits, or a lossy format.
    """
    check_is_file_with_content(str(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(path.read_bytes())) as image:
                grey_factor = _grey_factor(image)
                image.load()
                return _values(image, path, grey_factor) if colours is None else _numbers(image, path, colours)
    except (MemoryError, DecodeError):
        raise
    except Exception as error:  # Pillow's parsers raise any error
        unknown = isinstance(error, Image.UnidentifiedImageError)
        cause = "not an image, or a damaged one" if unknown else f"damaged or cut short ({error})"
        raise DecodeError(path, cause) from error


def _grey_factor(image: Image.Image) -> int:
    """Return what Pillow multiplies grey values by; an image that is not loaded yet tells it."""
    layouts = [str(tile[3]) for tile in getattr(image, "tile", ())]
    return next((_NARROW_GREY[layout] for layout in layouts if layout in _NARROW_GREY), 1)


def _values(image: Image.Image, path: Path, grey_factor: int) -> npt.NDArray[np.uint8]:
    if image.format in _LOSSY:
        raise MaskError(path, f"{_LOSSY[image.format]} changes the values of a mask: save masks as PNG")
    if image.mode in ("1", "P"):
        return np.array(image, dtype=np.uint8)
    if image.mode == "L":
        return np.array(image) // np.uint8(grey_factor)
    if image.mode.startswith("I") or image.mode == "F":
        highest = float(np.asarray(image).max(initial=0))
        raise MaskError(path, f"mask of more than 8 bits, with values up to {highest:g}: save it with 8 bits")
    raise MaskError(path, f"{image.mode} colours, not class numbers: {_colour_advice(image)}")


def _colour_advice(image: Image.Image) -> str:
    pixels = np.asarray(image.convert("RGB"))
    if (pixels == pixels[..., :1]).all():
        return "its channels are equal, save it as 8-bit grey"
    return "save it as an indexed or grey PNG, or name each class's colour in palette.txt (name R G B)"


def _numbers(image: Image.Image, path: Path, colours: Colours) -> npt.NDArray[np.uint8]:
    if image.format in _LOSSY:
        raise MaskError(path, f"{_LOSSY[image.format]} changes the colours of a mask: save masks as PNG")
    codes = _codes(np.asarray(image.convert("RGB")))
    palette = _codes(np.array(list(colours), np.uint8))
    order = np.argsort(palette)
    palette = palette[order]
    places = np.minimum(np.searchsorted(palette, codes), len(palette) - 1)
    strange = palette[places] != codes
    if strange.any():
        row, column = (int(place[0]) for place in np.nonzero(strange))
        colour = tuple(int(part) for part in np.asarray(image.convert("RGB"))[row, column])
        raise MaskError(
            path,
            f"{int(strange.sum())} pixels have colours of no class, such as {colour} at column {column}, row {row}: "
            f"add a line `name {' '.join(map(str, colour))}` to the file of colours",
        )
    return np.array(list(colours.values()), np.uint8)[order][places]


def _codes(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    return pixels.astype(np.int32) @ np.array([65536, 256, 1], np.int32)


def value_counts(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return the number of pixels with each value: int64 (256,)."""
    return np.bincount(values.ravel(), minlength=MASK_VALUES)


class MaskCoding:
    """The class of each value of masks.

    Args:
        names: Class names in label order.
        values: The value of each class.
        ignored: Values of pixels that are not labelled.

    Attributes:
        names: As passed.
        values: As passed.
        ignored: As passed, in ascending order.
    """

    def __init__(self, names: Sequence[str], values: Sequence[int], ignored: Sequence[int] = ()) -> None:
        assert len(names) == len(values) < MASK_VALUES
        self.names, self.values, self.ignored = tuple(names), tuple(values), tuple(sorted(set(ignored)))
        self._table = np.full(MASK_VALUES, NOT_LABELLED, np.uint8)
        self._table[list(self.values)] = np.arange(len(self.values))
        self._table[list(self.ignored)] = NOT_LABELLED
        self._known = np.zeros(MASK_VALUES, bool)
        self._known[[*self.values, *self.ignored]] = True

    def classes(self, values: npt.NDArray[np.uint8], path: Path) -> npt.NDArray[np.uint8]:
        """Return the class of each pixel.

        Args:
            values: uint8 (H, W), as `read_mask` returns them.
            path: Their file, for messages.

        Returns:
            uint8 (H, W), `NOT_LABELLED` where the value is ignored.

        Raises:
            MaskError: A value is of no class and not ignored.
        """
        if not self._known[values].all():
            raise MaskError(path, self.fault(value_counts(values)) or "")
        return self._table[values]

    def fault(self, counts: npt.NDArray[np.int64]) -> str | None:
        """Return the fault of a mask with these numbers of pixels per value, int64 (256,); `None` without a fault."""
        strange = np.flatnonzero((counts > 0) & ~self._known)
        if not len(strange):
            return None
        value, pixels = int(strange[0]), int(counts[strange[0]])
        more = f" and {len(strange) - 1} other values" if len(strange) > 1 else ""
        return f"value {value} ({pixels} pixels){more}, but {self._known_text()}: {self._advice(value)}"

    def _known_text(self) -> str:
        first, last = self.values[0], self.values[-1]
        is_range = list(self.values) == list(range(first, last + 1))
        values = f"{first}..{last}" if is_range and len(self.values) > 2 else ", ".join(map(str, self.values))
        ignored = f", {', '.join(map(str, self.ignored))} not labelled" if self.ignored else ""
        return f"the {len(self.values)} classes have the values {values}{ignored}"

    def _advice(self, value: int) -> str:
        zero = ", or set data.reduce_zero_label where 0 is none of them" if value == len(self.values) else ""
        return f"name all classes, or leave the value out with data.ignore {value}{zero}"
