"""The interface of an open video file: frames by number, and their times, with any decoder."""

import io
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Literal, Self

import numpy as np
import numpy.typing as npt

from mvrec.errors import DecodeError

if TYPE_CHECKING:
    import torch

BuiltInDecoder = Literal["auto", "decord", "pyav", "torchcodec"]
Decoder = BuiltInDecoder | str  # or the class path of one's own
Frames = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MAX_PIXELS = 2**26  # of a frame: 8192 x 8192
MAX_GIB = 8  # of the frames of one call


@dataclass(frozen=True)
class Clock:
    """The times of a file's frames.

    Attributes:
        ticks: (num_frames,) the time of each frame, not decreasing; None if the file has no usable times.
        tick: Seconds per tick.
        last: Duration of the last frame in ticks; 0 if unknown.
    """

    ticks: "Ints | None" = None
    tick: Fraction = Fraction(1)
    last: int = 0


class Video(ABC):
    """An open video file: use it in a `with` statement or close it, because it holds memory and a file handle.

    Attributes:
        path: The file.
        decoder: The name of its decoder.
        num_frames: The number of frames that a player shows, 1 or more.
        fps: Mean frames per second.
        clock: The times of the frames.
    """

    decoder: str

    def __init__(self, path: str, *, num_frames: int, fps: float, clock: "Clock") -> None:
        self.path = path
        self.num_frames = num_frames
        self.fps = fps
        self.clock = clock

    @property
    def has_times(self) -> bool:
        """Whether the file has times of frames; otherwise `times` and `duration` follow from `fps`."""
        return self.clock.ticks is not None

    @cached_property
    def times(self) -> Floats:
        """(num_frames,) seconds from the first frame to each frame as it is shown, not decreasing."""
        if self.clock.ticks is None:
            return np.arange(self.num_frames) / self.fps
        return (self.clock.ticks - self.clock.ticks[0]) * float(self.clock.tick)

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last."""
        last = float(self.clock.last * self.clock.tick) if self.has_times else 0.0
        return float(self.times[-1]) + (last if last > 0 else 1 / self.fps)

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels as shown, after rotation. Decodes a frame if none was decoded yet.

        If the size changes in the middle, it is that of the first frame, to which the others are scaled. Pixels that
        are not square are not stretched, as in other frameworks.

        Raises:
            DecodeError: The file is damaged.
        """

    def frames(self, indices: "Sequence[int] | npt.NDArray[np.integer] | torch.Tensor") -> Frames:
        """Decode the frames at `indices`, in any order and with repeats.

        Args:
            indices: (T,) integers, 0 for the first frame, each below `num_frames`.

        Returns:
            (T, H, W, 3) RGB frames.

        Raises:
            ValueError: `indices` are not integers, or out of range.
            DecodeError: The file is damaged, or the frames need more than `MAX_GIB`.
        """
        requested = np.asarray(indices)
        if requested.ndim != 1 or requested.size == 0 or requested.dtype.kind not in "iu":
            raise ValueError(f"frame indices must be a list of integers, got {indices!r}")
        outside = requested[(requested < 0) | (requested >= self.num_frames)]
        if outside.size:
            raise ValueError(
                f"frame indices must be in 0..{self.num_frames - 1} for {self.path}, got {outside.tolist()}"
            )
        unique, positions = np.unique(requested, return_inverse=True)
        decoded = self._decode(unique.astype(np.int64))
        if np.array_equal(unique, requested):
            return decoded
        self._check_memory(len(requested), decoded.shape[1:3])
        return decoded[positions]

    @abstractmethod
    def _decode(self, indices: Ints) -> Frames:
        """Decode the frames at (T,) ascending `indices` to (T, H, W, 3)."""

    @abstractmethod
    def close(self) -> None:
        """Free the decoder and the file; a closed video cannot be read. Closing twice is allowed."""

    def _check_memory(self, num_frames: int, size: tuple[int, ...]) -> None:
        gib = num_frames * size[0] * size[1] * 3 / 2**30
        if gib > MAX_GIB:
            frames = f"{num_frames} frames of {size[1]} x {size[0]}"
            raise DecodeError(
                self.path, f"{frames} would take {gib:.0f} GiB, more than the {MAX_GIB} that one read may"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Source:
    """The source of a video's bytes: a file, or memory for a file inside an archive.

    Attributes:
        path: Its name in messages.
        content: The bytes, if they are in memory.
    """

    path: str
    content: bytes | None = field(default=None, repr=False)

    @property
    def num_bytes(self) -> int:
        """Size of the file in bytes."""
        return Path(self.path).stat().st_size if self.content is None else len(self.content)

    def open(self) -> BinaryIO:
        """Return the bytes as a file, from the start."""
        return Path(self.path).open("rb") if self.content is None else io.BytesIO(self.content)

    def for_ffmpeg(self) -> str | io.BytesIO:
        """Return the argument for a decoder built on FFmpeg."""
        # FFmpeg reads the part before a colon in a relative path as a protocol.
        return str(Path(self.path).absolute()) if self.content is None else io.BytesIO(self.content)


def check_is_file_with_content(path: str) -> None:
    """Check a path before a decoder fails with its own message.

    Raises:
        DecodeError: The path is not a regular file with content, or not readable.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path would forget how the caller wrote it
        if stat.S_ISDIR(status.st_mode):
            raise DecodeError(path, "is a directory")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise DecodeError(path, "is not a regular file")
        if status.st_size == 0:
            raise DecodeError(path, "is empty (0 bytes)")
        with Path(path).open("rb"):
            pass
    except FileNotFoundError as error:
        is_link = Path(path).is_symlink()
        raise DecodeError(path, "is a broken link" if is_link else "no such file") from error
    except (OSError, ValueError) as error:
        raise DecodeError(path, getattr(error, "strerror", None) or str(error)) from error


def check_size(path: str, width: int, height: int) -> None:
    """Refuse frames larger than any that a video may have."""
    if width * height > MAX_PIXELS:
        size = f"{width} x {height}"
        raise DecodeError(path, f"frames of {size} are larger than the {MAX_PIXELS} pixels that one may have")
