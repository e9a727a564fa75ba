"""The head of a classifier beside the classes of the data."""

import logging
from collections.abc import Sequence

from mvrec.data.listing.class_names import comparable
from mvrec.errors import UserError
from mvrec.models.backbone import Backbone
from mvrec.tasks.start import Start

log = logging.getLogger(__name__)


def fit_head(backbone: Backbone, names: Sequence[str], start: Start, *, new_head: bool | None = None) -> None:
    """Give the network a head for the data's classes, and say what became of the one it had.

    Args:
        backbone: The network.
        names: The data's classes in label order.
        start: The weights that the network has.
        new_head: Whether the head starts untrained; `None` where its classes are not the data's.
    """
    before, known = backbone.num_classes, start.details.get("class_names")
    other = before != len(names) or (known is not None and not _same(known, names))
    if not (other if new_head is None else new_head or before != len(names)):
        if start.weights is not None and known is None:
            log.warning(
                "%s does not name its %d classes: its head is kept as if they were the data's "
                "(--model.new_head true for an untrained one)",
                start.weights,
                before,
            )
        return
    backbone.reset_head(len(names))
    if start.weights is not None:
        log.info("the head of %d classes is replaced by an untrained one of %d", before, len(names))


def classes_of_weights(backbone: Backbone, names: Sequence[str], start: Start) -> Sequence[str]:
    """Return the classes that weights are for, where they are only to be scored: no head is made.

    Args:
        backbone: The network.
        names: The data's classes in label order, which weights without names are taken to be for.
        start: The weights.

    Raises:
        UserError: Weights without names, for another number of classes.
    """
    known = start.details.get("class_names")
    if known is None and backbone.num_classes != len(names):
        raise UserError(f"{start.weights} is for {backbone.num_classes} classes, the data have {len(names)}")
    if known is None:
        log.warning("%s does not name its %d classes: they are taken for the data's", start.weights, len(names))
    return known or names


def _same(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    plain = comparable(ours, theirs)
    return plain[0] == plain[1]
