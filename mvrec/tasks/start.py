"""What training starts from: the weights of a file, and layers that stay as they are."""

from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from mvrec.errors import UserError
from mvrec.models.backbone import Backbone
from mvrec.models.checkpoints import start_from


class Start:
    """How a network is made ready for training.

    Args:
        weights: A file of weights, or `None` for those that the network has.
        freeze: Layers from the stem on that are not trained, or "backbone" for all but the head.

    Attributes:
        details: What the file says of itself, such as `class_names`.

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
        """Copy the file's weights into the network; a head for other data is the task's to make.

        Raises:
            UserError: No such file, or weights that are not this network's.
        """
        if self.weights is not None:
            self.details = start_from(backbone, self.weights)

    def freeze_layers(self, backbone: Backbone) -> None:
        """Take the frozen layers out of training, before anything wraps the network.

        Raises:
            UserError: More layers than there are.
        """
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
        """Leave modules with nothing but frozen parameters in evaluation mode: their statistics do not move."""
        if not self._frozen:
            return
        for module in backbone.modules():
            own = list(module.parameters())
            if own and not any(parameter.requires_grad for parameter in own):
                module.eval()
