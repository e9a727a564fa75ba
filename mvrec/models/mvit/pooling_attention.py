"""Multi-head pooling attention and its block: queries, keys and values are pooled over the grid, then attend.

Source: Fan et al. 2021 (MViT), section 3.1; Li et al. 2022 (MViTv2), section 4.1.
"""

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvrec.models.layers import Grid, Mlp, SoftmaxAttention, StochasticDepth

Pooling = Literal["conv", "max", "avg"]
NORM_EPS = 1e-6


class AvgPool3d(nn.AvgPool3d):
    """Average pooling that counts the zeros around the grid.

    Torch's refuses grids smaller than its kernel, whatever its padding, and half precision on the CPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, T, H, W)` to `(B, C, T', H', W')`."""
        t, h, w = cast("Grid", self.padding)
        wide = F.pad(x, (w, w, h, h, t, t)).to(torch.promote_types(x.dtype, torch.float32))
        return F.avg_pool3d(wide, self.kernel_size, self.stride).to(x.dtype)


def _half(kernel: Grid) -> Grid:
    t, h, w = kernel
    return t // 2, h // 2, w // 2


def pooled_grid(thw: Grid, *, kernel: Grid | None, stride: int) -> Grid:
    """Return the size of the grid after pooling with `kernel // 2` of padding; unchanged without a kernel."""
    if kernel is None:
        return thw
    t, h, w = (n + 2 * (k // 2) - k for n, k in zip(thw, kernel, strict=True))
    return t + 1, h // stride + 1, w // stride + 1


def window_grid(thw: Grid, side: int) -> Grid:
    """Return the grid of one window of `side` x `side` tokens and all times; that of all tokens for a side of 0."""
    return (thw[0], side, side) if side else thw


def as_windows(tokens: Tensor, thw: Grid, side: int) -> Tensor:
    """Split a grid into windows, with zeros at its lower and right border.

    Args:
        tokens: `(B, T*H*W, ...)`.
        thw: Their grid.
        side: Tokens along either side of a window.

    Returns:
        `(B * rows * columns, T*side*side, ...)`.
    """
    _, height, width = thw
    grid = tokens.flatten(2).unflatten(1, thw)  # (B, T, H, W, C)
    grid = F.pad(grid, (0, 0, 0, -width % side, 0, -height % side))
    grid = grid.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # (B, T, rows, side, columns, side, C)
    windows = grid.permute(0, 2, 4, 1, 3, 5, 6).flatten(3, 5).flatten(0, 2)
    return windows.unflatten(2, tokens.shape[2:])


def from_windows(windows: Tensor, thw: Grid, side: int) -> Tensor:
    """Join what `as_windows` has split: `(B * rows * columns, T*side*side, ...)` to `(B, T*H*W, ...)`."""
    frames, height, width = thw
    rows, columns = -(-height // side), -(-width // side)
    grid = windows.flatten(2).unflatten(1, (frames, side, side)).unflatten(0, (-1, rows, columns))
    grid = grid.permute(0, 3, 1, 4, 2, 5, 6).flatten(4, 5).flatten(2, 3)  # (B, T, H, W, C), with the zeros' cells
    tokens = grid[:, :, :height, :width].flatten(1, 3)
    return tokens.unflatten(2, windows.shape[2:])


def distance_rows(q_size: int, k_size: int, *, device: torch.device) -> Tensor:
    """Return the row of an axis' table for the distance between each query and each key, `(q, k)`."""
    # The coarser axis is stretched to the scale of the finer one; a fractional ratio is truncated, as in the
    # released models.
    q_step, k_step = max(k_size / q_size, 1.0), max(q_size / k_size, 1.0)
    q = torch.arange(q_size, device=device, dtype=torch.float32)[:, None] * q_step
    k = torch.arange(k_size, device=device, dtype=torch.float32)[None, :] * k_step
    return (q - k + (k_size - 1) * k_step).long()  # (q, k)


def resized_table(table: Tensor, length: int) -> Tensor:
    """Interpolate `(L, d)` to `(length, d)`; return a table of that length unchanged."""
    if table.shape[0] == length:
        return table
    return F.interpolate(table.T[None], size=length, mode="linear")[0].T


class PoolingAttention(nn.Module):
    """Self-attention between pooled queries and pooled keys and values.

    Args:
        dim: Width of the input tokens.
        dim_out: Width of the attention and of the output tokens.
        num_heads: Heads; they split `dim_out` evenly.
        q_kernel: Kernel that pools the queries over (T, H, W), or None for no pooling.
        kv_kernel: Kernel that pools keys and values.
        q_stride: Spatial stride of the query pooling, and so of the output grid.
        kv_stride: Spatial stride of the key and value pooling.
        pooling: How to pool. "conv" is learned, shared by the heads and followed by a LayerNorm.
        has_cls: Whether the first token is a class token, which is never pooled.
        residual_pooling: Add the pooled queries to the output, except to the class token (v2).
        rel_pos_sizes: Lengths of the relative-position tables along (T, H, W), 0 for an axis without one
            (v2); None for no relative positions.
        window: Tokens along either side of the windows in which tokens attend, a multiple of both strides; 0 for none.
            Queries, keys and values are split after they are pooled. The zeros that fill the last windows are keys,
            too (MViTv2 for detection).
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
        window: int = 0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim_out // num_heads
        self.num_cls = int(has_cls)
        self.residual_pooling = residual_pooling
        self.q_kernel, self.q_stride = q_kernel, q_stride
        self.kv_kernel, self.kv_stride = kv_kernel, kv_stride
        self.q_window, self.kv_window = window // q_stride, window // kv_stride

        for name, size in zip("thw", rel_pos_sizes or (0, 0, 0), strict=True):
            table = nn.Parameter(torch.empty(size, self.head_dim)) if size else None
            self.register_parameter(f"rel_pos_{name}", table)
        self.has_rel_pos = rel_pos_sizes is not None
        self.qkv = nn.Linear(dim, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)
        self.pool_q, self.norm_q = self._pool_and_norm(pooling, q_kernel, q_stride)
        self.pool_k, self.norm_k = self._pool_and_norm(pooling, kv_kernel, kv_stride)
        self.pool_v, self.norm_v = self._pool_and_norm(pooling, kv_kernel, kv_stride)
        self.softmax = SoftmaxAttention()

    def _pool_and_norm(
        self, pooling: Pooling, kernel: Grid | None, stride: int
    ) -> tuple[nn.Module | None, nn.Module | None]:
        if kernel is None:
            return None, None
        where = (kernel, (1, stride, stride), _half(kernel))
        if pooling == "max":
            return nn.MaxPool3d(*where), None
        if pooling == "avg":
            return AvgPool3d(*where), None
        conv = nn.Conv3d(self.head_dim, self.head_dim, *where, groups=self.head_dim, bias=False)
        return conv, nn.LayerNorm(self.head_dim, eps=NORM_EPS)

    def grids(self, thw: Grid) -> tuple[Grid, Grid]:
        """Return the pooled grids of queries and of keys for tokens on `thw`."""
        q_thw = pooled_grid(thw, kernel=self.q_kernel, stride=self.q_stride)
        return q_thw, pooled_grid(thw, kernel=self.kv_kernel, stride=self.kv_stride)

    def attended_grids(self, thw: Grid) -> tuple[Grid, Grid]:
        """Return the grids of the queries and keys of one window; without windows those of all."""
        q_thw, k_thw = self.grids(thw)
        return window_grid(q_thw, self.q_window), window_grid(k_thw, self.kv_window)

    def forward(self, x: Tensor, thw: Grid) -> Tensor:
        """`(B, [1 +] T*H*W, dim)` to `(B, [1 +] T*H'*W', dim_out)`, the tokens of `grids(thw)[0]`."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # (B, heads, N, d)
        q = self._pooled(q, thw, self.pool_q, self.norm_q)
        k = self._pooled(k, thw, self.pool_k, self.norm_k)
        v = self._pooled(v, thw, self.pool_v, self.norm_v)
        queries, keys, values = self._windows(q, k, v, thw)
        bias = self._position_bias(queries, *self.attended_grids(thw)) if self.has_rel_pos else None
        out = self.softmax(queries, keys, values, bias)
        if self.q_window:
            out = from_windows(out.transpose(1, 2), self.grids(thw)[0], self.q_window).transpose(1, 2)
        if self.residual_pooling:
            n = self.num_cls
            out = torch.cat([out[:, :, :n], out[:, :, n:] + q[:, :, n:]], 2)
        return self.proj(out.transpose(1, 2).flatten(2))

    def _windows(self, q: Tensor, k: Tensor, v: Tensor, thw: Grid) -> tuple[Tensor, Tensor, Tensor]:
        """Split pooled queries, keys and values `(B, heads, N, d)` into windows, if there are any."""
        if not self.q_window:
            return q, k, v
        q_thw, k_thw = self.grids(thw)
        parts = ((q, q_thw, self.q_window), (k, k_thw, self.kv_window), (v, k_thw, self.kv_window))
        q, k, v = (as_windows(part.transpose(1, 2), grid, side).transpose(1, 2) for part, grid, side in parts)
        return q, k, v

    def _pooled(self, x: Tensor, thw: Grid, pool: nn.Module | None, norm: nn.Module | None) -> Tensor:
        """`(B, heads, [1 +] T*H*W, d)` to `(B, heads, [1 +] T'*H'*W', d)`."""
        if pool is None:
            return x
        cls, tokens = x[:, :, : self.num_cls], x[:, :, self.num_cls :]
        grid = tokens.flatten(0, 1).mT.unflatten(2, thw).contiguous()  # (B * heads, d, T, H, W)
        pooled = pool(grid).flatten(2).mT.unflatten(0, (-1, self.num_heads))
        x = torch.cat([cls, pooled], 2)
        return x if norm is None else norm(x)

    def _position_bias(self, q: Tensor, q_thw: Grid, k_thw: Grid) -> Tensor:
        """Return `(B, heads, [1 +] N_q, [1 +] N_k)`: each query times the tables' rows for its distances to each key.

        The class token has no position: its row and its column are zeros.
        """
        grid = q[:, :, self.num_cls :].unflatten(2, q_thw)  # (B, heads, t, h, w, d)
        bias = q.new_zeros(k_thw)
        for i, (axis, table) in enumerate(zip("thw", (self.rel_pos_t, self.rel_pos_h, self.rel_pos_w), strict=True)):
            if table is not None:
                rows = distance_rows(q_thw[i], k_thw[i], device=q.device)
                distances = resized_table(table, 2 * max(q_thw[i], k_thw[i]) - 1)[rows]  # (q, k, d)
                products = torch.einsum(f"bnthwd,{axis}kd->bnthwk", grid, distances)
                bias = bias + products.unflatten(-1, [k_thw[i] if j == i else 1 for j in range(3)])
        bias = bias.flatten(5).flatten(2, 4)  # from (B, heads, t, h, w, kt, kh, kw)
        return F.pad(bias, (self.num_cls, 0, self.num_cls, 0))


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
    window: int = 0  # side in tokens of the block's input; 0 for none


class Block(nn.Module):
    """Pooling attention and an MLP, each with a shortcut, on a grid that the queries may pool."""

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
            window=spec.window,
        )
        self.drop_path = StochasticDepth(drop_path_rate)
        self.norm2 = nn.LayerNorm(spec.attn_dim, eps=NORM_EPS)
        self.mlp = Mlp(spec.attn_dim, hidden_dim=int(spec.attn_dim * mlp_ratio), dim_out=spec.dim_out)
        self.proj = nn.Linear(spec.dim, spec.dim_out) if spec.dim != spec.dim_out else None

    def forward(self, x: Tensor, thw: Grid) -> Tensor:
        """`(B, [1 +] T*H*W, dim)` to `(B, [1 +] T*H'*W', dim_out)`."""
        normed = self.norm1(x)
        # If the width changes, the released models project the normed tokens, not the shortcut itself.
        shortcut = self.proj(normed) if self.proj is not None and self.proj_in_attention else x
        x = self._pool_shortcut(shortcut, thw) + self.drop_path(self.attn(normed, thw))
        normed = self.norm2(x)
        shortcut = self.proj(normed) if self.proj is not None and not self.proj_in_attention else x
        return shortcut + self.drop_path(self.mlp(normed))

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
