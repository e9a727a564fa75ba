"""Folders of single frames, read like a video of constant rate."""

import functools
import os
import re
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mvrec.data.listing.archive import FilePath
from mvrec.data.listing.file_kinds import IMAGE_EXTENSIONS
from mvrec.data.loading.images import read_image
from mvrec.data.video.opening import open_video
from mvrec.data.video.video import Clock, Decoder, Frames, Ints, Video
from mvrec.errors import DecodeError

_LAST_NUMBER = re.compile(r"(\d+)\D*$")


def open_frames(path: FilePath, *, decoder: Decoder = "auto", fps: float = 30.0) -> Video:
    """Open a video file, or a folder of its frames.

    Args:
        path: The file or folder.
        decoder: Name of the decoder of files.
        fps: Frames per second of folders.

    Raises:
        DecodeError: The file cannot be read, or the folder has no frames.
    """
    if isinstance(path, Path) and path.is_dir():
        return FrameFolder(path, fps=fps)
    return open_video(path, decoder=decoder)


class NumberedFiles(NamedTuple):
    """The numbered images of a folder.

    Attributes:
        numbers: int64 (N,), ascending.
        form: What their names have in common, for `str.format` with a number; "" if they differ.
        names: Their names in the order of numbers, if they differ.
    """

    numbers: npt.NDArray[np.int64]
    form: str
    names: tuple[str, ...] = ()

    def name(self, place: int) -> str:
        """Return the name of a file by its place."""
        return self.form.format(int(self.numbers[place])) if self.form else self.names[place]


@functools.lru_cache(maxsize=1024)  # a folder may have 27,000 files, and is read again for each of its key frames
def numbered_files(folder: Path) -> NumberedFiles:
    """Return the images of a folder whose names end with a number, in the order of these."""
    files: dict[int, str] = {}
    forms: set[str] = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            stem, ending = os.path.splitext(entry.name)  # noqa: PTH122 - a Path each costs seconds
            match = _LAST_NUMBER.search(stem)
            if match and ending.lower() in IMAGE_EXTENSIONS and entry.name[0] != ".":
                files[int(match[1])] = entry.name
                parts = (stem[: match.start(1)], stem[match.end(1) :] + ending)
                before, behind = (part.replace("{", "{{").replace("}", "}}") for part in parts)
                forms.add(f"{before}{{:0{len(match[1])}d}}{behind}")
    numbers = sorted(files)
    form = forms.pop() if len(forms) == 1 else ""
    names = () if form else tuple(files[number] for number in numbers)
    return NumberedFiles(np.array(numbers, np.int64), form, names)


class FrameFolder(Video):
    """A folder of images whose names end with their numbers, such as `000001.jpg`: the lowest is frame 0.

    A number that is missing repeats the frame before it.

    Args:
        folder: The folder.
        fps: Frames per second.

    Raises:
        DecodeError: There are no numbered images.
    """

    decoder = "images"

    def __init__(self, folder: Path, *, fps: float) -> None:
        self.files = numbered_files(folder)
        self.numbers = self.files.numbers
        if not len(self.numbers):
            raise DecodeError(folder, "has no images with numbers, such as 000001.jpg")
        count = int(self.numbers[-1] - self.numbers[0]) + 1
        clock = Clock(np.arange(count), Fraction(fps).limit_denominator(10**6) ** -1, last=1)
        super().__init__(str(folder), num_frames=count, fps=fps, clock=clock)

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels of the first frame."""
        return self._read(0).shape[:2]

    def close(self) -> None:
        """Close nothing: no file stays open."""

    def _decode(self, indices: Ints) -> Frames:
        frames = [self._read(index) for index in indices.tolist()]
        self._check_memory(len(frames), frames[0].shape[:2])
        odd = next((number for number, frame in enumerate(frames) if frame.shape != frames[0].shape), None)
        if odd is not None:
            raise DecodeError(self.path, f"frame {indices[odd]} has another size than frame {indices[0]}")
        return np.stack(frames)

    def _read(self, index: int) -> Frames:
        place = np.searchsorted(self.numbers, self.numbers[0] + index, side="right") - 1
        return read_image(Path(self.path) / self.files.name(int(place)))
