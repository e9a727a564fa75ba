"""Disk to batch. Data modules for the command line, and the decoders beneath them."""

from mvrec.data.charades import Charades
from mvrec.data.digit_images import DigitImages
from mvrec.data.folder import ImageFolder, VideoFolder
from mvrec.data.hmdb51 import HMDB51
from mvrec.data.imagenet import ImageNet
from mvrec.data.images import read_image
from mvrec.data.kinetics import Kinetics
from mvrec.data.moving_digits import MovingDigits
from mvrec.data.something_something import SomethingSomething
from mvrec.data.ucf101 import UCF101
from mvrec.data.video import Video, open_video

__all__ = [
    "HMDB51",
    "UCF101",
    "Charades",
    "DigitImages",
    "ImageFolder",
    "ImageNet",
    "Kinetics",
    "MovingDigits",
    "SomethingSomething",
    "Video",
    "VideoFolder",
    "open_video",
    "read_image",
]
