"""Where the pixels of a view come from: one rectangle, one scale and one flip for all frames of a clip.

A `Geometry` is decided once per view and then applied to the pixels (`mvrec.data.views.transforms`) and to the target
(`mvrec.data.views.targets`) alike. It reads no pixel and holds for any number of frames.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Interpolation = Literal["bilinear", "bicubic"]


class Box(NamedTuple):
    """A rectangle in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Geometry:
    """The way from a frame to a view: cut `box` out, scale it to `size`, cut `crop` out of that, and flip.

    Attributes:
        box: What is kept of the frame.
        size: (height, width) in pixels that the box is scaled to.
        crop: What is kept after scaling; `None` for all of it. Training cuts before it scales, evaluation after.
        flip: Whether left and right change places.
        interpolation: How pixels are scaled; targets take the nearest.
        antialias: Whether scaling pixels down averages over all that are covered.
    """

    box: Box
    size: tuple[int, int]
    crop: Box | None = None
    flip: bool = False
    interpolation: Interpolation = "bilinear"
    antialias: bool = True

    @property
    def view_size(self) -> tuple[int, int]:
        """(height, width) of the view in pixels."""
        return self.size if self.crop is None else (self.crop.height, self.crop.width)
