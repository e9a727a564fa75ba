"""Sizes, lengths and frame rates of some files, as their headers say."""

import contextlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mvrec.data.video.containers import open_container, shown_stream
from mvrec.processes import ChildError, Limits, apart

SECONDS = 2.0  # for all files together
HANGS_AFTER = 10.0  # seconds
OBLONG = 1.2  # long side over short side

CLIP_SECONDS = 2.0  # of a video that are decoded to see how long that takes
MOST_DECODING = 0.5  # seconds

Probe = tuple[int, int, float, float]  # width, height, seconds, frames per second


@dataclass(frozen=True)
class Media:
    """Sizes, lengths and frame rates of some files; empty where none could be read.

    Attributes:
        sizes: (width, height) of each, in pixels.
        seconds: The length of each video whose header says it.
        rates: Frames per second of each video whose header says it.
        unreadable: The files that cannot be read.
        reading_seconds: Time that one core needs to read a clip or an image.
    """

    sizes: tuple[tuple[int, int], ...] = ()
    seconds: tuple[float, ...] = ()
    rates: tuple[float, ...] = ()
    unreadable: tuple[str, ...] = ()
    reading_seconds: float = 0.0

    @property
    def num_read(self) -> int:
        """The number of files that could be read."""
        return len(self.sizes)

    @property
    def short_side(self) -> int | None:
        """The usual short side, in pixels."""
        return int(statistics.median(min(size) for size in self.sizes)) if self.sizes else None

    @property
    def is_oblong(self) -> bool:
        """Whether one side of the usual file is longer than the other by a fifth or more."""
        return bool(self.sizes) and statistics.median(max(size) / min(size) for size in self.sizes) >= OBLONG

    @property
    def length(self) -> float | None:
        """The usual length, in seconds."""
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def rate(self) -> float | None:
        """The frame rate, if it is the same in all files."""
        rates = {round(rate, 2) for rate in self.rates}
        return rates.pop() if len(rates) == 1 else None

    def describe(self) -> str:
        """Describe sizes, lengths and rates in one line; "" where nothing could be read."""
        if not self.sizes:
            return ""
        least, most = min(self.sizes, key=_area), max(self.sizes, key=_area)
        parts = [f"{least[0]}x{least[1]}" + (f" to {most[0]}x{most[1]}" if least != most else "") + " pixels"]
        if self.seconds:
            parts.append(_range(self.seconds, "s"))
        if self.rates:
            parts.append(_range(self.rates, "frames/s"))
        return ", ".join(parts)


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _range(values: Sequence[float], unit: str) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def probed(paths: Sequence[Path], *, is_video: bool) -> Media:
    """Read the headers of files, for a few seconds at most; the process that reads them may crash or hang.

    Args:
        paths: The files.
        is_video: Whether they are videos, else images.
    """
    try:
        probes, reading = apart(_probe_all, paths, is_video, limits=Limits(HANGS_AFTER))
    except ChildError:
        return Media()
    read = [probe for probe in probes if probe is not None]
    return Media(
        sizes=tuple((width, height) for width, height, _, _ in read),
        seconds=tuple(seconds for _, _, seconds, _ in read if seconds > 0),
        rates=tuple(rate for _, _, _, rate in read if rate > 0),
        unreadable=tuple(str(path) for path, probe in zip(paths, probes, strict=False) if probe is None),
        reading_seconds=reading,
    )


def _probe_all(paths: Sequence[Path], is_video: bool) -> tuple[list[Probe | None], float]:
    end, probes, reading = time.monotonic() + SECONDS, [], 0.0
    for path in paths:
        probes.append(_tried(path, is_video=is_video))
        if probes[-1] is not None and not reading:
            with contextlib.suppress(Exception):  # whatever a decoder raises: the next one tells
                reading = _reading_seconds(path, is_video=is_video)
        if time.monotonic() > end:
            break
    return probes, reading


def _reading_seconds(path: Path, *, is_video: bool) -> float:
    """Measure the time to decode an image, or two seconds of a video."""
    begin = time.monotonic()
    if not is_video:
        with Image.open(path) as image:
            image.load()
        return time.monotonic() - begin
    with open_container(str(path)) as container:
        share = 1.0
        for frame in container.decode(video=0):
            share = min(1.0, max(frame.time or 0.0, 1 / 60) / CLIP_SECONDS)
            if share == 1.0 or time.monotonic() - begin > MOST_DECODING:
                return (time.monotonic() - begin) / share
    return time.monotonic() - begin


def _tried(path: Path, *, is_video: bool) -> Probe | None:
    try:
        return _video(path) if is_video else _image(path)
    except Exception:  # whatever a decoder raises: the file counts as one that cannot be read
        return None


def _image(path: Path) -> Probe:
    with Image.open(path) as image:
        return *image.size, 0.0, 0.0


def _video(path: Path) -> Probe | None:
    with open_container(str(path)) as container:
        stream = shown_stream(container)
        if stream is None or not stream.width:
            return None
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        if stream.duration is not None and stream.time_base is not None:
            seconds = float(stream.duration * stream.time_base)
        else:
            seconds = (container.duration or 0) / 1e6
        return stream.width, stream.height, seconds, rate
