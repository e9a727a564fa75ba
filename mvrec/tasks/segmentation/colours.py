"""A colour per class: that of PASCAL VOC's palette, which many tools for masks show."""

import numpy as np
import numpy.typing as npt


def colours(count: int) -> npt.NDArray[np.uint8]:
    """Return RGB colours (K, 3), different for up to 255 classes and none of them black.

    The bits of a number, three at a time, are the highest bits of red, green and blue (PASCAL VOC development kit).
    """
    numbers = np.arange(1, count + 1)
    palette = np.zeros((count, 3), np.uint8)
    for place in range(8):
        for channel in range(3):
            palette[:, channel] |= (((numbers >> (3 * place + channel)) & 1) << (7 - place)).astype(np.uint8)
    return palette
