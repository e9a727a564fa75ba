"""The head of a segmenter."""

from collections.abc import Mapping
from typing import Any

from mvrec.errors import UserError
from mvrec.models.backbone import Backbone
from mvrec.models.heads.segmentation import SegmentationHead
from mvrec.tasks.maps_heads import MapsHeads


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


def fitting_norm(backbone: Backbone) -> str:
    """Return the norm of levels in the head of weights that segment, else the one that the network's maps need."""
    head = backbone.head
    return str(head.arguments["level_norm"]) if isinstance(head, SegmentationHead) else backbone.map_norm


HEADS = MapsHeads(
    task="segmentation",
    make=make_head,
    have_same_tensors=lambda earlier, head: bool(earlier.arguments == head.arguments),
    verb="segments",
    nouns="classes",
    need="segment the same classes with the same decoder",
)
