"""Videos read by PyAV, which has its own FFmpeg: the decoder that is exact on every kind of file."""

from typing import TYPE_CHECKING

import numpy as np

from mvrec.data.video.frame_finder import FrameFinder
from mvrec.data.video.shown_pictures import Orientation, ShownPictures
from mvrec.data.video.video import Frames, Ints, Source, Video, check_size
from mvrec.errors import DecodeError

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

# The other decoders read these exactly, bit for bit like PyAV, if the stream is plain (see `FrameFinder.is_plain`).
_ORDINARY_CONTAINERS = {"mov", "matroska"}
_ORDINARY_CODECS = {"h264", "hevc", "mpeg4", "vp9"}
_ORDINARY_PIXELS = {"yuv420p": (2, 2), "yuvj420p": (2, 2), "yuv422p": (1, 2), "yuv444p": (1, 1)}

_MIN_FPS, _MAX_FPS = 0.001, 1000.0


class PyAVVideo(Video):
    """A video read by PyAV.

    Attributes:
        source: The source of its bytes.
    """

    decoder = "pyav"

    def __init__(self, source: Source) -> None:
        self.path, self.source = source.path, source
        self._pictures: ShownPictures | None = None
        self._finder = FrameFinder(source)
        try:
            num_frames = self._finder.timing.num_frames
            super().__init__(source.path, num_frames=num_frames, fps=self._mean_fps(), clock=self._finder.clock)
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels as shown, after rotation. Decodes a frame if none was decoded yet."""
        return self._shown_as().size

    @property
    def orientation(self) -> Orientation:
        """The rotation from the stored picture to the shown one. Decodes a frame if none was decoded yet."""
        return self._shown_as().orientation

    def _shown_as(self) -> ShownPictures:
        if self._pictures is None:
            self.first_frame()
        assert self._pictures is not None
        return self._pictures

    def is_ordinary(self) -> bool:
        """Return whether the other decoders read a file of this kind exactly, too."""
        if _ORDINARY_CONTAINERS.isdisjoint(self._finder.containers) or not self._finder.is_plain():
            return False
        first = self.first_frame()
        # If pixels share colours, each decoder guesses in its own way at the edge of an odd size.
        height, width = _ORDINARY_PIXELS.get(first.format.name, (0, 0))
        return (
            self._finder.stream.codec_context.name in _ORDINARY_CODECS
            and height > 0
            and first.height % height == 0
            and first.width % width == 0
            and not first.interlaced_frame
            and first.colorspace != 0  # the matrix of RGB, which these pixels are not
        )

    def first_frame(self) -> "VideoFrame":
        """Return the first frame as stored.

        Raises:
            DecodeError: The frame cannot be decoded.
        """
        first = self._finder.believing_packets(lambda: next(self._finder.find(np.zeros(1, np.int64)), None))
        if first is None:
            raise DecodeError(self.path, "none of its frames can be decoded")
        self._note_size(first)
        return first

    def close(self) -> None:
        """Free the decoder and close the file."""
        self._finder.close()

    def _decode(self, indices: Ints) -> Frames:
        before = self._finder.timing
        frames = self._finder.believing_packets(lambda: self._decode_frames(indices))
        if self._finder.timing is not before:
            self.clock = self._finder.clock
            vars(self).pop("times", None)
        return frames

    def _decode_frames(self, indices: Ints) -> Frames:
        frames: Frames | None = None
        count = 0
        for count, frame in enumerate(self._finder.find(indices), start=1):
            check_size(self.path, frame.width, frame.height)
            if self._pictures is None and (frame.height, frame.width) != self._finder.header_size:
                self.first_frame()  # gives the size to which the others are scaled
                return self._decode_frames(indices)
            pictures = self._note_size(frame)
            if frames is None:
                self._check_memory(len(indices), pictures.size)
                frames = np.empty((len(indices), *pictures.size, 3), np.uint8)
            frames[count - 1] = pictures.rgb(frame)
        if frames is None or count < len(indices):
            raise DecodeError(self.path, f"frame {indices[count]} of {self.num_frames} cannot be decoded")
        return frames

    def _note_size(self, frame: "VideoFrame") -> ShownPictures:
        if self._pictures is None:
            check_size(self.path, frame.width, frame.height)
            self._pictures = ShownPictures(frame)
        return self._pictures

    def _mean_fps(self) -> float:
        stream, ticks = self._finder.stream, self._finder.clock.ticks
        rates = [float(stream.average_rate or 0)]
        if ticks is not None and len(ticks) > 1 and stream.time_base:
            rates.append((len(ticks) - 1) / (int(ticks[-1] - ticks[0]) * float(stream.time_base)))
        rates.append(float(stream.guessed_rate or 0))
        for rate in rates:
            if _MIN_FPS <= rate <= _MAX_FPS:
                return rate
        raise DecodeError(self.path, f"its frame rate of {max(rates):g} per second is impossible")


def load_library() -> None:
    """Import PyAV now, before forked processes would each import it."""
    import av  # noqa: F401
