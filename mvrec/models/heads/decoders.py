"""Decoders of semantic segmentation: from a network's maps to logits on the finest map's grid.

Modules have the names of the authors' code (mmsegmentation, and NVIDIA's SegFormer), so files of either load by name.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvrec.models.backbone import FeatureInfo
from mvrec.models.heads.resizing import convolved, resize

POOL_SCALES = (1, 2, 3, 6)  # cells per side of UPerNet's pooled maps
STD_OF_CLASSIFIER = 0.01  # of a fresh classifier's weights, as mmsegmentation has it


class ConvNorm(nn.Module):
    """Convolution without bias that keeps the size, batch normalisation and ReLU: `(B, C_in, H, W)` to `(B, C, H, W)`.

    Args:
        in_channels: C_in.
        channels: C.
        kernel: Pixels of the kernel's side, odd.
    """

    def __init__(self, in_channels: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C_in, H, W)` to `(B, C, H, W)`."""
        return self.activated(self.conv(x))

    def activated(self, x: Tensor) -> Tensor:
        """Normalise and rectify the convolution's output `(B, C, H, W)`, where it is computed elsewhere."""
        return F.relu(self.bn(x), inplace=True)


class Decoder(nn.Module):
    """Maps of a network to logits; a subclass writes `fused`.

    Args:
        channels: Width of the map under the classifier.
        num_classes: K.
        dropout: Chance that a channel is dropped before the classifier, in training.
    """

    def __init__(self, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = _classifier(channels, num_classes)

    def fused(self, maps: Sequence[Tensor]) -> Tensor:
        """Join maps `(B, C_i, H_i, W_i)`, fine to coarse, to one map `(B, channels, H_0, W_0)`."""
        raise NotImplementedError

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Convert maps `(B, C_i, H_i, W_i)`, fine to coarse, to logits `(B, K, H_0, W_0)`."""
        return self.conv_seg(self.dropout(self.fused(maps)))


def _classifier(channels: int, num_classes: int) -> nn.Conv2d:
    classifier = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(classifier.weight, std=STD_OF_CLASSIFIER)
    nn.init.zeros_(classifier.bias)  # type: ignore[arg-type]
    return classifier


# -- Semantic FPN -------------------------------------------------------------------------------------------------


class PlainConv(nn.Module):
    """A convolution with bias that keeps the size, under the name `conv`."""

    def __init__(self, in_channels: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2)
        nn.init.xavier_uniform_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C_in, H, W)` to `(B, C, H, W)`."""
        return self.conv(x)


class Pyramid(nn.Module):
    """A feature pyramid (Lin et al. 2017, arXiv 1612.03144): equal channels, coarse maps added to finer ones.

    Args:
        levels: The maps, fine to coarse.
        channels: Channels of every output.
    """

    def __init__(self, levels: Sequence[FeatureInfo], channels: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(PlainConv(level.channels, channels, 1) for level in levels)
        self.fpn_convs = nn.ModuleList(PlainConv(channels, channels, 3) for _ in levels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Convert maps `(B, C_i, H_i, W_i)` to maps `(B, channels, H_i, W_i)`."""
        laterals = [conv(level) for conv, level in zip(self.lateral_convs, maps, strict=True)]
        for i in range(len(laterals) - 1, 0, -1):
            size = laterals[i - 1].shape[-2:]
            laterals[i - 1] = laterals[i - 1] + F.interpolate(laterals[i], size=size, mode="nearest")
        return [conv(lateral) for conv, lateral in zip(self.fpn_convs, laterals, strict=True)]


class Doubling(nn.Module):
    """Bilinear interpolation to twice the size."""

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to `(B, C, 2H, 2W)`."""
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class SemanticFPN(Decoder):
    """The head of Panoptic FPN for classes of pixels (Kirillov et al. 2019, arXiv 1901.02446).

    Each map of the pyramid passes 3x3 convolutions, each followed by a doubling, until it has the finest map's stride.
    The sum of all maps is classified. A map that is no exact fraction of the finest one is resized at the end.

    Args:
        in_channels: Channels of every map of the pyramid.
        strides: Their strides, fine to coarse.
        channels: Channels of the sum.
        num_classes: K.
        dropout: Chance that a channel is dropped before the classifier, in training.
    """

    def __init__(
        self, in_channels: int, strides: Sequence[int], channels: int, *, num_classes: int, dropout: float
    ) -> None:
        super().__init__(channels, num_classes, dropout)
        self.scale_heads = nn.ModuleList()
        for stride in strides:
            doublings = round(math.log2(stride / strides[0]))
            widths = [in_channels] + [channels] * max(doublings - 1, 0)
            convs = [ConvNorm(width, channels, 3) for width in widths]
            steps = [step for conv in convs for step in ((conv, Doubling()) if doublings else (conv,))]
            self.scale_heads.append(nn.Sequential(*steps))

    def fused(self, maps: Sequence[Tensor]) -> Tensor:
        """Sum maps `(B, in_channels, H_i, W_i)` to `(B, channels, H_0, W_0)`."""
        first, *others = zip(self.scale_heads, maps, strict=True)
        total: Tensor = first[0](first[1])
        for scale_head, level in others:
            total = total + resize(scale_head(level), total.shape[-2:])
        return total


# -- UPerNet ------------------------------------------------------------------------------------------------------


class PooledConv(nn.Sequential):
    """Average pooling to `cells` x `cells` and a 1x1 convolution, under the names of mmsegmentation (`1.conv`)."""

    def __init__(self, cells: int, in_channels: int, channels: int) -> None:
        super().__init__(AdaptivePool(cells), ConvNorm(in_channels, channels, 1))


class AdaptivePool(nn.Module):
    """Average pooling of maps of any size to `cells` x `cells`, which an exported network does at any size, too.

    Cell i of k averages the rows from floor(i H / k) to ceil((i + 1) H / k), as torch's `adaptive_avg_pool2d` does.
    """

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to `(B, C, cells, cells)`."""
        if torch.compiler.is_exporting() or torch.are_deterministic_algorithms_enabled():
            # ONNX has no such pooling for sizes that are not fixed, and CUDA no deterministic backward pass.
            rows, columns = (self._shares(length, x) for length in x.shape[-2:])
            return rows @ x @ columns.mT
        return F.adaptive_avg_pool2d(x, self.cells)

    def _shares(self, length: int, x: Tensor) -> Tensor:
        """Return each pixel's share of each cell along one side, `(cells, length)`."""
        cells = torch.arange(self.cells, device=x.device)[:, None]
        pixels = torch.arange(length, device=x.device)
        first = cells * length // self.cells
        end = ((cells + 1) * length + self.cells - 1) // self.cells
        return ((pixels >= first) & (pixels < end)).to(x.dtype) / (end - first).to(x.dtype)


class UPerNet(Decoder):
    """Pooled contexts of the coarsest map, then a pyramid whose maps are all joined (Xiao et al. 2018, 1807.10221).

    Args:
        levels: The maps, fine to coarse.
        channels: Channels of every map inside.
        num_classes: K.
        dropout: Chance that a channel is dropped before the classifier, in training.
    """

    def __init__(self, levels: Sequence[FeatureInfo], channels: int, *, num_classes: int, dropout: float) -> None:
        super().__init__(channels, num_classes, dropout)
        *finer, coarsest = levels
        self.psp_modules = nn.ModuleList(PooledConv(cells, coarsest.channels, channels) for cells in POOL_SCALES)
        self.bottleneck = ConvNorm(coarsest.channels + len(POOL_SCALES) * channels, channels, 3)
        self.lateral_convs = nn.ModuleList(ConvNorm(level.channels, channels, 1) for level in finer)
        self.fpn_convs = nn.ModuleList(ConvNorm(channels, channels, 3) for _ in finer)
        self.fpn_bottleneck = ConvNorm(len(levels) * channels, channels, 3)

    def fused(self, maps: Sequence[Tensor]) -> Tensor:
        """Join maps `(B, C_i, H_i, W_i)`, fine to coarse, to `(B, channels, H_0, W_0)`."""
        *finer, coarsest = maps
        laterals = [conv(level) for conv, level in zip(self.lateral_convs, finer, strict=True)]
        laterals.append(self._with_context(coarsest))
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + resize(laterals[i], laterals[i - 1].shape[-2:])
        outputs = [conv(lateral) for conv, lateral in zip(self.fpn_convs, laterals[:-1], strict=True)]
        size = laterals[0].shape[-2:]
        joined = convolved([*outputs, laterals[-1]], self.fpn_bottleneck.conv.weight, size)
        return self.fpn_bottleneck.activated(joined)

    def _with_context(self, coarsest: Tensor) -> Tensor:
        """Join the coarsest map `(B, C, H, W)` and its pooled contexts to `(B, channels, H, W)`."""
        if self.training and len(coarsest) == 1 and type(self.bottleneck.bn) is nn.BatchNorm2d:
            raise ValueError(
                "UPerNet pools each image to one cell, and batch normalisation cannot train on one value: train with 2 "
                "images or more per process, or with synchronised batch normalisation on several processes"
            )
        size = coarsest.shape[-2:]
        contexts = [pooled(coarsest) for pooled in self.psp_modules]
        return self.bottleneck.activated(convolved([coarsest, *contexts], self.bottleneck.conv.weight, size))


# -- SegFormer ----------------------------------------------------------------------------------------------------


class SegFormerMMSeg(Decoder):
    """SegFormer's head in mmsegmentation's form: convolution, batch normalisation and ReLU on every map.

    Args:
        levels: The maps, fine to coarse.
        channels: Channels of every map inside.
        num_classes: K.
        dropout: Chance that a channel is dropped before the classifier, in training.
    """

    def __init__(self, levels: Sequence[FeatureInfo], channels: int, *, num_classes: int, dropout: float) -> None:
        super().__init__(channels, num_classes, dropout)
        self.convs = nn.ModuleList(ConvNorm(level.channels, channels, 1) for level in levels)
        self.fusion_conv = ConvNorm(len(levels) * channels, channels, 1)

    def fused(self, maps: Sequence[Tensor]) -> Tensor:
        """Join maps `(B, C_i, H_i, W_i)`, fine to coarse, to `(B, channels, H_0, W_0)`."""
        levels = [conv(level) for conv, level in zip(self.convs, maps, strict=True)]
        joined = convolved(levels, self.fusion_conv.conv.weight, levels[0].shape[-2:])
        return self.fusion_conv.activated(joined)


class Projection(nn.Module):
    """A linear layer with bias on the channels of a map, under the name `proj`."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C_in, H, W)` to `(B, C, H, W)`."""
        return self.proj(x.movedim(1, -1)).movedim(-1, 1)


class SegFormer(nn.Module):
    """SegFormer's head in the authors' form (Xie et al. 2021, arXiv 2105.15203): a linear layer on every map.

    Args:
        levels: The maps, fine to coarse.
        channels: Channels of every map inside; the authors have 256 for B0 and B1, and 768 for larger networks.
        num_classes: K.
        dropout: Chance that a channel is dropped before the classifier, in training.
    """

    def __init__(self, levels: Sequence[FeatureInfo], channels: int, *, num_classes: int, dropout: float) -> None:
        super().__init__()
        for i, level in enumerate(levels, start=1):
            self.add_module(f"linear_c{i}", Projection(level.channels, channels))
        self.linear_fuse = ConvNorm(len(levels) * channels, channels, 1)
        self.dropout = nn.Dropout2d(dropout)
        self.linear_pred = _classifier(channels, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Convert maps `(B, C_i, H_i, W_i)`, fine to coarse, to logits `(B, K, H_0, W_0)`."""
        levels = [getattr(self, f"linear_c{i}")(level) for i, level in enumerate(maps, start=1)]
        # The authors join the maps from coarse to fine.
        joined = convolved(levels[::-1], self.linear_fuse.conv.weight, levels[0].shape[-2:])
        return self.linear_pred(self.dropout(self.linear_fuse.activated(joined)))


# -- auxiliary head -----------------------------------------------------------------------------------------------


class AuxiliaryFCN(nn.Module):
    """One convolution and a classifier on one map, for a second loss in training (Long et al. 2015, 1411.4038).

    Args:
        in_channels: Channels of the map.
        channels: Channels under the classifier.
        num_classes: K.
        dropout: Chance that a channel is dropped before the classifier, in training.
    """

    def __init__(self, in_channels: int, channels: int, *, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvNorm(in_channels, channels, 3))
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = _classifier(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to logits `(B, K, H, W)`."""
        return self.conv_seg(self.dropout(self.convs(x)))
