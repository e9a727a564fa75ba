"""The card of a file of weights, which makes it usable alone, and the writing of such files."""

import copy
import errno
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from mvrec import __version__
from mvrec.data.views.protocol import DetectionProtocol, KeyFrameProtocol, MaskProtocol
from mvrec.errors import UserError
from mvrec.files import at_home, sha256
from mvrec.inference.recogniser import Recogniser
from mvrec.models.backbone import Backbone
from mvrec.models.framewise import Framewise
from mvrec.published import PUBLISHED
from mvrec.runs.weights_origin import StartingPoint, foreign_classes, starting_point
from mvrec.tasks.outputs import identity, outputs_of

METADATA = "mvrec"  # the key in ONNX and safetensors, and with .json the extra file in .pt2
BOXES = "boxes"  # key in the card of an action detector, which says what they are
_BOX_INPUT = {
    **{"name": "boxes", "dtype": "float32", "shape": ["boxes", 5]},
    "columns": ["number of the clip in the batch", "left", "top", "right", "bottom in pixels of the clip"],
}
_PIPELINES = {"detection": "object-detection"}  # of the Hub, where it is not named as usual
_OBJECTS = {"name": "objects", "shape": ["objects"], "values": "boxes, scores, classes and masks"}
THIS_FILE = "this file"  # stands for the file that contains the card, in a network built from weights


def model_card(
    network: Backbone, name: str | None, details: Mapping[str, Any], origin: dict[str, Any]
) -> dict[str, Any]:
    """Return a network's variant, size, classes and origin as plain JSON.

    Args:
        network: The network.
        name: The variant of the zoo, None for a network of another shape.
        details: Facts about its use: task, protocol, and the task's own, such as `class_names`.
        origin: See `origin_of`.
    """
    published = PUBLISHED.get(name or "")
    task = outputs_of(details, source=str(origin.get("file")))
    is_video = len(network.input_shape) == 4
    return {
        "library_name": "mvrec",
        "mvrec_version": __version__,
        "pipeline_tag": _PIPELINES.get(task.task, f"{'video' if is_video else 'image'}-{task.task}"),
        **identity(task),
        "name": name,
        "num_classes": network.num_classes,
        **task.facts_in(details),
        "in_channels": network.input_shape[0],
        "num_frames": network.input_shape[1] if is_video else None,
        "image_size": list(network.input_shape[-2:]),
        "position_grid": list(network.position_grid) if network.position_grid else None,
        "protocol": details.get("protocol"),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "paper": published.source if published else None,
        "converted_from": origin,
    }


def origin_of(path: Path) -> dict[str, Any]:
    """Return name and SHA-256 of the file that weights came from."""
    return {"file": path.name, "sha256": sha256(at_home(path))}


def card_of(recogniser: Recogniser) -> dict[str, Any]:
    """Return the card of a network that is ready for use: `model_card` plus how to use and rebuild it.

    In addition to `model_card` it has `backbone`, how to build the network, `input`, of action detectors `boxes`, and
    `output`.
    """
    start = starting_point(recogniser.source, where=str(recogniser.source))
    network, protocol = recogniser.backbone, recogniser.protocol.as_dict()
    task = recogniser.outputs
    is_detector = isinstance(recogniser.protocol, DetectionProtocol)
    free = ["height", "width"] if is_detector or isinstance(recogniser.protocol, MaskProtocol) else []
    details = {**identity(type(task)), **task.facts(), "protocol": protocol}
    boxes = isinstance(recogniser.protocol, KeyFrameProtocol)
    # Through JSON and back, so that it compares equal to a card that was read.
    card = model_card(network, start.name, details, origin_of(recogniser.source)) | {
        "architecture": _architecture(network),
        "backbone": _portable(start),
        "input": {
            "name": "input",
            "dtype": "float32",
            "layout": "BCTHW" if recogniser.is_video else "BCHW",
            "shape": ["batch", network.input_shape[0], *free] if free else ["batch", *input_shape(recogniser)],
            "channels": "RGB",
            "pixels": "(value / 255 - mean) / std",
            **protocol["normalisation"],
        },
        **({BOXES: _BOX_INPUT} if boxes else {}),
        "output": {
            "name": "logits",
            "dtype": "float32",
            "shape": ["boxes" if boxes else "batch", network.num_classes, *free],
            "activation": task.activation(),
        },
        **({"output": _OBJECTS} if is_detector else {}),
    }
    return json.loads(json.dumps(card))


def input_shape(recogniser: Recogniser) -> tuple[int, ...]:
    """Return (C, T, H, W) or (C, H, W) of the protocol's views, the network's input."""
    return (recogniser.backbone.input_shape[0], *recogniser.protocol.view_shape[1:])


def save_weights(path: Path, network: Backbone, card: dict[str, Any]) -> None:
    """Write a network's weights with their card in safetensors' format, to a temporary path.

    Raises:
        OSError: The file cannot be written.
    """
    tensors = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    try:
        save_file(tensors, path, metadata={"format": "pt", METADATA: json.dumps(card)})
    except SafetensorError as error:  # only its message tells a full disk from other faults
        number = int(match[1]) if (match := re.search(r"os error (\d+)", str(error))) else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error


def check_portable(recogniser: Recogniser, card: dict[str, Any]) -> None:
    """Raise UserError for a network outside mvrec, whose code a file of weights may not name."""
    if foreign := foreign_classes(card["backbone"]):
        raise UserError(
            f"{recogniser.source}: its network is a {foreign[0]}, not of mvrec.models: a file of weights cannot say "
            "how to build it, because files may not name foreign code; write .onnx or .pt2 instead"
        )


def _architecture(network: Backbone) -> str:
    inner = network.backbone if isinstance(network, Framewise) else network
    return type(inner).__name__


def _portable(start: StartingPoint) -> dict[str, Any]:
    """Return how to build the network, without paths of this machine."""
    node = copy.deepcopy(start.backbone)
    inner: Any = node
    while isinstance(inner, dict) and isinstance(arguments := inner.get("init_args"), dict):
        if arguments.get("weights") is not None:
            arguments["weights"] = THIS_FILE
        inner = arguments.get("backbone")
    return node
