"""Checkpoints of small networks of every family as a run leaves them, without the run."""

import copy
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.protocol import ClipProtocol, ImageProtocol, Views
from mvrec.inference.recogniser import _built

sys.path.insert(0, str(Path(__file__).parent.parent / "models"))
from zoo_builds import BUILDS, CLOFORMER_STAGES, SHUNTED_STAGES, lively

NETWORKS = ("shunted", "sgformer", "cloformer", "mvit_v1_video", "mvit_v2_video", "mvit_v1_image", "mvit_v2_image")
# Tracing takes seconds per block.
SMALLEST = {
    "one_stage": {"stages": CLOFORMER_STAGES[1:2]},
    "smallest": {"stages": CLOFORMER_STAGES[1:2], "branches": "local"},
    "shunted": {"stages": SHUNTED_STAGES[2:3]},
    "mvit_v1_video": {"depth": 1, "dim_mults": {}, "head_mults": {}, "q_strides": {}},
}
NAMES = ["grüßen", "jump, high", 'say "no"', "走る", "e"]


def network_node(kind: str, *, size: int = 32) -> dict[str, Any]:
    """`class_path` and `init_args` of a small network."""
    build = BUILDS[kind if kind in BUILDS else "cloformer"]
    arguments = {**build.arguments, **build.shallower, **SMALLEST.get(kind, {})}
    if "stages" in arguments:
        arguments["stages"] = [asdict(stage) for stage in arguments["stages"]]
    arguments |= {"num_classes": 3, "image_size": size}  # the run made a head for its own classes
    return {"class_path": f"mvrec.models.{build.network.__name__}", "init_args": arguments}


def protocol_for(node: dict[str, Any], **changes: Any) -> ClipProtocol | ImageProtocol:
    """A protocol whose views fit the network."""
    arguments = node["init_args"]
    size = arguments.get("image_size", 32)
    if arguments.get("num_frames") is None:
        return ImageProtocol(**{"size": size, "short_side": size * 9 // 8, **changes})
    views = Views(num_clips=2, num_crops=1, short_side=size * 9 // 8)
    clip = ClipSpec(num_frames=arguments["num_frames"], stride_frames=3, target_fps=30)
    return ClipProtocol(**{"clip": clip, "views": views, "size": size, **changes})


def save_run(
    path: Path,
    node: dict[str, Any],
    *,
    names: list[str] | None = None,
    multi_label: bool = False,
    protocol: ClipProtocol | ImageProtocol | None = None,
) -> Path:
    """Write what `mvrec fit` would write of a run with this network; returns the path."""
    torch.manual_seed(0)
    network = _built(copy.deepcopy(node))
    names = NAMES if names is None else names
    network.reset_head(len(names))
    lively(network)
    with torch.no_grad():  # so that the classes' probabilities are far from equal
        for parameter in network.head.parameters():
            parameter.mul_(8)
    card = {
        "class_names": names,
        "multi_label": multi_label,
        "protocol": (protocol or protocol_for(node)).as_dict(),
        "image_size": list(network.input_shape[-2:]),
        "position_grid": list(network.position_grid) if network.position_grid else None,
    }
    state = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": state, "hyper_parameters": {"backbone": node}, "mvrec": card}, path)
    return path
