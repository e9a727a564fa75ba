"""The pixels on which the score of one detected object rests.

The gradient of a detection's score at a map of the network is local, as in ODAM (Zhao & Chan 2022, "ODAM:
Gradient-based instance-specific visual explanations for object detection", arXiv 2304.06354). So by default each cell
of each channel is weighed by its own gradient, on the map whose cells fit the object.
"""

import math
from typing import Any

import torch
from torch import Tensor

from mvrec.errors import UserError
from mvrec.inference.heat import Method, heat_map
from mvrec.inference.objects.detecting import size_of
from mvrec.inference.recogniser import Recogniser
from mvrec.models.heads.detection.results import Detections
from mvrec.tasks.regions import Regions

CELLS = 8  # of the map along the side of the object


def object_heat(
    recogniser: Recogniser,
    image: Tensor,
    *,
    rank: int,
    label: int | None = None,
    method: Method | None = None,
    stage: int | None = None,
) -> tuple[Tensor, Regions, int, Method]:
    """Explain the score of one object.

    Args:
        recogniser: A detector.
        image: uint8 (3, H, W), in its own size.
        rank: The place of the object among those found, from 0 for the highest score.
        label: Count the objects of this class alone.
        method: "cam" or "layercam"; "layercam" by default.
        stage: Number of the feature map; by default the one whose cells fit the object.

    Returns:
        Heat float32 (H', W') over the network's view of the image, the objects, the number of the explained one among
        them, and the method.

    Raises:
        UserError: There is no such object, method or stage.
    """
    x, size = recogniser.network_input(image[None]), size_of(recogniser, *image.shape[-2:])
    network: Any = recogniser.backbone
    with torch.no_grad():
        detections: Detections = network(x, [size])[0]
    rows = torch.arange(len(detections.labels)) if label is None else torch.where(detections.labels.cpu() == label)[0]
    if rank >= len(rows):
        of = "" if label is None else f" of class {recogniser.class_names[label]!r}"
        raise UserError(f"there is no object {rank}{of}: the network finds {len(rows)}, which count from 0")
    row = int(rows[rank])
    if stage is None:
        stage = _fitting_stage(recogniser, detections.boxes[row] * torch.tensor([size.scale_x, size.scale_y] * 2).to(x))

    def score(pixels: Tensor) -> Tensor:
        with torch.enable_grad():
            return network(pixels.detach().clone().requires_grad_(), [size])[0].scores[row]

    method = method or "layercam"
    heat = heat_map(network, x, torch.zeros(1, dtype=torch.int64), method=method, stage=stage, score=score)
    on_cpu = [each.cpu() for each in detections[:3]]
    regions = Regions.of((*on_cpu, None), recogniser.class_names, (image.shape[-2], image.shape[-1]))
    return heat[0, : size.height, : size.width].cpu(), regions, row, method


def _fitting_stage(recogniser: Recogniser, box: Tensor) -> int:
    """Return the number of the map on which the sides of a box (4,), in pixels of the view, are nearest to 8 cells."""
    left, top, right, bottom = box.tolist()
    stride = max(math.sqrt(max((right - left) * (bottom - top), 1)) / CELLS, 1)
    strides = [level.stride for level in recogniser.backbone.feature_info]
    return min(range(len(strides)), key=lambda stage: abs(math.log2(strides[stage] / stride)))
