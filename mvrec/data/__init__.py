"""From disk to batch: the data modules of the command line, and the decoders beneath them.

Each is imported on first use: decoding a file loads neither Lightning nor torchvision.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvrec.data.generated.digit_boxes import DigitBoxes
    from mvrec.data.generated.digit_images import DigitImages
    from mvrec.data.generated.digit_motions import DigitMotions
    from mvrec.data.generated.digit_objects import DigitObjects
    from mvrec.data.generated.digit_scenes import DigitScenes
    from mvrec.data.generated.moving_digits import MovingDigits
    from mvrec.data.loading.images import read_image
    from mvrec.data.sets.actions.ava import AVA
    from mvrec.data.sets.actions.tubes import JHMDB, UCF101_24
    from mvrec.data.sets.actions.video_boxes import VideoBoxes
    from mvrec.data.sets.charades import Charades
    from mvrec.data.sets.detection.coco import COCO
    from mvrec.data.sets.detection.object_folder import ObjectFolder
    from mvrec.data.sets.folder import ImageFolder, VideoFolder
    from mvrec.data.sets.hmdb51 import HMDB51
    from mvrec.data.sets.imagenet import ImageNet
    from mvrec.data.sets.kinetics import Kinetics
    from mvrec.data.sets.own import ImageDataset, VideoDataset
    from mvrec.data.sets.segmentation.ade20k import ADE20K
    from mvrec.data.sets.segmentation.cityscapes import Cityscapes
    from mvrec.data.sets.segmentation.mask_folder import MaskFolder
    from mvrec.data.sets.segmentation.voc import VOCSegmentation
    from mvrec.data.sets.something_something import SomethingSomething
    from mvrec.data.sets.ucf101 import UCF101
    from mvrec.data.video.opening import open_video
    from mvrec.data.video.video import Video

_HOMES = {
    "ADE20K": "sets.segmentation.ade20k",
    "AVA": "sets.actions.ava",
    "COCO": "sets.detection.coco",
    "Charades": "sets.charades",
    "Cityscapes": "sets.segmentation.cityscapes",
    "DigitBoxes": "generated.digit_boxes",
    "DigitImages": "generated.digit_images",
    "DigitMotions": "generated.digit_motions",
    "DigitObjects": "generated.digit_objects",
    "DigitScenes": "generated.digit_scenes",
    "HMDB51": "sets.hmdb51",
    "ImageDataset": "sets.own",
    "ImageFolder": "sets.folder",
    "ImageNet": "sets.imagenet",
    "JHMDB": "sets.actions.tubes",
    "Kinetics": "sets.kinetics",
    "MaskFolder": "sets.segmentation.mask_folder",
    "MovingDigits": "generated.moving_digits",
    "ObjectFolder": "sets.detection.object_folder",
    "SomethingSomething": "sets.something_something",
    "UCF101": "sets.ucf101",
    "UCF101_24": "sets.actions.tubes",
    "VOCSegmentation": "sets.segmentation.voc",
    "Video": "video.video",
    "VideoBoxes": "sets.actions.video_boxes",
    "VideoDataset": "sets.own",
    "VideoFolder": "sets.folder",
    "open_video": "video.opening",
    "read_image": "loading.images",
}

GENERATED = tuple(name for name, home in _HOMES.items() if home.startswith("generated."))  # these make their roots

__all__ = [
    "ADE20K",
    "AVA",
    "COCO",
    "HMDB51",
    "JHMDB",
    "UCF101",
    "UCF101_24",
    "Charades",
    "Cityscapes",
    "DigitBoxes",
    "DigitImages",
    "DigitMotions",
    "DigitObjects",
    "DigitScenes",
    "ImageDataset",
    "ImageFolder",
    "ImageNet",
    "Kinetics",
    "MaskFolder",
    "MovingDigits",
    "ObjectFolder",
    "SomethingSomething",
    "VOCSegmentation",
    "Video",
    "VideoBoxes",
    "VideoDataset",
    "VideoFolder",
    "open_video",
    "read_image",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f"mvrec.data.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
