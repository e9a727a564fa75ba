"""Drawing heat over frames, and writing the result as H.264 or PNG."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mvrec.files import atomic_path, shown

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
_TICK = Fraction(1, 1000)  # seconds, the unit of times in a video of variable rate
_LEGEND_ROWS = 32  # of a column
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
    return framed(drawn, crop)


def framed(pictures: Pixels, crop: Crop) -> Pixels:
    """Draw a line along the border of a part of pictures (T, H, W, 3), in place; return them."""
    y, x = slice(crop.top, crop.top + crop.height), slice(crop.left, crop.left + crop.width)
    for edge in ((crop.top, x), (crop.top + crop.height - 1, x), (y, crop.left), (y, crop.left + crop.width - 1)):
        pictures[(slice(None), *edge)] = _FRAME
    return pictures


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

    width, font = pictures.shape[2], font_for("".join(lines))
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


def font_for(text: str, letters: int = _LETTERS) -> Any:
    """Return the first font of the system, or else of PIL, that has all letters of a text; if none has, the first.

    Args:
        text: The text.
        letters: The size of letters in pixels.
    """
    from PIL import ImageFont

    fonts: list[Any] = []
    for name in _FONTS:
        with contextlib.suppress(OSError):
            fonts.append(ImageFont.truetype(name, letters))
    fonts.append(ImageFont.load_default(letters))
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
    text.add_itxt("Description", shown(about))
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", pnginfo=text)


def write_indexed_png(path: Path, numbers: Pixels, palette: Pixels) -> None:
    """Write numbers uint8 (H, W) as PNG; programs show each in its colour of the palette (K, 3).

    Raises:
        OSError: The file cannot be written.
    """
    from PIL import Image

    picture = Image.fromarray(numbers)
    picture.putpalette(palette.tobytes())  # which makes "P" of mode "L"
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def legend_picture(names: Sequence[str], colours: Pixels) -> Pixels:
    """Return a picture of colours (K, 3), each next to its name, in columns: uint8 (H, W, 3)."""
    from PIL import Image, ImageDraw

    font, step = font_for("".join(names)), _LETTERS + 2 * _GAP
    rows = min(len(names), _LEGEND_ROWS)
    width = step + 2 * _GAP + round(max(map(font.getlength, names)))
    columns = -(-len(names) // rows)
    picture = Image.new("RGB", (columns * width + _GAP, rows * step + _GAP), (_PAPER,) * 3)
    draw = ImageDraw.Draw(picture)
    for number, (name, colour) in enumerate(zip(names, colours.tolist(), strict=True)):
        column, row = divmod(number, rows)
        left, top = column * width + _GAP, row * step + _GAP
        draw.rectangle((left, top, left + step - _GAP - 1, top + step - _GAP - 1), fill=tuple(colour), outline=_INK)
        draw.text((left + step, top), name, fill=_INK, font=font)
    return np.asarray(picture)


class Mp4Writer:
    """A file of H.264 for every player, written picture by picture; use it in a `with` statement.

    The file appears at the end. An odd side gets one more pixel.

    Args:
        path: The file.
        fps: Frames per second, nominal where pictures have times.
        about: A line of text for the file's metadata.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: Path, *, fps: float, about: str = "") -> None:
        self.path, self.about = path, about
        self._rate = Fraction(fps).limit_denominator(1001)
        self._files = contextlib.ExitStack()
        self._container: Any = None
        self._stream: Any = None
        self._size = (0, 0)
        self._last = -1  # presentation time of the picture before

    def __enter__(self) -> "Mp4Writer":
        import av

        temporary = self._files.enter_context(atomic_path(self.path))
        self._container = self._files.enter_context(av.open(str(temporary), "w", format="mp4"))
        self._container.metadata["comment"] = shown(self.about)
        return self

    def write(self, picture: Pixels, *, seconds: float | None = None) -> None:
        """Add a picture uint8 (H, W, 3).

        Args:
            picture: As large as the first one.
            seconds: When it is shown, later than the one before; by default at a constant rate.

        Raises:
            ValueError: It has another size than the first one.
        """
        import av

        if self._stream is None:
            self._begin(picture, with_times=seconds is not None)
        if picture.shape[:2] != self._size:
            raise ValueError(f"a picture of {picture.shape[:2]} pixels in a video of {self._size}")
        height, width = self._stream.height, self._stream.width
        whole = np.pad(picture, ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(whole, format="rgb24")
        if seconds is not None:
            self._last = frame.pts = max(round(seconds / _TICK), self._last + 1)
            frame.time_base = _TICK
        self._container.mux(self._stream.encode(frame))

    def __exit__(self, *error: Any) -> None:
        if self._stream is not None and error[0] is None:
            self._container.mux(self._stream.encode())
        self._files.__exit__(*error)

    def _begin(self, picture: Pixels, *, with_times: bool) -> None:
        self._size = picture.shape[:2]
        stream = self._container.add_stream("libx264", rate=self._rate, options={"crf": "16", "preset": "medium"})
        stream.height, stream.width = (side + side % 2 for side in self._size)
        stream.pix_fmt = "yuv420p"
        if with_times:
            stream.codec_context.time_base = _TICK
        self._stream = stream


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
    with Mp4Writer(path, fps=fps, about=about) as writer:
        for frame in frames:
            writer.write(frame)
