"""A network and its input, as fit for the files and the machine."""

from dataclasses import dataclass
from typing import Any

from mvrec.plan.findings import Findings
from mvrec.plan.machine import Machine

# MViT-B's plan in small: width and heads double where the grid halves. With a width of 32 this is the demo's network.
SMALL_MVIT = {
    "num_heads": 1,
    "depth": 4,
    "dim_mults": {1: 2, 2: 2},
    "head_mults": {1: 2, 2: 2},
    "q_strides": {1: 2, 2: 2},
    "kv_stride": 4,
}
MANY_FILES = 3000  # from which a network of full size learns more than a small one, without weights
FULL_SIZE_MEMORY = 15.0  # GiB that a step of eight clips takes on a network of full size
CLIP_SECONDS = 2.0  # as published networks see them: 16 frames, every fourth, of 30 per second
COMMON_RATE = 30.0


@dataclass(frozen=True)
class Network:
    """A network and its input.

    Attributes:
        node: `class_path` and `init_args` of the network.
        name: Its name, for people.
        reason: Why it is this one.
        size: Side of its input, in pixels.
        frames: Frames of a clip; 0 for images.
    """

    node: dict[str, Any]
    name: str
    reason: str
    size: int
    frames: int = 0


def network_for(findings: Findings, machine: Machine) -> Network:
    """Return the network to train from scratch on files.

    Args:
        findings: The files.
        machine: The machine.
    """
    is_full = machine.gpu_memory >= FULL_SIZE_MEMORY and findings.num_train >= MANY_FILES
    if not machine.gpu:
        reason = "small enough to train without a GPU"
    elif is_full:
        reason = f"of full size, for {findings.num_train} files and this GPU"
    else:
        reason = f"small: without weights, {findings.num_train} files teach a large one no more"
    short_side = findings.media.short_side or 224
    if not findings.is_video:
        sizes = (512, 256, 128) if findings.has_masks else (224, 128, 96)
        size = sizes[0 if is_full else 1 if machine.gpu else 2]
        name = "cloformer_s" if is_full else "cloformer_xxs"
        return Network({"class_path": f"mvrec.models.{name}"}, name, reason, _size(size, short_side))
    if is_full:
        return Network({"class_path": "mvrec.models.mvit_v2_s_16x4"}, "mvit_v2_s_16x4", reason, 224, 16)
    width, side, frames = (64, 128, 16) if machine.gpu else (32, 96, 8)
    node = {"class_path": "mvrec.models.MViT", "init_args": {"embed_dim": width, **SMALL_MVIT}}
    return Network(node, "a small MViT", reason, _size(side, short_side), frames)


def crop_size(findings: Findings, machine: Machine) -> int:
    """Return the side of training crops of images with masks, in pixels, for a network with weights."""
    return _size(512 if machine.gpu else 224, findings.media.short_side or 224)


def _size(most: int, short_side: int) -> int:
    """Return a side that scales no file up, in steps of 16 pixels."""
    return max(32, min(most, short_side // 16 * 16))


def clip_for(findings: Findings, num_frames: int) -> dict[str, Any]:
    """Return how a clip of so many frames is taken: over two seconds, or the whole of shorter videos."""
    media = findings.media
    rate = media.rate or COMMON_RATE
    seconds = min(CLIP_SECONDS, media.length or CLIP_SECONDS)
    return {
        "num_frames": num_frames,
        "stride_frames": max(1, int(seconds * rate / num_frames)),
        "target_fps": round(rate, 3),
    }
