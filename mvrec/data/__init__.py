"""Disk to batch. Data modules for the command line, and the decoders beneath them."""

from mvrec.data.imagenet import ImageNet
from mvrec.data.images import read_image
from mvrec.data.kinetics import Kinetics
from mvrec.data.moving_digits import MovingDigits
from mvrec.data.video import Video, open_video

__all__ = ["ImageNet", "Kinetics", "MovingDigits", "Video", "open_video", "read_image"]
