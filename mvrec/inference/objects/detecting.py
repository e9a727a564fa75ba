"""From an image to the objects in it, also by tiles."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

import mvrec.data.views.pixel_operations as tvf
from mvrec.data.views.geometry import Box
from mvrec.inference.objects.knobs import ObjectKnobs
from mvrec.inference.objects.results import ObjectPrediction
from mvrec.inference.objects.tiles import Candidates, is_cut, merged, tiles_of
from mvrec.inference.recogniser import Recogniser
from mvrec.inference.results import Prediction
from mvrec.models.heads.detection.results import Detections, ImageSize
from mvrec.tasks.regions import Regions


def objects_in_views(recogniser: Recogniser, views: Tensor, *, knobs: ObjectKnobs) -> list[Regions | None]:
    """Return the objects in each of several images uint8 (V, 3, H, W); see `objects_in`."""
    return [objects_in(recogniser, view, knobs) for view in views]


def object_prediction(
    objects: Regions | None, image: Tensor, source: str, start_seconds: float | None, end_seconds: float | None
) -> Prediction:
    """Return the prediction for an image uint8 (3, H, W); one with an error without objects from `objects_in`."""
    place = (source, start_seconds, end_seconds)
    if objects is None:
        return Prediction(*place, error="the network's outputs are not finite: it cannot find objects in this image")
    return ObjectPrediction(*place, output=objects, pixels=image.permute(1, 2, 0).numpy())


@torch.inference_mode()
def objects_in(recogniser: Recogniser, image: Tensor, knobs: ObjectKnobs) -> Regions | None:
    """Return the objects in an image.

    Args:
        recogniser: A detector.
        image: uint8 (3, H, W), in its own size.
        knobs: Least score, and tiles.

    Returns:
        The objects; `None` if outputs of the network are not finite.
    """
    height, width = image.shape[-2:]
    whole = Box(0, 0, height, width)
    tiles = [] if knobs.tiles is None else tiles_of(height, width, side=knobs.tiles, overlap=knobs.overlap)
    boxes = [whole, *(tile for tile in tiles if tile != whole)]
    protocol: Any = recogniser.protocol
    longest = knobs.tiles if protocol.scale is None else None  # its own size may be too large for a network
    parts = [_found_in(recogniser, image, box, longest=longest) for box in boxes]
    if any(part is None for part in parts):
        return None
    detections = _together([part for part in parts if part is not None])
    if len(parts) > 1:
        pairs = zip([part for part in parts if part is not None], boxes, strict=True)
        cut = np.concatenate([is_cut(part.boxes.numpy(), box, height=height, width=width) for part, box in pairs])
        head: Any = recogniser.backbone.head
        detections = _rows(detections, _distinct(detections, cut, threshold=head.arguments["nms_threshold"]))
    outputs: Any = recogniser.outputs
    return outputs.regions(_rows(detections, torch.where(detections.scores >= knobs.min_score)[0]), (height, width))


def found_in(recogniser: Recogniser, image: Tensor) -> Detections | None:
    """Return the detections of a network in an image as it is, as `mvrec test` scores them.

    Args:
        recogniser: A detector.
        image: uint8 (3, H, W), in its own size.

    Returns:
        On the CPU, boxes in pixels of the image; `None` if outputs of the network are not finite.
    """
    outputs: Any = recogniser.outputs
    size = size_of(recogniser, *image.shape[-2:])
    (detections,) = outputs.detections(recogniser.backbone, recogniser.network_input(image[None]), [size])
    return detections


def size_of(recogniser: Recogniser, height: int, width: int) -> ImageSize:
    """Return the size of an image of (height, width) in a detector's input, and its scale there."""
    protocol: Any = recogniser.protocol
    rows, columns = protocol.network_size(height, width)
    return ImageSize(rows, columns, columns / width, rows / height)


def _found_in(recogniser: Recogniser, image: Tensor, box: Box, *, longest: int | None = None) -> Detections | None:
    """Return the detections in a part of an image, in pixels of the image; a part above `longest` is scaled down."""
    part = image[:, box.top : box.top + box.height, box.left : box.left + box.width]
    if longest is not None and max(box.height, box.width) > longest:
        factor = longest / max(box.height, box.width)
        part = tvf.resize(part, [max(round(side * factor), 1) for side in (box.height, box.width)], antialias=True)
    detections = found_in(recogniser, part)
    if detections is None:
        return None
    scale = torch.tensor([box.width / part.shape[-1], box.height / part.shape[-2]] * 2)
    return detections._replace(boxes=detections.boxes * scale + torch.tensor([box.left, box.top] * 2))


def _together(parts: list[Detections]) -> Detections:
    boxes, scores, labels = (torch.cat([part[place] for part in parts]) for place in range(3))  # type: ignore[misc]
    masks = [part.mask_probabilities for part in parts if part.mask_probabilities is not None]
    return Detections(boxes, scores, labels, torch.cat(masks) if masks else None)


def _rows(detections: Detections, rows: Tensor) -> Detections:
    return Detections(*(None if values is None else values[rows] for values in detections))  # type: ignore[arg-type]


def _distinct(detections: Detections, cut: Any, *, threshold: float) -> Tensor:
    """Return the numbers of the objects of all parts that stay, best first."""
    candidates = Candidates(detections.boxes.numpy(), detections.scores.numpy(), detections.labels.numpy(), cut)
    return torch.from_numpy(merged(candidates, threshold=threshold))
