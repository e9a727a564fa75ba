"""Disk to batch. Data modules for the command line, and the decoders beneath them."""

from mvrec.data.kinetics import Kinetics
from mvrec.data.moving_digits import MovingDigits
from mvrec.data.video import Video, open_video

__all__ = ["Kinetics", "MovingDigits", "Video", "open_video"]
