"""SG-Former for images, with the parameter names of the authors' release.

Ren et al. 2023, "SG-Former: Self-guided Transformer with Evolving Token Reallocation", arXiv 2308.12216.
Where the paper and its released models differ, the released models win, because their weights must load.

Blocks come in pairs. A hybrid block attends, and records how much attention each token received; the guided block
after it merges many unimportant tokens into one key and few important ones. Every stage pairs its own blocks.

The released models accept only squares of a multiple of 224 pixels. There this network equals them; for other
sizes windows are cut at the border, patches padded, and sorted tokens repeated to fill whole chunks, so that every
token counts at every size. Tokens are grids `(B, h, w, C)` from end to end, as `mvrec.models.layers` describes.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvrec.models.layers import DetailMlp, GridAttention, GridConv, StochasticDepth, depthwise, resized_positions
from mvrec.models.pyramid import (
    PATCH_STRIDE,
    PYRAMID_NORM_EPS,
    ImageSize,
    Pyramid,
    PyramidStage,
    drop_path_rates,
)

WINDOW = 7  # tokens per side of a local head's window


@dataclass(frozen=True)
class Stage(PyramidStage):
    """One row of the architecture table; heads that merge no patches attend to their own window.

    Args:
        chunks: Tokens that a guided block merges into one key, from the least important to the most: of the lower
            and the upper half of the tokens, or of the lowest quarter, the middle half and the highest quarter.
            None for plain attention.

    Raises:
        ValueError: The numbers contradict one another.
    """

    chunks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sr_ratio < 1:
            raise ValueError(f"sr_ratio must be 1 or more, got {self}")
        if self.sr_ratio == 1 and self.chunks:
            raise ValueError(f"plain attention (sr_ratio 1) merges no chunks, got {self}")
        if self.sr_ratio > 1 and (len(self.chunks) not in (2, 3) or min(self.chunks) < 1):
            raise ValueError(f"chunks must be two or three positive sizes, got {self}")


class ConvNorm(nn.Module):
    """Convolution over a token grid and a norm over all of a grid's tokens and channels."""

    def __init__(self, dim: int, dim_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = GridConv(dim, dim_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.GroupNorm(1, dim_out)  # the authors' name; no batch norm

    def forward(self, grid: Tensor) -> Tensor:
        """`(B, h, w, dim)` to `(B, ceil(h / stride), ceil(w / stride), dim_out)`."""
        return self.bn(self.c(grid).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Stem(nn.Module):
    """Three 3x3 convolutions, two of them of stride 2: 4 pixels to a cell in all, rounded up."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            ConvNorm(in_channels, dim, 3, stride=2),
            nn.GELU(),
            ConvNorm(dim, dim, 3),
            nn.GELU(),
            ConvNorm(dim, dim, 3, stride=2),
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(B, C, H, W)` to a grid `(B, h, w, dim)`."""
        return self.norm(self.conv(x.permute(0, 2, 3, 1)))


class Downsample(nn.Module):
    """Patches between two stages: half the cells per side, rounded up."""

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim, dim_out, 1)
        self.conv2 = ConvNorm(dim_out, dim_out, 3, stride=2, groups=dim_out)
        self.conv3 = ConvNorm(dim_out, dim_out, 1)
        self.act = nn.GELU()

    def forward(self, grid: Tensor) -> Tensor:
        """`(B, h, w, dim)` to `(B, ceil(h / 2), ceil(w / 2), dim_out)`."""
        return self.conv3(self.act(self.conv2(self.act(self.conv1(grid)))))


class Attention(nn.Module):
    """The common part of all attention here: the neighbourhood added to the attention's output, and a projection."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.head_dim = stage.dim // stage.heads
        self.lepe_linear = nn.Linear(stage.dim, stage.dim)
        self.lepe_conv = depthwise(stage.dim)
        self.proj = nn.Linear(stage.dim, stage.dim)

    def projected(self, attended: Tensor, grid: Tensor) -> Tensor:
        """Project `(B, h, w, dim)`, the attention's output, plus the neighbourhood of the block's input tokens."""
        return self.proj(attended + self.lepe_conv(self.lepe_linear(grid)))


class FullAttention(Attention):
    """Attention over all tokens."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.attend = GridAttention(self.head_dim)
        self.q = nn.Linear(stage.dim, stage.dim)
        self.kv = nn.Linear(stage.dim, 2 * stage.dim)

    def forward(self, grid: Tensor, importance: None = None) -> tuple[Tensor, None]:
        """`(B, h, w, dim)` to the same; there is no importance in this stage."""
        k, v = self.kv(grid).chunk(2, -1)
        return self.projected(self.attend(self.q(grid), k, v), grid), None


class HybridAttention(Attention):
    """Attention of half of the heads to merged patches of the whole grid, and of half to their own window.

    A token's importance is the attention that it receives, as a member of its patch and of its window. A window cut
    by the border holds fewer queries, and their sum is still divided by a whole window's 49: a mean over the actual
    queries would make tokens important because they lie at the border.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        dim = stage.dim
        self.sr_ratio = stage.sr_ratio
        self.sr = GridConv(dim, dim, stage.sr_ratio, stage.sr_ratio)
        self.norm = nn.LayerNorm(dim)
        self.act = nn.GELU()
        self.q1 = nn.Linear(dim, dim // 2)
        self.kv1 = nn.Linear(dim, dim)
        self.q2 = nn.Linear(dim, dim // 2)
        self.kv2 = nn.Linear(dim, dim)

    def forward(self, grid: Tensor, importance: None = None) -> tuple[Tensor, Tensor]:
        """Map `(B, h, w, dim)` to the same shape and the tokens' importance `(B, h, w)`; no importance comes in."""
        far, importance_of_patches = self._attend_globally(grid)
        near, importance_in_windows = self._attend_locally(grid)
        attended = torch.cat([far, near], 3).flatten(3)  # (B, h, w, heads, d) to (B, h, w, dim)
        return self.projected(attended, grid), importance_of_patches + importance_in_windows

    def _attend_globally(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, h, w, dim)` to `(B, h, w, heads / 2, d)` and importance `(B, h, w)`."""
        h, w = grid.shape[1:3]
        # Padded, not floored: on a map of 28, a quarter of all tokens would belong to no whole patch of 8.
        patches = self.act(self.norm(self.sr(_padded(grid, self.sr_ratio))))  # (B, h', w', dim)
        q = self.q1(grid).flatten(1, 2).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, heads / 2, N, d)
        kv = self.kv1(patches).flatten(1, 2).unflatten(-1, (2, -1, self.head_dim))
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads / 2, M, d)
        attended, probabilities = _attend_visibly(q, k, v)
        received = probabilities.mean((1, 2)).unflatten(1, patches.shape[1:3])
        received = received.repeat_interleave(self.sr_ratio, 1).repeat_interleave(self.sr_ratio, 2)
        return attended.transpose(1, 2).unflatten(1, (h, w)), received[:, :h, :w]

    def _attend_locally(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, h, w, dim)` to `(B, h, w, heads / 2, d)` and importance `(B, h, w)`."""
        h, w = grid.shape[1:3]
        q, k, v = (self._windows(part) for part in (self.q2(grid), *self.kv2(grid).chunk(2, -1)))
        real = _real_tokens(h, w, device=grid.device)
        attended, probabilities = _attend_visibly(q, k, v, real=real)  # (B, h', w', heads / 2, 49, d or 49)
        if real is not None:
            probabilities = probabilities * real[..., None, :, None]  # padding has no queries
        received = probabilities.sum(4).mean(3) / WINDOW**2
        received = received.unflatten(3, (WINDOW, WINDOW)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        attended = attended.unflatten(4, (WINDOW, WINDOW)).permute(0, 1, 4, 2, 5, 3, 6)
        attended = attended.flatten(3, 4).flatten(1, 2)  # (B, h' * 7, w' * 7, heads / 2, d)
        return attended[:, :h, :w], received[:, :h, :w]

    def _windows(self, grid: Tensor) -> Tensor:
        """`(B, h, w, C)` to `(B, h', w', heads, 49, d)`, with zeros beyond the grid."""
        x = _padded(grid, WINDOW)
        x = x.unflatten(3, (-1, self.head_dim)).unflatten(2, (-1, WINDOW)).unflatten(1, (-1, WINDOW))
        return x.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5)  # from (B, h', 7, w', 7, heads, d)


class GuidedAttention(Attention):
    """Attention to tokens merged by importance: many unimportant ones into one key, few important ones."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.chunks = stage.chunks
        self.attend = GridAttention(self.head_dim)
        self.q = nn.Linear(stage.dim, stage.dim)
        self.kv1 = nn.Linear(stage.dim, stage.dim)
        self.kv2 = nn.Linear(stage.dim, stage.dim)
        for i, chunk in enumerate(stage.chunks, start=1):
            self.add_module(f"f{i}", nn.Linear(chunk, 1))

    def forward(self, grid: Tensor, importance: Tensor) -> tuple[Tensor, None]:
        """`(B, h, w, dim)` and importance `(B, h, w)` to `(B, h, w, dim)`; the importance is used up."""
        merged = self._merged(grid, importance)
        # The authors' second half of heads sees the tokens column by column: once sorted, equal except for ties.
        (k1, v1), (k2, v2) = self.kv1(merged).chunk(2, -1), self.kv2(merged).chunk(2, -1)
        k, v = (torch.cat(halves, -1)[:, None] for halves in ((k1, k2), (v1, v2)))  # (B, 1, M, dim)
        return self.projected(self.attend(self.q(grid), k, v), grid), None

    def _merged(self, grid: Tensor, importance: Tensor) -> Tensor:
        """`(B, h, w, dim)` to `(B, M, dim)`, from the least important tokens to the most."""
        order = importance.flatten(1).sort(stable=True).indices  # (B, N)
        batch_size, num_tokens = order.shape
        lengths = _part_lengths(num_tokens, len(self.chunks))
        places = [math.ceil(length / chunk) * chunk for length, chunk in zip(lengths, self.chunks, strict=True)]
        if places != lengths:
            order = order[:, _ranks(lengths, places, device=order.device)]
        first = torch.arange(batch_size, device=order.device)[:, None] * num_tokens
        tokens = F.embedding(order + first, grid.flatten(0, 2))  # rows of the whole batch: (B, sum of places, dim)
        parts = tokens.split(places, 1)
        return torch.cat([self._merge(part, i) for i, part in enumerate(parts, start=1)], 1)

    def _merge(self, part: Tensor, i: int) -> Tensor:
        """`(B, M * chunk, dim)` to `(B, M, dim)`: a weighted sum of each chunk, all channels alike."""
        f = cast("nn.Linear", getattr(self, f"f{i}"))
        weight = f.weight.flatten()  # (chunk,)
        return (part.unflatten(1, (-1, len(weight))) * weight[:, None]).sum(2) + f.bias


def _attend_visibly(q: Tensor, k: Tensor, v: Tensor, *, real: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Map queries `(..., N, d)`, keys, values `(..., M, d)` to `(..., N, d)` and probabilities `(..., N, M)`.

    The importance sums the probabilities over the queries, which fused attention does not return. It is then sorted:
    rounded to bfloat16, scores would tie for different tokens. So the probabilities are float32 or better, and
    detached. `real` marks keys that are not padding, `(..., M)` without the axis of the heads; None for all.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    with _without_autocast(q.device):
        scores = q.to(dtype) @ (k.to(dtype) * q.shape[-1] ** -0.5).mT
        if real is not None:
            scores = scores.masked_fill(~real[..., None, None, :], -math.inf)
        probabilities = scores.softmax(-1)
    return probabilities.to(v.dtype) @ v, probabilities.detach()


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _padded(grid: Tensor, multiple: int) -> Tensor:
    """Pad `(B, h, w, C)` with zeros at the lower and right border, up to whole multiples."""
    bottom, right = (-size % multiple for size in grid.shape[1:3])
    return F.pad(grid, (0, 0, 0, right, 0, bottom)) if bottom or right else grid


def _real_tokens(h: int, w: int, *, device: torch.device) -> Tensor | None:
    """Return which places of the windows lie in the grid, `(h', w', 49)`; None if all do."""
    if h % WINDOW == 0 and w % WINDOW == 0:
        return None
    rows, columns = (
        (torch.arange(size + -size % WINDOW, device=device) < size).unflatten(0, (-1, WINDOW)) for size in (h, w)
    )
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(2)


def _part_lengths(num_tokens: int, num_parts: int) -> list[int]:
    """Return the numbers of tokens of low and high, or of low, middle and high importance."""
    if num_parts == 2:
        return [num_tokens // 2, num_tokens - num_tokens // 2]
    quarter = num_tokens // 4
    return [quarter, num_tokens - 2 * quarter, quarter]


def _ranks(lengths: Sequence[int], places: Sequence[int], *, device: torch.device) -> Tensor:
    """Return ranks of the sorted tokens, part by part, that fill places of whole chunks.

    If a part is not a multiple of its chunk, some of its tokens, evenly spread, are repeated. So no chunk is short:
    with zeros instead it would be a weak key, and with weights scaled up, of either sign, a noisy one.
    """
    ranks, first = [], 0
    for length, num_places in zip(lengths, places, strict=True):
        ranks.append(first + torch.arange(num_places, device=device) * length // num_places)
        first += length
    return torch.cat(ranks)


class Block(nn.Module):
    """Attention and an MLP, each with a shortcut."""

    def __init__(self, stage: Stage, *, index: int, drop_path_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(stage.dim, eps=PYRAMID_NORM_EPS)
        self.attn: nn.Module
        if stage.sr_ratio == 1:
            self.attn = FullAttention(stage)
        else:
            self.attn = GuidedAttention(stage) if index % 2 else HybridAttention(stage)
        self.drop_path = StochasticDepth(drop_path_rate)
        self.norm2 = nn.LayerNorm(stage.dim, eps=PYRAMID_NORM_EPS)
        self.mlp = DetailMlp(stage.dim, hidden_dim=int(stage.dim * stage.mlp_ratio))

    def forward(self, grid: Tensor, importance: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """`(B, h, w, dim)` to the same, and the importance `(B, h, w)` from a hybrid block to a guided one."""
        attended, importance = self.attn(self.norm1(grid), importance)
        grid = grid + self.drop_path(attended)
        return grid + self.drop_path(self.mlp(self.norm2(grid))), importance


class SGFormer(Pyramid):
    """SG-Former: attention that merges tokens more, the less attention they received one block before.

    Accepts images of any size from `min_image_size` pixels per side; positions are interpolated for other sizes than
    the constructed one.

    Args:
        stages: The rows of the architecture table, from fine to coarse; the grid halves between them.
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
        num_classes: int = 1000,
        image_size: ImageSize = 224,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(stages, num_classes=num_classes, image_size=image_size, in_channels=in_channels)
        dim = stages[0].dim
        if dim % 4:
            raise ValueError(f"the first width must be a multiple of 4, for sines and cosines of 2 axes, got {dim}")
        _, h, w = self.position_grid
        self.pos_embed = nn.Parameter(torch.empty(1, h * w, dim))
        rates = drop_path_rates(stages, last=drop_path_rate)
        self._add_stages(
            [Stem(in_channels, dim), *(Downsample(fine.dim, coarse.dim) for fine, coarse in pairwise(stages))],
            [
                [Block(stage, index=j, drop_path_rate=rate) for j, rate in enumerate(row)]
                for stage, row in zip(stages, rates, strict=True)
            ],
        )
        with torch.no_grad():
            self.pos_embed.copy_(sincos_positions(h, w, dim))

    def _smallest_image_size(self, stages: Sequence[PyramidStage]) -> int:
        """Return the fewest pixels per side that leave 2x2 tokens to sort, so that each part has one."""
        return max(PATCH_STRIDE * 2**i + 1 if stage.sr_ratio > 1 else 1 for i, stage in enumerate(stages))

    @property
    def position_grid(self) -> tuple[int, int, int]:
        """`(1, h, w)`: the token grid of the positions."""
        _, height, width = self._input_shape
        return 1, math.ceil(height / PATCH_STRIDE), math.ceil(width / PATCH_STRIDE)

    def parameter_stages(self) -> list[tuple[str, ...]]:
        """Return stem and positions, each block with its stage's first and last layers, and the head with its norm."""
        stem, *rest = super().parameter_stages()
        return [("pos_embed", *stem), *rest]

    def _embed(self, x: Tensor, stage: int) -> Tensor:
        grid = super()._embed(x, stage)
        if stage > 1:
            return grid
        positions = resized_positions(self.pos_embed, self.position_grid, (1, *grid.shape[1:3]))
        return grid + positions.unflatten(1, grid.shape[1:3])

    def _run_blocks(self, blocks: nn.ModuleList, grid: Tensor) -> Tensor:
        importance = None  # each stage has its own
        for block in blocks:
            grid, importance = self.run_block(block, grid, importance)
        return grid


def sincos_positions(h: int, w: int, dim: int) -> Tensor:
    """Return sines and cosines of each cell's column, then of its row: `(1, h * w, dim)`."""
    frequencies = 10_000 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))

    def waves(size: int) -> Tensor:
        angles = torch.arange(size, dtype=torch.float64)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], 1)  # (size, dim / 2)

    columns, rows = waves(w).expand(h, -1, -1), waves(h)[:, None].expand(-1, w, -1)
    return torch.cat([columns, rows], -1).flatten(0, 1)[None]


def _released_stages(
    dim: int, *, heads: tuple[int, int, int, int], depths: tuple[int, int, int, int]
) -> tuple[Stage, ...]:
    ratios, chunks = (8, 4, 2, 1), ((196, 56, 28), (49, 14, 7), (2, 1), ())
    rows = enumerate(zip(heads, depths, ratios, chunks, strict=True))
    return tuple(Stage(dim * 2**i, depth, num_heads, ratio, 4, sizes) for i, (num_heads, depth, ratio, sizes) in rows)


def sgformer_s(
    num_classes: int = 1000, *, drop_path_rate: float = 0.1, image_size: ImageSize = 224, in_channels: int = 3
) -> SGFormer:
    """Build SG-Former-S: 22.5 M parameters, 4.8 GFLOPs, 83.2 % on ImageNet-1k."""
    stages = _released_stages(64, heads=(2, 4, 8, 16), depths=(2, 4, 16, 1))
    return SGFormer(
        stages, num_classes=num_classes, image_size=image_size, in_channels=in_channels, drop_path_rate=drop_path_rate
    )


def sgformer_m(
    num_classes: int = 1000, *, drop_path_rate: float = 0.2, image_size: ImageSize = 224, in_channels: int = 3
) -> SGFormer:
    """Build SG-Former-M: 38.7 M parameters, 7.4 GFLOPs, 84.1 % on ImageNet-1k."""
    stages = _released_stages(64, heads=(2, 4, 8, 16), depths=(2, 6, 28, 2))
    return SGFormer(
        stages, num_classes=num_classes, image_size=image_size, in_channels=in_channels, drop_path_rate=drop_path_rate
    )


def sgformer_b(
    num_classes: int = 1000, *, drop_path_rate: float = 0.4, image_size: ImageSize = 224, in_channels: int = 3
) -> SGFormer:
    """Build SG-Former-B: 78.0 M parameters, 15.5 GFLOPs, 84.7 % on ImageNet-1k."""
    stages = _released_stages(96, heads=(4, 6, 12, 24), depths=(4, 6, 24, 2))
    return SGFormer(
        stages, num_classes=num_classes, image_size=image_size, in_channels=in_channels, drop_path_rate=drop_path_rate
    )
