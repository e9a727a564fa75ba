"""A file's frames in a few kilobytes: as hashes and small pictures, which copies share.

Hashes find candidates among many files, small pictures decide. Some frames are taken whole and in parts, such as
without a strip at one side, each also mirrored, so that a copy that was cut or mirrored looks like a part of its
original. All frames are taken whole, so that a piece of a video looks like some frames of it.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

MOMENTS = tuple((number + 0.5) / 15 for number in range(15))  # of a video, at which frames are taken
COMPARED = (1 / 6, 1 / 2, 5 / 6)  # of these frames, which are compared in parts as well
STRIPS = (0.06, 0.12, 0.18, 0.24, 0.3)  # shares of a side that are cut off
FINE = 96  # side of the picture out of which parts are cut
LARGE = 32  # side of the pictures that are kept of the compared frames
SMALL = 16  # side of the pictures that decide, and of those in colour
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # shares of red, green and blue
GRID = 32  # side of the picture whose frequencies are hashed
FREQUENCIES = 8  # lowest ones along each side in a hash
LEAST_CONTRAST = 2.0  # standard deviation of 8-bit grey; plain frames have no hash


class Part(NamedTuple):
    """A part of a frame: what is cut off at each side, as a share of the frame, and whether the rest is mirrored."""

    top: float = 0.0
    left: float = 0.0
    bottom: float = 0.0
    right: float = 0.0
    mirrored: bool = False

    @property
    def is_cut(self) -> bool:
        """Whether something is cut off."""
        return any(self[:4])

    def widened(self, share: float) -> "Part":
        """Return the part with this share of the frame more at each side that is cut, or less if negative."""
        top, left, bottom, right = (max(side - share, 0.0) if side else 0.0 for side in self[:4])
        return Part(top, left, bottom, right, self.mirrored)


def _parts() -> tuple[Part, ...]:
    cuts = [Part()]
    for strip in STRIPS:
        half = strip / 2
        cuts += [Part(top=strip), Part(left=strip), Part(bottom=strip), Part(right=strip)]
        cuts += [Part(half, half, half, half), Part(top=half, bottom=half), Part(left=half, right=half)]
    return (*cuts, *(cut._replace(mirrored=True) for cut in cuts))


PARTS = _parts()  # the first is the whole frame


class Look(NamedTuple):
    """Hashes and small pictures of a file. M is 15 of a video, 1 of an image; C is 3 and 1.

    Attributes:
        hashes: uint64 (PARTS, C), by `hashes_of`; 0 for a plain frame.
        moments: uint64 (M,), of all whole frames.
        pictures: uint8 (M, SMALL, SMALL), grey.
        large: uint8 (C, LARGE, LARGE), grey.
        colours: uint8 (C, 3, SMALL, SMALL), of the same frames.
        size: Height and width in pixels.
        seconds: Length of a video; 0 of an image.
        frames: Number of frames; 1 of an image.
    """

    hashes: Bits
    moments: Bits
    pictures: Bytes
    large: Bytes
    colours: Bytes
    size: tuple[int, int]
    seconds: float
    frames: int

    @property
    def times(self) -> Floats:
        """Seconds of `pictures`: float32 (M,)."""
        if len(self.pictures) == 1:
            return np.zeros(1, np.float32)
        return (np.array(frame_numbers(self.frames)) * (self.seconds / self.frames)).astype(np.float32)

    @property
    def fps(self) -> float:
        """Frames per second; 0 of an image."""
        return self.frames / self.seconds if self.seconds else 0.0


def frame_numbers(count: int) -> list[int]:
    """Return the numbers of the frames at `MOMENTS` in a video of some frames."""
    return [min(int(share * count), count - 1) for share in MOMENTS]


def look_of(frames: Iterable[Bytes], *, seconds: float, count: int) -> Look:
    """Return what a file shows.

    Args:
        frames: uint8 (H, W, 3) each, at `MOMENTS`; one of an image.
        seconds: Length of a video; 0 of an image.
        count: Number of frames in the file.
    """
    fine, coloured, size = [], [], (0, 0)
    for frame in frames:  # one by one, because those of a large video fill the memory
        pixels = frame.astype(np.float32)
        size = frame.shape[0], frame.shape[1]
        fine.append(shrunk((pixels @ GREY)[None], FINE)[0])
        coloured.append(shrunk(pixels.transpose(2, 0, 1), SMALL))
    whole = np.stack(fine)  # (M, FINE, FINE)
    places = sorted({int(share * len(whole)) for share in COMPARED})
    compared = whole[places]
    cuts = np.stack([shrunk(compared, GRID, part) for part in PARTS])  # (PARTS, C, GRID, GRID)
    return Look(
        hashes_of(cuts),
        hashes_of(shrunk(whole, GRID)),
        as_bytes(shrunk(whole, SMALL)),
        as_bytes(shrunk(compared, LARGE)),
        as_bytes(np.stack(coloured)[places]),
        size,
        seconds,
        count,
    )


def as_bytes(pictures: Floats) -> Bytes:
    """Return grey levels rounded to uint8."""
    return pictures.round().clip(0, 255).astype(np.uint8)


def shrunk(frames: npt.NDArray[np.uint8] | Floats, side: int, part: Part = PARTS[0]) -> Floats:
    """Return a part of frames (T, H, W) as squares (T, side, side), each pixel the mean of the area that it covers."""
    height, width = frames.shape[1:]
    down = _means(height, side, part.top, 1 - part.bottom)
    across = _means(width, side, part.left, 1 - part.right)
    squares = np.matmul(np.matmul(down, frames.astype(np.float32)), across.T)
    return squares[..., ::-1] if part.mirrored else squares


@lru_cache(maxsize=512)
def _means(length: int, side: int, begin: float, end: float) -> Floats:
    """Return the weights (side, length) of means over equal areas from one share of the length to another."""
    step = (end - begin) * length / side
    ends = begin * length + np.arange(side + 1) * step
    places = np.arange(length)
    covered = np.minimum(places + 1, ends[1:, None]) - np.maximum(places, ends[:-1, None])
    return (covered.clip(0) / step).astype(np.float32)


def coloured(look: Look) -> Bytes:
    """Return the compared frames in colour, uint8 (C, LARGE, LARGE, 3): the grey ones with the coarser colours."""
    colours = (
        look.colours.astype(np.float32).repeat(LARGE // SMALL, -2).repeat(LARGE // SMALL, -1).transpose(0, 2, 3, 1)
    )
    return as_bytes(colours + (look.large - colours @ GREY)[..., None])


def _cosines() -> Floats:
    places = (np.arange(GRID) + 0.5) * np.pi / GRID
    return np.cos(np.arange(FREQUENCIES)[:, None] * places).astype(np.float32)


_COSINES = _cosines()
_POWERS = np.uint64(1) << np.arange(FREQUENCIES**2, dtype=np.uint64)


def hashes_of(frames: Floats) -> Bits:
    """Return 64 bits of each grey frame (..., GRID, GRID): which of its lowest frequencies lie above their median.

    0 for a plain frame.
    """
    mean = frames.mean((-2, -1), keepdims=True)
    waves = np.matmul(np.matmul(_COSINES, frames - mean), _COSINES.T).reshape(*frames.shape[:-2], -1)
    bits = waves > np.median(waves[..., 1:], axis=-1, keepdims=True)
    hashes = np.where(bits, _POWERS, np.uint64(0)).sum(-1, dtype=np.uint64)
    hashes[frames.std((-2, -1)) < LEAST_CONTRAST] = 0
    return hashes
