"""Class maps as colours over an image."""

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

OPACITY = 0.5  # of the colours over an image: half of each, so that edges of the image stay visible
_ROWS = 256  # painted at a time, so that large images need little memory besides themselves


def painted(pixels: Pixels, classes: Pixels, colours: Pixels, *, opacity: float = OPACITY) -> Pixels:
    """Return an image under the colours of its classes.

    Args:
        pixels: uint8 (H, W, 3).
        classes: uint8 (H, W), class numbers.
        colours: uint8 (K, 3).
        opacity: Share of the colours, from 0 to 1.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: `opacity` is out of range.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must lie between 0 and 1, got {opacity}")
    share = round(256 * opacity)
    shares = colours.astype(np.uint16) * share + 128  # half of the divisor, to round
    result = np.empty_like(pixels)
    for first in range(0, len(pixels), _ROWS):
        rows = slice(first, first + _ROWS)
        result[rows] = (pixels[rows].astype(np.uint16) * (256 - share) + shares[classes[rows]]) >> 8
    return result
