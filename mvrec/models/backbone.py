"""The contract every network honours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class FeatureInfo:
    """One level of `Backbone.feature_maps`: its channels and how many pixels one cell spans."""

    channels: int
    stride: int


@dataclass(frozen=True)
class Level:
    """Where in a forward pass a feature map can be had, on the way to the score.

    Attributes:
        module: The module that gives it, alone or before others, or takes it.
        to_map: From that tensor to the map `(B, C, [T,] H, W)`.
        stride: Pixels from one cell of the map to the next.
        taken: Whether the module takes it; else it gives it.
    """

    module: nn.Module
    to_map: Callable[[Tensor], Tensor]
    stride: int
    taken: bool = False


class Backbone(nn.Module):
    """A network from pixels to class scores, with its features open to other heads.

    A subclass sets `num_features`, `num_classes`, `feature_info` and `head`, and writes `forward_features`,
    `feature_maps`, `input_shape`, `make_head` and `parameter_stages`. Images are `(B, C, H, W)` and clips
    `(B, C, T, H, W)`. Logits are always raw: no softmax, in training or in evaluation.
    """

    num_features: int
    num_classes: int
    feature_info: Sequence[FeatureInfo]
    head: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.activation_checkpointing = False

    def forward_features(self, x: Tensor) -> Tensor:
        """One vector per image or clip, `(B, num_features)`, ready for the head."""
        raise NotImplementedError

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Return maps `(B, C_i, [T_i,] H_i, W_i)` from fine to coarse, as `feature_info` lists them."""
        raise NotImplementedError

    def levels(self, shape: tuple[int, ...]) -> list[Level]:
        """Where the maps of `feature_maps` can be had, from fine to coarse; nothing where that is not known.

        Args:
            shape: Of the input, `(B, C, [T,] H, W)`.
        """
        return []

    @property
    def input_shape(self) -> tuple[int, ...]:
        """`(C, H, W)` for images or `(C, T, H, W)` for clips: the size this network was constructed for."""
        raise NotImplementedError

    @property
    def position_grid(self) -> tuple[int, int, int] | None:
        """`(t, h, w)`: the token grid that the position tables were made for; None where there are none."""
        return None

    def make_head(self, num_classes: int) -> nn.Module:
        """A freshly initialised head from `(B, num_features)` to `(B, num_classes)`, one class or more."""
        raise NotImplementedError

    def parameter_stages(self) -> list[tuple[str, ...]]:
        """Return prefixes of parameter names, one tuple per depth level from the stem to the head."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return raw logits `(B, num_classes)`, or the features themselves when there are no classes."""
        return self.head(self.forward_features(x))

    def new_head(self, num_classes: int) -> nn.Module:
        """`make_head`, or an identity that leaves the features bare when there are no classes.

        Raises:
            ValueError: `num_classes` is negative.
        """
        if num_classes < 0:
            raise ValueError(f"num_classes must be 0 or more, got {num_classes}")
        return self.make_head(num_classes) if num_classes else nn.Identity()

    def reset_head(self, num_classes: int) -> None:
        """Replace the head by a `new_head`, on the same device and in the same precision as the rest.

        Raises:
            ValueError: `num_classes` is negative.
        """
        reference = next(self.parameters())
        head = self.new_head(num_classes)
        self.head = head.to(device=reference.device, dtype=reference.dtype).train(self.training)
        self.num_classes = num_classes

    def no_weight_decay(self) -> set[str]:
        """Return names of the parameters that the authors' recipes do not decay: biases and everything 1-D."""
        return {name for name, p in self.named_parameters() if p.ndim <= 1 or name.endswith(".bias")}

    def layer_groups(self) -> list[list[str]]:
        """Return all parameter names in groups from the stem to the head, for layer-wise learning-rate decay."""
        stages = self.parameter_stages()
        groups: list[list[str]] = [[] for _ in stages]
        for name, _ in self.named_parameters():
            owners = [i for i, prefixes in enumerate(stages) if name.startswith(prefixes)]
            assert len(owners) == 1, f"{name} belongs to stages {owners}"
            groups[owners[0]].append(name)
        return groups

    def set_activation_checkpointing(self, on: bool) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.activation_checkpointing = on

    def run_block(self, block: Callable[..., Any], *args: Any) -> Any:
        """Call `block`, under activation checkpointing when it is on and gradients are wanted."""
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)
