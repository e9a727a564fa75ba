"""Shunted Transformer for images, with the parameter names of the authors' release.

Ren et al. 2022, "Shunted Self-Attention via Multi-Scale Token Aggregation", arXiv 2111.15193.
Where the paper and its released models differ, the released models win, because their weights must load.

Tokens are grids `(B, h, w, C)` from end to end: the grid's size is the tensor's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from mvrec.models.layers import DetailMlp, GridAttention, GridConv, StochasticDepth, depthwise
from mvrec.models.pyramid import (
    PATCH_STRIDE,
    PYRAMID_NORM_EPS,
    ImageSize,
    Pyramid,
    PyramidStage,
    drop_path_rates,
)

STEM_DIM = 64  # for any width of the first stage


@dataclass(frozen=True)
class Stage(PyramidStage):
    """One row of the architecture table; heads for fine keys merge half as many cells per side.

    Raises:
        ValueError: The numbers contradict one another.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sr_ratio != 1 and (self.sr_ratio < 1 or self.sr_ratio % 2):
            raise ValueError(f"sr_ratio must be 1 or even, got {self}")


class Stem(nn.Module):
    """A 7x7 convolution of stride 2, further 3x3 ones, and patches of 2x2: 4 pixels to a cell in all."""

    def __init__(self, in_channels: int, dim: int, *, num_convs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, STEM_DIM, 7, 2, 3, bias=False)]
        for _ in range(num_convs):
            layers += [*_norm_and_act(), nn.Conv2d(STEM_DIM, STEM_DIM, 3, 1, 1, bias=False)]
        layers += [*_norm_and_act(), nn.Conv2d(STEM_DIM, dim, 2, 2)]
        self.conv = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(B, C, H, W)` to a grid `(B, h, w, dim)`."""
        return self.norm(self.conv(x).permute(0, 2, 3, 1))


def _norm_and_act() -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(STEM_DIM), nn.ReLU(inplace=True)


class Downsample(nn.Module):
    """Overlapping patches between two stages: half the cells per side, rounded up."""

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        self.proj = GridConv(dim, dim_out, 3, 2, 1)
        self.norm = nn.LayerNorm(dim_out)

    def forward(self, grid: Tensor) -> Tensor:
        """`(B, h, w, dim)` to `(B, ceil(h / 2), ceil(w / 2), dim_out)`."""
        return self.norm(self.proj(grid))


class FullAttention(nn.Module):
    """Attention over all tokens, with the values' neighbourhood added to its output."""

    def __init__(self, dim: int, *, num_heads: int) -> None:
        super().__init__()
        self.attend = GridAttention(dim // num_heads)
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.local_conv = depthwise(dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, grid: Tensor) -> Tensor:
        """`(B, h, w, dim)` to the same."""
        k, v = self.kv(grid).chunk(2, -1)
        return self.proj(self.attend(self.q(grid), k, v) + self.local_conv(v))


class ShuntedAttention(nn.Module):
    """Attention of half of the heads to coarse keys, and of half to fine ones.

    Cells beyond the last whole patch give no key, as in the released models. The values' neighbourhood is added
    before the attention, on the merged grid.
    """

    def __init__(self, dim: int, *, num_heads: int, sr_ratio: int) -> None:
        super().__init__()
        self.attend = GridAttention(dim // num_heads)
        coarse, fine = sr_ratio, sr_ratio // 2
        self.q = nn.Linear(dim, dim)
        self.sr1 = GridConv(dim, dim, coarse, coarse)
        self.norm1 = nn.LayerNorm(dim)
        self.kv1 = nn.Linear(dim, dim)
        self.local_conv1 = depthwise(dim // 2)
        self.sr2 = GridConv(dim, dim, fine, fine)
        self.norm2 = nn.LayerNorm(dim)
        self.kv2 = nn.Linear(dim, dim)
        self.local_conv2 = depthwise(dim // 2)
        self.act = nn.GELU()
        self.proj = nn.Linear(dim, dim)

    def forward(self, grid: Tensor) -> Tensor:
        """`(B, h, w, dim)` to the same."""
        q_coarse, q_fine = self.q(grid).chunk(2, -1)  # (B, h, w, heads / 2 * d)
        merged = self.act(self.norm1(self.sr1(grid)))
        coarse = self._branch(q_coarse, merged, self.kv1, self.local_conv1)
        merged = self.act(self.norm2(self.sr2(grid)))
        fine = self._branch(q_fine, merged, self.kv2, self.local_conv2)
        return self.proj(torch.cat([coarse, fine], -1))

    def _branch(self, q: Tensor, merged: Tensor, kv: nn.Linear, local_conv: GridConv) -> Tensor:
        """Map queries `(B, h, w, dim / 2)` and a merged grid `(B, h', w', dim)` to `(B, h, w, dim / 2)`."""
        k, v = kv(merged).chunk(2, -1)
        return self.attend(q, k, v + local_conv(v))


class Block(nn.Module):
    """Attention and an MLP, each with a shortcut."""

    def __init__(self, stage: Stage, *, drop_path_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(stage.dim, eps=PYRAMID_NORM_EPS)
        self.attn: nn.Module
        if stage.sr_ratio > 1:
            self.attn = ShuntedAttention(stage.dim, num_heads=stage.heads, sr_ratio=stage.sr_ratio)
        else:
            self.attn = FullAttention(stage.dim, num_heads=stage.heads)
        self.drop_path = StochasticDepth(drop_path_rate)
        self.norm2 = nn.LayerNorm(stage.dim, eps=PYRAMID_NORM_EPS)
        self.mlp = DetailMlp(stage.dim, hidden_dim=int(stage.dim * stage.mlp_ratio))

    def forward(self, grid: Tensor) -> Tensor:
        """`(B, h, w, dim)` to the same."""
        grid = grid + self.drop_path(self.attn(self.norm1(grid)))
        return grid + self.drop_path(self.mlp(self.norm2(grid)))


class Shunted(Pyramid):
    """Shunted Transformer: within one layer, some heads see coarse keys and the others fine ones.

    Accepts images of any size from `min_image_size` pixels per side, whatever it was constructed for. Cells
    that no whole patch covers are dropped at the right and lower border, as in the released models.

    Args:
        stages: The rows of the architecture table, from fine to coarse; the grid halves between them.
        num_stem_convs: Further 3x3 convolutions in the stem.
        num_classes: Classes of the head; 0 for none.
        image_size: Pixels, square or (H, W), that it is constructed for.
        in_channels: Channels of the input.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from 0 at the first.

    Raises:
        ValueError: An argument is out of range, or the image size is below `min_image_size`.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        num_stem_convs: int = 0,
        num_classes: int = 1000,
        image_size: ImageSize = 224,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
    ) -> None:
        if num_stem_convs < 0:
            raise ValueError(f"num_stem_convs must be 0 or more, got {num_stem_convs}")
        super().__init__(stages, num_classes=num_classes, image_size=image_size, in_channels=in_channels)
        stem = Stem(in_channels, stages[0].dim, num_convs=num_stem_convs)
        rates = drop_path_rates(stages, last=drop_path_rate)
        self._add_stages(
            [stem, *(Downsample(fine.dim, coarse.dim) for fine, coarse in pairwise(stages))],
            [[Block(stage, drop_path_rate=rate) for rate in row] for stage, row in zip(stages, rates, strict=True)],
        )

    def _smallest_image_size(self, stages: Sequence[PyramidStage]) -> int:
        """Return the fewest pixels per side with one whole patch of coarse keys in every stage."""
        # Grids round up when they halve. The stem drops broken cells, but 3 pixels suffice for its last one.
        cells = max(2**i * (stage.sr_ratio - 1) + 1 for i, stage in enumerate(stages))
        return PATCH_STRIDE * cells - 1


def _released_stages(depths: tuple[int, int, int, int]) -> tuple[Stage, ...]:
    first, second, third, fourth = depths
    return (
        Stage(dim=64, depth=first, heads=2, sr_ratio=8, mlp_ratio=8),
        Stage(dim=128, depth=second, heads=4, sr_ratio=4, mlp_ratio=8),
        Stage(dim=256, depth=third, heads=8, sr_ratio=2, mlp_ratio=4),
        Stage(dim=512, depth=fourth, heads=16, sr_ratio=1, mlp_ratio=4),
    )


def shunted_t(
    num_classes: int = 1000,
    *,
    drop_path_rate: float = 0.1,
    image_size: ImageSize = 224,
    in_channels: int = 3,
) -> Shunted:
    """Build Shunted-T: 11.6 M parameters, 2.1 GFLOPs, 79.8 % on ImageNet-1k."""
    return Shunted(
        _released_stages((1, 2, 4, 1)),
        num_stem_convs=0,
        num_classes=num_classes,
        image_size=image_size,
        in_channels=in_channels,
        drop_path_rate=drop_path_rate,
    )


def shunted_s(
    num_classes: int = 1000,
    *,
    drop_path_rate: float = 0.2,
    image_size: ImageSize = 224,
    in_channels: int = 3,
) -> Shunted:
    """Build Shunted-S: 22.4 M parameters, 5.0 GFLOPs, 82.9 % on ImageNet-1k."""
    return Shunted(
        _released_stages((2, 4, 12, 1)),
        num_stem_convs=1,
        num_classes=num_classes,
        image_size=image_size,
        in_channels=in_channels,
        drop_path_rate=drop_path_rate,
    )


def shunted_b(
    num_classes: int = 1000,
    *,
    drop_path_rate: float = 0.3,
    image_size: ImageSize = 224,
    in_channels: int = 3,
) -> Shunted:
    """Build Shunted-B: 39.6 M parameters, 8.2 GFLOPs, 84.0 % on ImageNet-1k."""
    return Shunted(
        _released_stages((3, 4, 24, 2)),
        num_stem_convs=2,
        num_classes=num_classes,
        image_size=image_size,
        in_channels=in_channels,
        drop_path_rate=drop_path_rate,
    )
