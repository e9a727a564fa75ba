"""Multi-head pooling attention and its block: queries, keys and values are pooled over the grid, then meet.

Tokens keep their channels last from end to end. A grid `(B, T, H, W, C)` seen through
`permute(0, 4, 1, 2, 3)` already is a channels-last convolution input, so pooling needs no transposed copy.
Source: Fan et al. 2021 (MViT), section 3.1; Li et al. 2022 (MViTv2), section 4.1.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvrec.models.fast.attention import attention
from mvrec.models.fast.depthwise import depthwise_conv
from mvrec.models.fast.products import Linear
from mvrec.models.fast.recompute import norm_linear, norm_project
from mvrec.models.layers import Grid, Mlp, StochasticDepth

Pooling = Literal["conv", "max", "avg"]
NORM_EPS = 1e-6
# Fused attention kernels want head widths that are multiples of this; other widths fall back to slow ones.
HEAD_DIM_MULTIPLE = 8


class HeadSharedConv(nn.Conv3d):
    """Depthwise convolution over the token grid whose weights are the same for every attention head."""

    def __init__(self, head_dim: int, *, kernel: Grid, stride: int) -> None:
        super().__init__(
            head_dim,
            head_dim,
            kernel,
            (1, stride, stride),
            padding=_half(kernel),
            groups=head_dim,
            bias=False,
        )

    def forward(self, grid: Tensor, stride: int | None = None) -> Tensor:
        """`(B, T, H, W, heads * d)` to `(B, T, H', W', heads * d)`, by its own stride or by another."""
        # Repeated as a matrix, so that its gradient comes back in the parameter's own layout, as DDP's buckets want it.
        heads = grid.shape[-1] // self.in_channels
        weight = self.weight.flatten(1).repeat(heads, 1).unflatten(1, self.weight.shape[1:])
        padding = _half(cast("Grid", self.kernel_size))
        return depthwise_conv(grid, weight, stride=stride or self.stride[1], padding=padding)


class GridPool(nn.Module):
    """Max or average pooling over the token grid; the zeros around the grid count in the average."""

    def __init__(self, *, kind: Literal["max", "avg"], kernel: Grid, stride: int) -> None:
        super().__init__()
        self.kind, self.kernel, self.stride = kind, kernel, (1, stride, stride)

    def forward(self, grid: Tensor) -> Tensor:
        """`(B, T, H, W, C)` to `(B, T, H', W', C)`."""
        clip = grid.permute(0, 4, 1, 2, 3)  # (B, C, T, H, W)
        t, h, w = _half(self.kernel)
        if self.kind == "max":
            clip = F.max_pool3d(clip, self.kernel, self.stride, (t, h, w))
        else:  # avg_pool3d refuses grids below its kernel, whatever its padding, and on the CPU half precision
            wide = F.pad(clip, (w, w, h, h, t, t)).to(torch.promote_types(clip.dtype, torch.float32))
            clip = F.avg_pool3d(wide, self.kernel, self.stride).to(clip.dtype)
        return clip.permute(0, 2, 3, 4, 1)


def _half(kernel: Grid) -> Grid:
    t, h, w = kernel
    return t // 2, h // 2, w // 2


def pooled_grid(thw: Grid, *, kernel: Grid | None, stride: int) -> Grid:
    """Size of the grid after pooling with `kernel // 2` of padding; without a kernel nothing is pooled."""
    if kernel is None:
        return thw
    t, h, w = (n + 2 * (k // 2) - k for n, k in zip(thw, kernel, strict=True))
    return t + 1, h // stride + 1, w // stride + 1


def cells_read(size: int, *, kernel: int, stride: int) -> int:
    """How many cells of an axis are read by windows of `kernel` cells whose centres are `stride` apart."""
    half = kernel // 2
    windows = (size + 2 * half - kernel) // stride + 1
    beyond = max(0, (windows - 1) * stride + kernel - half - size)  # of the last window, over the edge
    return windows * kernel - half - beyond


def _read_cells(size: int, *, kernel: int, stride: int, device: torch.device) -> Tensor:
    """Which cells these are, in order."""
    half, count = kernel // 2, cells_read(size, kernel=kernel, stride=stride)
    centres = torch.arange(0, size + half, stride, device=device)
    return (centres[:, None] + torch.arange(-half, kernel - half, device=device)).flatten()[half : half + count]


class RelativeGeometry(NamedTuple):
    """Which query meets which key at which distance, for one pair of grids and so for a whole stage."""

    q_thw: Grid
    table_lengths: tuple[int, ...]  # per axis
    table_rows: tuple[Tensor, ...]  # per axis (q, k): the row of that axis' table
    key_onehot: Tensor  # (N_k, kt + kh + kw): where each key lies on each axis


def relative_geometry(q_thw: Grid, k_thw: Grid, *, device: torch.device, dtype: torch.dtype) -> RelativeGeometry:
    """Table rows and one-hot positions for decomposed relative positions between two grids."""
    axes = tuple(zip(q_thw, k_thw, strict=True))
    onehot = []
    for axis, size in enumerate(k_thw):
        shape = [1, 1, 1, size]
        shape[axis] = size
        onehot.append(torch.eye(size, device=device, dtype=dtype).view(shape).expand(*k_thw, size))
    return RelativeGeometry(
        q_thw=q_thw,
        table_lengths=tuple(2 * max(q, k) - 1 for q, k in axes),
        table_rows=tuple(_distance_rows(q, k, device=device) for q, k in axes),
        key_onehot=torch.cat(onehot, -1).flatten(0, 2),
    )


def _distance_rows(q_size: int, k_size: int, *, device: torch.device) -> Tensor:
    # The coarser axis is stretched to the scale of the finer one; a ratio that is no integer truncates, as in
    # the released models.
    q_step, k_step = max(k_size / q_size, 1.0), max(q_size / k_size, 1.0)
    q = torch.arange(q_size, device=device, dtype=torch.float32)[:, None] * q_step
    k = torch.arange(k_size, device=device, dtype=torch.float32)[None, :] * k_step
    return (q - k + (k_size - 1) * k_step).long()  # (q, k)


def resized_table(table: Tensor, length: int) -> Tensor:
    """`(L, d)` to `(length, d)`; a table that has its length already is returned untouched."""
    if table.shape[0] == length:
        return table
    return F.interpolate(table.T[None], size=length, mode="linear")[0].T


class PoolingAttention(nn.Module):
    """Self-attention between pooled queries and pooled keys and values.

    Args:
        dim: Width of the tokens that come in.
        dim_out: Width of the attention and of the tokens that go out.
        num_heads: Heads; `dim_out` splits evenly among them.
        q_kernel: Kernel that pools the queries over (T, H, W), or None to leave them alone.
        kv_kernel: The same for keys and values.
        q_stride: Spatial stride of the query pooling, and so of the output grid.
        kv_stride: Spatial stride of the key and value pooling.
        pooling: What pools. "conv" is learned, shared by the heads and followed by a LayerNorm.
        has_cls: The first token is a class token, which is never pooled.
        residual_pooling: Add the pooled queries to the output, except to the class token (v2).
        rel_pos_sizes: Lengths of the relative-position tables along (T, H, W), 0 for an axis without
            (v2); None for no relative positions.
    """

    rel_pos_t: nn.Parameter | None
    rel_pos_h: nn.Parameter | None
    rel_pos_w: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        dim_out: int,
        *,
        num_heads: int,
        q_kernel: Grid | None,
        kv_kernel: Grid | None,
        q_stride: int,
        kv_stride: int,
        pooling: Pooling,
        has_cls: bool,
        residual_pooling: bool,
        rel_pos_sizes: Grid | None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim_out // num_heads
        self.num_cls = int(has_cls)
        self.residual_pooling = residual_pooling
        self.q_kernel, self.q_stride = q_kernel, q_stride
        self.kv_kernel, self.kv_stride = kv_kernel, kv_stride

        for name, size in zip("thw", rel_pos_sizes or (0, 0, 0), strict=True):
            table = nn.Parameter(torch.empty(size, self.head_dim)) if size else None
            self.register_parameter(f"rel_pos_{name}", table)
        self.has_rel_pos = rel_pos_sizes is not None
        self.qkv = Linear(dim, 3 * dim_out)
        self.proj = Linear(dim_out, dim_out)
        self.pool_q, self.norm_q = self._pool_and_norm(pooling, q_kernel, q_stride)
        self.pool_k, self.norm_k = self._pool_and_norm(pooling, kv_kernel, kv_stride)
        self.pool_v, self.norm_v = self._pool_and_norm(pooling, kv_kernel, kv_stride)

    def _pool_and_norm(
        self, pooling: Pooling, kernel: Grid | None, stride: int
    ) -> tuple[nn.Module | None, nn.Module | None]:
        if kernel is None:
            return None, None
        if pooling != "conv":
            return GridPool(kind=pooling, kernel=kernel, stride=stride), None
        conv = HeadSharedConv(self.head_dim, kernel=kernel, stride=stride)
        return conv, nn.LayerNorm(self.head_dim, eps=NORM_EPS)

    def grids(self, thw: Grid) -> tuple[Grid, Grid]:
        """The pooled grids of queries and of keys for tokens on `thw`."""
        q_thw = pooled_grid(thw, kernel=self.q_kernel, stride=self.q_stride)
        return q_thw, pooled_grid(thw, kernel=self.kv_kernel, stride=self.kv_stride)

    def surplus_macs(self, thw: Grid) -> int:
        """Multiply-adds per clip beyond the formula: of wider keys for positions, less those of keys nobody reads."""
        q_thw, k_thw = self.grids(thw)
        extra = 0
        if self.has_rel_pos:
            places = sum(k_thw) if self.rel_pos_t is not None else sum(k_thw[1:])
            wider = places + -(self.head_dim + places) % HEAD_DIM_MULTIPLE
            num_q, num_k = (math.prod(grid) + self.num_cls for grid in (q_thw, k_thw))
            extra = 2 * self.num_heads * num_q * num_k * wider
        unread = math.prod(thw) - math.prod(self._read_grid(thw))
        return extra - unread * 2 * self.qkv.in_features * self.proj.in_features

    def _read_grid(self, thw: Grid) -> Grid:
        """The grid of the tokens whose keys and values are read; see the note.

        Note [keys and values that nobody reads]

        A pooling window of 3 cells, 8 apart, leaves 5 of 8 cells per axis unread: on 56 x 56 cells seven of eight keys
        and values are made in vain. Where windows do not meet, the cells that are read form a grid of their own, on
        which the same windows lie side by side. Tokens are gathered before they are projected, and the kernel's size
        takes the stride's place. What lies beyond the edge is zero on either grid.
        """
        kernel, stride = self.kv_kernel, self.kv_stride
        if not isinstance(self.pool_k, HeadSharedConv) or type(self.qkv) is not Linear or kernel is None:
            return thw
        if kernel[1] != kernel[2] or kernel[1] >= stride:
            return thw
        h, w = (cells_read(size, kernel=kernel[1], stride=stride) for size in thw[1:])
        return thw[0], h, w

    def forward(
        self,
        x: Tensor,
        thw: Grid,
        geometry: RelativeGeometry | None,
        *,
        norm: nn.Module,
        cls_only: bool = False,
    ) -> Tensor:
        """`(B, [1 +] T*H*W, dim)` to `(B, [1 +] T*H'*W', dim_out)`, the tokens of `grids(thw)[0]`.

        Args:
            x: The tokens, before their norm.
            thw: Their grid.
            geometry: Belongs to `grids(thw)` and is needed where there are relative positions.
            norm: The norm of the tokens.
            cls_only: Compute the class token's row of the output alone, `(B, 1, dim_out)`.
        """
        q, k, v = self._project(x, thw, norm, cls_only=cls_only)  # (B, N, heads, d)
        q = self._pool_cls(q) if cls_only else self._pool(q, thw, self.pool_q, self.norm_q)
        read = self._read_grid(thw)
        stride = None if read == thw or self.kv_kernel is None else self.kv_kernel[1]
        k = self._pool(k, read, self.pool_k, self.norm_k, stride)
        v = self._pool(v, read, self.pool_v, self.norm_v, stride)
        if self.has_rel_pos and not cls_only:  # a class token has no place
            assert geometry is not None, "relative positions need a geometry"
            out = self._attend_with_positions(q, k, v, geometry)
        else:
            out = attention(q, k, v, scale=self.head_dim**-0.5)
        if self.residual_pooling and not cls_only:
            n = self.num_cls
            out = torch.cat([out[:, :n], out[:, n:] + q[:, n:]], 1) if n else out + q
        return self.proj(out.flatten(2))

    def _project(self, x: Tensor, thw: Grid, norm: nn.Module, *, cls_only: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `(B, N, heads, d)`, as far as they are read."""
        heads = (self.num_heads, self.head_dim)
        read = self._read_grid(thw)
        if type(self.qkv) is not Linear or (read == thw and not cls_only):
            q, k, v = norm_linear(x, norm, self.qkv).unflatten(-1, (3, *heads)).unbind(2)
            return (q[:, :1] if cls_only else q), k, v
        q_rows, kv_rows = self.qkv.weight.tensor_split([self.proj.in_features])
        q_bias, kv_bias = self.qkv.bias.tensor_split([self.proj.in_features])
        q = norm_project(x[:, :1] if cls_only else x, norm, q_rows, q_bias)
        kv = norm_project(x if read == thw else self._gathered(x, thw), norm, kv_rows, kv_bias)
        k, v = kv.unflatten(-1, (2, *heads)).unbind(2)
        return q.unflatten(-1, heads), k, v

    def _gathered(self, x: Tensor, thw: Grid) -> Tensor:
        """The tokens whose keys and values are read."""
        assert self.kv_kernel is not None
        grid = x[:, self.num_cls :].unflatten(1, thw)
        for axis in (2, 3):
            cells = _read_cells(grid.shape[axis], kernel=self.kv_kernel[1], stride=self.kv_stride, device=x.device)
            grid = grid.index_select(axis, cells)
        tokens = grid.flatten(1, 3)
        return torch.cat([x[:, :1], tokens], 1) if self.num_cls else tokens

    def _pool_cls(self, q: Tensor) -> Tensor:
        """The class token's query, which is not pooled."""
        q = q if self.norm_q is None else self.norm_q(q)
        if not torch.is_grad_enabled():
            return q
        # What only other rows would need gets a gradient of zero instead of none, as if they had been computed: DDP
        # waits for it, and optimisers decay by it.
        tables = (self.rel_pos_t, self.rel_pos_h, self.rel_pos_w)
        unread = [*(self.pool_q.parameters() if self.pool_q is not None else ()), *filter(torch.is_tensor, tables)]
        return q + sum(0.0 * parameter.sum() for parameter in unread).to(q.dtype) if unread else q

    def _pool(
        self, tokens: Tensor, thw: Grid, pool: nn.Module | None, norm: nn.Module | None, stride: int | None = None
    ) -> Tensor:
        if pool is None:
            return tokens
        cls, grid = tokens[:, : self.num_cls], tokens[:, self.num_cls :]
        grid = grid.flatten(2).unflatten(1, thw)
        pooled = pool(grid) if stride is None else pool(grid, stride)  # (B, T, H', W', C)
        pooled = pooled.flatten(1, 3).unflatten(-1, (self.num_heads, self.head_dim))
        if self.num_cls:
            pooled = torch.cat([cls, pooled], 1)
        return pooled if norm is None else norm(pooled)  # (B, N', heads, d)

    def _attend_with_positions(self, q: Tensor, k: Tensor, v: Tensor, geometry: RelativeGeometry) -> Tensor:
        # Note [positions inside the dot product]
        # The bias of query i and key j is a sum over the axes of q_i . R[axis][i, j], which depends on
        # nothing of j but its place on that axis. So q' = [scale * q, q . R[t], q . R[h], q . R[w]] against
        # k' = [k, one-hot places] gives the biased scores in one product, and no (N_q, N_k) bias ever exists.
        bias = self._position_scores(q, geometry)  # (B, N_q, heads, kt + kh + kw)
        onehot = geometry.key_onehot[:, -bias.shape[-1] :].to(k.dtype)
        spare = -(self.head_dim + bias.shape[-1]) % HEAD_DIM_MULTIPLE
        # The class token has no place: its query scores and its key's one-hot are zeros.
        bias = F.pad(bias, (0, spare, 0, 0, self.num_cls, 0))
        onehot = F.pad(onehot, (0, spare, self.num_cls, 0))
        onehot = onehot[None, :, None].expand(k.shape[0], -1, self.num_heads, -1)
        q = torch.cat([q * self.head_dim**-0.5, bias], -1)
        k = torch.cat([k, onehot], -1)
        return attention(q, k, v, scale=1.0)

    def _position_scores(self, q: Tensor, geometry: RelativeGeometry) -> Tensor:
        grid = q[:, self.num_cls :].unflatten(1, geometry.q_thw)  # (B, t, h, w, heads, d)
        equations = ("bthwnd,tkd->bthwnk", "bthwnd,hkd->bthwnk", "bthwnd,wkd->bthwnk")
        tables = (self.rel_pos_t, self.rel_pos_h, self.rel_pos_w)
        scores = []
        for equation, table, rows, length in zip(
            equations, tables, geometry.table_rows, geometry.table_lengths, strict=True
        ):
            if table is not None:
                distances = F.embedding(rows, resized_table(table, length))  # (q, k, d)
                scores.append(torch.einsum(equation, grid, distances))
        return torch.cat(scores, -1).flatten(1, 3)


@dataclass(frozen=True)
class BlockSpec:
    """One row of the architecture table."""

    dim: int
    attn_dim: int
    dim_out: int
    num_heads: int
    q_stride: int
    kv_stride: int
    q_kernel: Grid | None
    kv_kernel: Grid | None


class Block(nn.Module):
    """Pooling attention and an MLP, each with a shortcut."""

    def __init__(
        self,
        spec: BlockSpec,
        *,
        pooling: Pooling,
        has_cls: bool,
        residual_pooling: bool,
        rel_pos_sizes: Grid | None,
        mlp_ratio: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.has_cls = has_cls
        self.q_stride = spec.q_stride
        self.proj_in_attention = spec.attn_dim != spec.dim
        self.norm1 = nn.LayerNorm(spec.dim, eps=NORM_EPS)
        self.attn = PoolingAttention(
            spec.dim,
            spec.attn_dim,
            num_heads=spec.num_heads,
            q_kernel=spec.q_kernel,
            kv_kernel=spec.kv_kernel,
            q_stride=spec.q_stride,
            kv_stride=spec.kv_stride,
            pooling=pooling,
            has_cls=has_cls,
            residual_pooling=residual_pooling,
            rel_pos_sizes=rel_pos_sizes,
        )
        self.drop_path = StochasticDepth(drop_path_rate)
        self.norm2 = nn.LayerNorm(spec.attn_dim, eps=NORM_EPS)
        self.mlp = Mlp(spec.attn_dim, hidden_dim=int(spec.attn_dim * mlp_ratio), dim_out=spec.dim_out)
        self.proj = Linear(spec.dim, spec.dim_out) if spec.dim != spec.dim_out else None

    def forward(self, x: Tensor, thw: Grid, geometry: RelativeGeometry | None = None, cls_only: bool = False) -> Tensor:
        """`(B, [1 +] T*H*W, dim)` to `(B, [1 +] T*H'*W', dim_out)`, or to the class token alone, `(B, 1, dim_out)`."""
        attended = self.drop_path(self.attn(x, thw, geometry, norm=self.norm1, cls_only=cls_only))
        x = x[:, :1] if cls_only else x
        # Where the width changes, the released models project the normed tokens, not the shortcut itself.
        shortcut = norm_linear(x, self.norm1, self.proj) if self.proj is not None and self.proj_in_attention else x
        x = (shortcut if cls_only else self._pool_shortcut(shortcut, thw)) + attended
        shortcut = norm_linear(x, self.norm2, self.proj) if self.proj is not None and not self.proj_in_attention else x
        return shortcut + self.drop_path(self.mlp(x, norm=self.norm2))

    def _pool_shortcut(self, x: Tensor, thw: Grid) -> Tensor:
        stride = self.q_stride
        if stride == 1:
            return x
        n = int(self.has_cls)
        frames = x[:, n:].unflatten(1, thw).flatten(0, 1).permute(0, 3, 1, 2)  # (B*T, C, H, W)
        frames = F.max_pool2d(frames, stride + 1, stride, (stride + 1) // 2)
        grid = frames.permute(0, 2, 3, 1).unflatten(0, (-1, thw[0]))  # (B, T, H', W', C)
        pooled = grid.flatten(1, 3)
        return torch.cat([x[:, :1], pooled], 1) if n else pooled
