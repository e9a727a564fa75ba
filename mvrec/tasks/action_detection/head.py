"""The head of an action detector for the classes of the data, and its facts in files."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mvrec.data.listing.class_names import comparable
from mvrec.errors import UserError
from mvrec.models.backbone import Backbone
from mvrec.models.checkpoints.files import read_weights
from mvrec.models.heads.actions import ActionHead
from mvrec.tasks.outputs import task_of
from mvrec.tasks.start import Start

KEY = "head"  # of the head's arguments among a file's facts
TASK = "action_detection"

log = logging.getLogger(__name__)


def make_head(backbone: Backbone, num_classes: int, arguments: Mapping[str, Any]) -> ActionHead:
    """Return an untrained head for a network.

    Raises:
        UserError: The network gives no maps of clips.
    """
    if len(backbone.input_shape) != 4 or not backbone.feature_info:
        name = getattr(backbone, "name", type(backbone).__name__)
        hint = ": wrap it, mvrec.models.Framewise" if len(backbone.input_shape) == 3 and backbone.feature_info else ""
        raise UserError(f"model.backbone: {name} gives no maps of clips, which a head for boxes needs{hint}")
    named = {name: value for name, value in arguments.items() if name != "num_classes"}
    return ActionHead(backbone.feature_info, num_classes, **named)


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
    saved = start.details.get("class_names") if isinstance(earlier, ActionHead) else None
    if saved is not None and not new_head and (not training or _same_tensors(earlier, head)):
        saved_names, data_names = (set(each) for each in comparable(saved, names))
        if saved_names == data_names:
            log.info("%s detects the same %d actions: its head is kept", start.weights, len(names))
            if training:
                _use_arguments(backbone, head)
            return list(saved)
    if new_head is False:
        raise UserError("model.new_head false needs model.weights that detect the same actions with the same context")
    backbone.place_head(head, len(names))
    if start.weights is not None:
        log.info("the backbone starts from %s, the head for %d actions untrained", start.weights, len(names))
    return None


def _same_tensors(earlier: Any, head: ActionHead) -> bool:
    return bool(earlier.context == head.context)  # pooling and dropout have no weights


def _use_arguments(backbone: Backbone, head: ActionHead) -> None:
    """Train the weights of a kept head with the arguments of another one."""
    head.load_state_dict(backbone.head.state_dict())
    backbone.place_head(head, backbone.num_classes)


def take_head_of_weights(backbone: Backbone, weights: str) -> None:
    """Give a network the head of a file of weights that is an action detector's, so that all of it can be loaded."""
    details = read_weights(weights).details
    if task_of(details) == TASK:
        restore_head(backbone, details, source=weights)


def head_facts(head: ActionHead) -> dict[str, Any]:
    """Return the facts of a head for checkpoints."""
    return {KEY: dict(head.arguments)}


def restore_head(backbone: Backbone, details: Mapping[str, Any], *, source: str) -> tuple[str, ...]:
    """Give a network the head that a file describes; return its class names.

    Raises:
        UserError: The file lacks the facts of its head.
    """
    names, arguments = details.get("class_names"), details.get(KEY)
    if not names or not isinstance(arguments, Mapping):
        raise UserError(f"{source} does not say the actions and the head of its detector")
    backbone.place_head(make_head(backbone, len(names), arguments), len(names))
    return tuple(names)
