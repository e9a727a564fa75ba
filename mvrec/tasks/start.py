"""What training starts from: the weights of a file, a head that fits the data, and layers that stay as they are."""

import logging
from collections.abc import Sequence
from typing import Literal

from torch import nn

from mvrec.data.listing.class_names import comparable
from mvrec.errors import UserError
from mvrec.models.backbone import Backbone
from mvrec.models.checkpoints import start_from

log = logging.getLogger(__name__)


class Start:
    """How a network is made ready for training.

    Args:
        weights: A file of weights, or `None` for those that the network has.
        new_head: Whether the head starts untrained; `None` where its classes are not the data's.
        freeze: Layers from the stem on that are not trained, or "backbone" for all but the head.

    Raises:
        UserError: A negative number of layers.
    """

    def __init__(
        self, weights: str | None = None, *, new_head: bool | None = None, freeze: int | Literal["backbone"] = 0
    ) -> None:
        if freeze != "backbone" and freeze < 0:
            raise UserError(f'model.freeze must be 0 or above, or "backbone", got {freeze}')
        self.weights, self.new_head, self.freeze = weights, new_head, freeze
        self._names: Sequence[str] | None = None  # of the classes that the head knows
        self._frozen: list[str] = []

    def load(self, backbone: Backbone) -> None:
        """Copy the file's weights into the network; a head for other classes is left to `fit_head`.

        Raises:
            UserError: No such file, or weights that are not this network's.
        """
        if self.weights is not None:
            details = start_from(backbone, self.weights)
            self._names = details.get("class_names")

    def fit_head(self, backbone: Backbone, names: Sequence[str]) -> None:
        """Give the network a head for the data's classes, and say what became of the one it had.

        Args:
            backbone: The network.
            names: The data's classes in label order.
        """
        before = backbone.num_classes
        other = before != len(names) or (self._names is not None and not _same(self._names, names))
        if not (other if self.new_head is None else self.new_head or before != len(names)):
            if self.weights is not None and self._names is None:
                log.warning(
                    "%s does not name its %d classes: its head is kept as if they were the data's "
                    "(--model.new_head true for an untrained one)",
                    self.weights,
                    before,
                )
            return
        backbone.reset_head(len(names))
        if self.weights is not None:
            log.info("the head of %d classes is replaced by an untrained one of %d", before, len(names))

    def classes(self, backbone: Backbone, names: Sequence[str]) -> Sequence[str]:
        """The classes that the weights are for, where they are only to be scored: no head is made.

        Args:
            backbone: The network.
            names: The data's classes in label order, which weights without names are taken to be for.

        Raises:
            UserError: Weights without names, for another number of classes.
        """
        if self._names is None and backbone.num_classes != len(names):
            raise UserError(f"{self.weights} is for {backbone.num_classes} classes, the data have {len(names)}")
        if self._names is None:
            log.warning("%s does not name its %d classes: they are taken for the data's", self.weights, len(names))
        return self._names or names

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


def _same(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    plain = comparable(ours, theirs)
    return plain[0] == plain[1]
