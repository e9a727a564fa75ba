"""The maps of an image network for torchvision's detectors."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from mvrec.models.backbone import Backbone


class FeaturePyramid(nn.Module):
    """An image network under a feature pyramid (Lin et al. 2017, arXiv 1612.03144).

    It is the backbone of a detector: `MaskRCNN(FeaturePyramid(shunted_s()), num_classes=91)`. The network's head is
    removed, because detectors have their own.

    Args:
        backbone: The image network.
        out_channels: Channels of every map; detectors read this attribute.
        levels: Numbers of the network's maps to use, fine to coarse; None for all.

    Raises:
        ValueError: The network has no image maps, or not these.
    """

    def __init__(self, backbone: Backbone, *, out_channels: int = 256, levels: Sequence[int] | None = None) -> None:
        from torchvision.ops import FeaturePyramidNetwork  # slow to import
        from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

        super().__init__()
        available = range(len(backbone.feature_info))
        self.levels = tuple(available if levels is None else levels)
        if len(backbone.input_shape) != 3 or not self.levels:
            raise ValueError(
                f"a feature pyramid needs maps of images, got a {type(backbone).__name__} for inputs of shape "
                f"{backbone.input_shape} with {len(available)} maps"
            )
        if not set(self.levels) <= set(available):
            raise ValueError(f"levels must lie in 0..{len(available) - 1}, got {self.levels}")
        backbone.reset_head(0)
        self.backbone = backbone
        self.out_channels = out_channels
        channels = [backbone.feature_info[level].channels for level in self.levels]
        self.fpn = FeaturePyramidNetwork(channels, out_channels, extra_blocks=LastLevelMaxPool())

    def forward(self, x: Tensor) -> "OrderedDict[str, Tensor]":
        """Map images `(B, C, H, W)` to maps `(B, out_channels, H_i, W_i)` by number, and a coarser one, "pool"."""
        maps = self.backbone.feature_maps(x)
        return self.fpn(OrderedDict((str(level), maps[level]) for level in self.levels))
