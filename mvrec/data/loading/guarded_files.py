"""Opening single files in processes that can be killed, for commands without a loader.

`open_video` and `read_image` are those of `mvrec.data` with a guard: a decoder that hangs, crashes or exceeds its
memory makes an unreadable file, and the command continues with the others.
"""

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mvrec.data.listing.archive import FilePath
from mvrec.data.loading import images
from mvrec.data.loading.guard import Reader
from mvrec.data.loading.samples import reading
from mvrec.data.video import opening
from mvrec.data.video.pyav import load_library
from mvrec.data.video.video import Clock, Decoder, Frames, Ints, Video
from mvrec.errors import DecodeError, UserError
from mvrec.processes import CAN_FORK, ChildError, Limits


class Answer(NamedTuple):
    """A reading process's answer about a file.

    Attributes:
        views: Pixels, uint8 (T, H, W, 3), of an image (H, W, 3); `None` if none were requested.
        about: The error, the size (height, width), or the facts of a `Video`.
    """

    views: torch.Tensor | None
    about: Any = None


class _About(NamedTuple):
    decoder: str
    num_frames: int
    fps: float
    clock: Clock


class _OneFile:
    """The reading process's side: one open video, and requests of (action, path, argument)."""

    def __init__(self) -> None:
        self.video: Video | None = None

    def __getitem__(self, request: tuple[str, FilePath, Any]) -> Answer:
        action, path, argument = request
        reading.announce(0, str(path))
        try:
            return getattr(self, f"_{action}")(path, argument)
        except (DecodeError, UserError) as error:
            return Answer(None, error)

    def _open(self, path: FilePath, decoder: Decoder) -> Answer:
        self._close(path, None)
        opened = self.video = opening.open_video(path, decoder)
        return Answer(None, _About(opened.decoder, opened.num_frames, opened.fps, opened.clock))

    def _close(self, path: FilePath, _: None) -> Answer:
        if self.video is not None:
            self.video.close()
        self.video = None
        return Answer(None)

    def _size(self, path: FilePath, _: None) -> Answer:
        assert self.video is not None
        return Answer(None, self.video.size)

    def _frames(self, path: FilePath, indices: Ints) -> Answer:
        assert self.video is not None
        return Answer(torch.from_numpy(np.ascontiguousarray(self.video.frames(indices))))

    def _image(self, path: FilePath, upright: bool) -> Answer:
        return Answer(torch.from_numpy(np.ascontiguousarray(images.read_image(path, upright=upright))))


class FileReaders:
    """Reading processes, one per open file, reused for later files.

    Args:
        limits: The limits of a file.

    Attributes:
        killed: Files that broke the limits, with the event; they are not opened again.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.killed: dict[str, str] = {}
        self._idle: list[Reader] = []
        self._folder = _working_folder()
        self._lock = threading.Lock()
        self._forking: tuple[int, ThreadPoolExecutor] | None = None

    def start(self, count: int) -> None:
        """Fork some processes now, while this process is small."""
        if CAN_FORK:
            started = [self._take() for _ in range(count)]
            self._idle += started

    def close(self) -> None:
        """End the idle processes."""
        while self._idle:
            self._idle.pop().kill()

    def open(self, path: FilePath, decoder: Decoder) -> Video:
        """Open a video; see `open_video`."""
        reader = self._take()
        return GuardedVideo(self, reader, path, self._ask(reader, "open", path, decoder, is_last=False).about)

    def image(self, path: FilePath, upright: bool) -> npt.NDArray[np.uint8]:
        """Read an image; see `read_image`."""
        views = self._ask(self._take(), "image", path, upright, is_last=True).views
        assert views is not None
        return views.numpy()

    def _take(self) -> Reader:
        load_library()  # a fork of a process with threads should load no library

        with self._lock:  # a process forked in between would keep the other's channel open
            if (folder := _working_folder()) != self._folder:  # relative paths would mean other files there
                self.close()
                self._folder = folder
            while self._idle:
                reader = self._idle.pop()
                if reader.is_alive and reader.limits == self.limits:
                    return reader
                reader.kill()
            return self._fork()

    def _fork(self) -> Reader:
        """Fork in a thread that lasts: on Linux a child ends with the thread that forked it, not with the process."""
        if self._forking is None or self._forking[0] != os.getpid():  # a fork has none of its parent's threads
            self._forking = (os.getpid(), ThreadPoolExecutor(1, thread_name_prefix="fork"))
        return self._forking[1].submit(Reader, _OneFile(), self.limits).result()

    def _ask(self, reader: Reader, action: str, path: FilePath, argument: Any, *, is_last: bool) -> Answer:
        """Return the answer to one question; after the last one, or an error, the process is free for another file.

        Raises:
            DecodeError: The file cannot be read, or broke the limits.
        """
        cause = self.killed.get(str(path))
        try:
            if cause is not None:
                raise DecodeError(path, cause)
            (answer,) = reader.read([(action, path, argument)], {})
        except ChildError as fault:
            reader.kill()
            cause = self.killed[str(path)] = f"the process reading it {fault}"
            raise DecodeError(path, cause) from None
        except DecodeError:
            self._free(reader)
            raise
        except BaseException:
            reader.kill()  # it may still be sending an answer that nobody reads
            raise
        is_error = isinstance(answer.about, DecodeError | UserError)
        if is_last or (is_error and action == "open"):
            self._free(reader)
        if is_error:
            raise answer.about
        return answer

    def _free(self, reader: Reader) -> None:
        with self._lock:
            self._idle.append(reader)


class GuardedVideo(Video):
    """A video in a reading process."""

    def __init__(self, readers: FileReaders, reader: Reader, path: FilePath, about: _About) -> None:
        super().__init__(str(path), num_frames=about.num_frames, fps=about.fps, clock=about.clock)
        self.decoder = about.decoder
        self._readers, self._reader, self._file = readers, reader, path
        self._size: tuple[int, int] | None = None
        self._is_open = True

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels as shown."""
        if self._size is None:
            self._size = self._readers._ask(self._reader, "size", self._file, None, is_last=False).about
        return self._size

    def _decode(self, indices: Ints) -> Frames:
        views = self._readers._ask(self._reader, "frames", self._file, indices, is_last=False).views
        assert views is not None
        return views.numpy()

    def close(self) -> None:
        """Close the video in the reading process, which is then free for another file."""
        if not self._is_open:
            return
        self._is_open = False
        if self._reader.is_open:  # if not, it was ended and an exception is on its way
            with contextlib.suppress(DecodeError):  # the frames are good; a process that cannot close is replaced
                self._readers._ask(self._reader, "close", self._file, None, is_last=True)


def _working_folder() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:  # the folder was removed
        return ""


readers = FileReaders()


def open_video(path: FilePath, decoder: Decoder = "auto") -> Video:
    """Open a video as `mvrec.data.open_video` does, in a process that can be killed if the system can fork.

    Args:
        path: The file.
        decoder: Name of the decoder.

    Raises:
        DecodeError: The file cannot be read, took too long or too much memory, or crashed the reading process.
        UserError: The decoder does not exist, or does not work here.
    """
    return readers.open(path, decoder) if CAN_FORK else opening.open_video(path, decoder)


def read_image(path: FilePath, *, upright: bool = True) -> npt.NDArray[np.uint8]:
    """Read an image as `mvrec.data.read_image` does, in a process that can be killed if the system can fork.

    Args:
        path: The file.
        upright: Turn and mirror the image as its EXIF block says.

    Returns:
        uint8 (H, W, 3).

    Raises:
        DecodeError: As `open_video`.
    """
    return readers.image(path, upright) if CAN_FORK else images.read_image(path, upright=upright)
