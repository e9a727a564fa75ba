"""The contract of every network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

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
    """The place in a forward pass, on the way to the score, that gives a feature map.

    Attributes:
        module: The module whose output, or input, is the tensor.
        to_map: Converts that tensor to the map `(B, C, [T,] H, W)`.
        stride: Pixels from one cell of the map to the next.
        is_input: Whether the tensor is the module's input; else it is its output, or the first of them.
    """

    module: nn.Module
    to_map: Callable[[Tensor], Tensor]
    stride: int
    is_input: bool = False


class MapsHead(nn.Module):
    """A head that reads the maps of a network, fine to coarse, in place of its one vector.

    A subclass writes `forward(maps, size, *inputs)`: maps `(B, C_i, [T_i,] H_i, W_i)` as `feature_maps` gives them,
    (height, width) of the network's input, and what else the head is asked about, such as boxes.

    Attributes:
        kind: What it answers for, by which its weights are told from those of other heads.
        arguments: The arguments that make it again for the same network.
    """

    kind: ClassVar[str] = "maps"
    arguments: dict[str, Any]


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
    map_norm: Literal["none", "layer", "group"] = "none"  # what heads on the maps put before them, if these have none
    has_layer_order: bool = True  # whether `parameter_stages` goes layer by layer

    def __init__(self) -> None:
        super().__init__()
        self.activation_checkpointing = False

    def forward_features(self, x: Tensor) -> Tensor:
        """Return one vector per image or clip, `(B, num_features)`, for the head."""
        raise NotImplementedError

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Return maps `(B, C_i, [T_i,] H_i, W_i)` from fine to coarse, as `feature_info` lists them."""
        raise NotImplementedError

    def levels(self, shape: tuple[int, ...]) -> list[Level]:
        """Return the places of the maps of `feature_maps`, from fine to coarse; empty if unknown.

        Args:
            shape: Shape of the input, `(B, C, [T,] H, W)`.
        """
        return []

    @property
    def input_shape(self) -> tuple[int, ...]:
        """`(C, H, W)` for images or `(C, T, H, W)` for clips: the size this network was constructed for."""
        raise NotImplementedError

    @property
    def position_grid(self) -> tuple[int, int, int] | None:
        """`(t, h, w)`: the token grid of the position tables; None without tables."""
        return None

    def make_head(self, num_classes: int) -> nn.Module:
        """Return a freshly initialised head from `(B, num_features)` to `(B, num_classes)`, one class or more."""
        raise NotImplementedError

    def parameter_stages(self) -> list[tuple[str, ...]]:
        """Return prefixes of parameter names, one tuple per depth level from the stem to the head."""
        raise NotImplementedError

    def forward(self, x: Tensor, *inputs: Tensor) -> Tensor:
        """Return raw logits `(B, num_classes)`, the features without classes, or what a head on the maps returns.

        Args:
            x: Images or clips.
            inputs: Further inputs of a head on the maps.
        """
        if isinstance(self.head, MapsHead):
            return self.head(self.feature_maps(x), x.shape[-2:], *inputs)
        return self.head(self.forward_features(x))

    def new_head(self, num_classes: int) -> nn.Module:
        """Return `make_head`, or an identity for the features if there are no classes.

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
        self.place_head(self.new_head(num_classes), num_classes)

    def place_head(self, head: nn.Module, num_classes: int) -> None:
        """Replace the head by any module, on the same device and in the same precision as the rest."""
        reference = next(self.parameters())
        self.head = head.to(device=reference.device, dtype=reference.dtype).train(self.training)
        self.num_classes = num_classes

    def no_weight_decay(self) -> set[str]:
        """Return the parameters without weight decay in the authors' recipes: biases and everything 1-D."""
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
        """Call `block`, under activation checkpointing if it is on and gradients are recorded."""
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)
