"""The start of training: the weights of a file, and frozen layers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import nn

from mvrec.errors import UserError
from mvrec.files import sha256
from mvrec.models.backbone import Backbone
from mvrec.models.checkpoints import start_from
from mvrec.weights.cache import fetched_path


def check_network(backbone: Any, layer_decay: float) -> None:
    """Check that a network is a `Backbone`, and knows its layers where their rates differ.

    Raises:
        UserError: It is another module, or does not say the order of its layers.
    """
    if not isinstance(backbone, Backbone):
        name = type(backbone).__name__
        raise UserError(f"model.backbone: {name} is no Backbone: wrap it, mvrec.models.OwnNetwork({name}(), ...)")
    if layer_decay != 1 and not backbone.has_layer_order:
        raise UserError(f"model.layer_decay={layer_decay:g}: {_no_order(backbone)}; set it to 1")


def _no_order(backbone: Backbone) -> str:
    return f"the order of the layers of {getattr(backbone, 'name', type(backbone).__name__)} is unknown"


class Start:
    """The preparation of a network for training.

    Args:
        weights: A file of weights, or `None` for the network's own.
        freeze: Number of frozen layers from the stem on, or "backbone" for all but the head.

    Attributes:
        details: The file's own facts, such as `class_names`.

    Raises:
        UserError: A negative number of layers.
    """

    def __init__(self, weights: str | None = None, *, freeze: int | Literal["backbone"] = 0) -> None:
        if freeze != "backbone" and freeze < 0:
            raise UserError(f'model.freeze must be 0 or above, or "backbone", got {freeze}')
        self.weights, self.freeze = weights, freeze
        self.details: Mapping[str, Any] = {}
        self._frozen: list[str] = []

    def load(self, backbone: Backbone) -> None:
        """Copy the file's weights into the network; the task replaces a head for other data.

        Raises:
            UserError: The file is missing, or the weights are not this network's.
        """
        if self.weights is not None:
            self.details = start_from(backbone, self.weights)

    def freeze_layers(self, backbone: Backbone) -> None:
        """Freeze the layers, before anything wraps the network.

        Raises:
            UserError: There are fewer layers, or their order is unknown.
        """
        if self.freeze not in (0, "backbone") and not backbone.has_layer_order:
            raise UserError(f'model.freeze={self.freeze}: {_no_order(backbone)}; "backbone" freezes all but the head')
        layers = backbone.layer_groups()
        count = len(layers) - 1 if self.freeze == "backbone" else self.freeze
        if count >= len(layers):
            raise UserError(f"model.freeze={count}: the network has {len(layers)} layers, the head being the last")
        parameters = dict(backbone.named_parameters())
        frozen = [name for layer in layers[:count] for name in layer]
        if self.freeze == "backbone":  # the last norm is counted with the head
            frozen += [name for name in layers[-1] if not name.startswith("head.")]
        for name in frozen:
            parameters[name].requires_grad_(False)
        self._frozen = frozen
        self.keep_frozen(backbone)

    def keep_frozen(self, backbone: nn.Module) -> None:
        """Keep modules with only frozen parameters in evaluation mode, so that their statistics do not change."""
        if not self._frozen:
            return
        for module in backbone.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()


def checkpoint_facts(source: str | Path | None) -> dict[str, str | None]:
    """Return the file of the weights that were scored, and its checksum if it is one on this machine."""
    path = None if source is None else fetched_path(str(source)) or Path(source)
    checksum = sha256(path) if path is not None and path.is_file() else None
    return {"checkpoint": None if source is None else str(source), "checkpoint_sha256": checksum}


def named_shape(shape: tuple[int, ...]) -> str:
    """Return a shape without the batch as text, with its axes named."""
    return f"clips (C, T, H, W) = {shape}" if len(shape) == 4 else f"images (C, H, W) = {shape}"
