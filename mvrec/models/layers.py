"""Bricks that two architectures really share.

A token grid is `(B, h, w, C)`: the grid's size is the tensor's own, and a grid seen through `permute(0, 3, 1, 2)`
already is a channels-last convolution input, so no layer needs a transposed copy.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from mvrec.models.backbone import Backbone, FeatureInfo
from mvrec.models.fast.attention import attention
from mvrec.models.fast.depthwise import depthwise_conv
from mvrec.models.fast.products import Linear
from mvrec.models.fast.recompute import gelu_linear, norm_linear

# Of every pyramid: pixels per side of a cell of the first stage, and epsilon of the norms of blocks and stages.
PATCH_STRIDE = 4
PYRAMID_NORM_EPS = 1e-6

ImageSize = int | tuple[int, int]  # pixels, square or (H, W)
Grid = tuple[int, int, int]  # tokens along (T, H, W)


def init_trunc_normal(module: nn.Module) -> None:
    """Initialise one module: weights truncated normal of std 0.02, biases 0, norms the identity.

    Meant for `root.apply(init_trunc_normal)`, once, by the network that owns the whole tree.
    """
    if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def init_fan_out(module: nn.Module) -> None:
    """As `init_trunc_normal`, but for convolutions: normal of std sqrt(2 / fan_out)."""
    if not isinstance(module, nn.Conv2d):
        init_trunc_normal(module)
        return
    fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
    nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    if module.bias is not None:
        nn.init.zeros_(module.bias)


class StochasticDepth(nn.Module):
    """Drops the residual branch of whole samples at random and scales up the others (Huang et al. 2016, 1603.09382).

    Draws and numbers are those of torchvision's class of this name, whose import would take seconds.

    Args:
        p: Chance that a sample's branch is dropped, in training.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"the drop path rate must lie in 0..1, got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """`(B, ...)` to the same shape."""
        if not self.training or self.p == 0:
            return x
        survival = 1 - self.p
        kept = x.new_empty([len(x)] + [1] * (x.ndim - 1)).bernoulli_(survival)
        return x * (kept.div_(survival) if survival > 0 else kept)

    def extra_repr(self) -> str:
        """For printing a network."""
        return f"p={self.p}"


def resized_positions(positions: Tensor, size: Grid, new_size: Grid) -> Tensor:
    """`(1, t*h*w, C)` from one grid to another by interpolation; the same grid is returned untouched."""
    if size == new_size:
        return positions
    grid = positions.unflatten(1, size).permute(0, 4, 1, 2, 3)  # (1, C, t, h, w)
    if size[0] == new_size[0]:
        frames = grid.squeeze(0).transpose(0, 1)  # (t, C, h, w)
        frames = F.interpolate(frames, size=new_size[1:], mode="bicubic")
        return frames.permute(0, 2, 3, 1).flatten(0, 2)[None]
    return F.interpolate(grid, size=new_size, mode="trilinear").flatten(2).mT


class Mlp(nn.Module):
    """Two linear layers around a GELU, `(..., dim)` to `(..., dim_out)`."""

    def __init__(self, dim: int, *, hidden_dim: int, dim_out: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = Linear(hidden_dim, dim_out)

    def forward(self, x: Tensor, *, norm: nn.Module) -> Tensor:
        """`(..., dim)`, before their norm, to `(..., dim_out)`."""
        return gelu_linear(norm_linear(x, norm, self.fc1), self.act, self.fc2)


def with_plain_gradient(weight: Tensor) -> Tensor:
    """A kernel `(O, I, kh, kw)` whose gradient has the kernel's own strides, as DDP's buckets want it.

    Of inputs with their channels last it would come back so too. Seen as a matrix, it comes back in the parameter's
    layout, unless that is channels last itself.
    """
    if weight.stride(1) > 1 or weight.shape[2:].numel() == 1:
        return weight.flatten(1).unflatten(1, weight.shape[1:])
    return weight


class GridConv(nn.Conv2d):
    """Convolution over a token grid."""

    def forward(self, grid: Tensor) -> Tensor:
        """`(B, h, w, C)` to `(B, h', w', C')`."""
        weight = with_plain_gradient(self.weight)
        if self.groups == self.in_channels == self.out_channels > 1:
            return depthwise_grid(grid, weight, self.bias, self)
        x = F.conv2d(grid.permute(0, 3, 1, 2), weight, self.bias, self.stride, self.padding, groups=self.groups)
        return x.permute(0, 2, 3, 1)


def depthwise_grid(grid: Tensor, weight: Tensor, bias: Tensor | None, conv: nn.Conv2d) -> Tensor:
    """`(B, h, w, C)` to `(B, h', w', C)` by a convolution's stride and padding, every channel by itself."""
    padding = (0, *cast("tuple[int, int]", conv.padding))
    return depthwise_conv(grid[:, None], weight[:, :, None], bias, stride=conv.stride[0], padding=padding)[:, 0]


def depthwise(dim: int) -> GridConv:
    """A 3x3 convolution of every channel by itself, over a token grid that keeps its size."""
    return GridConv(dim, dim, 3, padding=1, groups=dim)


class DetailConv(nn.Module):
    """Each cell plus what a depthwise 3x3 convolution makes of its neighbourhood."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = depthwise(dim)

    def forward(self, grid: Tensor) -> Tensor:
        """`(B, h, w, dim)` to the same."""
        return grid + self.dwconv(grid)


class DetailMlp(nn.Module):
    """Two linear layers with the neighbourhood's details added between them."""

    def __init__(self, dim: int, *, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.dwconv = DetailConv(hidden_dim)
        self.act = nn.GELU()
        self.fc2 = Linear(hidden_dim, dim)

    def forward(self, grid: Tensor) -> Tensor:
        """`(B, h, w, dim)` to the same."""
        return gelu_linear(self.dwconv(self.fc1(grid)), self.act, self.fc2)


def attend(q: Tensor, k: Tensor, v: Tensor, *, head_dim: int) -> Tensor:
    """Grids `(B, h, w, heads * d)`; keys and values share theirs, and the queries' is the output's."""
    size = q.shape[1:3]
    q, k, v = (part.flatten(1, 2).unflatten(-1, (-1, head_dim)) for part in (q, k, v))  # (B, N, heads, d)
    return attention(q, k, v, scale=head_dim**-0.5).flatten(2).unflatten(1, size)


@dataclass(frozen=True)
class PyramidStage:
    """What the rows of all pyramids' architecture tables say.

    Args:
        dim: Width of the tokens.
        depth: Number of blocks.
        heads: Attention heads.
        sr_ratio: Cells per side that half of the heads merges into one key; what the others see is the network's
            affair. 1 for plain attention over all tokens.
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
        if self.dim % self.heads:
            raise ValueError(f"width {self.dim} does not split over {self.heads} heads, got {self}")
        if self.sr_ratio > 1 and self.heads % 2:
            raise ValueError(f"half of the heads sees other keys than the rest, so heads must be even, got {self}")


class Pyramid(Backbone):
    """A network of stages on token grids, whose features are the mean of the last tokens.

    Stage `i`, counted from 1, is `patch_embed{i}`, the blocks `block{i}.{j}` and `norm{i}`. The first has cells of
    4x4 pixels, and each of the others halves its grid. A subclass calls `_add_stages` when it has made the modules.

    Args:
        stages: The rows of the architecture table, from fine to coarse.
        num_classes: Classes of the head; 0 for none.
        image_size: Pixels, square or (H, W), that it is constructed for.
        in_channels: Channels of the input.

    Raises:
        ValueError: There is no stage, or the image size is below `min_image_size`.
    """

    def __init__(
        self,
        stages: Sequence[PyramidStage],
        *,
        num_classes: int,
        image_size: ImageSize,
        in_channels: int,
    ) -> None:
        super().__init__()
        if not stages:
            raise ValueError(f"stages must hold one row or more, got {stages}")
        self.num_classes = num_classes
        self.num_features = stages[-1].dim
        self.feature_info = tuple(FeatureInfo(stage.dim, PATCH_STRIDE * 2**i) for i, stage in enumerate(stages))
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self._input_shape = (in_channels, height, width)
        self.min_image_size = self._smallest_image_size(stages)
        self._check_input_shape(self._input_shape)

    def _smallest_image_size(self, stages: Sequence[PyramidStage]) -> int:
        """The fewest pixels per side that leave all blocks something to attend to."""
        raise NotImplementedError

    def _add_stages(self, embeds: Iterable[nn.Module], blocks: Iterable[Iterable[nn.Module]]) -> None:
        """Take over the stages' modules, from fine to coarse, make the head, and initialise everything."""
        for i, (embed, stage_blocks) in enumerate(zip(embeds, blocks, strict=True)):
            self.add_module(f"patch_embed{i + 1}", embed)
            self.add_module(f"block{i + 1}", nn.ModuleList(stage_blocks))
            self.add_module(f"norm{i + 1}", nn.LayerNorm(self.feature_info[i].channels, eps=PYRAMID_NORM_EPS))
        self.head = self.new_head(self.num_classes)
        self.apply(init_fan_out)

    def make_head(self, num_classes: int) -> nn.Module:
        """A linear layer, freshly initialised."""
        return nn.Linear(self.num_features, num_classes).apply(init_fan_out)

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
            x = self._embed(x, i)  # (B, h, w, C)
            x = self._run_blocks(self._blocks(i), x)
            x = getattr(self, f"norm{i}")(x)
            grids.append(x)
        return grids

    def _embed(self, x: Tensor, stage: int) -> Tensor:
        """Images `(B, C, H, W)` or the grid before to the grid that the stage starts from."""
        return getattr(self, f"patch_embed{stage}")(x)

    def _run_blocks(self, blocks: nn.ModuleList, grid: Tensor) -> Tensor:
        """`(B, h, w, C)` to the same."""
        for block in blocks:
            grid = self.run_block(block, grid)
        return grid

    def _blocks(self, stage: int) -> nn.ModuleList:
        return cast("nn.ModuleList", getattr(self, f"block{stage}"))

    def _check_input_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless `shape`, without the batch, is one that this network takes."""
        channels, least = self._input_shape[0], self.min_image_size
        if channels < 1:
            raise ValueError(f"in_channels must be 1 or more, got {channels}")
        if len(shape) != 3 or shape[0] != channels or min(shape[1:]) < least:
            raise ValueError(
                f"expected (B, C, H, W) with C={channels} and H, W of {least} or more, got shape {('B', *shape)}"
            )


def drop_path_rates(stages: Sequence[PyramidStage], *, last: float) -> list[list[float]]:
    """Stochastic depth of every block of every stage: linearly from 0 at the first to `last` at the last.

    Raises:
        ValueError: `last` is no probability below 1.
    """
    if not 0 <= last < 1:
        raise ValueError(f"drop_path_rate must lie in [0, 1), got {last}")
    depths = [stage.depth for stage in stages]
    rates = [last * block / max(sum(depths) - 1, 1) for block in range(sum(depths))]
    return [rates[sum(depths[:i]) : sum(depths[: i + 1])] for i in range(len(depths))]
