"""The kinds of files that data sets consist of."""

from dataclasses import dataclass

# GIF is in both: an animation among videos, a picture among images.
# fmt: off
VIDEO_EXTENSIONS = frozenset([
    ".mp4", ".m4v", ".mov", ".qt", ".avi", ".divx", ".mkv", ".webm", ".mpg", ".mpeg", ".mpe", ".m1v",
    ".m2v", ".vob", ".ts", ".mts", ".m2ts", ".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".ogm",
    ".mxf", ".dv", ".y4m", ".ivf", ".nut", ".rm", ".rmvb", ".gif", ".h264", ".264", ".h265", ".265",
    ".hevc", ".mjpeg", ".mjpg",
])
IMAGE_EXTENSIONS = frozenset([
    ".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".avif", ".jp2",
    ".j2k", ".jpx", ".tga", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".tif", ".tiff", ".pcx", ".sgi",
])
# fmt: on


@dataclass(frozen=True)
class Kind:
    """The kind of a data set's files.

    Attributes:
        noun: The name of one file in messages.
        extensions: Endings of file names, in lower case.
        nested: Whether files may lie deeper than their class folder, as in `train/<class name>/images/1.JPEG`.
    """

    noun: str
    extensions: frozenset[str]
    nested: bool = False


VIDEOS = Kind("video", VIDEO_EXTENSIONS)
IMAGES = Kind("image", IMAGE_EXTENSIONS, nested=True)

# Names of folders of images and of masks, as other tools write them.
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "JPEGImages")
MASK_FOLDERS = ("masks", "mask", "annotations", "labels", "SegmentationClass")
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
