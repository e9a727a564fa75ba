"""Checkpoints of small segmenters as a run leaves them, without the run, and images to look at."""

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from zoo_builds import BUILDS, CLOFORMER_STAGES, lively

from mvrec.data.views.protocol import MaskProtocol
from mvrec.inference.recogniser import _built
from mvrec.models.backbone import Backbone
from mvrec.models.heads.segmentation import SegmentationHead
from mvrec.tasks.outputs import identity
from mvrec.tasks.segmentation.outputs import SegmentationOutputs

NAMES = ["grüßen", "sky, high", "走る"]


def segmenter_node(kind: str = "shunted", *, size: int = 64) -> dict[str, Any]:
    """`class_path` and `init_args` of a small network in stages."""
    build = BUILDS["cloformer" if kind in ("two_stages", "all_stages") else kind]
    arguments = {**build.arguments, **build.shallower, "num_classes": 3, "image_size": size}
    if kind == "all_stages":
        arguments["stages"] = CLOFORMER_STAGES
    if kind == "two_stages":  # tracing takes seconds per stage
        arguments["stages"] = CLOFORMER_STAGES[1:3]
    if "stages" in arguments:
        arguments["stages"] = [asdict(stage) for stage in arguments["stages"]]
    return {"class_path": f"mvrec.models.{build.network.__name__}", "init_args": arguments}


def with_head(node: dict[str, Any], num_classes: int, decoder: str) -> Backbone:
    """The network with a head for pixels and lively weights, in evaluation."""
    torch.manual_seed(0)
    network = _built(copy.deepcopy(node))
    head = SegmentationHead(network.feature_info, num_classes, decoder=decoder, channels=16)
    network.place_head(head, num_classes)
    lively(network)
    with torch.no_grad():  # so that classes differ by more than rounding
        head.decoder.conv_seg.weight.mul_(20)
    return network.eval()


def save_segmenter(
    path: Path,
    *,
    kind: str = "shunted",
    names: list[str] | None = None,
    decoder: str = "semantic_fpn",
    protocol: MaskProtocol | None = None,
    size: int = 64,
) -> Path:
    """Write what `mvrec fit` would write of a run with this network; return the path."""
    names, node = NAMES if names is None else names, segmenter_node(kind, size=size)
    network = with_head(node, len(names), decoder)
    card = {
        **identity(SegmentationOutputs),
        **SegmentationOutputs(names, network.head.arguments).facts(),
        "protocol": (protocol or MaskProtocol.named("whole", size=size)).as_dict(),
        "image_size": list(network.input_shape[-2:]),
        "position_grid": list(network.position_grid) if network.position_grid else None,
    }
    state = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": state, "hyper_parameters": {"backbone": node}, "mvrec": card}, path)
    return path


def scene(height: int, width: int, *, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Squares of colours with noise, uint8 (H, W, 3)."""
    generator = np.random.default_rng(seed)
    colours = generator.integers(0, 256, (-(-height // 16), -(-width // 16), 3))
    squares = colours.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
    return np.clip(squares + generator.integers(-20, 20, squares.shape), 0, 255).astype(np.uint8)


def write_scene(path: Path, height: int, width: int, *, seed: int = 0) -> Path:
    """Write such an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene(height, width, seed=seed)).save(path)
    return path
