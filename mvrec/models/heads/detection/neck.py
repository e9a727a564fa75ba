"""The feature pyramid of detectors (Lin et al. 2017, arXiv 1612.03144) and the coarser maps that they add to it."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool

from mvrec.models.backbone import FeatureInfo


class CoarserMaps(ExtraFPNBlock):
    """Two more maps, each of half the size, by convolutions of stride 2 (Lin et al. 2017, arXiv 1708.02002).

    Args:
        in_channels: Channels of the map that the first one is made from.
        channels: Channels of both.
        source: The coarsest map before the pyramid ("input"), or after it ("output").
        relu: Whether the second one is made from the rectified first one: in torchvision and detectron2, not in
            mmdetection.
    """

    def __init__(self, in_channels: int, channels: int, *, source: Literal["input", "output"], relu: bool) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        for convolution in (self.p6, self.p7):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        self.source, self.relu = source, relu

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """Append two maps to those of the pyramid, `results`, which was made from maps `x`; all fine to coarse."""
        p6 = self.p6(x[-1] if self.source == "input" else results[-1])
        p7 = self.p7(F.relu(p6) if self.relu else p6)
        return [*results, p6, p7], [*names, "p6", "p7"]


class Neck(FeaturePyramidNetwork):
    """A feature pyramid: maps of equal channels, coarse ones added to finer ones, and one or two coarser maps.

    Args:
        levels: The network's maps, fine to coarse.
        channels: Channels of every output.
        coarser: One more map by leaving out every other pixel ("pool"), or two by convolutions.
        source: Where these convolutions begin, see `CoarserMaps`.
        relu: See `CoarserMaps`.
        norm: Whether convolutions have batch normalisation in place of a bias.

    Attributes:
        strides: Pixels per cell of each output.
    """

    def __init__(
        self,
        levels: Sequence[FeatureInfo],
        channels: int,
        *,
        coarser: Literal["pool", "convolutions"] = "pool",
        source: Literal["input", "output"] = "input",
        relu: bool = True,
        norm: bool = False,
    ) -> None:
        widths, strides = [level.channels for level in levels], [level.stride for level in levels]
        if coarser == "pool":
            extra: ExtraFPNBlock = LastLevelMaxPool()
        else:
            extra = CoarserMaps(widths[-1] if source == "input" else channels, channels, source=source, relu=relu)
        super().__init__(widths, channels, extra_blocks=extra, norm_layer=nn.BatchNorm2d if norm else None)
        self.strides = (*strides, *(strides[-1] * factor for factor in ((2,) if coarser == "pool" else (2, 4))))

    def forward(self, x: Sequence[Tensor]) -> list[Tensor]:
        """Convert maps `(B, C_i, H_i, W_i)`, fine to coarse, to maps `(B, channels, H_i, W_i)` and the coarser ones."""
        return list(super().forward(OrderedDict((str(i), level) for i, level in enumerate(x))).values())
