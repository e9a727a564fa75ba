"""Reading frames of a video file: the only code that knows decord and PyAV.

Containers promise things about their content that are not so: frames that a download never brought, frames
that an edit list hides, rates of 0. So every file is first walked through packet by packet, decoding one
frame; what that walk finds is what both decoders promise. And decord, which answers for some kinds of file
with the wrong frames, or repeats a frame where one is missing, is handed only files of a kind on which it is
exact.
"""

import importlib.util
import itertools
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from mvrec.errors import DecodeError, UserError

if TYPE_CHECKING:
    import torch
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame

Decoder = Literal["auto", "decord", "pyav"]
Frames = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

_MAX_FPS = 1000.0

# Where decord gives the frames that were asked for, bit for bit what PyAV gives, if the stream is plain (see
# `_Timing`). Elsewhere it returns frames from another group of pictures (MPEG-TS), frames of a strange colour
# (10 bits), trusts times that are not there (AVI) or has no decoder (AV1).
_DECORD_CONTAINERS = {"mov", "matroska"}
_DECORD_CODECS = {"h264", "hevc", "mpeg4", "vp9"}
_DECORD_PIXELS = {"yuv420p", "yuvj420p", "yuv422p", "yuv444p"}


class Video(ABC):
    """An open video file: use it in a `with` statement or close it, for it holds memory and a file handle.

    Attributes:
        path: the file.
        decoder: the name of what decodes it.
        num_frames: how many frames are shown when the file is played, 1 or more.
        fps: mean frames per second.
        size: (height, width) in pixels as shown, which is after rotation.
    """

    decoder: str

    def __init__(self, path: str, *, num_frames: int, fps: float, size: tuple[int, int]) -> None:
        self.path = path
        self.num_frames = num_frames
        self.fps = fps
        self.size = size

    def frames(self, indices: "Sequence[int] | npt.NDArray[np.integer] | torch.Tensor") -> Frames:
        """Decode the frames at `indices`, which may come in any order and more than once.

        Args:
            indices: (T,) integers, 0 for the first frame, each below `num_frames`.

        Returns:
            (T, H, W, 3) RGB frames.

        Raises:
            ValueError: `indices` are no integers or out of range.
            DecodeError: the file is damaged.
        """
        wanted = np.asarray(indices)
        if wanted.ndim != 1 or wanted.size == 0 or wanted.dtype.kind not in "iu":
            raise ValueError(f"frame indices must be a list of integers, got {indices!r}")
        outside = wanted[(wanted < 0) | (wanted >= self.num_frames)]
        if outside.size:
            raise ValueError(
                f"frame indices must be in 0..{self.num_frames - 1} for {self.path}, got {outside.tolist()}"
            )
        unique, positions = np.unique(wanted, return_inverse=True)
        decoded = self._decode(unique.astype(np.int64))
        return decoded if np.array_equal(unique, wanted) else decoded[positions]

    @abstractmethod
    def _decode(self, indices: Ints) -> Frames:
        """Decode the frames at (T,) ascending `indices` to (T, H, W, 3)."""

    @abstractmethod
    def close(self) -> None:
        """Free the decoder and the file; a closed video cannot be read. Closing twice is fine."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_video(path: str | os.PathLike[str], decoder: Decoder = "auto") -> Video:
    """Open a video file for reading frames by number.

    Args:
        path: the file.
        decoder: "decord", "pyav", or "auto", which is decord where it is installed and exact on this kind of
            file, and PyAV elsewhere.

    Raises:
        DecodeError: the file is missing, damaged, cut short or no video, or "decord" was asked for and is not
            exact on files of this kind.
        UserError: no such decoder, or it is not installed.
    """
    if decoder not in ("auto", "decord", "pyav"):
        raise UserError(f"the decoder must be auto, decord or pyav, got {decoder!r}")
    if decoder == "decord" and not _has_decord():
        raise UserError("decord is not installed here: choose the decoder auto or pyav")
    video = PyAVVideo(os.fspath(path))
    if decoder == "pyav" or (decoder == "auto" and not (video.suits_decord and _has_decord())):
        return video
    try:
        exact = DecordVideo(video)
    except DecodeError:
        if decoder == "auto":
            return video
        video.close()
        raise
    video.close()
    return exact


def _has_decord() -> bool:
    return importlib.util.find_spec("decord") is not None


class DecordVideo(Video):
    """A video read by decord, after PyAV has found what is in the file."""

    decoder = "decord"

    def __init__(self, walked: "PyAVVideo") -> None:
        super().__init__(walked.path, num_frames=walked.num_frames, fps=walked.fps, size=walked.size)
        if not walked.suits_decord:
            raise DecodeError(self.path, "decord is not exact on this kind of file: use the decoder auto or pyav")
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        with self._decode_errors():
            # One thread: the parallel thing is the data-loading process.
            self._reader: Any = decord.VideoReader(_for_ffmpeg(self.path), ctx=decord.cpu(0), num_threads=1)
        if len(self._reader) != self.num_frames:
            raise DecodeError(self.path, f"decord counts {len(self._reader)} frames instead of {self.num_frames}")

    def _decode(self, indices: Ints) -> Frames:
        with self._decode_errors():
            return self._reader.get_batch(indices).asnumpy()

    def close(self) -> None:
        """Free the decoder."""
        self._reader = None

    @contextmanager
    def _decode_errors(self) -> Iterator[None]:
        import decord

        try:
            yield
        except (decord.DECORDError, RuntimeError, AssertionError, IndexError) as error:
            # decord puts time stamps and places in its source before what it has to say.
            cause = str(error).strip().splitlines()[0].rpartition(".cc:")[2].partition(": ")[2]
            raise DecodeError(self.path, f"damaged (decord: {cause[:150]})") from error


@dataclass(frozen=True)
class _Timing:
    """The times of a stream's packets, in ticks of the stream.

    `shown` are those of the frames that are shown, ascending, or None where the packets carry no usable
    times, so that a frame can only be found by counting from the start. `keys` are those of the key frames,
    ascending, and `key_seeks` what to ask a seek for to land on each. `is_plain` says that each packet is a
    frame that is shown, and that none is shown before the key frame after which it is stored: decord counts
    what is hidden, and asked for a frame of the second kind gives one that is a few frames off.
    """

    shown: Ints | None
    keys: Ints
    key_seeks: Ints
    is_plain: bool


class PyAVVideo(Video):
    """A video read by PyAV, which brings its own FFmpeg.

    Attributes:
        suits_decord: decord is exact on this kind of file.
    """

    decoder = "pyav"

    def __init__(self, path: str) -> None:
        from av.video.reformatter import VideoReformatter

        self.path = path
        check_is_file_with_content(path)
        # Kept, because a frame would build its own each time, with a thread for each core.
        self._reformatter = VideoReformatter()
        try:
            with _decode_errors(path):
                self._open()
                self._timing = self._walk()
                num_frames, first = self._count_frames()
            self._quarter_turns = round(first.rotation / 90) % 4
            self._stored_size = first.height, first.width
            size = self._stored_size[::-1] if self._quarter_turns % 2 else self._stored_size
            super().__init__(path, num_frames=num_frames, fps=self._mean_fps(num_frames), size=size)
            self.suits_decord = self._suits_decord(first)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Free the decoder and close the file."""
        if hasattr(self, "_container"):
            self._container.close()

    def _decode(self, indices: Ints) -> Frames:
        frames = np.empty((len(indices), *self.size, 3), np.uint8)
        found = 0
        with _decode_errors(self.path):
            for found, frame in enumerate(self._find(indices), start=1):
                frames[found - 1] = self._to_rgb(frame)
        if found < len(indices):
            raise DecodeError(self.path, f"frame {indices[found]} of {self.num_frames} cannot be decoded")
        return frames

    def _to_rgb(self, frame: "VideoFrame") -> Frames:
        if (frame.height, frame.width) != self._stored_size:
            raise DecodeError(self.path, "the frames are not all of one size")
        rgb = np.asarray(self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray(), np.uint8)
        return np.rot90(rgb, self._quarter_turns) if self._quarter_turns else rgb

    def _open(self) -> None:
        import av
        from av.stream import Disposition
        from av.video.stream import VideoStream

        # A title in an old encoding is no reason to refuse a file; from version 19 on PyAV thinks so too.
        tolerant: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
        self._container: InputContainer = av.open(_for_ffmpeg(self.path), **tolerant)
        stream = self._container.streams.best("video")
        # A song carries its cover as a video.
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            raise DecodeError(self.path, "there is no video in it")
        if stream.codec_context is None:
            raise DecodeError(self.path, "no decoder for its codec")
        stream.codec_context.thread_type = "NONE"
        self._stream = stream
        # Frames that no other frame needs can be skipped. Only H.264 marks them in a way that never errs.
        self._can_skip = stream.codec_context.name == "h264"

    def _walk(self) -> _Timing:
        """Look at every packet, keeping and decoding none."""
        shown: list[int | None] = []
        keys: list[tuple[int, int]] = []
        num_packets, whole, leading = 0, True, False
        # Matroska looks up the time at which a frame is shown, everything else that at which it is stored.
        seek_by_pts = "matroska" in self._container.format.name
        for packet in self._container.demux(self._stream):
            if not packet.size:  # the mark of the end, or AVI's "as before"
                continue
            num_packets += 1
            whole = not packet.is_corrupt
            if not packet.is_discard:
                shown.append(packet.pts)
            if packet.is_keyframe and packet.pts is not None:
                keys.append((packet.pts, packet.pts if seek_by_pts or packet.dts is None else packet.dts))
            leading |= bool(keys) and packet.pts is not None and packet.pts < keys[-1][0]
        # The index of an MP4 is complete; that of other files lists key frames at most.
        num_promised = len(self._stream.index_entries)
        if not num_packets:
            raise DecodeError(self.path, "there are no frames in it")
        if num_packets < num_promised or not whole:
            raise DecodeError(self.path, f"cut short: it ends with packet {num_packets} of {num_promised}")
        return self._timing_of(shown, sorted(keys), is_plain=not leading and len(shown) == num_packets)

    def _timing_of(self, shown: list[int | None], keys: list[tuple[int, int]], *, is_plain: bool) -> _Timing:
        key_times, key_seeks = np.array(keys, np.int64).reshape(-1, 2).T
        times = np.array([time for time in shown if time is not None], np.int64)
        codec = self._stream.codec_context
        # AVI knows only the order in which frames are stored, and VP8 has packets that are never shown.
        misleading = codec.name == "vp8" or (self._container.format.name == "avi" and codec.has_b_frames)
        if misleading or not keys or len(np.unique(times)) < len(shown):
            return _Timing(None, key_times, key_seeks, is_plain=False)
        # What is shown before the first key frame lacks its reference.
        decodable = np.sort(times[times >= key_times[0]])
        return _Timing(decodable, key_times, key_seeks, is_plain and len(decodable) == len(times))

    def _count_frames(self) -> tuple[int, "VideoFrame"]:
        """The number of frames, and the first, which proves that there is a decoder and tells the size."""
        if self._timing.shown is not None:
            num_frames = len(self._timing.shown)
            first = next(self._find(np.zeros(1, np.int64)), None)
        else:
            frames = self._decode_from_start()
            first = next(frames, None)
            num_frames = 1 + sum(1 for _ in frames)
        if first is None:
            raise DecodeError(self.path, "not one frame can be decoded")
        return num_frames, first

    def _mean_fps(self, num_frames: int) -> float:
        rate = float(self._stream.average_rate or 0)
        shown = self._timing.shown
        if not 0 < rate <= _MAX_FPS and shown is not None and num_frames > 1 and self._stream.time_base:
            rate = (num_frames - 1) / (int(shown[-1] - shown[0]) * float(self._stream.time_base))
        if not 0 < rate <= _MAX_FPS:
            raise DecodeError(self.path, f"its frame rate of {rate:g} per second cannot be")
        return rate

    def _suits_decord(self, first: "VideoFrame") -> bool:
        return (
            not _DECORD_CONTAINERS.isdisjoint(self._container.format.name.split(","))
            and self._stream.codec_context.name in _DECORD_CODECS
            and first.format.name in _DECORD_PIXELS
            and self._timing.is_plain
            and not first.interlaced_frame
            and not self._quarter_turns
        )

    def _find(self, indices: Ints) -> Iterator["VideoFrame"]:
        """The frames at ascending `indices`, ending early where one is not to be had."""
        if self._timing.shown is None:
            wanted = set(indices.tolist())
            frames = enumerate(self._decode_from_start())
            yield from itertools.islice((f for i, f in frames if i in wanted), len(wanted))
            return
        times = self._timing.shown[indices]
        keys = np.searchsorted(self._timing.keys, times, side="right") - 1
        # Reading on costs less than a jump to the very next key frame; a longer way is jumped over.
        jumps = np.flatnonzero(np.diff(keys) > 1) + 1
        for run, run_keys in zip(np.split(times, jumps), np.split(keys, jumps), strict=True):
            yield from self._decode_run(run.tolist(), int(run_keys[0]))

    def _decode_run(self, times: list[int], key: int) -> Iterator["VideoFrame"]:
        """The frames at ascending `times`, decoding from the key frame number `key` on."""
        codec = self._stream.codec_context
        wanted = set(times)
        for packet in self._packets_from(key):
            if self._can_skip:
                codec.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            for frame in packet.decode():
                if frame.pts in wanted:
                    wanted.remove(frame.pts)
                    yield frame
            if not wanted:
                return

    def _packets_from(self, key: int) -> Iterator["Packet"]:
        self._container.seek(int(self._timing.key_seeks[key]), stream=self._stream)
        packets = self._container.demux(self._stream)
        first = next(packets, None)
        if first and first.is_keyframe and first.pts is not None and first.pts <= self._timing.keys[key]:
            return itertools.chain([first], packets)
        # Some containers land elsewhere; then the way is from the start.
        self._reopen()
        return self._container.demux(self._stream)

    def _decode_from_start(self) -> Iterator["VideoFrame"]:
        self._reopen()
        return self._container.decode(self._stream)

    def _reopen(self) -> None:
        self._container.close()
        self._open()


def check_is_file_with_content(path: str) -> None:
    """Say what is wrong with a path before a decoder says it in its own words.

    Raises:
        DecodeError: no regular file with content, or it may not be read.
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
        raise DecodeError(path, "is a link to a file that is not there" if is_link else "no such file") from error
    except (OSError, ValueError) as error:
        raise DecodeError(path, getattr(error, "strerror", None) or str(error)) from error


def _for_ffmpeg(path: str) -> str:
    # FFmpeg takes what stands before a colon in a relative path for a protocol.
    return str(Path(path).absolute())


@contextmanager
def _decode_errors(path: str) -> Iterator[None]:
    import av

    try:
        yield
    except (av.FFmpegError, UnicodeError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        if isinstance(error, av.InvalidDataError):
            cause = "no video, damaged or cut short"
        raise DecodeError(path, cause) from error
