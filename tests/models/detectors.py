"""Checkpoints of small detectors as a run leaves them, without the run."""

import copy
from pathlib import Path
from typing import Any

import torch
from segmenters import segmenter_node
from zoo_builds import lively

from mvrec.data.views.protocol import DetectionProtocol
from mvrec.inference.recogniser import _built
from mvrec.models.backbone import Backbone
from mvrec.models.heads.detection.head import DetectionHead
from mvrec.tasks.detection.outputs import DetectionOutputs
from mvrec.tasks.outputs import identity

NAMES = ["grüßen", "sky, high", "走る"]
IDS = [3, 7, 90]
SMALL = {"channels": 16, "box_width": 32, "mask_convs": 1, "test_proposals": 100}


def with_detector(node: dict[str, Any], num_classes: int, **arguments: Any) -> Backbone:
    """The network with a head for objects and lively weights, in evaluation: a third of its scores are above 0.5."""
    torch.manual_seed(0)
    network = _built(copy.deepcopy(node))
    head = DetectionHead(network.feature_info, num_classes, **{**SMALL, **arguments})
    network.place_head(head, num_classes)
    lively(network, spread=0.1)
    return network.eval()


def save_detector(
    path: Path,
    *,
    names: list[str] | None = None,
    protocol: DetectionProtocol | None = None,
    size: int = 64,
    kind: str = "all_stages",
    **arguments: Any,
) -> Path:
    """Write what `mvrec fit` would write of a run with this network; return the path."""
    names, node = NAMES if names is None else names, segmenter_node(kind, size=size)
    network = with_detector(node, len(names), **arguments)
    outputs = DetectionOutputs(names, network.head.arguments, IDS[: len(names)])
    card = {
        **identity(DetectionOutputs),
        **outputs.facts(),
        "protocol": (protocol or DetectionProtocol.named("mmdetection-192x128")).as_dict(),
        "image_size": list(network.input_shape[-2:]),
        "position_grid": None,
    }
    state = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": state, "hyper_parameters": {"backbone": node}, "mvrec": card}, path)
    return path
