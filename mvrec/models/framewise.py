"""An image network on clips: frame by frame, with the features pooled over time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mvrec.models.backbone import Backbone, FeatureInfo, Level

Pool = Literal["mean", "max"]


class Framewise(Backbone):
    """An image network on every frame of a clip, with the features pooled over time before its head.

    Clips `(B, C, T, H, W)` of any number of frames; their order has no effect. Head, levels and checkpointing are
    those of the image network, the attribute `backbone`: its weights are loaded there.

    Args:
        backbone: The image network.
        num_frames: Frames of the clips it is constructed for; only `input_shape` uses it.
        pool: How to pool the frames' features: by "mean" or "max".
        frames_per_chunk: Frames per forward pass, over all clips of the batch; None for all. It saves memory without
            gradients. Batch norm learns from each chunk separately.

    Raises:
        ValueError: An argument is out of range, or the network does not take images.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_frames: int,
        pool: Pool = "mean",
        frames_per_chunk: int | None = None,
    ) -> None:
        super().__init__()
        if len(backbone.input_shape) != 3:
            raise ValueError(f"Framewise needs an image network, got one for inputs of shape {backbone.input_shape}")
        if num_frames < 1 or (frames_per_chunk is not None and frames_per_chunk < 1):
            raise ValueError(f"num_frames and frames_per_chunk must be 1 or more, got {num_frames}, {frames_per_chunk}")
        if pool not in get_args(Pool):
            raise ValueError(f"pool must be one of {get_args(Pool)}, got {pool!r}")
        self.backbone = backbone
        self.num_frames = num_frames
        self.pool = pool
        self.frames_per_chunk = frames_per_chunk

    @property
    def num_features(self) -> int:  # type: ignore[override]
        """Width of the features."""
        return self.backbone.num_features

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """Classes of the head; 0 for none."""
        return self.backbone.num_classes

    @property
    def feature_info(self) -> Sequence[FeatureInfo]:  # type: ignore[override]
        """The image network's; the maps have T as well."""
        return self.backbone.feature_info

    @property
    def head(self) -> nn.Module:  # type: ignore[override]
        """The image network's."""
        return self.backbone.head

    @property
    def input_shape(self) -> tuple[int, ...]:
        """`(C, T, H, W)`: the size this network was constructed for."""
        channels, height, width = self.backbone.input_shape
        return channels, self.num_frames, height, width

    @property
    def has_layer_order(self) -> bool:  # type: ignore[override]
        """The image network's."""
        return self.backbone.has_layer_order

    @property
    def position_grid(self) -> tuple[int, int, int] | None:
        """The image network's."""
        return self.backbone.position_grid

    def make_head(self, num_classes: int) -> nn.Module:
        """Return the image network's head."""
        return self.backbone.make_head(num_classes)

    def reset_head(self, num_classes: int) -> None:
        """Replace the image network's head.

        Raises:
            ValueError: `num_classes` is negative.
        """
        self.backbone.reset_head(num_classes)

    def place_head(self, head: nn.Module, num_classes: int) -> None:
        """Replace the image network's head by any module; one on the maps reads those of all frames."""
        self.backbone.place_head(head, num_classes)

    def parameter_stages(self) -> list[tuple[str, ...]]:
        """Return the image network's stages."""
        return [tuple(f"backbone.{prefix}" for prefix in stage) for stage in self.backbone.parameter_stages()]

    def layer_groups(self) -> list[list[str]]:
        """Return the image network's groups."""
        return [[f"backbone.{name}" for name in group] for group in self.backbone.layer_groups()]

    def no_weight_decay(self) -> set[str]:
        """Return the image network's exemptions."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    def set_activation_checkpointing(self, on: bool) -> None:
        """Switch the image network's activation checkpointing."""
        self.backbone.set_activation_checkpointing(on)
        self.activation_checkpointing = on

    def forward_features(self, x: Tensor) -> Tensor:
        """Map clips `(B, C, T, H, W)` to the pooled features of their frames, `(B, D)`.

        Raises:
            ValueError: The shape is not one that this network takes.
        """
        (features,) = self._by_frame(lambda frames: [self.backbone.forward_features(frames)], x)  # (B, T, D)
        return features.mean(1) if self.pool == "mean" else features.amax(1)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Return the image network's maps of every frame, `(B, C_i, T, H_i, W_i)`."""
        return [level.transpose(1, 2) for level in self._by_frame(self.backbone.feature_maps, x)]

    def levels(self, shape: tuple[int, ...]) -> list[Level]:
        """Return the image network's levels, for all frames."""
        clips, channels, num_frames, *size = shape

        def with_frames(to_map: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
            return lambda out: to_map(out).unflatten(0, (clips, num_frames)).transpose(1, 2)

        inner = self.backbone.levels((clips * num_frames, channels, *size))
        return [replace(level, to_map=with_frames(level.to_map)) for level in inner]

    def _by_frame(self, call: Callable[[Tensor], list[Tensor]], x: Tensor) -> list[Tensor]:
        """Apply `call` to all frames `(B * T, C, H, W)` and separate clips and frames again: `(B, T, ...)`."""
        if x.ndim != 5 or 0 in x.shape:
            raise ValueError(f"expected clips (B, C, T, H, W), got shape {tuple(x.shape)}")
        clips, num_frames = x.shape[0], x.shape[2]
        frames = x.transpose(1, 2).flatten(0, 1)  # (B * T, C, H, W)
        # Without a number of frames no split: their count would fix B where the network is traced.
        parts = frames.split(self.frames_per_chunk) if self.frames_per_chunk else [frames]
        chunks = [call(chunk) for chunk in parts]
        levels = [torch.cat(level) if len(level) > 1 else level[0] for level in zip(*chunks, strict=True)]
        return [level.unflatten(0, (clips, num_frames)) for level in levels]
