"""From a network and images to detections, without Lightning.

The network sees one image at a time: padding to a common size would change its features.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mvrec.models.heads.detection.head import padded
from mvrec.models.heads.detection.results import Detections, ImageSize, Style


class ImageDetections(NamedTuple):
    """The objects found in an image, best first, on the CPU.

    Attributes:
        boxes: float32 (N, 4), left, top, right and bottom in pixels of the file.
        scores: float32 (N,).
        labels: int64 (N,), 0..K-1.
        masks: COCO's compressed RLE of each at the size of the file; `None` if the network has no masks.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: list[bytes] | None = None


def batch_input(clips: Tensor, images: Sequence[ImageSize]) -> Tensor:
    """Return normalised images whose sides are multiples of 32, with 0 outside of each image.

    Args:
        clips: (B, 3, H, W).
        images: The part of each that is image, from the upper left corner.
    """
    rows, columns = (max(sides) for sides in zip(*((image.height, image.width) for image in images), strict=True))
    clips = padded(clips[:, :, :rows, :columns])
    for clip, image in zip(clips, images, strict=True):
        clip[:, image.height :] = 0
        clip[:, :, image.width :] = 0
    return clips


def detect(network: Any, clips: Tensor, images: Sequence[ImageSize]) -> list[ImageDetections | None]:
    """Return the objects in each image with masks of the file's size; see `detections_in`."""
    results: list[ImageDetections | None] = []
    for detections, image in zip(detections_in(network, clips, images), images, strict=True):
        if detections is None:
            results.append(None)
            continue
        masks = encoded_masks(detections, image.frame, style=network.head.arguments["style"])
        results.append(ImageDetections(*detections[:3], masks))
    return results


def encoded_masks(detections: Detections, size: tuple[int, int], *, style: Style) -> list[bytes] | None:
    """Return the masks of an image's objects as COCO's compressed RLE, or `None` without masks.

    Args:
        detections: The objects.
        size: (height, width) of the image in pixels.
        style: Whose rule pastes masks.
    """
    if detections.mask_probabilities is None:
        return None
    from mvrec.models.heads.detection.rle import encoded

    masks = encoded(detections.mask_probabilities, detections.boxes, *size, style=style)
    return [mask["counts"] for mask in masks]


@torch.no_grad()
def detections_in(network: Any, clips: Tensor, images: Sequence[ImageSize]) -> list[Detections | None]:
    """Return the objects in each image, on the CPU, or `None` if the network's outputs are not finite.

    Args:
        network: From normalised images (1, 3, H, W) and their sizes to `Detections`.
        clips: (V, 3, H, W), normalised.
        images: The part of each that is image, and its scale.
    """
    results: list[Detections | None] = []
    for clip, image in zip(clips, images, strict=True):
        (detections,) = network(batch_input(clip[None], [image]), [image])
        detections = Detections(*(None if values is None else values.cpu() for values in detections))  # type: ignore[arg-type]
        results.append(detections if bool(detections.boxes.isfinite().all()) else None)
    return results
