"""Videos of squares that walk, their boxes, and checkpoints of small action detectors as a run leaves them."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from zoo_builds import lively

from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.protocol import KeyFrameProtocol
from mvrec.inference.overlay import write_mp4
from mvrec.inference.recogniser import _built
from mvrec.models.heads.actions import ActionHead
from mvrec.tasks.action_detection.outputs import ActionDetectionOutputs
from mvrec.tasks.outputs import identity

ACTIONS = ["grüßen", "walk, fast", "走る"]
SIDE = 24  # of a square in pixels
COLOURS = ((230, 60, 60), (60, 200, 90))
NODE: dict[str, Any] = {
    "class_path": "mvrec.models.MViT",
    "init_args": {
        **{"image_size": 64, "num_frames": 4, "num_classes": 3, "embed_dim": 8, "depth": 2, "dim_mults": {1: 2}},
        **{"q_strides": {1: 2}},
    },
}


def framewise_node() -> dict[str, Any]:
    """An image network on clips of four frames."""
    inner = {"class_path": "mvrec.models.MViT", "init_args": {**NODE["init_args"], "num_frames": None}}
    inner["init_args"]["pool_kernel"] = [1, 3, 3]
    return {"class_path": "mvrec.models.Framewise", "init_args": {"backbone": inner, "num_frames": 4}}


def save_detector(
    path: Path,
    *,
    clip: ClipSpec | None = None,
    context: bool = False,
    node: dict[str, Any] | None = None,
    **settings,
) -> Path:
    """Write what `mvrec fit` would write of a run with a small action detector; return the path."""
    torch.manual_seed(0)
    node = node or NODE
    network = _built(copy.deepcopy(node))
    network.place_head(ActionHead(network.feature_info, len(ACTIONS), context=context), len(ACTIONS))
    lively(network)
    with torch.no_grad():  # so that people differ by more than rounding
        network.head.projection.weight.mul_(10)
    clip = clip or ClipSpec(num_frames=4, stride_frames=2, target_fps=None)
    protocol = KeyFrameProtocol.named("ava", clip=clip, size=64, **settings)
    card = {
        **identity(ActionDetectionOutputs),
        **ActionDetectionOutputs(ACTIONS, network.head.arguments).facts(),
        "protocol": protocol.as_dict(),
        "image_size": list(network.input_shape[-2:]),
        "position_grid": list(network.position_grid) if network.position_grid else None,
    }
    state = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": state, "hyper_parameters": {"backbone": node}, "mvrec": card}, path)
    return path


def walk(frame: int, person: int, *, width: int) -> tuple[int, int]:
    """Left and top of a square in a frame: one goes right, the other left."""
    left = 4 + 2 * frame if person == 0 else width - SIDE - 4 - 2 * frame
    return left, 8 if person == 0 else 56


def boxes_at(frame: int, *, width: int = 160) -> npt.NDArray[np.float32]:
    """The boxes (2, 4) of both squares in a frame."""
    corners = (walk(frame, person, width=width) for person in range(2))
    return np.array([(left, top, left + SIDE, top + SIDE) for left, top in corners], np.float32)


def walking(count: int = 40, *, height: int = 96, width: int = 160) -> npt.NDArray[np.uint8]:
    """The pixels of two squares that walk over a background, uint8 (T, H, W, 3)."""
    background = np.random.default_rng(0).integers(90, 130, (height, width, 3), dtype=np.uint8)
    frames = np.repeat(background[None], count, axis=0)
    for number in range(count):
        for person, colour in enumerate(COLOURS):
            left, top = walk(number, person, width=width)
            frames[number, top : top + SIDE, left : left + SIDE] = colour
    return frames


def write_walk(path: Path, count: int = 40, *, fps: float = 10) -> Path:
    """Write such a video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(path, walking(count), fps=fps)
    return path


def write_boxes(path: Path, frames: list[int], *, video: str, fps: float = 10, persons: bool = False) -> Path:
    """Write the boxes of both squares in some frames as a list."""
    header = "path,time,x1,y1,x2,y2" + (",person" if persons else "")
    lines = [
        f"{video},{frame / fps:.3f},{','.join(f'{value:g}' for value in box)}" + (f",{'AB'[row]}" if persons else "")
        for frame in frames
        for row, box in enumerate(boxes_at(frame))
    ]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def squares(frame: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], list[float]]:
    """A detector: the boxes of both squares by their colours, and scores."""
    boxes, scores = [], []
    for number, colour in enumerate(COLOURS):
        near = (np.abs(frame.astype(int) - colour) < 50).all(-1)
        rows, columns = np.nonzero(near)
        if len(rows) > SIDE:
            boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
            scores.append(0.95 - 0.05 * number)
    return np.array(boxes, np.float32).reshape(-1, 4), scores


def squares_detector():
    """Return `squares`, as `--detector` names it."""
    return squares


class Damaged:
    """A decoder of videos that cannot be read from the 26th frame on."""

    num_frames, fps = 40, 10.0

    def __init__(self, path: str) -> None:
        self.pixels = walking()

    def frames(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return frames, uint8 (T, H, W, 3)."""
        if indices.max() > 25:
            raise ValueError("damaged")
        return self.pixels[indices]
