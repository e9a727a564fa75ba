"""Questions and answers of detectors, in a module without torchvision, which is slow to import."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Style = Literal["mmdetection", "torchvision", "detectron2"]


class ImageSize(NamedTuple):
    """The size of an image in a padded batch.

    Attributes:
        height: Rows of the view that are image, in pixels.
        width: Columns of the view that are image, in pixels.
        scale_x: Width of the view over that of the file.
        scale_y: Height of the view over that of the file.
    """

    height: int
    width: int
    scale_x: float = 1.0
    scale_y: float = 1.0

    @property
    def frame(self) -> tuple[int, int]:
        """(height, width) of the file in pixels."""
        return round(self.height / self.scale_y), round(self.width / self.scale_x)

    def in_frame(self, boxes: Tensor) -> Tensor:
        """Return boxes (N, 4) of the view, x1, y1, x2, y2, in float32 pixels of the file."""
        # The division in float32 and the product are those of torchvision, which makes its boxes equal to the bit.
        new = torch.tensor(self.frame, dtype=torch.float32, device=boxes.device)
        y, x = new / torch.tensor([self.height, self.width], dtype=torch.float32, device=boxes.device)
        return boxes.float() * torch.stack([x, y, x, y])


class Detections(NamedTuple):
    """The objects that a detector finds in an image, best first.

    Attributes:
        boxes: float32 (N, 4), x1, y1, x2, y2 in pixels of the file.
        scores: float32 (N,), 0..1.
        labels: int64 (N,), 0..K-1.
        mask_probabilities: float32 (N, 28, 28) over the box, for the object's class, or None.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    mask_probabilities: Tensor | None = None
