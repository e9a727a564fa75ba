"""The input of a network from Python: files, frames and images as arrays, and lists and folders of them."""

import glob
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mvrec.data.listing.archive import ArchiveMember
from mvrec.data.listing.file_kinds import IMAGES, VIDEOS
from mvrec.data.listing.index import Sample
from mvrec.data.loading.guarded_files import open_video, read_image
from mvrec.data.loading.images import is_pillow, pillow_pixels
from mvrec.data.video.video import Clock, Decoder, Frames, Ints, Video
from mvrec.data.views.protocol import ClipProtocol, KeyFrameProtocol, Protocol
from mvrec.errors import UserError
from mvrec.files import at_home
from mvrec.inference.pixels import array_of, rgb_pixels
from mvrec.inference.sources import LISTS, find_sources

STILL = "it is a single picture, so this network of videos sees no motion in it and its answer says little"

log = logging.getLogger("mvrec")

Pixels = npt.NDArray[np.uint8]


class ArrayVideo(Video):
    """Decoded frames in place of a file.

    Args:
        path: Their name in messages.
        pixels: uint8 (T, H, W, 3).
        fps: Frames per second.
    """

    decoder = "array"

    def __init__(self, path: str, pixels: Pixels, fps: float) -> None:
        clock = Clock(np.arange(len(pixels)), 1 / Fraction(fps), 1)
        super().__init__(path, num_frames=len(pixels), fps=fps, clock=clock)
        self._pixels = pixels

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._pixels.shape[1], self._pixels.shape[2]

    def _decode(self, indices: Ints) -> Frames:
        return self._pixels[indices]

    def close(self) -> None:
        """Do nothing: the frames are the caller's."""


@dataclass(frozen=True)
class Item:
    """A video or an image: a file, a part of one, or an array.

    Attributes:
        sample: The file and the relevant part of it; for an array only its name.
        pixels: uint8 (T, H, W, 3) of a video, (H, W, 3) of an image; `None` for a file.
        fps: Frames per second of an array; `None` if unknown.
    """

    sample: Sample
    pixels: Pixels | None = None
    fps: float | None = None

    @property
    def source(self) -> str:
        """The name in results and messages."""
        return str(self.sample.path)

    @property
    def has_seconds(self) -> bool:
        """Whether the times of its frames are known."""
        return self.pixels is None or self.fps is not None

    def open(self, decoder: Decoder) -> Video:
        """Open the video.

        Raises:
            DecodeError: The file cannot be read.
        """
        if self.pixels is None:
            return open_video(self.sample.path, decoder=decoder)
        return ArrayVideo(self.source, self.pixels, self.fps or 1.0)

    def image(self, *, upright: bool) -> Pixels:
        """Return the image: uint8 (H, W, 3).

        Raises:
            DecodeError: The file cannot be read.
        """
        return read_image(self.sample.path, upright=upright) if self.pixels is None else self.pixels


def as_item(file: "Path | Sample | Item") -> Item:
    """Return a file, or a part of one, as an item."""
    return file if isinstance(file, Item) else Item(file if isinstance(file, Sample) else Sample(file, 0))


def is_still(video: Video) -> bool:
    """Return whether a video is a single picture, of which each frame of a clip is a copy."""
    return video.num_frames == 1


def warn_of_still(item: Item, video: Video) -> None:
    """Say that a network of videos sees no motion in a single picture."""
    if is_still(video):
        log.warning("%s: %s", item.source, STILL)


def items_of(
    source: Any, protocol: Protocol, *, fps: float | None, in_seconds: bool = False
) -> tuple[bool, Iterator[Item]]:
    """Return whether a source is a single video or image, and the items that it means.

    Args:
        source: A file, folder, list (`.txt`, `.csv`) or pattern; an array or tensor, uint8 (T, H, W, 3) of a video or
            (H, W, 3) of an image, with one more axis for several; an image of Pillow; or a list or iterator of these.
            A list of frames (H, W, 3) is one video, if the network takes videos.
        protocol: The network's protocol.
        fps: Frames per second of arrays.
        in_seconds: Whether windows of seconds are asked for, which needs the rate.

    Raises:
        UserError: There is no such file, or an array is not what the network takes; of an iterator's later entries,
            and of those of a list, when they are reached.
    """
    if fps is not None and not (isinstance(fps, int | float | np.number) and 0 < float(fps) < float("inf")):
        raise UserError(f"fps must be a number of frames per second above 0, got {fps!r}")
    reader = _Reader(protocol, None if fps is None else float(fps), in_seconds=in_seconds)
    return reader.items(source)


class _Reader:
    def __init__(self, protocol: Protocol, fps: float | None, *, in_seconds: bool) -> None:
        self.protocol, self.fps, self.in_seconds = protocol, fps, in_seconds
        self.axes = 4 if protocol.is_video else 3  # of the pixels of one item

    def items(self, source: Any) -> tuple[bool, Iterator[Item]]:
        if isinstance(source, str | os.PathLike):
            return self._of_path(os.fspath(source))
        if isinstance(source, Sample | ArchiveMember | Item):
            return True, iter([self._file(source)])
        if _is_array(source):
            if self._is_several(source):
                return False, self._of_entries(array_of(source))
            return True, iter([self._pixels(source, "array")])
        if not isinstance(source, Iterable) or isinstance(source, dict | bytes):
            raise UserError(f"a {type(source).__name__} is neither a file, an array nor a list of them")
        return self._of_list(iter(source))

    def _of_path(self, source: str) -> tuple[bool, Iterator[Item]]:
        if self.fps is not None:
            raise UserError(f"fps is the rate of frames in arrays; the file {source!r} has its own: leave fps out")
        path = at_home(source)
        is_several = path.is_dir() or (path.suffix.lower() in LISTS and path.is_file())
        is_several |= not path.exists() and glob.has_magic(source)
        samples = find_sources([source], kind=VIDEOS if self.protocol.is_video else IMAGES)
        return not is_several, (Item(sample) for sample in samples)

    def _of_list(self, entries: Iterator[Any]) -> tuple[bool, Iterator[Item]]:
        first = next(entries, None)
        if first is None:
            raise UserError("the list is empty: there is nothing to look at")
        entries = chain([first], entries)
        if self.protocol.is_video and _is_array(first) and array_of(first).ndim < self.axes:
            return True, iter([self._pixels(list(entries), "array")])  # frames of one video
        return False, self._of_entries(entries)

    def _of_entries(self, entries: Iterable[Any]) -> Iterator[Item]:
        for number, entry in enumerate(entries):
            if isinstance(entry, str | os.PathLike):
                path = at_home(os.fspath(entry))
                if path.exists() or glob.has_magic(os.fspath(entry)):
                    yield from self._of_path(os.fspath(entry))[1]
                else:
                    yield self._file(Sample(path, 0))  # the result says that there is no such file
            elif isinstance(entry, Sample | ArchiveMember | Item):
                yield self._file(entry)
            elif _is_array(entry) or isinstance(entry, list | tuple):
                yield self._pixels(entry, f"array {number}")
            else:
                raise UserError(f"entry {number} of the list is a {type(entry).__name__}, not a file or an array")

    def _file(self, entry: Any) -> Item:
        if isinstance(entry, Item):
            return entry
        return Item(entry if isinstance(entry, Sample) else Sample(entry, 0))

    def _is_several(self, source: Any) -> bool:
        return not is_pillow(source) and array_of(source).ndim == self.axes + 1

    def _pixels(self, value: Any, name: str) -> Item:
        upright = bool(getattr(self.protocol, "upright", True))
        name = str(getattr(value, "filename", "")) or name  # of an image that Pillow has opened
        if isinstance(value, list | tuple):
            value = [pillow_pixels(frame, upright=upright) if is_pillow(frame) else frame for frame in value]
        elif is_pillow(value):
            value = pillow_pixels(value, upright=upright)
        pixels = rgb_pixels(value, axes=self.axes, name=name, noun="video" if self.protocol.is_video else "image")
        if self.protocol.is_video:
            self._check_rate(pixels)
        elif self.fps is not None:
            raise UserError("fps is the rate of a video's frames, and this network takes images: leave fps out")
        return Item(Sample(Path(name), 0), pixels, self.fps)

    def _check_rate(self, pixels: Pixels) -> None:
        protocol = self.protocol
        if self.fps is not None or not isinstance(protocol, ClipProtocol | KeyFrameProtocol):
            return
        clip, key_frames = protocol.clip, isinstance(protocol, KeyFrameProtocol)
        if self.in_seconds or key_frames or (clip.sampling == "dense" and clip.target_fps is not None):
            in_seconds = f"{'key frames' if key_frames else 'windows'} are in seconds"
            reason = in_seconds if self.in_seconds or key_frames else f"clips are at {clip.target_fps:g} fps"
            shape = tuple(pixels.shape)
            raise UserError(f"the rate of the frames {pixels.dtype} {shape} is missing, and {reason}: add fps=...")


def _is_array(value: Any) -> bool:
    return is_pillow(value) or (hasattr(value, "__array__") and hasattr(value, "shape"))
