"""A user's network, any `nn.Module`, behind mvrec's contract."""

import contextlib
import inspect
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from mvrec.errors import UserError
from mvrec.models.backbone import Level
from mvrec.models.baselines.wrapper import Baseline, Origin, keep_output, one_line


class OwnNetwork(Baseline):
    """A network of one's own that only has `forward`, from clips or images to logits or features.

    One forward pass on zeros tells which: an output as wide as the network's argument or attribute `num_classes`, or
    as the data have classes, are logits; anything else are features, which get a new linear head. If the logits come
    from a linear layer, that layer becomes the head, so that it can be replaced for other classes.

    The order of its layers is unknown: layer decay and the freezing of some layers need a `Backbone`.

    Args:
        network: Clips `(B, C, T, H, W)`, or images `(B, C, H, W)`, to logits or features `(B, D)`. Its last layer moves
            to `head`.
        image_size: Pixels of a side, or (H, W). On the command line the data's.
        num_frames: Frames of a clip; None for images. On the command line the data's.
        in_channels: Channels of the input.

    Raises:
        UserError: The network cannot take such an input, or does not return one vector for each.
    """

    has_layer_order = False

    def __init__(
        self,
        network: nn.Module,
        *,
        image_size: int | tuple[int, int] = 224,
        num_frames: int | None = None,
        in_channels: int = 3,
    ) -> None:
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        shape = (in_channels, *([] if num_frames is None else [num_frames]), *size)
        name, declared = type(network).__name__, _declared_classes(network)
        width = _width(network, name, shape)
        classifier = _take_classifier(network, torch.zeros(2, *shape)) if width == declared else None
        path = "" if classifier is None else classifier[0]
        super().__init__(network, origin=Origin(name, shape, declared, path), num_classes=0)
        self.gives_logits = classifier is None and width == declared
        if classifier is not None:
            self.head = classifier[1]
        if width == declared:
            self.num_classes = declared

    def levels(self, shape: tuple[int, ...]) -> list[Level]:
        """Return the modules whose outputs are maps on grids of two strides or more, as one forward pass shows."""
        levels = self._levels.items()
        return [Level(self.net.get_submodule(path), lambda output: output, info.stride) for path, info in levels]

    @property
    def summary(self) -> str:
        """Its name, and what its output is taken for."""
        if self.gives_logits:
            meaning = f"its {self.num_features} outputs are taken for logits: as many as classes, no head is added"
            return f"{self.name} ({meaning})"
        return f"{self.name} ({self.num_features} features)"

    def reset_head(self, num_classes: int) -> None:
        """Replace the head; none is needed if the network gives as many logits.

        Raises:
            UserError: The network gives logits of other classes, and its last layer is unknown.
            ValueError: `num_classes` is negative.
        """
        if num_classes == self.num_features and isinstance(self.head, nn.Identity):
            self.gives_logits, self.num_classes = True, num_classes
            return
        if self.gives_logits and num_classes:
            raise UserError(
                f"{self.name} gives {self.num_features} outputs, and {num_classes} classes need as many: build it with "
                f"num_classes={num_classes}, or let forward return features"
            )
        super().reset_head(num_classes)

    def parameter_stages(self) -> list[tuple[str, ...]]:
        """Return the network and its head: the order of layers is unknown."""
        return [stage for prefix in ("net.", "head.") if (stage := self._names(prefix))]

    def layer_groups(self) -> list[list[str]]:
        """Return all parameter names: those of the network, and those of its head."""
        return [list(stage) for stage in self.parameter_stages()]

    def _names(self, prefix: str) -> tuple[str, ...]:
        return tuple(name for name, _ in self.named_parameters() if name.startswith(prefix))


def _declared_classes(network: nn.Module) -> int:
    """Return the number of classes that a network states, by an attribute or its default; 0 for none."""
    stated = getattr(network, "num_classes", None)
    if stated is None:
        with contextlib.suppress(TypeError, ValueError):
            parameter = inspect.signature(type(network)).parameters.get("num_classes")
            stated = None if parameter is None else parameter.default
    return stated if isinstance(stated, int) and stated > 0 else 0


@torch.no_grad()
def _forward(network: nn.Module, x: Tensor) -> Any:
    training = network.training
    network.eval()  # batch norm must neither learn from this nor refuse a batch of one
    try:
        return network(x)
    finally:
        network.train(training)


def _width(network: nn.Module, name: str, shape: tuple[int, ...]) -> int:
    """Return the width D of a network's output (B, D).

    Raises:
        UserError: The network fails, or returns something else.
    """
    axes = f"{'(B, C, T, H, W)' if len(shape) == 4 else '(B, C, H, W)'} = {(2, *shape)}"
    try:
        output = _forward(network, torch.zeros(2, *shape))
    except Exception as error:
        raise UserError(f"{name}.forward fails on {axes}: {_named(error)}{_hint(network, shape)}") from error
    if not isinstance(output, Tensor):
        kind = type(output).__name__
        raise UserError(f"{name}.forward returns a {kind}, expected a tensor (B, D) of logits or features")
    if output.ndim != 2 or len(output) != 2:
        raise UserError(
            f"{name}.forward returns shape {tuple(output.shape)} for {axes}, expected (2, D): logits or features, one "
            "vector for each input"
        )
    return output.shape[1]


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


def _hint(network: nn.Module, shape: tuple[int, ...]) -> str:
    """Return the advice for a network of images that gets clips."""
    if len(shape) == 3:
        return ""
    try:
        _forward(network, torch.zeros(2, shape[0], *shape[2:]))
    except Exception:  # it is no network of images either
        return ""
    return "; it takes images (B, C, H, W): put it into mvrec.models.Framewise, which goes frame by frame"


def _take_classifier(network: nn.Module, x: Tensor) -> tuple[str, nn.Linear] | None:
    """Put an identity in place of the linear layer whose output is the network's.

    Returns:
        Path and layer; `None`, and an unchanged network, if there is no such layer or the network also uses it
        otherwise.
    """
    outputs: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_hook(partial(keep_output, outputs, path))
        for path, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and path
    ]
    try:
        result = _forward(network, x)
    finally:
        for hook in hooks:
            hook.remove()
    path = next((path for path, output in outputs.items() if output is result), None)
    if path is None:
        return None
    layer = cast("nn.Linear", network.get_submodule(path))
    network.set_submodule(path, nn.Identity())
    with contextlib.suppress(Exception):
        if _forward(network, x).shape == (len(x), layer.in_features):
            return path, layer
    network.set_submodule(path, layer)
    return None
