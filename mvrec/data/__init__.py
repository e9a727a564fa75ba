"""Disk to batch. Data modules for the command line, and the decoders beneath them.

Each is imported when it is first asked for: decoding a file takes neither Lightning nor torchvision.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {
    "Charades": "charades",
    "DigitImages": "digit_images",
    "HMDB51": "hmdb51",
    "ImageFolder": "folder",
    "ImageNet": "imagenet",
    "Kinetics": "kinetics",
    "MovingDigits": "moving_digits",
    "SomethingSomething": "something_something",
    "UCF101": "ucf101",
    "Video": "video",
    "VideoFolder": "folder",
    "open_video": "video",
    "read_image": "images",
}

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(f"mvrec.data.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
