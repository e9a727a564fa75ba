"""What sort of files a data set is made of."""

from dataclasses import dataclass

VIDEO_EXTENSIONS = frozenset(
    [".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv", ".mts", ".m2ts"]
)
IMAGE_EXTENSIONS = frozenset([".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"])


@dataclass(frozen=True)
class Kind:
    """What sort of files a data set is made of.

    Attributes:
        noun: What messages call one file.
        extensions: How the names of such files end, in lower case.
        nested: Whether files may lie deeper than their class folder, as in `train/<class name>/images/1.JPEG`.
    """

    noun: str
    extensions: frozenset[str]
    nested: bool = False


VIDEOS = Kind("video", VIDEO_EXTENSIONS)
IMAGES = Kind("image", IMAGE_EXTENSIONS, nested=True)
