"""The head of a classifier for the classes of the data."""

import logging
from collections.abc import Sequence

from mvrec.data.listing.class_names import comparable
from mvrec.errors import UserError
from mvrec.models.backbone import Backbone
from mvrec.tasks.start import Start

log = logging.getLogger(__name__)


def fit_head(backbone: Backbone, names: Sequence[str], start: Start, *, new_head: bool | None = None) -> None:
    """Give the network a head for the data's classes, and log whether the earlier one stays.

    Args:
        backbone: The network.
        names: The data's classes in label order.
        start: The network's weights.
        new_head: Whether the head starts untrained; `None` does so if its classes are not the data's.
    """
    before, saved = backbone.num_classes, start.details.get("class_names")
    other = before != len(names) or (saved is not None and not _same(saved, names))
    if not (other if new_head is None else new_head or before != len(names)):
        if start.weights is not None and saved is None:
            log.warning(
                "%s does not name its %d classes: its head is kept as if they were the data's "
                "(--model.new_head true for an untrained one)",
                start.weights,
                before,
            )
        return
    backbone.reset_head(len(names))
    if start.weights is not None:
        # Of a run the network is built without its head's size, so its names tell.
        log.info("the head of %d classes is replaced by an untrained one of %d", len(saved or ()) or before, len(names))


def classes_of_weights(backbone: Backbone, names: Sequence[str], start: Start) -> Sequence[str]:
    """Return the classes of weights that are only scored: no head is made.

    Args:
        backbone: The network.
        names: The data's classes in label order, assumed for weights without names.
        start: The weights.

    Raises:
        UserError: Weights without names have another number of classes.
    """
    saved = start.details.get("class_names")
    if saved is None and backbone.num_classes != len(names):
        raise UserError(f"{start.weights} is for {backbone.num_classes} classes, the data have {len(names)}")
    if saved is None:
        log.warning("%s does not name its %d classes: assuming those of the data", start.weights, len(names))
    return saved or names


def _same(first: Sequence[str], second: Sequence[str]) -> bool:
    plain = comparable(first, second)
    return plain[0] == plain[1]
