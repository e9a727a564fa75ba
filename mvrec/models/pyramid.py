"""The base of image networks with stages on increasingly coarse token grids."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from mvrec.models.backbone import Backbone, FeatureInfo, Level
from mvrec.models.layers import init_fan_out

# For every pyramid: pixels per side of a cell of the first stage, and epsilon of the norms of blocks and stages.
PATCH_STRIDE = 4
PYRAMID_NORM_EPS = 1e-6

ImageSize = int | tuple[int, int]  # pixels, square or (H, W)


@dataclass(frozen=True)
class PyramidStage:
    """The common part of the rows of architecture tables.

    Args:
        dim: Width of the tokens.
        depth: Number of blocks.
        heads: Attention heads.
        sr_ratio: Cells per side that half of the heads merges into one key; the network decides about the others.
            1 for plain attention over all tokens.
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

    Stage `i`, counted from 1, has the modules `patch_embed{i}`, the blocks `block{i}.{j}` and `norm{i}`. The first has
    cells of 4x4 pixels, and each further one halves the grid. A subclass calls `_add_stages` once it has the modules.

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
        """Return the fewest pixels per side with which all blocks have tokens to attend to."""
        raise NotImplementedError

    def _add_stages(self, embeds: Iterable[nn.Module], blocks: Iterable[Iterable[nn.Module]]) -> None:
        """Register the stages' modules, from fine to coarse, make the head, and initialise everything."""
        for i, (embed, stage_blocks) in enumerate(zip(embeds, blocks, strict=True)):
            self.add_module(f"patch_embed{i + 1}", embed)
            self.add_module(f"block{i + 1}", nn.ModuleList(stage_blocks))
            self.add_module(f"norm{i + 1}", nn.LayerNorm(self.feature_info[i].channels, eps=PYRAMID_NORM_EPS))
        self.head = self.new_head(self.num_classes)
        self.apply(init_fan_out)

    def make_head(self, num_classes: int) -> nn.Module:
        """Return a freshly initialised linear layer."""
        return nn.Linear(self.num_features, num_classes).apply(init_fan_out)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """`(C, H, W)`: the size this network was constructed for."""
        return self._input_shape

    def parameter_stages(self) -> list[tuple[str, ...]]:
        """Return the stem, each block with its stage's first and last layers, and the head with the last norm."""
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
        """Map images `(B, C, H, W)` to the mean of the last tokens, `(B, D)`.

        Raises:
            ValueError: The shape is not one that this network takes.
        """
        return self._run_stages(x)[-1].mean((1, 2))

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Return the normed tokens of every stage, as maps `(B, C_i, H_i, W_i)`."""
        return [grid.permute(0, 3, 1, 2) for grid in self._run_stages(x)]

    def levels(self, shape: tuple[int, ...]) -> list[Level]:
        """Return the outputs of the norms."""
        norms = [getattr(self, f"norm{i + 1}") for i in range(len(self.feature_info))]
        return [
            Level(norm, lambda grid: grid.permute(0, 3, 1, 2), info.stride)
            for norm, info in zip(norms, self.feature_info, strict=True)
        ]

    def _run_stages(self, x: Tensor) -> list[Tensor]:
        """Return the normed grid `(B, h, w, C)` of every stage, also the input of the next one."""
        self._check_input_shape(tuple(x.shape[1:]))
        grids: list[Tensor] = []
        for i in range(1, len(self.feature_info) + 1):
            x = self._embed(x, i)  # (B, h, w, C)
            x = self._run_blocks(self._blocks(i), x)
            x = getattr(self, f"norm{i}")(x)
            grids.append(x)
        return grids

    def _embed(self, x: Tensor, stage: int) -> Tensor:
        """Map images `(B, C, H, W)` or the previous grid to the stage's first grid."""
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
    """Return the stochastic depth of every block of every stage: linearly from 0 at the first to `last`.

    Raises:
        ValueError: `last` is not a probability below 1.
    """
    if not 0 <= last < 1:
        raise ValueError(f"drop_path_rate must lie in [0, 1), got {last}")
    depths = [stage.depth for stage in stages]
    rates = [last * block / max(sum(depths) - 1, 1) for block in range(sum(depths))]
    return [rates[sum(depths[:i]) : sum(depths[: i + 1])] for i in range(len(depths))]
