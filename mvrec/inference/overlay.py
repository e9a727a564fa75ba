"""Drawing heat over frames, and writing the result as H.264 or PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mvrec.files import atomic_path

Pixels = npt.NDArray[np.uint8]

# Colours from least to most heat: from dark violet over red to light yellow, ever lighter, so that grey prints keep
# the order and readers need not tell red from green.
_COLOURS = np.array([(30, 0, 70), (130, 10, 110), (220, 50, 60), (250, 140, 20), (255, 240, 120)], np.float32)
_STRENGTH = 0.75  # opacity of the hottest pixels
_GAP = 4  # pixels between pictures
_PAPER, _FRAME = 255, (0, 255, 255)
_LEAST_PIXELS = 256  # of a written picture's short side: small inputs are enlarged


class Crop(NamedTuple):
    """The place of the network's view in the pictures, in pixels."""

    top: int
    left: int
    height: int
    width: int


def in_range(heat: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scale heat (...) to 0 at its least and 1 at its most over all frames together; constant heat gives zeros."""
    heat = heat - heat.min()
    most = heat.max()
    return heat / most if most > 0 else heat


def overlaid(frames: Pixels, heat: npt.NDArray[np.float32], *, crop: Crop | None = None) -> Pixels:
    """Draw heat over frames: the hotter, the more opaque.

    Args:
        frames: uint8 (T, H, W, 3).
        heat: (T, h, w) from 0 to 1, as large as the frames or as the crop.
        crop: The part of the frames that the heat covers; it gets a border, and the rest is darkened.

    Returns:
        uint8 (T, H, W, 3).
    """
    if crop is None:
        assert heat.shape == frames.shape[:3]
        return _blended(frames, heat)
    y, x = slice(crop.top, crop.top + crop.height), slice(crop.left, crop.left + crop.width)
    drawn = frames // 2
    drawn[:, y, x] = _blended(frames[:, y, x], heat)
    for edge in ((crop.top, x), (crop.top + crop.height - 1, x), (y, crop.left), (y, crop.left + crop.width - 1)):
        drawn[(slice(None), *edge)] = _FRAME
    return drawn


def _blended(frames: Pixels, heat: npt.NDArray[np.float32]) -> Pixels:
    place = heat * (len(_COLOURS) - 1)
    lower = np.minimum(place.astype(np.int64), len(_COLOURS) - 2)
    share = (place - lower)[..., None]
    colour = _COLOURS[lower] * (1 - share) + _COLOURS[lower + 1] * share
    cover = _STRENGTH * heat[..., None]
    return (frames * (1 - cover) + colour * cover).round().astype(np.uint8)


def side_by_side(frames: Pixels, drawn: Pixels) -> Pixels:
    """Return each frame (T, H, W, 3) next to the drawing over it."""
    gap = np.full((*frames.shape[:2], _GAP, 3), _PAPER, np.uint8)
    return np.concatenate([frames, gap, drawn], axis=2)


def contact_sheet(frames: Pixels, drawn: Pixels, *, columns: int = 8) -> Pixels:
    """Return all frames in reading order, each above the drawing over it.

    Args:
        frames: uint8 (T, H, W, 3).
        drawn: The same.
        columns: Frames in a row, at most.

    Returns:
        uint8 (H', W', 3).
    """
    count, height, width = frames.shape[:3]
    columns = min(columns, count)
    rows = -(-count // columns)
    cell = np.array([2 * height + _GAP, width]) + _GAP
    sheet = np.full((*(np.array([rows, columns]) * cell + _GAP), 3), _PAPER, np.uint8)
    for number in range(count):
        top, left = np.array(divmod(number, columns)) * cell + _GAP
        for picture, y in ((frames[number], top), (drawn[number], top + height + _GAP)):
            sheet[y : y + height, left : left + width] = picture
    return sheet


def enlarged(frames: Pixels, *, least: int = _LEAST_PIXELS) -> Pixels:
    """Repeat every pixel of frames (T, H, W, 3) until the short side has about `least` pixels."""
    times = max(least // min(frames.shape[1:3]), 1)
    return frames.repeat(times, axis=1).repeat(times, axis=2)


def write_png(path: Path, picture: Pixels, *, about: str = "") -> None:
    """Write a picture uint8 (H, W, 3), with a line of text in the file's metadata.

    Raises:
        OSError: The file cannot be written.
    """
    from PIL import Image, PngImagePlugin

    text = PngImagePlugin.PngInfo()
    text.add_itxt("Description", about)
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", pnginfo=text)


def write_mp4(path: Path, frames: Sequence[Pixels] | Pixels, *, fps: float, about: str = "") -> None:
    """Write frames uint8 (T, H, W, 3) as H.264 for every player; an odd side gets one more pixel.

    Args:
        path: The file.
        frames: The frames.
        fps: Frames per second.
        about: A line of text for the file's metadata.

    Raises:
        OSError: The file cannot be written.
    """
    from fractions import Fraction

    import av

    height, width = (side + side % 2 for side in frames[0].shape[:2])
    rate = Fraction(fps).limit_denominator(1001)
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        container.metadata["comment"] = about
        stream = container.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "medium"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in frames:
            whole = np.pad(frame, ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(whole, format="rgb24")))
        container.mux(stream.encode())
