"""A network's view of a file as small JPEGs."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import simplejpeg
import torch
from torch import Tensor
from torch.nn import functional as F

from mvrec.data.listing.archive import ArchiveMember, read_tar_listing
from mvrec.data.listing.index import Sample
from mvrec.data.loading.file_views import file_views
from mvrec.data.views.protocol import DetectionProtocol, KeyFrameProtocol, Protocol
from mvrec.errors import DecodeError, UserError

JPEG_QUALITY = 82
WIDER = 2  # times for key frames and images with objects, of which there is one and in which boxes are drawn


def thumbnails(
    path: Path | ArchiveMember,
    protocol: Protocol,
    *,
    span: tuple[float | None, float | None] = (None, None),
    frames: int = 4,
    pixels: int = 160,
) -> list[bytes]:
    """Return frames of the central clip of a video or part of it, cropped in the centre, by protocol.

    There is one picture of an image, and one of a key frame: the whole of it, as of an image with objects.

    Args:
        path: The file.
        protocol: Its protocol; the central view is taken.
        span: Start and end of the part in seconds; `None` for those of the video.
        frames: Most frames of a clip.
        pixels: Largest side of a picture, of a key frame or image with objects twice as many.

    Returns:
        JPEG files.

    Raises:
        DecodeError: The file cannot be read.
    """
    view = file_views(Sample(path, 0, *span), protocol.central())[0]  # (C, T, h, w) or (C, h, w)
    view = view.transpose(0, 1) if protocol.is_video else view[None]  # (T, C, h, w)
    count = min(frames, len(view))
    view = view[[(2 * place + 1) * len(view) // (2 * count) for place in range(count)]]
    side = WIDER * pixels if isinstance(protocol, KeyFrameProtocol | DetectionProtocol) else pixels
    return [_jpeg(picture) for picture in _small(view, side)]


def _small(view: Tensor, pixels: int) -> Tensor:
    """Return uint8 (N, C, h, w) with no side above `pixels`."""
    side = max(view.shape[-2:])
    if side <= pixels:
        return view
    size = [max(1, round(length * pixels / side)) for length in view.shape[-2:]]
    small = F.interpolate(view.float(), size=size, mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8)


def _jpeg(picture: Tensor) -> bytes:
    pixels = picture.permute(1, 2, 0).contiguous().numpy()
    return simplejpeg.encode_jpeg(pixels, quality=JPEG_QUALITY, colorspace="RGB")


def find_file(recorded: str, root: Path | None = None) -> Path | ArchiveMember:
    """Return the file of a recorded path, also inside a tar, and also after the data have moved.

    Args:
        recorded: The path in `predictions.csv`.
        root: The data's present folder, in which the end of the recorded path is searched.

    Raises:
        DecodeError: The file is missing.
    """
    for place in _places(recorded, root):
        if place.is_file():
            return place
        member = _archived(place)
        if member is not None:
            return member
    where = "is not there any more" if root is None else f"is not below {root}"
    raise DecodeError(recorded, f"the file {where}")


def _places(recorded: str, root: Path | None) -> Iterator[Path]:
    if root is None:
        yield Path(recorded)
        return
    parts = Path(recorded).parts
    for begin in range(len(parts)):
        if parts[begin] != Path(recorded).anchor:
            yield root.joinpath(*parts[begin:])


def _archived(place: Path) -> ArchiveMember | None:
    for parent in place.parents:
        if parent.suffix == ".tar" and parent.is_file():
            return _members(parent).get(str(place))
    return None


@lru_cache(maxsize=4)
def _members(archive: Path) -> dict[str, ArchiveMember]:
    try:
        return {str(member): member for member in read_tar_listing(archive)}
    except UserError as error:
        raise DecodeError(archive, str(error)) from None
