"""Checkpoints of small networks of every family as a run leaves them, without the run."""

import copy
import sys
from pathlib import Path
from typing import Any

import torch

from mvrec.data.views.protocol import ClipProtocol, ImageProtocol, Views
from mvrec.data.views.sampling import ClipSpec
from mvrec.inference.recogniser import _built

sys.path.insert(0, str(Path(__file__).parent.parent / "models"))
from zoo_builds import lively

PYRAMID = {"dim": 16, "depth": 1, "heads": 2}
SHUNTED = [
    {**PYRAMID, "sr_ratio": 2, "mlp_ratio": 2.0},
    {**PYRAMID, "dim": 24, "sr_ratio": 1, "mlp_ratio": 2.0},
]
SGFORMER = [
    {**PYRAMID, "depth": 2, "sr_ratio": 2, "mlp_ratio": 2.0, "chunks": [4, 2, 1]},
    {**PYRAMID, "dim": 24, "sr_ratio": 1, "mlp_ratio": 2.0, "chunks": []},
]
CLOFORMER = [
    {**PYRAMID, "local_heads": 1, "kernel": 3, "kv_pool": 2},
    {**PYRAMID, "dim": 24, "local_heads": 1, "kernel": 5, "kv_pool": 1},
]
SMALLEST = [{**PYRAMID, "local_heads": 2, "kernel": 3, "kv_pool": 1}]  # one block: tracing takes seconds
# Of their own depth and strides, which the shapes of the weights do not show.
MVIT = {"embed_dim": 16, "depth": 2, "dim_mults": {1: 2}, "head_mults": {1: 2}, "q_strides": {1: 2}, "kv_stride": 2}
V2 = {"pool_every_q": True, "dim_change": "attention", "pos_embed": "none", "rel_pos": True, "residual_pooling": True}
IMAGE = {"num_frames": None, "pool_kernel": [1, 3, 3]}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "shunted": ("Shunted", {"stages": SHUNTED, "num_stem_convs": 1}),
    "sgformer": ("SGFormer", {"stages": SGFORMER}),
    "cloformer": ("CloFormer", {"stages": CLOFORMER}),
    "mvit_v1_video": ("MViT", {**MVIT, "num_frames": 4}),
    "mvit_v2_video": ("MViT", {**MVIT, **V2, "num_frames": 4}),
    "mvit_v1_image": ("MViT", {**MVIT, **IMAGE, "pos_embed": "joint"}),
    "mvit_v2_image": ("MViT", {**MVIT, **V2, **IMAGE, "cls_token": False}),
}
SMALL = {**NETWORKS, "smallest": ("CloFormer", {"stages": SMALLEST, "branches": "local"})}
NAMES = ["grüßen", "jump, high", 'say "no"', "走る", "e"]


def network_node(kind: str, *, size: int = 32) -> dict[str, Any]:
    """`class_path` and `init_args` of a small network."""
    name, arguments = SMALL[kind]
    shared = {"num_classes": 3, "image_size": size}  # the run made a head for its own classes
    return {"class_path": f"mvrec.models.{name}", "init_args": {**arguments, **shared}}


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
