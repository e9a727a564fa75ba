"""Folders of single frames, read like a video of constant rate."""

import os
import re
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np

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
        self.files: dict[int, str] = {}
        with os.scandir(folder) as entries:
            for entry in entries:
                stem, ending = os.path.splitext(entry.name)  # noqa: PTH122 - a Path each costs seconds
                number = _LAST_NUMBER.search(stem)
                if number and ending.lower() in IMAGE_EXTENSIONS and entry.name[0] != ".":
                    self.files[int(number[1])] = entry.name
        if not self.files:
            raise DecodeError(folder, "has no images with numbers, such as 000001.jpg")
        self.numbers = np.array(sorted(self.files))
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
        return read_image(Path(self.path) / self.files[int(self.numbers[place])])
