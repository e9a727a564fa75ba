"""The views of a file under any protocol, read in processes that can be killed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mvrec.data.listing.index import Sample
from mvrec.data.loading.clips import video_views
from mvrec.data.loading.guarded_files import open_video, read_image
from mvrec.data.loading.images import protocol_view
from mvrec.data.loading.key_frames import key_frame_view
from mvrec.data.video.video import Decoder
from mvrec.data.views.protocol import (
    ClipProtocol,
    DetectionProtocol,
    ImageProtocol,
    KeyFrameProtocol,
    MaskProtocol,
    Protocol,
)


def file_views(sample: Sample, protocol: Protocol, *, decoder: Decoder = "auto") -> Tensor:
    """Return the views of a file under a protocol, as `mvrec test` scores them.

    Images whose pixels or objects are recognised come whole and in their own size.

    Args:
        sample: A video and the relevant part of it, or an image, to match the protocol.
        protocol: Frames and pixels of the views.
        decoder: Name of the decoder of videos.

    Returns:
        uint8 (V, C, T, H, W), images (V, C, H, W).

    Raises:
        DecodeError: The file cannot be read.
    """
    return _READERS[protocol.kind](sample, protocol, decoder)


def _clips(sample: Sample, protocol: ClipProtocol, decoder: Decoder) -> Tensor:
    return video_views(sample, protocol, decoder=decoder, opener=open_video).pixels.transpose(1, 2)


def _image(sample: Sample, protocol: ImageProtocol, decoder: Decoder) -> Tensor:
    return protocol_view(read_image(sample.path, upright=protocol.upright), protocol)


def _whole_image(sample: Sample, protocol: MaskProtocol | DetectionProtocol, decoder: Decoder) -> Tensor:
    return torch.from_numpy(read_image(sample.path, upright=protocol.upright)).permute(2, 0, 1)[None]


def _key_frame(sample: Sample, protocol: KeyFrameProtocol, decoder: Decoder) -> Tensor:
    return key_frame_view(sample, protocol, decoder=decoder, opener=open_video).pixels.transpose(1, 2)


_READERS: dict[str, Callable[[Sample, Any, Decoder], Tensor]] = {
    ClipProtocol.kind: _clips,
    ImageProtocol.kind: _image,
    MaskProtocol.kind: _whole_image,
    KeyFrameProtocol.kind: _key_frame,
    DetectionProtocol.kind: _whole_image,
}
