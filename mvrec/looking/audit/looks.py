"""A file's frames in a few hundred bytes: as hashes and small pictures, which copies share.

Hashes find candidates among many files, small pictures decide. Each frame is taken whole and as central cuts, so that
a copy whose borders were cut off looks like a cut of its original.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]

MOMENTS = (1 / 6, 1 / 2, 5 / 6)  # of a video, at which frames are compared
CUTS = (1.0, 0.9, 0.8, 0.7)  # shares of both sides; the first is the whole frame
SMALL = 16  # side of the pictures that decide
GRID = 32  # side of the picture whose frequencies are hashed
FREQUENCIES = 8  # lowest ones along each side in a hash
LEAST_CONTRAST = 2.0  # standard deviation of 8-bit grey; plain frames have no hash


class Look(NamedTuple):
    """Hashes and small pictures of a file.

    Attributes:
        hashes: uint64 (cuts, moments), by `hash_of`; 0 for a plain frame.
        pictures: uint8 (cuts, moments, SMALL, SMALL), grey.
        size: Height and width in pixels.
        seconds: Length of a video; 0 of an image.
        frames: Number of frames; 1 of an image.
    """

    hashes: Bits
    pictures: npt.NDArray[np.uint8]
    size: tuple[int, int]
    seconds: float
    frames: int


def look_of(frames: npt.NDArray[np.uint8], *, seconds: float, count: int) -> Look:
    """Return what a file shows.

    Args:
        frames: uint8 (moments, H, W, 3), at `MOMENTS`; one of an image.
        seconds: Length of a video; 0 of an image.
        count: Number of frames in the file.
    """
    grey = frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)  # (T, H, W)
    hashes, pictures = [], []
    for cut in CUTS:
        part = _central(grey, cut)
        hashes.append([hash_of(frame) for frame in shrunk(part, GRID)])
        pictures.append(shrunk(part, SMALL).round().clip(0, 255).astype(np.uint8))
    height, width = grey.shape[1:]
    return Look(np.array(hashes, np.uint64), np.stack(pictures), (height, width), seconds, count)


def _central(frames: Floats, share: float) -> Floats:
    height, width = frames.shape[1:]
    top, left = (round(side * (1 - share) / 2) for side in (height, width))
    return frames[:, top : height - top, left : width - left]


def shrunk(frames: Floats, side: int) -> Floats:
    """Return frames (T, H, W) as squares (T, side, side), each pixel the mean of the area that it covers."""
    down, across = (_means(length, side) for length in frames.shape[1:])
    return np.einsum("ih,thw,jw->tij", down, frames, across, optimize=True).astype(np.float32)


def _means(length: int, side: int) -> Floats:
    """Return the weights (side, length) of means over equal areas."""
    ends = np.arange(side + 1) * length / side
    places = np.arange(length)
    covered = np.minimum(places + 1, ends[1:, None]) - np.maximum(places, ends[:-1, None])
    return (covered.clip(0) * side / length).astype(np.float32)


def _cosines() -> Floats:
    places = (np.arange(GRID) + 0.5) * np.pi / GRID
    return np.cos(np.arange(FREQUENCIES)[:, None] * places).astype(np.float32)


_COSINES = _cosines()
_POWERS = np.uint64(1) << np.arange(64, dtype=np.uint64)


def hash_of(frame: Floats) -> int:
    """Return 64 bits of a grey frame (GRID, GRID): which of its lowest frequencies lie above their median.

    0 for a plain frame.
    """
    if frame.std() < LEAST_CONTRAST:
        return 0
    waves = (_COSINES @ (frame - frame.mean()) @ _COSINES.T).ravel()
    return int(_POWERS[waves > np.median(waves[1:])].sum())
