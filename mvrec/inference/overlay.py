"""Drawing heat over frames, and writing the result as H.264 or PNG."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mvrec.files import atomic_path

Pixels = npt.NDArray[np.uint8]

# Colours from least to most heat: from dark violet over red to light yellow, ever lighter, so that grey prints keep
# the order and readers need not tell red from green.
_COLOURS = np.array([(30, 0, 70), (130, 10, 110), (220, 50, 60), (250, 140, 20), (255, 240, 120)], np.float32)
_STRENGTH = 0.85  # opacity of the hottest pixels
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # the share of each colour in brightness, ITU-R BT.601
_INK, _LETTERS, _SCALE_PIXELS = (0, 0, 0), 14, 160  # of captions: colour, pixels of letters, width of the colour scale
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "arial.ttf")
_NO_LETTER = "\U0010ffff"  # in no font
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
    """Draw heat over frames in grey: the hotter, the more opaque.

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
    """Return frames in grey, so that every colour is heat, under colours that cover the more the hotter they are."""
    grey = (frames @ _GREY)[..., None]
    cover = _STRENGTH * heat[..., None]
    return (grey * (1 - cover) + _coloured(heat) * cover).round().astype(np.uint8)


def _coloured(heat: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the colours (..., 3) of heat (...) from 0 to 1."""
    place = heat * (len(_COLOURS) - 1)
    lower = np.minimum(place.astype(np.int64), len(_COLOURS) - 2)
    share = (place - lower)[..., None]
    return _COLOURS[lower] * (1 - share) + _COLOURS[lower + 1] * share


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


def captioned(pictures: Pixels, lines: Sequence[str]) -> Pixels:
    """Put text above pictures (T, H, W, 3) and the colour scale of heat below it.

    Args:
        pictures: uint8 (T, H, W, 3).
        lines: Lines of text; those that are too long are broken.

    Returns:
        uint8 (T, H', W, 3).
    """
    from PIL import Image, ImageDraw

    width, font = pictures.shape[2], _font("".join(lines))
    rows = [row for line in lines for row in _broken(line, width - 2 * _GAP, font.getlength)]
    step = _LETTERS + _GAP
    band = Image.new("RGB", (width, step * (len(rows) + 1) + 2 * _GAP), (_PAPER,) * 3)
    draw = ImageDraw.Draw(band)
    for number, row in enumerate(rows):
        draw.text((_GAP, _GAP + number * step), row, fill=_INK, font=font)
    top, left = _GAP + len(rows) * step, _GAP
    draw.text((left, top), "least heat", fill=_INK, font=font)
    left += round(font.getlength("least heat")) + _GAP
    length = max(min(_SCALE_PIXELS, width - left - round(font.getlength("most")) - 2 * _GAP), 1)
    scale = _blended(np.full((_LETTERS, length, 3), _PAPER // 2, np.uint8), _ramp(length))
    band.paste(Image.fromarray(scale), (left, top))
    draw.text((left + length + _GAP, top), "most", fill=_INK, font=font)
    above = np.broadcast_to(np.asarray(band), (len(pictures), *np.asarray(band).shape))
    return np.concatenate([above, pictures], axis=1)


def _ramp(length: int) -> npt.NDArray[np.float32]:
    return np.broadcast_to(np.linspace(0, 1, length, dtype=np.float32), (_LETTERS, length))


def _broken(line: str, width: int, length_of: Callable[[str], float]) -> Iterator[str]:
    """Yield a line in pieces that fit, broken at blanks where there are any."""
    while line and length_of(line) > width:
        fitting = next((end for end in range(len(line) - 1, 0, -1) if length_of(line[:end]) <= width), 1)
        end = line.rfind(" ", 1, fitting + 1)
        end = end if end > 0 else fitting
        yield line[:end]
        line = line[end:].lstrip()
    yield line


def _font(text: str) -> Any:
    """Return the first font of the system, or else of PIL, that has all letters of a text; if none has, the first."""
    from PIL import ImageFont

    fonts: list[Any] = []
    for name in _FONTS:
        with contextlib.suppress(OSError):
            fonts.append(ImageFont.truetype(name, _LETTERS))
    fonts.append(ImageFont.load_default(_LETTERS))
    return next((font for font in fonts if _has(font, text)), fonts[0])


def _has(font: Any, text: str) -> bool:
    missing = bytes(font.getmask(_NO_LETTER))
    return all(bytes(font.getmask(letter)) != missing for letter in set(text))


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
