"""Decoders of the user's own: a class or function that opens a file and gives its frames by number."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import cached_property
from numbers import Integral, Real
from typing import Any, get_args

import numpy as np

from mvrec.class_paths import calling, imported, is_class_path, path_of
from mvrec.data.listing.archive import ArchiveMember, FilePath
from mvrec.data.video.video import BuiltInDecoder, Clock, Frames, Ints, Video, check_size
from mvrec.errors import DecodeError, PartError, UserError, nearest

KEY = "data.decoder"


class OwnVideo(Video):
    """A file that a user's decoder has opened. Its exceptions are faults of the file, named with the decoder.

    Args:
        path: The file; of one in an archive the decoder gets the bytes as `io.BytesIO`.
        opener: Class path of a class or function that opens a path. What it returns has `num_frames`, `fps` and
            `frames(indices)`, of ascending int64 (T,) to uint8 (T, H, W, 3) RGB, and perhaps `close()`.

    Raises:
        DecodeError: The decoder raised an exception, or found no frames.
        PartError: It gives something else.
    """

    def __init__(self, path: FilePath, opener: str) -> None:
        self.decoder, self.path = opener, str(path)
        source = io.BytesIO(path.read()) if isinstance(path, ArchiveMember) else os.fspath(path)
        with self._reading():
            self.opened = imported(opener)(source)
            count: Any = getattr(self.opened, "num_frames", None)
            fps: Any = getattr(self.opened, "fps", None)
        self._check(count, fps)
        clock = Clock(np.arange(count), Fraction(float(fps)).limit_denominator(10**6) ** -1, last=1)
        clock = self.opened.clock if isinstance(self.opened, Video) else clock
        super().__init__(self.path, num_frames=int(count), fps=float(fps), clock=clock)

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels of the first frame."""
        return self._decode(np.array([0])).shape[1:3]

    def close(self) -> None:
        """Close what the decoder opened, if it can be closed."""
        with self._reading():
            getattr(self.opened, "close", lambda: None)()

    def _decode(self, indices: Ints) -> Frames:
        with self._reading(f"frames {indices.tolist()}" if len(indices) <= 8 else f"{len(indices)} frames"):
            frames = np.asarray(self.opened.frames(indices))
        if frames.dtype != np.uint8 or frames.ndim != 4 or len(frames) != len(indices) or frames.shape[3] != 3:
            raise PartError(
                f"{KEY}: {self.decoder} returned frames {frames.dtype} {frames.shape} for {self.path}, expected uint8 "
                f"(T, H, W, 3) = ({len(indices)}, H, W, 3)"
            )
        check_size(self.path, frames.shape[2], frames.shape[1])
        return frames

    def _check(self, count: Any, fps: Any) -> None:
        if not isinstance(count, Integral) or not isinstance(fps, Real) or not hasattr(self.opened, "frames"):
            raise PartError(
                f"{KEY}: {self.decoder} opened {self.path} as {path_of(type(self.opened))}, which lacks an integer "
                "num_frames, a number fps or frames(indices)"
            )
        if count < 1 or not 0 < float(fps) < float("inf"):
            raise DecodeError(self.path, f"{self.decoder} found {count} frames at {fps} frames per second")

    @contextmanager
    def _reading(self, note: str = "") -> Iterator[None]:
        try:
            with calling(KEY, imported(self.decoder), note=note):
                yield
        except PartError as error:
            raise DecodeError(self.path, str(error)) from error


def check_decoder(decoder: str, *, key: str = KEY) -> None:
    """Check that a decoder is one of mvrec's, or can be imported.

    Raises:
        UserError: It is neither.
    """
    names = get_args(BuiltInDecoder)
    if decoder in names:
        return
    if not is_class_path(decoder):
        raise UserError(
            f"{key}: {decoder!r} is not one of {', '.join(names)}, or the class path of your own"
            f"{nearest(str(decoder), names)}"
        )
    try:
        is_callable = callable(imported(decoder))
    except UserError as error:
        raise UserError(f"{key}: {error}") from error
    if not is_callable:
        raise UserError(f"{key}: {decoder} is no class or function")
