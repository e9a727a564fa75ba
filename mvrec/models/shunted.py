"""Shunted Transformer for images, with the parameter names of the authors' release.

Ren et al. 2022, "Shunted Self-Attention via Multi-Scale Token Aggregation", arXiv 2111.15193.
Where the paper and its released models differ, the released models win, because their weights must load.

Tokens are grids `(B, h, w, C)` from end to end: the grid's size is the tensor's own, and a grid seen through
`permute(0, 3, 1, 2)` already is a channels-last convolution input, so no layer needs a transposed copy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from mvrec.models.backbone import Backbone, FeatureInfo
from mvrec.models.layers import init_trunc_normal

PATCH_STRIDE = 4
STEM_DIM = 64  # whatever the width of the first stage
# The released models keep torch's own epsilon (1e-5) in the patch embeddings and inside the attention.
NORM_EPS = 1e-6


@dataclass(frozen=True)
class Stage:
    """One row of the architecture table.

    Args:
        dim: Width of the tokens.
        depth: Number of blocks.
        heads: Attention heads.
        sr_ratio: Cells per side that the coarse half of the heads merges into one key; the fine half merges
            half as many. 1 for plain attention over all tokens.
        mlp_ratio: Hidden width of the MLP over `dim`.

    Raises:
        ValueError: The numbers contradict one another.
    """

    dim: int
    depth: int
    heads: int
    sr_ratio: int
    mlp_ratio: float

    def __post_init__(self) -> None:
        if min(self.dim, self.depth, self.heads, self.mlp_ratio) <= 0:
            raise ValueError(f"dim, depth, heads and mlp_ratio must be positive, got {self}")
        if self.sr_ratio != 1 and (self.sr_ratio < 1 or self.sr_ratio % 2):
            raise ValueError(f"sr_ratio must be 1 or even, got {self}")
        if self.dim % self.heads:
            raise ValueError(f"width {self.dim} does not split over {self.heads} heads, got {self}")
        if self.sr_ratio > 1 and self.heads % 2:
            raise ValueError(f"half of the heads is coarse and half is fine, so heads must be even, got {self}")


class GridConv(nn.Conv2d):
    """Convolution over a token grid."""

    def forward(self, grid: Tensor) -> Tensor:
        """`(B, h, w, C)` to `(B, h', w', C')`."""
        # Seen as a matrix, so that its gradient comes back in the parameter's own layout, as DDP's buckets want it.
        weight = self.weight.flatten(1).unflatten(1, self.weight.shape[1:])
        x = F.conv2d(grid.permute(0, 3, 1, 2), weight, self.bias, self.stride, self.padding, groups=self.groups)
        return x.permute(0, 2, 3, 1)


def _depthwise(dim: int) -> GridConv:
    return GridConv(dim, dim, 3, padding=1, groups=dim)


def _attend(q: Tensor, k: Tensor, v: Tensor, *, head_dim: int) -> Tensor:
    """Grids `(B, h, w, heads * d)`; keys and values share theirs, and the queries' is the output's."""
    size = q.shape[1:3]
    q, k, v = (part.flatten(1, 2).unflatten(-1, (-1, head_dim)).transpose(1, 2) for part in (q, k, v))
    attended = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, d)
    return attended.transpose(1, 2).flatten(2).unflatten(1, size)


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
        """Images `(B, C, H, W)` to a grid `(B, h, w, dim)`."""
        x = self.conv(x.to(memory_format=torch.channels_last))
        return self.norm(x.permute(0, 2, 3, 1))


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
    """Attention over all tokens, with the values' neighbourhood added to what was attended."""

    def __init__(self, dim: int, *, num_heads: int) -> None:
        super().__init__()
        self.head_dim = dim // num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.local_conv = _depthwise(dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, grid: Tensor) -> Tensor:
        """`(B, h, w, dim)` to the same."""
        k, v = self.kv(grid).chunk(2, -1)
        attended = _attend(self.q(grid), k, v, head_dim=self.head_dim)
        return self.proj(attended + self.local_conv(v))


class ShuntedAttention(nn.Module):
    """Half of the heads attends to coarse keys and half to fine ones.

    Cells beyond the last whole patch give no key, as in the released models. Here the values' neighbourhood
    is added before the attention, on the merged grid.
    """

    def __init__(self, dim: int, *, num_heads: int, sr_ratio: int) -> None:
        super().__init__()
        self.head_dim = dim // num_heads
        coarse, fine = sr_ratio, sr_ratio // 2
        self.q = nn.Linear(dim, dim)
        self.sr1 = GridConv(dim, dim, coarse, coarse)
        self.norm1 = nn.LayerNorm(dim)
        self.kv1 = nn.Linear(dim, dim)
        self.local_conv1 = _depthwise(dim // 2)
        self.sr2 = GridConv(dim, dim, fine, fine)
        self.norm2 = nn.LayerNorm(dim)
        self.kv2 = nn.Linear(dim, dim)
        self.local_conv2 = _depthwise(dim // 2)
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
        """Queries `(B, h, w, dim / 2)` and a merged grid `(B, h', w', dim)` to `(B, h, w, dim / 2)`."""
        k, v = kv(merged).chunk(2, -1)
        return _attend(q, k, v + local_conv(v), head_dim=self.head_dim)


class DetailConv(nn.Module):
    """Each cell plus what a depthwise 3x3 convolution makes of its neighbourhood."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = _depthwise(dim)

    def forward(self, grid: Tensor) -> Tensor:
        """`(B, h, w, dim)` to the same."""
        return grid + self.dwconv(grid)


class DetailMlp(nn.Module):
    """Two linear layers with the neighbourhood's details added between them."""

    def __init__(self, dim: int, *, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.dwconv = DetailConv(hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, grid: Tensor) -> Tensor:
        """`(B, h, w, dim)` to the same."""
        return self.fc2(self.act(self.dwconv(self.fc1(grid))))


class Block(nn.Module):
    """Attention and an MLP, each with a shortcut."""

    def __init__(self, stage: Stage, *, drop_path_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(stage.dim, eps=NORM_EPS)
        self.attn: nn.Module
        if stage.sr_ratio > 1:
            self.attn = ShuntedAttention(stage.dim, num_heads=stage.heads, sr_ratio=stage.sr_ratio)
        else:
            self.attn = FullAttention(stage.dim, num_heads=stage.heads)
        self.drop_path = StochasticDepth(drop_path_rate, mode="row")
        self.norm2 = nn.LayerNorm(stage.dim, eps=NORM_EPS)
        self.mlp = DetailMlp(stage.dim, hidden_dim=int(stage.dim * stage.mlp_ratio))

    def forward(self, grid: Tensor) -> Tensor:
        """`(B, h, w, dim)` to the same."""
        grid = grid + self.drop_path(self.attn(self.norm1(grid)))
        return grid + self.drop_path(self.mlp(self.norm2(grid)))


class Shunted(Backbone):
    """Shunted Transformer: within one layer, some heads see coarse keys and the others fine ones.

    Takes images of any size from `min_image_size` pixels per side, whatever it was constructed for. Cells
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
        image_size: int | tuple[int, int] = 224,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        _check_arguments(stages, num_stem_convs=num_stem_convs, drop_path_rate=drop_path_rate)
        self.num_classes = num_classes
        self.num_features = stages[-1].dim
        self.feature_info = tuple(FeatureInfo(stage.dim, PATCH_STRIDE * 2**i) for i, stage in enumerate(stages))
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self._input_shape = (in_channels, height, width)
        self.min_image_size = _min_image_size(stages)
        self._check_input_shape(self._input_shape)

        last_block = max(sum(stage.depth for stage in stages) - 1, 1)
        block = 0
        for i, stage in enumerate(stages):
            if i == 0:
                self.patch_embed1 = Stem(in_channels, stage.dim, num_convs=num_stem_convs)
            else:
                self.add_module(f"patch_embed{i + 1}", Downsample(stages[i - 1].dim, stage.dim))
            rates = [drop_path_rate * (block + j) / last_block for j in range(stage.depth)]
            self.add_module(f"block{i + 1}", nn.ModuleList(Block(stage, drop_path_rate=rate) for rate in rates))
            self.add_module(f"norm{i + 1}", nn.LayerNorm(stage.dim, eps=NORM_EPS))
            block += stage.depth
        self.head = self.new_head(num_classes)
        self.apply(_initialise)

    def make_head(self, num_classes: int) -> nn.Module:
        """A linear layer, freshly initialised."""
        return nn.Linear(self.num_features, num_classes).apply(_initialise)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """`(C, H, W)`: the size this network was constructed for."""
        return self._input_shape

    def parameter_stages(self) -> list[tuple[str, ...]]:
        """The stem, each block with the layers that open or close its stage, and the head with the last norm."""
        levels: list[tuple[str, ...]] = [("patch_embed1.",)]
        last = len(self.feature_info)
        for i in range(1, last + 1):
            blocks: list[tuple[str, ...]] = [(f"block{i}.{j}.",) for j in range(len(self._blocks(i)))]
            if i > 1:
                blocks[0] = (f"patch_embed{i}.", *blocks[0])
            if i < last:
                blocks[-1] = (*blocks[-1], f"norm{i}.")
            levels += blocks
        return [*levels, (f"norm{last}.", "head.")]

    def forward_features(self, x: Tensor) -> Tensor:
        """Images `(B, C, H, W)` to the mean of the last tokens, `(B, D)`.

        Raises:
            ValueError: The shape is not one that this network takes.
        """
        return self._run_stages(x)[-1].mean((1, 2))

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """The normed tokens of every stage, as maps `(B, C_i, H_i, W_i)`."""
        return [grid.permute(0, 3, 1, 2) for grid in self._run_stages(x)]

    def _run_stages(self, x: Tensor) -> list[Tensor]:
        """The normed grid `(B, h, w, C)` of every stage, which is also what the next one starts from."""
        self._check_input_shape(tuple(x.shape[1:]))
        grids: list[Tensor] = []
        for i in range(1, len(self.feature_info) + 1):
            x = getattr(self, f"patch_embed{i}")(x)  # (B, h, w, C)
            for block in self._blocks(i):
                x = self.run_block(block, x)
            x = getattr(self, f"norm{i}")(x)
            grids.append(x)
        return grids

    def _blocks(self, stage: int) -> nn.ModuleList:
        return cast("nn.ModuleList", getattr(self, f"block{stage}"))

    def _check_input_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless `shape`, without the batch, is one that this network takes."""
        channels, least = self._input_shape[0], self.min_image_size
        if len(shape) != 3 or shape[0] != channels or min(shape) < 1 or min(shape[1:]) < least:
            raise ValueError(
                f"expected (B, C, H, W) with C={channels} and H, W of {least} or more, got shape {('B', *shape)}"
            )


def _check_arguments(stages: Sequence[Stage], *, num_stem_convs: int, drop_path_rate: float) -> None:
    if not stages:
        raise ValueError(f"stages must hold one row or more, got {stages}")
    if num_stem_convs < 0:
        raise ValueError(f"num_stem_convs must be 0 or more, got {num_stem_convs}")
    if not 0 <= drop_path_rate < 1:
        raise ValueError(f"drop_path_rate must lie in [0, 1), got {drop_path_rate}")


def _min_image_size(stages: Sequence[Stage]) -> int:
    """The fewest pixels per side that leave every stage one whole patch of coarse keys."""
    # Grids round up when they halve. The stem drops broken cells, but 3 pixels suffice for its last one.
    cells = max(2**i * (stage.sr_ratio - 1) + 1 for i, stage in enumerate(stages))
    return PATCH_STRIDE * cells - 1


def _initialise(module: nn.Module) -> None:
    """As `init_trunc_normal`, but for convolutions: normal of std sqrt(2 / fan_out)."""
    if not isinstance(module, nn.Conv2d):
        init_trunc_normal(module)
        return
    fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
    nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _released_stages(depths: tuple[int, int, int, int]) -> tuple[Stage, ...]:
    one, two, three, four = depths
    return (
        Stage(dim=64, depth=one, heads=2, sr_ratio=8, mlp_ratio=8),
        Stage(dim=128, depth=two, heads=4, sr_ratio=4, mlp_ratio=8),
        Stage(dim=256, depth=three, heads=8, sr_ratio=2, mlp_ratio=4),
        Stage(dim=512, depth=four, heads=16, sr_ratio=1, mlp_ratio=4),
    )


def shunted_t(
    num_classes: int = 1000,
    *,
    drop_path_rate: float = 0.1,
    image_size: int | tuple[int, int] = 224,
) -> Shunted:
    """Shunted-T: 11.6 M parameters, 2.1 GFLOPs, 79.8 % on ImageNet-1k."""
    return Shunted(
        _released_stages((1, 2, 4, 1)),
        num_stem_convs=0,
        num_classes=num_classes,
        image_size=image_size,
        drop_path_rate=drop_path_rate,
    )


def shunted_s(
    num_classes: int = 1000,
    *,
    drop_path_rate: float = 0.2,
    image_size: int | tuple[int, int] = 224,
) -> Shunted:
    """Shunted-S: 22.4 M parameters, 5.0 GFLOPs, 82.9 % on ImageNet-1k."""
    return Shunted(
        _released_stages((2, 4, 12, 1)),
        num_stem_convs=1,
        num_classes=num_classes,
        image_size=image_size,
        drop_path_rate=drop_path_rate,
    )


def shunted_b(
    num_classes: int = 1000,
    *,
    drop_path_rate: float = 0.3,
    image_size: int | tuple[int, int] = 224,
) -> Shunted:
    """Shunted-B: 39.6 M parameters, 8.2 GFLOPs, 84.0 % on ImageNet-1k."""
    return Shunted(
        _released_stages((3, 4, 24, 2)),
        num_stem_convs=2,
        num_classes=num_classes,
        image_size=image_size,
        drop_path_rate=drop_path_rate,
    )
