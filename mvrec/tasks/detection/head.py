"""The head of a detector."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mvrec.errors import UserError
from mvrec.models.backbone import Backbone
from mvrec.models.heads.detection.head import DetectionHead
from mvrec.tasks.maps_heads import MapsHeads

# Arguments of a head without weights, which a test may change.
THRESHOLDS = ("score_threshold", "nms_threshold", "max_detections")


@dataclass(frozen=True)
class HeadParts:
    """Sizes of a detector's parts; the defaults are the papers', for COCO.

    Attributes:
        anchor_scale: Side of a square anchor in cells of its map, in detectors of two stages.
        p6_source: Whether RetinaNet's coarser maps are made before the pyramid ("input"), or after it ("output").
        neck_norm: Whether the pyramid has batch normalisation.
        head_norm: Whether convolutions of boxes and masks have batch normalisation.
        rpn_convs: Convolutions of the first stage.
        rpn_samples: Anchors of an image that a training step of the first stage looks at.
        train_proposals: Proposals of an image in training; by default 1,000, or 2,000 with style "torchvision".
        test_proposals: Proposals of an image in evaluation.
        box_width: Features of a box.
        box_convs: Convolutions before them; 0 for two layers.
        box_samples: Proposals of an image that a training step of the second stage looks at.
        mask_convs: Convolutions of the branch of masks.
    """

    anchor_scale: float = 8.0
    p6_source: Literal["input", "output"] = "input"
    neck_norm: bool = False
    head_norm: bool = False
    rpn_convs: int = 1
    rpn_samples: int = 256
    train_proposals: int | None = None
    test_proposals: int = 1000
    box_width: int = 1024
    box_convs: int = 0
    box_samples: int = 512
    mask_convs: int = 4


def make_head(backbone: Backbone, num_classes: int, arguments: Mapping[str, Any]) -> DetectionHead:
    """Return an untrained head for a network.

    Raises:
        UserError: The network gives no maps of images, or an argument is out of range.
    """
    if len(backbone.input_shape) != 3 or not backbone.feature_info:
        name = getattr(backbone, "name", type(backbone).__name__)
        raise UserError(f"model.backbone: {name} gives no maps of images, which a detector needs")
    named = {name: value for name, value in arguments.items() if name != "num_classes"}
    try:
        return DetectionHead(backbone.feature_info, num_classes, **named)
    except ValueError as error:
        raise UserError(f"model: {error}") from None


def fitting_norm(backbone: Backbone) -> str:
    """Return the norm of levels in the head of weights that detect, else the one that the network's maps need."""
    head = backbone.head
    return str(head.arguments["level_norm"]) if isinstance(head, DetectionHead) else backbone.map_norm


def with_weights(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that weights depend on: all but thresholds."""
    return {name: value for name, value in arguments.items() if name not in THRESHOLDS}


HEADS = MapsHeads(
    task="detection",
    make=make_head,
    have_same_tensors=lambda earlier, head: with_weights(earlier.arguments) == with_weights(head.arguments),
    verb="detects",
    nouns="classes",
    need="detect the same classes with the same detector",
)
