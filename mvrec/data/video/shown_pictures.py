"""From decoded frames to the pictures that a player shows: turned, mirrored, of one size, RGB."""

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

# FFmpeg converts these by routines of their own, which interpolate nothing, where no side is odd. All else goes through
# its scaler.
_UNSCALED = {"yuv420p", "yuvj420p", "yuva420p", "yuv422p", "yuvj422p"}
# Colour matrices by their number in the standards (H.273): what FFmpeg's scaler knows, and those that it is to take for
# others, as the `ffmpeg` command does. All else is taken for a file that names none.
_MATRICES = {0: 0, 1: 1, 2: 2, 4: 4, 5: 5, 6: 6, 7: 7, 9: 9, 10: 9}
_NO_MATRIX = 2


@dataclass(frozen=True)
class Orientation:
    """How a stored picture becomes the one shown: first its axes are exchanged, then it is flipped.

    Attributes:
        transposed: rows become columns.
        flip_x: left and right are exchanged afterwards.
        flip_y: so are top and bottom.
    """

    transposed: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def of(cls, frame: "VideoFrame") -> Self:
        """What the display matrix of a frame says, to the nearest quarter of a turn."""
        try:
            data = frame.side_data.get("DISPLAYMATRIX")
        except ValueError:  # PyAV lists no side data if it does not know one of them, as EXIF blocks of motion JPEG
            return cls._of_turns(round(frame.rotation / 90))
        if data is None:
            return cls()
        # A stored point (x, y) is shown at (a x + c y, b x + d y).
        a, b, _, c, d, *_ = struct.unpack("=9i", bytes(memoryview(data))[:36])  # type: ignore[arg-type]  # a buffer
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(True, flip_x=c < 0, flip_y=b < 0)
        return cls(False, flip_x=a < 0, flip_y=d < 0)

    @classmethod
    def _of_turns(cls, quarters: int) -> Self:
        """Turns counter-clockwise."""
        return cls(quarters % 2 == 1, flip_x=quarters % 4 in (2, 3), flip_y=quarters % 4 in (1, 2))

    @property
    def is_mirrored(self) -> bool:
        """No turn alone would do it."""
        return self.transposed ^ self.flip_x ^ self.flip_y

    def size(self, stored: tuple[int, int]) -> tuple[int, int]:
        """(height, width) as shown of (height, width) as stored."""
        return stored[::-1] if self.transposed else stored

    def apply(self, picture: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Return the stored picture (H, W, ...) as shown; a view."""
        if self.transposed:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


class ShownPictures:
    """Turns frames into pictures as the `ffmpeg` command does, by the colour matrix and the range that they name.

    Size and orientation are those of the first frame, to which frames of other sizes are scaled.

    Attributes:
        orientation: how the stored picture becomes the one shown.
        size: (height, width) as shown.
    """

    def __init__(self, first: "VideoFrame") -> None:
        from av.video.reformatter import VideoReformatter

        self.orientation = Orientation.of(first)
        self._stored_size = first.height, first.width
        self.size = self.orientation.size(self._stored_size)
        # Kept, because a frame would build its own each time, with a thread for each core.
        self._reformatter = VideoReformatter()
        self._bare: VideoFrame | None = None

    def rgb(self, frame: "VideoFrame") -> npt.NDArray[np.uint8]:
        """Return the picture of a frame: uint8 (H, W, 3), which may be a view."""
        orientation = self.orientation
        if self._interpolates_colours(frame):
            # Turned by a quarter, the planes of other colours would be of shapes that no format has.
            square = frame.format.chroma_width(128) == frame.format.chroma_height(128)
            turns = len(frame.planes) > 1 and (square or not orientation.transposed)
            self._bare = bare_copy(frame, orientation if turns else Orientation(), reuse=self._bare)
            frame = self._bare
            orientation = Orientation() if turns else orientation
        frame.colorspace = _MATRICES.get(frame.colorspace, _NO_MATRIX)
        height, width = orientation.size(self.size)
        plane = self._reformatter.reformat(
            frame, width, height, format="rgb24", interpolation="BICUBIC", threads=1
        ).planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)
        return orientation.apply(rows[:, : 3 * width].reshape(height, width, 3))  # type: ignore[return-value]

    def _interpolates_colours(self, frame: "VideoFrame") -> bool:
        """Return several pixels share a colour, from which FFmpeg makes one for each."""
        height, width = frame.height, frame.width
        is_direct = (
            frame.format.name in _UNSCALED
            and (height, width) == self._stored_size
            and not (height % 2 or width % 2 or frame.interlaced_frame)
        )
        return not is_direct and frame.format.chroma_width(128) * frame.format.chroma_height(128) < 128 * 128


def bare_copy(frame: "VideoFrame", orientation: Orientation, *, reuse: "VideoFrame | None" = None) -> "VideoFrame":
    """A frame as it is shown, which says neither where its shared colours lie nor that it holds two fields.

    FFmpeg's scaler minds both where it is handed a frame, which its `ffmpeg` command does not: edges in colour would
    differ by up to two thirds of the range. Turning comes first as it does there. An earlier copy gives its memory:
    fresh memory would cost as much as the conversion.
    """
    from av.video.frame import VideoFrame

    height, width = orientation.size((frame.height, frame.width))
    copy = reuse
    if copy is None or (copy.width, copy.height, copy.format.name) != (width, height, frame.format.name):
        copy = VideoFrame(width, height, frame.format.name)
    for number, (plane, target) in enumerate(zip(frame.planes, copy.planes, strict=True)):
        source, place = (np.frombuffer(memoryview(p), np.uint8).reshape(-1, p.line_size) for p in (plane, target))
        if orientation == Orientation():
            num_bytes = min(plane.line_size, target.line_size)  # decoders align lines in ways of their own
            place[:, :num_bytes] = source[:, :num_bytes]
        else:
            pixel = sum((part.bits + 7) // 8 for part in frame.format.components if part.plane == number)
            pixels = source[:, : plane.width * pixel].view(f"V{pixel}")
            place[:, : target.width * pixel].view(f"V{pixel}")[:] = orientation.apply(pixels)
    copy.colorspace, copy.color_range = frame.colorspace, frame.color_range
    return copy
