"""Norms that a head puts on the maps of networks that have none of their own."""

from typing import Literal

from torch import Tensor, nn

LevelNorm = Literal["none", "layer", "group"]


class LevelLayerNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel of a map, `(B, C, H, W)`."""

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same shape."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def norm_of_level(level_norm: LevelNorm, channels: int) -> nn.Module:
    """Return the norm of one map: over channels, over channels and pixels in one group, or none."""
    if level_norm == "layer":
        return LevelLayerNorm(channels)
    return nn.GroupNorm(1, channels) if level_norm == "group" else nn.Identity()
