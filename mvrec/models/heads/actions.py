"""The head of boxes in clips, as in SlowFast: features of each box, pooled over time and space.

Feichtenhofer et al. 2019 (https://arxiv.org/abs/1812.03982), as MViT and MViTv2 use it for AVA.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mvrec.models.backbone import FeatureInfo, MapsHead

CELLS = 7  # per side of the grid in a box


class ActionHead(MapsHead):
    """Scores of actions for boxes of clips, from the last map of a network.

    The map is pooled over time, read in a grid of 7 x 7 cells in each box (He et al. 2017, RoIAlign, half a pixel
    shifted), and the greatest value of the cells is classified. The map's stride is the network's own.

    Args:
        levels: The maps of the network, of which the last one is read.
        num_classes: K.
        pooling: How the map is pooled over time.
        context: Whether the mean of the whole map is classified together with a box.
        dropout: Share of the features that training drops.

    Attributes:
        arguments: The arguments without `levels`, to make the head again.
    """

    kind = "boxes"

    def __init__(
        self,
        levels: Sequence[FeatureInfo],
        num_classes: int,
        *,
        pooling: Literal["mean", "max"] = "mean",
        context: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            **{"num_classes": num_classes, "pooling": pooling, "context": context, "dropout": dropout}
        }
        self.stride, self.pooling, self.context = levels[-1].stride, pooling, context
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(levels[-1].channels * (1 + context), num_classes)
        nn.init.normal_(self.projection.weight, std=0.01)
        nn.init.zeros_(self.projection.bias)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int], boxes: Tensor) -> Tensor:
        """Return raw logits (N, K) of boxes.

        Args:
            maps: The network's maps, the last one (B, C, T, h, w).
            size: (height, width) of the clips in pixels.
            boxes: (N, 5), for each box its clip's number and left, top, right and bottom in pixels of the clip.
        """
        from torchvision.ops import roi_align  # its import takes longer than a first image

        # The operator takes no bfloat16 on a CPU.
        last = maps[-1].float()
        pooled = last.mean(2) if self.pooling == "mean" else last.amax(2)  # (B, C, h, w)
        cells = roi_align(pooled, boxes.float(), CELLS, 1 / self.stride, sampling_ratio=0, aligned=True)
        features = cells.amax((2, 3))  # (N, C)
        if self.context:
            features = torch.cat([features, pooled.mean((2, 3))[boxes[:, 0].long()]], 1)
        features = self.dropout(features.to(self.projection.weight.dtype))
        if not torch.is_autocast_enabled(features.device.type):
            return self.projection(features)
        with torch.autocast(features.device.type, enabled=False):  # bfloat16 would make many scores equal
            return self.projection(features)


def numbered(corners: Sequence[Tensor]) -> Tensor:
    """Return the boxes (N, 4) of each clip as one tensor (sum of N, 5), with the clip's number first."""
    return torch.cat(
        [torch.cat([boxes.new_full((len(boxes), 1), number), boxes], 1) for number, boxes in enumerate(corners)]
    )
