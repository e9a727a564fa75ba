"""Frames as they arrive: from a camera, a network stream, or a growing file."""

import math
import re
import sys
from collections.abc import Iterator

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from mvrec.data.video.containers import MOST_GAP_SECONDS, has_jumps, open_container, shown_stream
from mvrec.data.video.shown_pictures import ShownPictures
from mvrec.errors import UserError

# FFmpeg's name for cameras by platform, and the form of a camera's number there.
CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}
LIVE = ("rtsp", "rtmp", "rtp", "udp", "srt", "mms")
OPEN_SECONDS, READ_SECONDS = 10.0, 30.0
MOST_FPS = 240.0
_DISORDER_SECONDS = 1.0  # by which times may fall without a restart of the clock


def is_stream(source: str) -> bool:
    """Return whether a source is a camera's number or an address, not a file."""
    return source.isdecimal() or re.match(r"[a-z][a-z0-9+.-]*://", source, re.IGNORECASE) is not None


class Stream:
    """Frames of a camera or stream with their times; iterate over it in a `with` statement.

    Args:
        source: A camera's number, 0 for the first, or an address that FFmpeg knows: `rtsp://...`, `http://...`.

    Attributes:
        source: As passed.
        is_live: Whether frames come at their own pace, not as fast as they are read.

    Raises:
        UserError: The source is missing, or has no pictures.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.is_live = source.isdecimal() or source.partition("://")[0].lower() in LIVE
        name, form = source, None
        if source.isdecimal():
            form, pattern = CAMERAS.get(sys.platform, CAMERAS["linux"])
            name = pattern.format(source)
        try:
            self._container = open_container(name, format=form, timeout=(OPEN_SECONDS, READ_SECONDS))
        except (OSError, ValueError, av.FFmpegError) as error:
            name = f"camera {source} ({name})" if source.isdecimal() else f"stream {source}"
            raise UserError(f"{name} cannot be opened: {_cause(error)}") from None
        video = shown_stream(self._container)
        if video is None:
            self._container.close()
            raise UserError(f"stream {source}: it has no pictures")
        self._video = video
        self._num_bad_packets = self._num_bad_frames = 0
        self._pictures: ShownPictures | None = None

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[tuple[float, npt.NDArray[np.uint8]]]:
        """Yield seconds since the first frame, and the frame, uint8 RGB (H, W, 3).

        Raises:
            UserError: The stream broke off.
        """
        video = self._video
        video.thread_type = "NONE"  # threads would delay frames
        times = Times(self._container, video)
        try:
            for packet in self._container.demux(video):
                for frame in self._frames(packet):
                    yield times.next(frame), self._rgb(frame)
        except (OSError, av.FFmpegError) as error:
            raise UserError(f"stream {self.source} broke off after {times.count} frames: {_cause(error)}") from None
        if not times.count:
            raise UserError(f"stream {self.source}: none of its frames can be decoded")

    @property
    def fps(self) -> float:
        """Frames per second by the stream's own word; 30 if it tells none that a camera may have."""
        rate = float(self._video.guessed_rate or self._video.average_rate or 0)
        return rate if 1 <= rate <= MOST_FPS else 30.0

    @property
    def num_lost(self) -> int:
        """The least number of pictures so far that were damaged or lost."""
        return max(self._num_bad_packets, self._num_bad_frames)  # both may count the same pictures

    def _frames(self, packet: av.Packet) -> list[VideoFrame]:
        """Return the frames that a packet completes; none if it cannot be decoded."""
        try:
            frames, is_whole = list(packet.decode()), not packet.is_corrupt
        except av.error.InvalidDataError:  # a stream joined midway begins with a partial picture
            frames, is_whole = [], False
        self._num_bad_packets += not is_whole
        self._num_bad_frames += sum(frame.is_corrupt for frame in frames)
        return frames

    def _rgb(self, frame: VideoFrame) -> npt.NDArray[np.uint8]:
        if self._pictures is None:
            self._pictures = ShownPictures(frame)
        return self._pictures.rgb(frame)


class Times:
    """The times of a stream's frames: seconds from the first, never falling.

    After a restart of the clock, as from a restarted encoder or joined recordings, times continue.

    Args:
        container: The container of the frames.
        video: The stream in it.

    Attributes:
        count: The number of frames so far.
    """

    def __init__(self, container: InputContainer, video: VideoStream) -> None:
        self.count = 0
        self._step = 1 / float(video.average_rate or video.base_rate or 30)
        # AVI knows only the order of storage.
        self._has_times = not (container.format.name == "avi" and video.codec_context.has_b_frames)
        self._most_gap = MOST_GAP_SECONDS if has_jumps(container) else math.inf
        self._begin = self._last = 0.0

    def next(self, frame: VideoFrame) -> float:
        """Return the time of the next frame."""
        time = float(frame.time) if self._has_times and frame.time is not None else self.count * self._step
        if not self.count:
            self._begin = time
        elif not -_DISORDER_SECONDS < time - self._begin - self._last < self._most_gap:
            self._begin = time - self._last - self._step
        self._last = max(time - self._begin, self._last)
        self.count += 1
        return self._last


def _cause(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0]
