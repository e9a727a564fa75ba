"""Masks of boxes: the branch of Mask R-CNN (He et al. 2017, arXiv 1703.06870), its targets and its loss."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import roi_align

from mvrec.models.heads.detection.pooler import Pooler
from mvrec.models.heads.detection.results import Style

CELLS = 14  # of features per side of a box; masks have twice as many


class MaskBranch(nn.Module):
    """Logits of a mask over each box, for each class.

    Parameters have torchvision's names and its row of the background, which nothing reads.

    Args:
        strides: Pixels per cell of the maps that are read.
        channels: Channels of the maps.
        num_classes: K.
        style: Whose pooling and targets.
        convs: Convolutions before the outputs.
        width: Their channels; None for those of the maps.
        norm: Whether these have batch normalisation in place of a bias.
    """

    def __init__(
        self,
        strides: Sequence[int],
        channels: int,
        num_classes: int,
        *,
        style: Style,
        convs: int,
        norm: bool,
        width: int | None = None,
    ) -> None:
        super().__init__()
        self.style, width = style, width or channels
        self.mask_roi_pool = Pooler(strides, CELLS, style=style)
        self.mask_head = MaskRCNNHeads(channels, [width] * convs, 1, norm_layer=nn.BatchNorm2d if norm else None)
        self.mask_predictor = MaskRCNNPredictor(width, width, num_classes + 1)
        if style != "torchvision":
            for name, parameter in self.mask_predictor.named_parameters():
                if name.endswith("bias"):
                    nn.init.zeros_(parameter)

    def logits(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Return float32 logits (sum of N, K + 1, 28, 28), the background first, of each image's boxes (N, 4)."""
        return self.mask_predictor(self.mask_head(self.mask_roi_pool(maps, boxes))).float()

    def probabilities(self, maps: Sequence[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> list[Tensor]:
        """Return for each image the masks (N, 28, 28) of its boxes (N, 4) for their classes (N,), 0..K-1."""
        masks = self.logits(maps, boxes)
        classes = torch.cat(list(labels)) + 1
        return list(masks[torch.arange(len(masks), device=masks.device), classes].sigmoid().split([*map(len, boxes)]))

    def loss(
        self,
        maps: Sequence[Tensor],
        size: Sequence[int],
        boxes: Sequence[Tensor],
        objects: Sequence[Tensor],
        targets: Sequence[Mapping[str, Tensor]],
    ) -> Tensor:
        """Return the mean binary cross-entropy over the pixels of the boxes' own classes; 0 without boxes.

        Args:
            maps: (B, C, H_i, W_i).
            size: (height, width) of the padded batch in pixels.
            boxes: For each image its positive boxes (N, 4).
            objects: The object (N,) that each belongs to.
            targets: For each image its "masks" uint8 (M, h, w) in pixels of the batch, and "labels" int64 (M,).
        """
        if not sum(map(len, boxes)):
            # One box with a weight of 0, so that every parameter has a gradient and normalisation has a number.
            box = boxes[0].new_tensor([[0.0, 0.0, 1.0, 1.0]])
            return self.logits(maps, [box, *(box[:0] for _ in boxes[1:])]).sum() * 0
        logits = self.logits(maps, boxes)
        classes = torch.cat([target["labels"][each] for target, each in zip(targets, objects, strict=True)]) + 1
        own_logits = logits[torch.arange(len(logits), device=logits.device), classes]
        true_masks = [
            mask_targets(target["masks"], own_boxes, own_objects, logits.shape[-1], size=size, style=self.style)
            for target, own_boxes, own_objects in zip(targets, boxes, objects, strict=True)
        ]
        return F.binary_cross_entropy_with_logits(own_logits, torch.cat(true_masks))


def mask_targets(
    masks: Tensor, boxes: Tensor, objects: Tensor, side: int, *, size: Sequence[int], style: Style
) -> Tensor:
    """Return the masks (N, side, side) of the objects over boxes, float32.

    They are 0 or 1, of a bitmap read at cells' centres. torchvision shifts them by half a pixel and leaves them soft.

    Args:
        masks: uint8 (M, h, w), all objects of an image.
        boxes: (N, 4) in pixels of the masks.
        objects: The number (N,) of each box's object.
        side: Cells.
        size: (height, width) of the padded batch; mmdetection's masks go on in the padding, with 0.
        style: Whose targets.
    """
    rows = torch.cat([objects[:, None].to(boxes), boxes], 1)
    soft = style == "torchvision"
    bitmaps = masks[:, None].to(boxes)
    if style == "mmdetection":  # one row and column of it are read
        height, width = masks.shape[-2:]
        bitmaps = F.pad(bitmaps, (0, int(width < size[1]), 0, int(height < size[0])))
    cells = roi_align(bitmaps, rows, side, 1.0, -1 if soft else 0, aligned=not soft)[:, 0]
    return cells if soft else (cells >= 0.5).to(cells)
