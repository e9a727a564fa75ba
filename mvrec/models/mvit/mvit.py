"""MViT v1 and v2 for images and clips, with the parameter names of the authors' releases.

v1: Fan et al. 2021, "Multiscale Vision Transformers", arXiv 2104.11227.
v2: Li et al. 2022, "MViTv2: Improved Multiscale Vision Transformers", arXiv 2112.01526.
Where a paper and its released models differ, the released models win, because their weights must load. For detection
the second version attends in windows, and ends every grid size in a norm: section 4.2 of its paper, and detectron2.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from mvrec.models.backbone import Backbone, FeatureInfo, Level
from mvrec.models.layers import Grid, init_trunc_normal, resized_positions
from mvrec.models.mvit.plan import block_plan, check_choice
from mvrec.models.mvit.pooling_attention import NORM_EPS, Block, BlockSpec, Pooling

PATCH_STRIDE = 4
PATCH_STRIDE_FRAMES = 2


class PatchEmbed(nn.Module):
    """Overlapping 7x7 patches of stride 4; clips take 3 frames at a stride of 2."""

    def __init__(self, in_channels: int, dim: int, *, is_video: bool) -> None:
        super().__init__()
        self.proj: nn.Conv2d | nn.Conv3d
        if is_video:
            self.proj = nn.Conv3d(in_channels, dim, (3, 7, 7), (PATCH_STRIDE_FRAMES, 4, 4), (1, 3, 3))
        else:
            self.proj = nn.Conv2d(in_channels, dim, 7, PATCH_STRIDE, 3)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, [T,] H, W)` to a token grid `(B, t, h, w, dim)`."""
        x = self.proj(x)
        return (x if x.ndim == 5 else x.unsqueeze(2)).permute(0, 2, 3, 4, 1)


class Head(nn.Module):
    """Dropout and a linear layer, `(B, dim)` to `(B, num_classes)`."""

    def __init__(self, dim: int, num_classes: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, dim)` to raw logits `(B, num_classes)`."""
        return self.projection(self.dropout(x))


class MViT(Backbone):
    """Multiscale vision transformer: the token grid shrinks while its width grows.

    Images `(B, C, H, W)` if `num_frames` is None, else clips `(B, C, T, H, W)`. Any size of at least one cell of the
    coarsest grid works; position tables are interpolated for other sizes than the constructed one.

    Args:
        num_classes: Classes of the head; 0 for none.
        num_frames: Frames of the clips it is constructed for, or None for images.
        image_size: Pixels, square or (H, W), that it is constructed for.
        in_channels: Channels of the input.
        embed_dim: Width of the first block.
        num_heads: Attention heads of the first block.
        depth: Number of blocks.
        dim_mults: Block index -> factor by which the width has grown when that block attends.
        head_mults: Block index -> factor by which the heads grow at that block.
        q_strides: Block index -> spatial stride of that block's queries, and so of the grid from there on.
        kv_stride: Spatial stride of keys and values at the start; each query stride divides it.
        pool_kernel: Pooling kernel over (T, H, W). None pools space alone, with stride + 1, where the stride
            is above 1.
        pool_every_q: Pool the queries of every block (v2) or only where they have a stride (v1).
        unpooled_kv_blocks: Blocks whose keys and values are not pooled.
        dim_change: The width grows in the MLP of the block before (v1) or in the attention itself (v2).
        cls_token: Classify from a class token, or else from the mean of all tokens.
        pos_embed: Absolute positions: "separate" tables for space and time, one "joint" table, or "none".
        rel_pos: Decomposed relative positions in the attention (v2).
        residual_pooling: Add the pooled queries to the attention's output (v2).
        mlp_ratio: Hidden width of the MLP over its input width.
        pooling: How to pool queries, keys and values: a learned depthwise "conv", "max" or "avg".
        window: Tokens along either side of the windows in which the blocks on the first grid attend; on a grid of twice
            the stride half as many. The last block of each further grid attends to all tokens. 0 for no windows.
        double_last_kv_stride: Double the stride of keys and values in these blocks, except the very last.
        level_norms: Norm all of `feature_maps`, instead of only the last one. Other outputs do not use these norms.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from 0 at the first.
        head_dropout: Dropout before the classifier.

    Raises:
        ValueError: The arguments contradict one another, or the size is below one cell of the coarsest grid.
    """

    pos_embed: nn.Parameter | None
    pos_embed_spatial: nn.Parameter | None
    pos_embed_temporal: nn.Parameter | None
    pos_embed_class: nn.Parameter | None

    def __init__(
        self,
        *,
        num_classes: int = 400,
        num_frames: int | None = 16,
        image_size: int | tuple[int, int] = 224,
        in_channels: int = 3,
        embed_dim: int = 96,
        num_heads: int = 1,
        depth: int = 16,
        dim_mults: dict[int, float] | None = None,
        head_mults: dict[int, float] | None = None,
        q_strides: dict[int, int] | None = None,
        kv_stride: int = 8,
        pool_kernel: tuple[int, int, int] | None = (3, 3, 3),
        pool_every_q: bool = False,
        unpooled_kv_blocks: tuple[int, ...] = (),
        dim_change: Literal["mlp", "attention"] = "mlp",
        cls_token: bool = True,
        pos_embed: Literal["separate", "joint", "none"] = "separate",
        rel_pos: bool = False,
        residual_pooling: bool = False,
        mlp_ratio: float = 4.0,
        pooling: Pooling = "conv",
        window: int = 0,
        double_last_kv_stride: bool = False,
        level_norms: bool = False,
        drop_path_rate: float = 0.0,
        head_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice("pooling", pooling, get_args(Pooling))
        check_choice("pos_embed", pos_embed, ("separate", "joint", "none"))
        _check_rates(drop_path_rate=drop_path_rate, head_dropout=head_dropout)
        plan = block_plan(
            depth=depth,
            embed_dim=embed_dim,
            num_heads=num_heads,
            dim_mults=dim_mults or {},
            head_mults=head_mults or {},
            q_strides=q_strides or {},
            kv_stride=kv_stride,
            pool_kernel=pool_kernel,
            pool_every_q=pool_every_q,
            unpooled_kv_blocks=unpooled_kv_blocks,
            dim_change=dim_change,
            window=window,
            double_last_kv_stride=double_last_kv_stride,
        )
        if window and cls_token:
            raise ValueError("windows have no class token: window needs cls_token=False")
        self.num_classes, self.head_dropout = num_classes, head_dropout
        self.num_features = plan[-1].dim_out
        self.feature_info = _feature_info(plan)
        cell = self.feature_info[-1].stride
        self._input_shape = _input_shape(in_channels, num_frames, image_size, cell=cell, pool_kernel=pool_kernel)
        self._position_grid = _patch_grid(self._input_shape)

        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim)) if cls_token else None
        self._add_position_tables(pos_embed, embed_dim)
        self.patch_embed = PatchEmbed(in_channels, embed_dim, is_video=num_frames is not None)
        sizes = _rel_pos_sizes(plan, self._position_grid, is_video=num_frames is not None)
        self.blocks = nn.ModuleList(
            Block(
                spec,
                pooling=pooling,
                has_cls=cls_token,
                residual_pooling=residual_pooling,
                rel_pos_sizes=sizes[i] if rel_pos else None,
                mlp_ratio=mlp_ratio,
                drop_path_rate=drop_path_rate * i / max(depth - 1, 1),
            )
            for i, spec in enumerate(plan)
        )
        self.norm = nn.LayerNorm(self.num_features, eps=NORM_EPS)
        self.level_norms = _level_norms(self.feature_info) if level_norms else None
        self.map_norm = "none" if level_norms else "layer"  # what heads add
        self.head = self.new_head(num_classes)
        self._initialise()

    def _add_position_tables(self, kind: str, dim: int) -> None:
        t, h, w = self._position_grid
        num_cls = int(self.cls_token is not None)
        lengths = {
            "pos_embed": num_cls + t * h * w if kind == "joint" else 0,
            "pos_embed_spatial": h * w if kind == "separate" else 0,
            "pos_embed_temporal": t if kind == "separate" else 0,
            "pos_embed_class": num_cls if kind == "separate" else 0,
        }
        for name, length in lengths.items():
            self.register_parameter(name, nn.Parameter(torch.empty(1, length, dim)) if length else None)

    def _initialise(self) -> None:
        self.apply(init_trunc_normal)
        for name, parameter in self.named_parameters():
            if name.startswith(("cls_token", "pos_embed")) or ".rel_pos_" in name:
                nn.init.trunc_normal_(parameter, std=0.02)

    def make_head(self, num_classes: int) -> nn.Module:
        """Return dropout and a linear layer, freshly initialised."""
        return Head(self.num_features, num_classes, dropout=self.head_dropout).apply(init_trunc_normal)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """`(C, H, W)` for images, `(C, T, H, W)` for clips: the size this network was constructed for."""
        return self._input_shape

    @property
    def position_grid(self) -> Grid:
        """`(t, h, w)`: the token grid of the position tables."""
        return self._position_grid

    def parameter_stages(self) -> list[tuple[str, ...]]:
        """Return the stem with its positions, each block, and the head with the last norm."""
        blocks = [(f"blocks.{i}.",) for i in range(len(self.blocks))]
        return [("cls_token", "pos_embed", "patch_embed."), *blocks, ("norm.", "level_norms.", "head.")]

    def no_weight_decay(self) -> set[str]:
        """Return biases and everything 1-D, and with norms per level, as detectron2 has it, tables of positions."""
        tables = {name for name, _ in self.named_parameters() if ".rel_pos_" in name and self.level_norms is not None}
        return super().no_weight_decay() | tables

    def forward_features(self, x: Tensor) -> Tensor:
        """Map clip `(B, C, T, H, W)` or image `(B, C, H, W)` to `(B, D)`.

        Raises:
            ValueError: The shape is not one that this network takes.
        """
        tokens, _ = self._run_blocks(x)
        tokens = self.norm(tokens)
        return tokens.mean(1) if self.cls_token is None else tokens[:, 0]

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Return the tokens at the end of every grid size, as maps `(B, C_i, [T_i,] H_i, W_i)`.

        Only the last map has passed a norm, unless there are norms of all.
        """
        _, levels = self._run_blocks(x)
        norms = self.level_norms or [nn.Identity() for _ in levels[1:]]
        maps = []
        for norm, (level, grid) in zip([*norms, self.norm], levels, strict=True):
            level = norm(level)
            level = level if self.cls_token is None else level[:, 1:]
            level_map = level.unflatten(1, grid).permute(0, 4, 1, 2, 3)  # (B, C, t, h, w)
            maps.append(level_map if x.ndim == 5 else level_map.squeeze(2))
        if self.level_norms is not None and torch.is_grad_enabled():
            # Some heads read no fine maps. DDP waits for the gradients of their norms, which are zero then.
            maps[-1] = maps[-1] + sum(0.0 * parameter.sum() for parameter in self.level_norms.parameters())
        return maps

    def levels(self, shape: tuple[int, ...]) -> list[Level]:
        """Return the inputs of the blocks that pool, and the output of the last norm.

        Only the class token leaves the last block on its way to the head. With a class token, the coarsest level is
        therefore that block's input, which is the finer level, too, if it pools.
        """
        grids, num_cls = self.token_grids(shape), int(self.cls_token is not None)

        def to_map(tokens: Tensor, thw: Grid) -> Tensor:
            grid = tokens[:, num_cls:].unflatten(1, thw).movedim(-1, 1)  # (B, C, t, h, w)
            return grid if len(shape) == 5 else grid.squeeze(2)

        levels, stride = [], PATCH_STRIDE
        for block, thw in zip(cast("list[Block]", self.blocks), grids, strict=False):
            start = Level(block, partial(to_map, thw=thw), stride, is_input=True)
            if block.q_stride > 1:
                levels.append(start)
            stride *= block.q_stride
        return [*levels, start if num_cls else Level(self.norm, partial(to_map, thw=grids[-1]), stride)]

    def token_grids(self, shape: tuple[int, ...]) -> list[Grid]:
        """Return the grids of each block's input tokens, and of the last block's output."""
        grids = [_patch_grid(shape[1:])]
        for block in cast("list[Block]", self.blocks):
            grids.append(block.attn.grids(grids[-1])[0])
        return grids

    def _run_blocks(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Grid]]]:
        """Run all blocks: return the last tokens, and for every grid size its last tokens."""
        tokens, thw = self._embedded(x)
        levels: list[tuple[Tensor, Grid]] = []
        for block in cast("list[Block]", self.blocks):
            if block.q_stride > 1:
                levels.append((tokens, thw))
            tokens = self.run_block(block, tokens, thw)
            thw = block.attn.grids(thw)[0]
        return tokens, [*levels, (tokens, thw)]

    def _embedded(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Return the input tokens of the first block, `(B, [1 +] t*h*w, C)`, and their grid."""
        self._check_input_shape(tuple(x.shape[1:]))
        grid = self.patch_embed(x)  # (B, t, h, w, C)
        thw: Grid = grid.shape[1:4]
        return self._with_positions(grid, thw), thw

    def _with_positions(self, grid: Tensor, thw: Grid) -> Tensor:
        """Map token grid `(B, t, h, w, C)` to tokens `(B, [1 +] t*h*w, C)` with class token and positions."""
        tokens = grid.flatten(1, 3)
        cls: Tensor | None = self.cls_token
        t, h, w = self._position_grid
        if self.pos_embed is not None:
            n = int(cls is not None)
            tokens = tokens + resized_positions(self.pos_embed[:, n:], (t, h, w), thw)
            cls = None if cls is None else cls + self.pos_embed[:, :1]
        elif self.pos_embed_spatial is not None and self.pos_embed_temporal is not None:
            space = resized_positions(self.pos_embed_spatial, (1, h, w), (1, *thw[1:]))
            time = resized_positions(self.pos_embed_temporal, (t, 1, 1), (thw[0], 1, 1))
            tokens = tokens + (space[:, None] + time[:, :, None]).flatten(1, 2)
            if cls is not None and self.pos_embed_class is not None:
                cls = cls + self.pos_embed_class
        if cls is not None:
            tokens = torch.cat([cls.expand(tokens.shape[0], -1, -1), tokens], 1)
        return tokens

    def _check_input_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless `shape`, without the batch, is one that this network takes."""
        cell = self.feature_info[-1].stride
        built = self._input_shape
        if len(shape) != len(built) or shape[0] != built[0] or min(shape) < 1 or min(shape[-2:]) < cell:
            expected = f"(B, C, H, W) with C={built[0]}"
            if len(built) == 4:
                expected = f"(B, C, T, H, W) with C={built[0]}, T of 1 or more"
            raise ValueError(f"expected {expected} and H, W of {cell} or more, got shape {('B', *shape)}")


def _input_shape(
    in_channels: int, num_frames: int | None, image_size: int | tuple[int, int], *, cell: int, pool_kernel: Grid | None
) -> tuple[int, ...]:
    """Return `(C, [T,] H, W)` after checks."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if in_channels < 1:
        raise ValueError(f"in_channels must be 1 or more, got {in_channels}")
    if min(height, width) < cell:
        raise ValueError(f"image_size must be at least {cell}, got {height}, {width}")
    if num_frames is None:
        if pool_kernel is not None and pool_kernel[0] != 1:
            raise ValueError(f"num_frames=None is an image, so pool_kernel must start with 1, got {pool_kernel}")
        return in_channels, height, width
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    return in_channels, num_frames, height, width


def _patch_grid(shape: tuple[int, ...]) -> Grid:
    t = math.ceil(shape[1] / PATCH_STRIDE_FRAMES) if len(shape) == 4 else 1
    return t, math.ceil(shape[-2] / PATCH_STRIDE), math.ceil(shape[-1] / PATCH_STRIDE)


def _feature_info(plan: list[BlockSpec]) -> tuple[FeatureInfo, ...]:
    info, stride = [], PATCH_STRIDE
    for i, spec in enumerate(plan):
        if spec.q_stride > 1:
            info.append(FeatureInfo(channels=plan[i - 1].dim_out if i else spec.dim, stride=stride))
            stride *= spec.q_stride
    return (*info, FeatureInfo(channels=plan[-1].dim_out, stride=stride))


def _level_norms(levels: Sequence[FeatureInfo]) -> nn.ModuleList:
    """Return the norms of all maps but the last one, which has that of the network."""
    return nn.ModuleList(nn.LayerNorm(level.channels, eps=NORM_EPS) for level in levels[:-1])


def _rel_pos_sizes(plan: list[BlockSpec], thw: Grid, *, is_video: bool) -> list[Grid]:
    """Return lengths of each block's relative-position tables, along (T, H, W)."""
    sizes = []
    t, h, w = thw
    for spec in plan:
        # The released tables are sized by floor division, while odd grids round up; they are stretched on use.
        h_length, w_length = (2 * max(n // spec.q_stride, n // spec.kv_stride, 1) - 1 for n in (h, w))
        sizes.append((2 * t - 1 if is_video else 0, h_length, w_length))
        h, w = max(h // spec.q_stride, 1), max(w // spec.q_stride, 1)
    return sizes


def _check_rates(**rates: float) -> None:
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {rate}")
