"""CloFormer for images, with the parameter names of the authors' release.

Fan et al. 2023, "Rethinking Local Perception in Lightweight Vision Transformer", arXiv 2303.17803.
Where the paper and its released models differ, the released models win, because their weights must load: the
stem ends in one more 1x1 convolution, the downsampling shortcut is a dense convolution, norms are group norms.
Everything is `(B, C, H, W)`, and every "linear" layer a 1x1 convolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from mvrec.models.backbone import Backbone, FeatureInfo, Level
from mvrec.models.layers import SoftmaxAttention, StochasticDepth

STEM_STRIDE = 4

Branches = Literal["both", "global", "local"]


@dataclass(frozen=True)
class Stage:
    """One row of the paper's table: blocks of one width on one grid, each half as fine as the one before.

    Attributes:
        dim: Width of the stage.
        depth: Number of blocks.
        heads: Attention heads, local and global together.
        local_heads: How many of them attend locally; the rest attends globally.
        kernel: Depthwise kernel that gathers the neighbourhood of the local heads.
        kv_pool: Stride at which the grid is averaged for the keys and values of the global heads.
    """

    dim: int
    depth: int
    heads: int
    local_heads: int
    kernel: int
    kv_pool: int


def _norm(dim: int) -> nn.GroupNorm:
    return nn.GroupNorm(1, dim)


def _depthwise(dim: int, kernel: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(dim, dim, kernel, stride, kernel // 2, groups=dim)


def _pointwise(dim: int, dim_out: int) -> nn.Conv2d:
    return nn.Conv2d(dim, dim_out, 1)


class ConvNorm(nn.Module):
    """3x3 convolution, batch norm and ReLU."""

    def __init__(self, dim: int, dim_out: int, *, stride: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(dim, dim_out, 3, stride, 1), nn.BatchNorm2d(dim_out), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """`(B, dim, H, W)` to `(B, dim_out, h, w)`."""
        return self.conv(x)


class PatchEmbed(nn.Module):
    """Four 3x3 convolutions, the first two of stride 2, and a 1x1 convolution."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, dim // 2, stride=2)
        self.conv2 = ConvNorm(dim // 2, dim, stride=2)
        self.conv3 = ConvNorm(dim, dim, stride=1)
        self.conv4 = ConvNorm(dim, dim, stride=1)
        self.conv5 = _pointwise(dim, dim)
        self.layernorm = _norm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to `(B, dim, h, w)`, a quarter of the size rounded up."""
        x = self.conv4(self.conv3(self.conv2(self.conv1(x.contiguous()))))
        return self.layernorm(self.conv5(x))


class Gate(nn.Module):
    """The non-linearity of the local attention before its tanh."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.act_block = nn.Sequential(_pointwise(dim, dim), nn.SiLU(), _pointwise(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, dim, h, w)` to the same shape."""
        return self.act_block(x)


class Attention(nn.Module):
    """Local and global attention side by side, each with its own heads and its own channels.

    The lists of one module each follow the authors' names, which allow several local kernels.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.head_dim = stage.dim // stage.heads
        self.local_dim = stage.local_heads * self.head_dim
        self.global_heads = stage.heads - stage.local_heads
        if self.global_heads:
            global_dim = self.global_heads * self.head_dim
            self.global_q = _pointwise(stage.dim, global_dim)
            self.global_kv = _pointwise(stage.dim, 2 * global_dim)
            self.softmax = SoftmaxAttention()
            self.avgpool = nn.AvgPool2d(stage.kv_pool) if stage.kv_pool > 1 else nn.Identity()
        if self.local_dim:
            dim, qkv_dim = self.local_dim, 3 * self.local_dim
            self.convs = nn.ModuleList([_depthwise(qkv_dim, stage.kernel)])
            self.act_blocks = nn.ModuleList([Gate(dim)])
            self.qkvs = nn.ModuleList([_pointwise(stage.dim, qkv_dim)])
        self.proj = _pointwise(stage.dim, stage.dim)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, h, w)` to the same shape."""
        parts = []
        if self.local_dim:
            parts.append(self._attend_locally(x))
        if self.global_heads:
            parts.append(self._attend_globally(x))
        return self.proj(torch.cat(parts, 1))

    def _attend_locally(self, x: Tensor) -> Tensor:
        """`(B, C, h, w)` to `(B, local_dim, h, w)`: weights from the neighbourhood, one per channel and place."""
        q, k, v = self.convs[0](self.qkvs[0](x)).chunk(3, 1)
        # The scale is that of a head, although this sums over no head's channels.
        return torch.tanh(self.act_blocks[0](q * k) * self.head_dim**-0.5) * v

    def _attend_globally(self, x: Tensor) -> Tensor:
        """`(B, C, h, w)` to `(B, global_dim, h, w)`: every place attends to the averaged grid.

        If the pooling does not divide the grid, the last rows and columns have queries but no keys.
        """
        heads = (self.global_heads, self.head_dim)
        q = self.global_q(x).flatten(2).unflatten(1, heads).mT  # (B, heads, N, d)
        kv = self.global_kv(self.avgpool(x)).flatten(2).unflatten(1, (2, *heads)).mT
        attended = self.softmax(q, kv[:, 0], kv[:, 1])
        return attended.transpose(1, 2).flatten(2).mT.unflatten(2, x.shape[2:])  # from (B, N, heads, d)


class ConvMlp(nn.Module):
    """Two 1x1 convolutions around a GELU and a depthwise convolution, which may halve the grid."""

    def __init__(self, dim: int, *, hidden_dim: int, dim_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.fc1 = _pointwise(dim, hidden_dim)
        self.act = nn.GELU()
        self.dwconv = _depthwise(hidden_dim, kernel, stride=stride)
        self.fc2 = _pointwise(hidden_dim, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, dim, h, w)` to `(B, dim_out, h', w')`."""
        return self.fc2(self.dwconv(self.act(self.fc1(x))))


class Block(nn.Module):
    """Attention, then the MLP, which leads to the next stage when `dim_out` is given."""

    def __init__(
        self, stage: Stage, *, dim_out: int | None, mlp_ratio: float, mlp_kernel: int, drop_path_rate: float
    ) -> None:
        super().__init__()
        dim = stage.dim
        self.norm1 = _norm(dim)
        self.attn = Attention(stage)
        self.drop_path = StochasticDepth(drop_path_rate)
        self.norm2 = _norm(dim)
        self.downsample: nn.Module | None = None
        if dim_out is not None:
            k, pad = mlp_kernel, mlp_kernel // 2
            self.downsample = nn.Sequential(
                nn.Conv2d(dim, dim, k, 2, pad), nn.BatchNorm2d(dim), _pointwise(dim, dim_out)
            )
        self.mlp = ConvMlp(
            dim,
            hidden_dim=int(dim * mlp_ratio),
            dim_out=dim if dim_out is None else dim_out,
            kernel=mlp_kernel,
            stride=1 if dim_out is None else 2,
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map `(B, C, h, w)` to the attention's output, of the same shape, and the MLP's residual.

        The block's output is `shortcut(attended) + residual`. The caller applies the shortcut because of its batch
        norm: under activation checkpointing it would be recomputed and count every batch twice.
        """
        attended = x + self.drop_path(self.attn(self.norm1(x)))
        return attended, self.drop_path(self.mlp(self.norm2(attended)))

    def shortcut(self, attended: Tensor) -> Tensor:
        """`(B, C, h, w)` to the shape of the residual."""
        return attended if self.downsample is None else self.downsample(attended)


class CloFormer(Backbone):
    """Convolutional local attention next to global attention on an averaged grid, without positions.

    Images `(B, C, H, W)` of any size of at least one cell of the coarsest grid, pooled or not.

    Args:
        stages: The rows of the network from fine to coarse.
        num_classes: Classes of the head; 0 for none.
        image_size: Pixels, square or (H, W), that `input_shape` states; no weight depends on it.
        in_channels: Channels of the input.
        branches: Which attention the heads run: as `stages` splits them, or all "global" or all "local",
            the paper's ablations (`cloformer_global` and `cloformer_no_global` in the authors' release).
        mlp_ratio: Hidden width of the MLP over its input width.
        mlp_kernel: Kernel of the MLP's depthwise convolution and of the downsampling shortcut.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from 0 at the first.

    Raises:
        ValueError: The arguments contradict one another, or the size is below one cell.
    """

    map_norm = "group"

    def __init__(
        self,
        *,
        stages: Sequence[Stage],
        num_classes: int = 1000,
        image_size: int | tuple[int, int] = 224,
        in_channels: int = 3,
        branches: Branches = "both",
        mlp_ratio: float = 4.0,
        mlp_kernel: int = 5,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if branches not in get_args(Branches):
            raise ValueError(f"branches must be one of {get_args(Branches)}, got {branches!r}")
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must lie in [0, 1), got {drop_path_rate}")
        if in_channels < 1:
            raise ValueError(f"in_channels must be 1 or more, got {in_channels}")
        _check_odd("mlp_kernel", mlp_kernel)
        _check_stages(stages, mlp_ratio=mlp_ratio)
        stages = [_with_branches(stage, branches) for stage in stages]
        self.num_classes = num_classes
        self.num_features = stages[-1].dim
        self.feature_info = tuple(FeatureInfo(s.dim, STEM_STRIDE * 2**i) for i, s in enumerate(stages))
        self._min_size = _min_size(stages)
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self._input_shape = (in_channels, height, width)
        self._check_input_shape(self._input_shape)

        self.patch_embed = PatchEmbed(in_channels, stages[0].dim)
        self.layers = _make_layers(stages, mlp_ratio=mlp_ratio, mlp_kernel=mlp_kernel, drop_path_rate=drop_path_rate)
        self.norm = _norm(self.num_features)
        self.head = self.new_head(num_classes)

    def make_head(self, num_classes: int) -> nn.Module:
        """Return a freshly initialised linear layer."""
        return nn.Linear(self.num_features, num_classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """`(C, H, W)`: the size this network was constructed for, though its weights fit any other."""
        return self._input_shape

    def parameter_stages(self) -> list[tuple[str, ...]]:
        """Return the stem, each block with its downsampling, and the head with the last norm."""
        depths = [len(blocks) for blocks in self._blocks()]
        blocks = [(f"layers.{i}.blocks.{j}.",) for i, depth in enumerate(depths) for j in range(depth)]
        return [("patch_embed.",), *blocks, ("norm.", "head.")]

    def forward_features(self, x: Tensor) -> Tensor:
        """Map image `(B, C, H, W)` to `(B, D)`.

        Raises:
            ValueError: The shape is not one that this network takes.
        """
        x, _ = self._run_blocks(x)
        return self.norm(x).mean((2, 3))

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Return the last tensor on every grid, `(B, C_i, H_i, W_i)`.

        Only the last map has passed the final norm.
        """
        x, finer = self._run_blocks(x)
        return [*finer, self.norm(x)]

    def levels(self, shape: tuple[int, ...]) -> list[Level]:
        """Return the places before the MLPs of the finer stages' last blocks, and the final norm."""
        modules = [*(blocks[-1] for blocks in self._blocks()[:-1]), self.norm]
        strides = [info.stride for info in self.feature_info]
        return [Level(module, lambda output: output, stride) for module, stride in zip(modules, strides, strict=True)]

    def _run_blocks(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run all blocks: return the last map before the final norm, and the last tensor on each finer grid."""
        self._check_input_shape(tuple(x.shape[1:]))
        x = self.patch_embed(x)
        levels = []
        for blocks in self._blocks():
            for block in blocks:
                attended, residual = self.run_block(block, x)
                x = block.shortcut(attended) + residual
            # The MLP of a stage's last block already changes grid and width, so the stage's map is its attention's
            # output.
            levels.append(attended)
        return x, levels[:-1]

    def _blocks(self) -> list[list[Block]]:
        """Return the blocks of every stage."""
        return [list(cast("Sequence[Block]", layer["blocks"])) for layer in cast("list[nn.ModuleDict]", self.layers)]

    def _check_input_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless `shape`, without the batch, is one that this network takes."""
        channels = self._input_shape[0]
        if len(shape) != 3 or shape[0] != channels or min(shape[1:]) < self._min_size:
            expected = f"(B, C, H, W) with C={channels} and H, W of {self._min_size} or more"
            raise ValueError(f"expected {expected}, got shape {('B', *shape)}")


def _make_layers(stages: Sequence[Stage], *, mlp_ratio: float, mlp_kernel: int, drop_path_rate: float) -> nn.ModuleList:
    depth = sum(stage.depth for stage in stages)
    rates = iter([drop_path_rate * i / max(depth - 1, 1) for i in range(depth)])
    layers = nn.ModuleList()
    for stage, coarser in zip(stages, [*stages[1:], None], strict=True):
        exits = [None] * (stage.depth - 1) + [coarser.dim if coarser else None]
        blocks = (
            Block(stage, dim_out=dim, mlp_ratio=mlp_ratio, mlp_kernel=mlp_kernel, drop_path_rate=next(rates))
            for dim in exits
        )
        layers.append(nn.ModuleDict({"blocks": nn.ModuleList(blocks)}))
    return layers


def _with_branches(stage: Stage, branches: Branches) -> Stage:
    local_heads = {"both": stage.local_heads, "global": 0, "local": stage.heads}[branches]
    return replace(stage, local_heads=local_heads)


def _min_size(stages: Sequence[Stage]) -> int:
    """Return pixels that leave one cell on the coarsest grid and one pooled cell on every other."""
    pools = [stage.kv_pool if stage.local_heads < stage.heads else 1 for stage in stages]
    return max(STEM_STRIDE * 2**i * pool for i, pool in enumerate(pools))


def _check_stages(stages: Sequence[Stage], *, mlp_ratio: float) -> None:
    if not stages:
        raise ValueError("stages must name one stage or more, got none")
    if stages[0].dim % 2:
        raise ValueError(f"the first stage's dim is halved in the stem, so it must be even, got {stages[0].dim}")
    for i, stage in enumerate(stages):
        if min(stage.dim, stage.depth, stage.heads, stage.kv_pool) < 1:
            raise ValueError(f"stage {i}: dim, depth, heads and kv_pool must be 1 or more, got {stage}")
        if stage.dim % stage.heads:
            raise ValueError(f"stage {i}: dim {stage.dim} does not split over {stage.heads} heads")
        if not 0 <= stage.local_heads <= stage.heads:
            raise ValueError(f"stage {i}: local_heads must lie in 0..{stage.heads}, got {stage.local_heads}")
        if int(stage.dim * mlp_ratio) < 1:
            raise ValueError(f"stage {i}: mlp_ratio {mlp_ratio} leaves no hidden channel of dim {stage.dim}")
        _check_odd(f"stage {i}: kernel", stage.kernel)


def _check_odd(name: str, kernel: int) -> None:
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"{name} must be odd and positive, got {kernel}")


def cloformer_xxs(
    num_classes: int = 1000,
    *,
    image_size: int | tuple[int, int] = 224,
    in_channels: int = 3,
    drop_path_rate: float = 0.0,
    branches: Branches = "both",
) -> CloFormer:
    """Build CloFormer-XXS: 4.2 M parameters, 0.6 GFLOPs, 77.0 % on ImageNet-1k."""
    return CloFormer(
        stages=(
            Stage(dim=32, depth=2, heads=4, local_heads=3, kernel=3, kv_pool=8),
            Stage(dim=64, depth=2, heads=4, local_heads=2, kernel=5, kv_pool=4),
            Stage(dim=128, depth=6, heads=8, local_heads=4, kernel=7, kv_pool=2),
            Stage(dim=256, depth=2, heads=16, local_heads=4, kernel=9, kv_pool=1),
        ),
        num_classes=num_classes,
        image_size=image_size,
        in_channels=in_channels,
        drop_path_rate=drop_path_rate,
        branches=branches,
    )


def cloformer_xs(
    num_classes: int = 1000,
    *,
    image_size: int | tuple[int, int] = 224,
    in_channels: int = 3,
    drop_path_rate: float = 0.06,
    branches: Branches = "both",
) -> CloFormer:
    """Build CloFormer-XS: 7.2 M parameters, 1.1 GFLOPs, 79.8 % on ImageNet-1k."""
    return CloFormer(
        stages=(
            Stage(dim=48, depth=2, heads=3, local_heads=2, kernel=3, kv_pool=8),
            Stage(dim=96, depth=2, heads=6, local_heads=3, kernel=5, kv_pool=4),
            Stage(dim=160, depth=6, heads=10, local_heads=5, kernel=7, kv_pool=2),
            Stage(dim=352, depth=2, heads=22, local_heads=7, kernel=9, kv_pool=1),
        ),
        num_classes=num_classes,
        image_size=image_size,
        in_channels=in_channels,
        drop_path_rate=drop_path_rate,
        branches=branches,
    )


def cloformer_s(
    num_classes: int = 1000,
    *,
    image_size: int | tuple[int, int] = 224,
    in_channels: int = 3,
    drop_path_rate: float = 0.06,
    branches: Branches = "both",
) -> CloFormer:
    """Build CloFormer-S: 12.3 M parameters, 2.0 GFLOPs, 81.6 % on ImageNet-1k."""
    return CloFormer(
        stages=(
            Stage(dim=64, depth=2, heads=4, local_heads=3, kernel=3, kv_pool=8),
            Stage(dim=128, depth=2, heads=8, local_heads=4, kernel=5, kv_pool=4),
            Stage(dim=224, depth=6, heads=14, local_heads=7, kernel=7, kv_pool=2),
            Stage(dim=448, depth=2, heads=28, local_heads=7, kernel=9, kv_pool=1),
        ),
        num_classes=num_classes,
        image_size=image_size,
        in_channels=in_channels,
        drop_path_rate=drop_path_rate,
        branches=branches,
    )
