"""The head of a segmenter for the classes of the data, and its facts in files."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mvrec.data.listing.class_names import comparable
from mvrec.errors import UserError
from mvrec.models.backbone import Backbone
from mvrec.models.checkpoints.files import read_weights
from mvrec.models.heads.segmentation import SegmentationHead
from mvrec.tasks.outputs import task_of
from mvrec.tasks.start import Start

KEY = "head"  # of the head's arguments among a file's facts
TASK = "segmentation"

log = logging.getLogger(__name__)


def make_head(backbone: Backbone, num_classes: int, arguments: Mapping[str, Any]) -> SegmentationHead:
    """Return an untrained head for a network.

    Raises:
        UserError: The network gives no maps of images.
    """
    if len(backbone.input_shape) != 3 or not backbone.feature_info:
        name = getattr(backbone, "name", type(backbone).__name__)
        raise UserError(f"model.backbone: {name} gives no maps of images, which a head for pixels needs")
    named = {name: value for name, value in arguments.items() if name != "num_classes"}
    return SegmentationHead(backbone.feature_info, num_classes, **named)


def fit_head(
    backbone: Backbone,
    names: Sequence[str],
    start: Start,
    *,
    arguments: Mapping[str, Any],
    new_head: bool | None,
    training: bool,
) -> Sequence[str] | None:
    """Give the network a head for the data's classes, and log where it comes from.

    Args:
        backbone: The network, whose weights have been loaded.
        names: The data's classes in label order.
        start: The network's weights.
        arguments: Those of the head.
        new_head: Whether the head starts untrained; `None` keeps that of weights with the same classes.
        training: Whether the head is to be trained; else that of weights is kept whatever `arguments` say.

    Returns:
        The classes of a head that is kept, in its order; `None` for a new one.
    """
    earlier, head = backbone.head, make_head(backbone, len(names), arguments)
    saved = start.details.get("class_names") if isinstance(earlier, SegmentationHead) else None
    if saved is not None and not new_head and (not training or earlier.arguments == head.arguments):
        saved_names, data_names = (set(each) for each in comparable(saved, names))
        if saved_names == data_names:
            log.info("%s segments the same %d classes: its head is kept", start.weights, len(names))
            return list(saved)
    if new_head is False:
        raise UserError("model.new_head false needs model.weights that segment the same classes with the same decoder")
    backbone.place_head(head, len(names))
    if start.weights is not None:
        log.info("the backbone starts from %s, the %s head untrained", start.weights, arguments["decoder"])
    return None


def fitting_norm(backbone: Backbone) -> str:
    """Return the norm of levels in the head of weights that segment, else the one that the network's maps need."""
    head = backbone.head
    return str(head.arguments["level_norm"]) if isinstance(head, SegmentationHead) else backbone.map_norm


def take_head_of_weights(backbone: Backbone, weights: str) -> None:
    """Give a network the head of a file of weights that is a segmenter's, so that all of it can be loaded."""
    details = read_weights(weights).details
    if task_of(details) == TASK:
        restore_head(backbone, details, source=weights)


def head_facts(head: SegmentationHead) -> dict[str, Any]:
    """Return the facts of a head for checkpoints."""
    return {KEY: dict(head.arguments)}


def restore_head(backbone: Backbone, details: Mapping[str, Any], *, source: str) -> tuple[str, ...]:
    """Give a network the head that a file describes; return its class names.

    Raises:
        UserError: The file lacks the facts of its head.
    """
    names, arguments = details.get("class_names"), details.get(KEY)
    if not names or not isinstance(arguments, Mapping):
        raise UserError(f"{source} does not say the classes and the head of its segmenter")
    backbone.place_head(make_head(backbone, len(names), arguments), len(names))
    return tuple(names)
