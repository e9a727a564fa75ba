"""The head of an action detector."""

from collections.abc import Mapping
from typing import Any

from mvrec.errors import UserError
from mvrec.models.backbone import Backbone
from mvrec.models.heads.actions import ActionHead
from mvrec.tasks.maps_heads import MapsHeads


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


HEADS = MapsHeads(
    task="action_detection",
    make=make_head,
    have_same_tensors=lambda earlier, head: bool(earlier.context == head.context),  # the others have no weights
    verb="detects",
    nouns="actions",
    need="detect the same actions with the same context",
)
