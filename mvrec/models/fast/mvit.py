"""Fast form of MViT: equal values and gradients, by fewer keys, one product per attention, and no copies.

Tokens keep their channels last from end to end. A grid `(B, T, H, W, C)` seen through
`permute(0, 4, 1, 2, 3)` already is a channels-last convolution input, so pooling needs no transposed copy.
"""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvrec.models.fast.bricks import Mlp
from mvrec.models.fast.depthwise import depthwise_conv
from mvrec.models.fast.products import Linear
from mvrec.models.fast.recompute import norm_linear, norm_project
from mvrec.models.layers import Grid
from mvrec.models.mvit import mvit, pooling_attention
from mvrec.models.mvit.pooling_attention import as_windows, distance_rows, from_windows, resized_table

# Fused attention kernels require head widths that are multiples of this; other widths use slow kernels.
HEAD_DIM_MULTIPLE = 8


def cells_read(size: int, *, kernel: int, stride: int) -> int:
    """Count the cells of an axis that windows of `kernel` cells with centres `stride` apart read."""
    half = kernel // 2
    windows = (size + 2 * half - kernel) // stride + 1
    beyond = max(0, (windows - 1) * stride + kernel - half - size)  # cells of the last window beyond the edge
    return windows * kernel - half - beyond


def _read_cells(size: int, *, kernel: int, stride: int, device: torch.device) -> Tensor:
    """Return the indices of these cells in order."""
    half, count = kernel // 2, cells_read(size, kernel=kernel, stride=stride)
    centres = torch.arange(0, size + half, stride, device=device)
    return (centres[:, None] + torch.arange(-half, kernel - half, device=device)).flatten()[half : half + count]


class RelativeGeometry(NamedTuple):
    """The distances between queries and keys for one pair of grids, shared by a stage."""

    q_thw: Grid
    table_lengths: tuple[int, ...]  # per axis
    table_rows: tuple[Tensor, ...]  # per axis (q, k): the row of that axis' table
    key_onehot: Tensor  # (N_k, kt + kh + kw): where each key lies on each axis


def relative_geometry(q_thw: Grid, k_thw: Grid, *, device: torch.device, dtype: torch.dtype) -> RelativeGeometry:
    """Return table rows and one-hot positions for decomposed relative positions between two grids."""
    axes = tuple(zip(q_thw, k_thw, strict=True))
    onehot = []
    for axis, size in enumerate(k_thw):
        shape = [1, 1, 1, size]
        shape[axis] = size
        onehot.append(torch.eye(size, device=device, dtype=dtype).view(shape).expand(*k_thw, size))
    return RelativeGeometry(
        q_thw=q_thw,
        table_lengths=tuple(2 * max(q, k) - 1 for q, k in axes),
        table_rows=tuple(distance_rows(q, k, device=device) for q, k in axes),
        key_onehot=torch.cat(onehot, -1).flatten(0, 2),
    )


class PoolingAttention(pooling_attention.PoolingAttention):
    """Pooling attention that computes only the keys and values read, with positions inside the dot product."""

    def forward(
        self,
        x: Tensor,
        thw: Grid,
        geometry: RelativeGeometry | None = None,
        *,
        norm: nn.Module | None = None,
        cls_only: bool = False,
    ) -> Tensor:
        """`(B, [1 +] T*H*W, dim)` to `(B, [1 +] T*H'*W', dim_out)`, the tokens of `grids(thw)[0]`.

        Args:
            x: The tokens, before their norm if there is one.
            thw: Their grid.
            geometry: Of `attended_grids(thw)`, for relative positions; computed by default.
            norm: The norm of the tokens.
            cls_only: Compute only the class token's row of the output, `(B, 1, dim_out)`.
        """
        q, k, v = self._project(x, thw, nn.Identity() if norm is None else norm, cls_only=cls_only)  # (B, N, heads, d)
        q = self._pool_cls(q) if cls_only else self._pool(q, thw, self.pool_q, self.norm_q)
        read = self._read_grid(thw)
        stride = None if read == thw or self.kv_kernel is None else self.kv_kernel[1]
        k = self._pool(k, read, self.pool_k, self.norm_k, stride)
        v = self._pool(v, read, self.pool_v, self.norm_v, stride)
        if self.has_rel_pos and not cls_only:  # a class token has no position
            if geometry is None:
                geometry = relative_geometry(*self.attended_grids(thw), device=q.device, dtype=q.dtype)
            out = self._attend_with_positions(*self._windows(q, k, v, thw), geometry)
        else:
            out = self._attend(*self._windows(q, k, v, thw), scale=self.head_dim**-0.5)
        if self.q_window:
            out = from_windows(out, self.grids(thw)[0], self.q_window)
        if self.residual_pooling and not cls_only:
            n = self.num_cls
            out = torch.cat([out[:, :n], out[:, n:] + q[:, n:]], 1) if n else out + q
        return self.proj(out.flatten(2))

    def _windows(self, q: Tensor, k: Tensor, v: Tensor, thw: Grid) -> tuple[Tensor, Tensor, Tensor]:
        """Split pooled queries, keys and values `(B, N, heads, d)` into windows, if there are any."""
        if not self.q_window:
            return q, k, v
        q_thw, k_thw = self.grids(thw)
        q = as_windows(q, q_thw, self.q_window)
        return q, as_windows(k, k_thw, self.kv_window), as_windows(v, k_thw, self.kv_window)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        return self.softmax(q, k, v, scale=scale).transpose(1, 2)

    def _read_grid(self, thw: Grid) -> Grid:
        """Return the grid of the tokens whose keys and values are read; see the note.

        Note [unread keys and values]

        A pooling window of 3 cells, 8 apart, leaves 5 of 8 cells per axis unread: on 56 x 56 cells seven of eight keys
        and values are never used. If windows do not overlap, the cells read form a grid of their own, on which the same
        windows are adjacent. Tokens are gathered before they are projected, and the kernel's size replaces the stride.
        Cells beyond the edge are zero on either grid.
        """
        kernel, stride = self.kv_kernel, self.kv_stride
        if not isinstance(self.pool_k, nn.Conv3d) or type(self.qkv) is not Linear or kernel is None:
            return thw
        if kernel[1] != kernel[2] or kernel[1] >= stride:
            return thw
        h, w = (cells_read(size, kernel=kernel[1], stride=stride) for size in thw[1:])
        return thw[0], h, w

    def _project(self, x: Tensor, thw: Grid, norm: nn.Module, *, cls_only: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values `(B, N, heads, d)`, as far as they are read."""
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
        """Return the tokens whose keys and values are read."""
        assert self.kv_kernel is not None
        grid = x[:, self.num_cls :].unflatten(1, thw)
        for axis in (2, 3):
            cells = _read_cells(grid.shape[axis], kernel=self.kv_kernel[1], stride=self.kv_stride, device=x.device)
            grid = grid.index_select(axis, cells)
        tokens = grid.flatten(1, 3)
        return torch.cat([x[:, :1], tokens], 1) if self.num_cls else tokens

    def _pool_cls(self, q: Tensor) -> Tensor:
        """Return the class token's query, which is not pooled."""
        q = q if self.norm_q is None else self.norm_q(q)
        if not torch.is_grad_enabled():
            return q
        # Parts that only other rows need get a zero gradient instead of none, as if they had been computed: DDP
        # waits for it, and optimisers apply decay with it.
        tables = (self.rel_pos_t, self.rel_pos_h, self.rel_pos_w)
        unread = [*(self.pool_q.parameters() if self.pool_q is not None else ()), *filter(torch.is_tensor, tables)]
        return q + sum(0.0 * parameter.sum() for parameter in unread).to(q.dtype) if unread else q

    def _pool(
        self, tokens: Tensor, thw: Grid, pool: nn.Module | None, norm: nn.Module | None, stride: int | None = None
    ) -> Tensor:
        if pool is None:
            return tokens
        cls, grid = tokens[:, : self.num_cls], tokens[:, self.num_cls :]
        grid = grid.flatten(2).unflatten(1, thw)  # (B, T, H, W, C)
        if isinstance(pool, nn.Conv3d):
            pooled = head_shared_conv(pool, grid, stride)
        else:
            pooled = pool(grid.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
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
        # The class token has no position: its query scores and its key's one-hot are zeros.
        bias = F.pad(bias, (0, spare, 0, 0, self.num_cls, 0))
        onehot = F.pad(onehot, (0, spare, self.num_cls, 0))
        onehot = onehot[None, :, None].expand(k.shape[0], -1, self.num_heads, -1)
        q = torch.cat([q * self.head_dim**-0.5, bias], -1)
        k = torch.cat([k, onehot], -1)
        return self._attend(q, k, v, scale=1.0)

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


def head_shared_conv(conv: nn.Conv3d, grid: Tensor, stride: int | None = None) -> Tensor:
    """Convolve `(B, T, H, W, heads * d)` to `(B, T, H', W', heads * d)`, by its own spatial stride or another."""
    # Repeated as a matrix, so that its gradient has the parameter's own layout, as DDP's buckets require.
    heads = grid.shape[-1] // conv.in_channels
    weight = conv.weight.flatten(1).repeat(heads, 1).unflatten(1, conv.weight.shape[1:])
    padding = cast("Grid", conv.padding)
    return depthwise_conv(grid, weight, stride=stride or conv.stride[1], padding=padding)


class Block(pooling_attention.Block):
    """A block that passes its norms to the layers after them, which then need not keep both."""

    def forward(self, x: Tensor, thw: Grid, geometry: RelativeGeometry | None = None, cls_only: bool = False) -> Tensor:
        """`(B, [1 +] T*H*W, dim)` to `(B, [1 +] T*H'*W', dim_out)`, or to the class token alone, `(B, 1, dim_out)`."""
        if not isinstance(self.attn, PoolingAttention) or not isinstance(self.mlp, Mlp):  # a user has replaced layers
            out = super().forward(x, thw)
            return out[:, :1] if cls_only else out
        attended = self.drop_path(self.attn(x, thw, geometry, norm=self.norm1, cls_only=cls_only))
        x = x[:, :1] if cls_only else x
        shortcut = norm_linear(x, self.norm1, self.proj) if self.proj is not None and self.proj_in_attention else x
        x = (shortcut if cls_only else self._pool_shortcut(shortcut, thw)) + attended
        shortcut = norm_linear(x, self.norm2, self.proj) if self.proj is not None and not self.proj_in_attention else x
        return shortcut + self.drop_path(self.mlp(x, norm=self.norm2))


class MViT(mvit.MViT):
    """An MViT whose last block computes only the class token if the head reads nothing else."""

    def forward_features(self, x: Tensor) -> Tensor:
        if self.cls_token is None:
            return super().forward_features(x)
        return self.norm(self._run_blocks(x, cls_only=True)[0])[:, 0]

    def _run_blocks(self, x: Tensor, *, cls_only: bool = False) -> tuple[Tensor, list[tuple[Tensor, Grid]]]:
        """Run all blocks: return the last tokens, or the class token alone, and the last tokens of every grid size."""
        tokens, thw = self._embedded(x)
        tokens = tokens.contiguous()
        geometries: dict[tuple[Grid, Grid], RelativeGeometry] = {}  # shared by the blocks of a stage
        levels: list[tuple[Tensor, Grid]] = []
        for block in cast("list[Block]", self.blocks):
            grids = block.attn.attended_grids(thw)
            if block.attn.has_rel_pos and grids not in geometries:
                geometries[grids] = relative_geometry(*grids, device=tokens.device, dtype=tokens.dtype)
            if block.q_stride > 1:
                levels.append((tokens, thw))
            alone = cls_only and block is self.blocks[-1]
            tokens = self.run_block(block, tokens, thw, geometries.get(grids), alone)
            thw = block.attn.grids(thw)[0]
        return tokens, [*levels, (tokens, thw)]
