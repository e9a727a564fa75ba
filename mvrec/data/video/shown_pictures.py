"""From decoded frames to the pictures that a player shows: rotated, mirrored, of one size, RGB."""

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

# FFmpeg converts these with special routines that do not interpolate, if no side is odd. All others go through its
# scaler.
_UNSCALED = {"yuv420p", "yuvj420p", "yuva420p", "yuv422p", "yuvj422p"}
# Colour matrices by their number in the standards (H.273): those of FFmpeg's scaler, and the substitutes of others
# that the `ffmpeg` command uses. Any other number counts as missing.
_MATRICES = {0: 0, 1: 1, 2: 2, 4: 4, 5: 5, 6: 6, 7: 7, 9: 9, 10: 9}
_NO_MATRIX = 2


@dataclass(frozen=True)
class Orientation:
    """The change from a stored picture to the shown one: transpose, then flip.

    Attributes:
        transposed: Whether rows become columns.
        flip_x: Whether left and right are exchanged afterwards.
        flip_y: Whether top and bottom are exchanged afterwards.
    """

    transposed: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def of(cls, frame: "VideoFrame") -> Self:
        """Return the orientation by a frame's display matrix, to the nearest quarter turn."""
        try:
            data = frame.side_data.get("DISPLAYMATRIX")
        except ValueError:  # PyAV lists no side data if one is unknown to it, such as EXIF blocks of motion JPEG
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
        """Return the orientation after counter-clockwise quarter turns."""
        return cls(quarters % 2 == 1, flip_x=quarters % 4 in (2, 3), flip_y=quarters % 4 in (1, 2))

    @property
    def is_mirrored(self) -> bool:
        """Whether no rotation alone gives this orientation."""
        return self.transposed ^ self.flip_x ^ self.flip_y

    def size(self, stored: tuple[int, int]) -> tuple[int, int]:
        """Return (height, width) as shown for (height, width) as stored."""
        return stored[::-1] if self.transposed else stored

    def apply(self, picture: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Return the stored picture (H, W, ...) as shown; a view."""
        if self.transposed:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


class ShownPictures:
    """Converts frames to pictures as the `ffmpeg` command does, with the colour matrix and range that they name.

    Size and orientation are those of the first frame; frames of other sizes are scaled to it.

    Attributes:
        orientation: The change from the stored picture to the shown one.
        size: (height, width) as shown.
    """

    def __init__(self, first: "VideoFrame") -> None:
        from av.video.reformatter import VideoReformatter

        self.orientation = Orientation.of(first)
        self._stored_size = first.height, first.width
        self.size = self.orientation.size(self._stored_size)
        # Kept, because each frame would build its own, with a thread for each core.
        self._reformatter = VideoReformatter()
        self._bare: VideoFrame | None = None

    def rgb(self, frame: "VideoFrame") -> npt.NDArray[np.uint8]:
        """Return the picture of a frame: uint8 (H, W, 3), which may be a view."""
        orientation = self.orientation
        if self._interpolates_colours(frame):
            # After a quarter turn, the planes of other colours would have shapes that no format has.
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
        """Return whether several pixels share a colour, from which FFmpeg interpolates one for each."""
        height, width = frame.height, frame.width
        is_direct = (
            frame.format.name in _UNSCALED
            and (height, width) == self._stored_size
            and not (height % 2 or width % 2 or frame.interlaced_frame)
        )
        return not is_direct and frame.format.chroma_width(128) * frame.format.chroma_height(128) < 128 * 128


def bare_copy(frame: "VideoFrame", orientation: Orientation, *, reuse: "VideoFrame | None" = None) -> "VideoFrame":
    """Return a frame as shown, without its chroma location and its field flag.

    FFmpeg's scaler respects both in a frame, but its `ffmpeg` command ignores them: edges in colour would differ by up
    to two thirds of the range. The rotation comes first, as there. An earlier copy provides the memory: fresh memory
    would cost as much as the conversion.
    """
    from av.video.frame import VideoFrame

    height, width = orientation.size((frame.height, frame.width))
    copy = reuse
    if copy is None or (copy.width, copy.height, copy.format.name) != (width, height, frame.format.name):
        copy = VideoFrame(width, height, frame.format.name)
    for number, (plane, target) in enumerate(zip(frame.planes, copy.planes, strict=True)):
        source, place = (np.frombuffer(memoryview(p), np.uint8).reshape(-1, p.line_size) for p in (plane, target))
        if orientation == Orientation():
            num_bytes = min(plane.line_size, target.line_size)  # decoders align lines differently
            place[:, :num_bytes] = source[:, :num_bytes]
        else:
            pixel = sum((part.bits + 7) // 8 for part in frame.format.components if part.plane == number)
            pixels = source[:, : plane.width * pixel].view(f"V{pixel}")
            place[:, : target.width * pixel].view(f"V{pixel}")[:] = orientation.apply(pixels)
    copy.colorspace, copy.color_range = frame.colorspace, frame.color_range
    return copy
