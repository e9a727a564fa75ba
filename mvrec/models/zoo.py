"""The zoo by name: builds its networks, with random weights or those of a file."""

import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvrec.errors import UserError, nearest
from mvrec.models.backbone import Backbone
from mvrec.models.baselines.names import create_baseline
from mvrec.models.checkpoints import FAMILIES, LoadReport, load_recognised, load_weights, recognised
from mvrec.models.checkpoints.detectors import detector_arguments
from mvrec.models.checkpoints.files import StoredWeights, read_weights
from mvrec.models.checkpoints.segmenters import head_arguments, head_kind, num_classes
from mvrec.models.checkpoints.structure import WrongArchitectureError, build_as_stored, is_for_detection, same_network
from mvrec.models.cloformer import Branches, cloformer_s, cloformer_xs, cloformer_xxs
from mvrec.models.fast.accelerate import accelerate
from mvrec.models.heads.actions import ActionHead
from mvrec.models.heads.detection.head import DetectionHead
from mvrec.models.heads.segmentation import SegmentationHead
from mvrec.models.mvit.pooling_attention import Pooling
from mvrec.models.mvit.variants import (
    mvit_b24_32x3,
    mvit_b_16x4,
    mvit_b_32x3,
    mvit_b_image,
    mvit_v2_b,
    mvit_v2_b_32x3,
    mvit_v2_l,
    mvit_v2_l_40x3,
    mvit_v2_s,
    mvit_v2_s_16x4,
    mvit_v2_t,
)
from mvrec.models.sgformer import sgformer_b, sgformer_m, sgformer_s
from mvrec.models.shunted import shunted_b, shunted_s, shunted_t
from mvrec.published import list_models

log = logging.getLogger("mvrec")

__all__ = ["VARIANTS", "create_model", "identify", "list_models", "name_of", "with_weights"]

VARIANTS: dict[str, Callable[..., Backbone]] = {
    build.__name__: build
    for build in (
        *(shunted_t, shunted_s, shunted_b),
        *(sgformer_s, sgformer_m, sgformer_b),
        *(cloformer_xxs, cloformer_xs, cloformer_s),
        *(mvit_b_image, mvit_v2_t, mvit_v2_s, mvit_v2_b, mvit_v2_l),
        *(mvit_b_16x4, mvit_b_32x3, mvit_b24_32x3, mvit_v2_s_16x4, mvit_v2_b_32x3, mvit_v2_l_40x3),
    )
}


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    weights: str | Path | dict[str, Any] | None = None,
    num_frames: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    in_channels: int | None = None,
    drop_path_rate: float | None = None,
    head_dropout: float | None = None,
    pooling: Pooling | None = None,
    branches: Branches | None = None,
    unpooled_kv_blocks: tuple[int, ...] | None = None,
    detection: bool | None = None,
    norm_eps: float | None = None,
    allow_partial: bool = False,
) -> Backbone:
    """Build a network by name, accelerated (see `accelerate`), with random weights or those of a file.

    With `weights` the network is built like the file's: class count, input channels, the size and length of its
    position tables, and for MViT depth and pooling too. Arguments win over the file: position tables are interpolated,
    and a head of another class count starts untrained, with a warning. None stands for the file's value, or else the
    variant's own. Weights of image networks load into those for clips and back.

    Args:
        name: One of `list_models()`, or `timm/...`, `torchvision/...`, `pytorchvideo/...` for a baseline.
        num_classes: Classes of the head; 0 for none.
        weights: Path or state dict, in any layout.
        num_frames: Frames of a clip.
        image_size: Pixels, square or (H, W).
        in_channels: Channels of the input.
        drop_path_rate: Stochastic depth of the last block.
        head_dropout: Dropout before the classifier (MViT).
        pooling: How to pool queries, keys and values (MViT).
        branches: The kinds of attention (CloFormer).
        unpooled_kv_blocks: Blocks whose keys and values are not pooled (MViT-B 16x4).
        detection: Attend in windows and norm all maps, as detectors need it (MViTv2 for images).
        norm_eps: Eps of batch normalisation (baselines); 0 for the detectors of torchvision's COCO_V1.
        allow_partial: Load only the tensors of the file that fit.

    Raises:
        UserError: The name is unknown, the variant lacks a knob, or the weights are not this network's.
    """
    values: dict[str, Any] = {
        "num_classes": num_classes,
        "num_frames": num_frames,
        "image_size": image_size,
        "in_channels": in_channels,
        "drop_path_rate": drop_path_rate,
        "head_dropout": head_dropout,
        "pooling": pooling,
        "branches": branches,
        "unpooled_kv_blocks": unpooled_kv_blocks,
        "detection": detection,
        "norm_eps": norm_eps,
    }
    knobs = {knob: value for knob, value in values.items() if value is not None}
    if "/" in name:
        _check_knobs(name, knobs, create_baseline)
        model = create_baseline(name, **knobs)
        if weights is not None:
            load_weights(model, weights, allow_partial=allow_partial)
        return model
    build = _variant(name)
    _check_knobs(name, knobs, build)
    if weights is None:
        return accelerate(build(**knobs))
    model, _ = with_weights(name, read_weights(weights), knobs, allow_partial=allow_partial)
    return accelerate(model)


def _check_knobs(name: str, knobs: Iterable[str], build: Callable[..., Backbone]) -> None:
    parameters = [knob for knob in inspect.signature(build).parameters if knob != "name"]
    if unknown := [knob for knob in knobs if knob not in parameters]:
        raise UserError(f"{name} has no {unknown[0]!r}; it has {', '.join(parameters)}")


def _variant(name: str) -> Callable[..., Backbone]:
    if name not in VARIANTS:
        raise UserError(f"the zoo has no model {name!r}{nearest(name, VARIANTS)} (mvrec models lists them)")
    return VARIANTS[name]


def with_weights(
    name: str, stored: StoredWeights, knobs: dict[str, Any], *, allow_partial: bool = False
) -> tuple[Backbone, LoadReport]:
    """Build `create_model`'s network with weights that were read before; return it with the report of their loading.

    Raises:
        UserError: The name is unknown, or the weights are not this network's.
    """
    build = _variant(name)
    recognised_weights = recognised(stored)
    assert recognised_weights.family is not None  # known for all layouts but those of baselines
    family = FAMILIES[recognised_weights.family]
    try:
        model = build_as_stored(build, recognised_weights.tensors, knobs, family=family, details=stored.details)
    except WrongArchitectureError as error:
        if not allow_partial:
            others = identify(recognised_weights.tensors, family)
            hint = f"; it fits {' and '.join(others)}" if others else ""
            if stored.is_checkpoint and not others:
                hint = f"; mvrec.load({stored.source!r}).backbone is the network of this run"
            raise UserError(f"{stored.source}: the weights are not those of {name} but of {error}{hint}") from None
        model = build(**knobs)
    classes = num_classes(recognised_weights.tensors)
    kind = head_kind(recognised_weights.tensors, stored.details)
    if "num_classes" not in knobs and kind in (SegmentationHead.kind, DetectionHead.kind):
        _place_head(model, recognised_weights.tensors, stored, kind)
    elif "num_classes" not in knobs and kind == ActionHead.kind and len(model.input_shape) == 4:
        head = ActionHead(model.feature_info, **stored.details["head"])
        model.place_head(head, head.arguments["num_classes"])
    new_head = classes is not None and classes != model.num_classes and "num_classes" in knobs
    if new_head and model.num_classes:
        log.warning(
            "%s: its head of %d classes is skipped, the new one of %d is untrained",
            stored.source,
            classes,
            model.num_classes,
        )
    return model, load_recognised(model, stored, recognised_weights, allow_partial=allow_partial, new_head=new_head)


def _place_head(model: Backbone, tensors: Mapping[str, Tensor], stored: StoredWeights, kind: str) -> None:
    """Give a network the head of a segmenter's or detector's file.

    Raises:
        UserError: The file's head is none of ours.
    """
    arguments, classes = stored.details.get("head"), num_classes(tensors)
    if arguments is None:
        is_detector = kind == DetectionHead.kind
        arguments = detector_arguments(tensors, "mmdetection") if is_detector else head_arguments(tensors)
    if arguments is None or classes is None:
        raise UserError(f"{stored.source}: its head is unknown; pass num_classes for the network with a new classifier")
    make: type[DetectionHead | SegmentationHead] = DetectionHead if kind == DetectionHead.kind else SegmentationHead
    model.place_head(make(model.feature_info, classes, **arguments), classes)


def name_of(stored: StoredWeights) -> str:
    """Return the variant of some weights: by their own facts, else by their shapes.

    Raises:
        UserError: No variant has such weights.
    """
    name = stored.details.get("name")
    if name in VARIANTS:
        return str(name)
    weights = recognised(stored)
    family = FAMILIES[weights.family] if weights.family else Backbone
    names = identify(weights.tensors, family) or identify(weights.tensors, family, but_for_pooling=True)
    if not names and stored.is_checkpoint:
        raise UserError(f"{stored.source}: the network of this run is none of the zoo: mvrec export writes it as it is")
    if not names:
        raise UserError(
            f"{stored.source}: no variant has these weights; name the nearest with --model (mvrec models lists them)"
        )
    return names[0]


def identify(
    tensors: Mapping[str, Tensor], family: type[Backbone] = Backbone, *, but_for_pooling: bool = False
) -> list[str]:
    """Return the variants that some weights, by our names, belong to; those of the same input size first.

    Args:
        tensors: The weights.
        family: Class of the networks to compare with; building those of all families takes seconds.
        but_for_pooling: Whether to ignore the pooling of queries, keys and values, as in the first release of
            MViT-B 16x4.
    """
    fitting: list[tuple[bool, str]] = []
    for name, build in VARIANTS.items():
        if not issubclass(build.__annotations__["return"], family):
            continue
        detection = is_for_detection(tensors) and "detection" in inspect.signature(build).parameters
        model = _as_released(name, **({"detection": True} if detection else {}))
        if same_network(model, tensors, but_for_pooling=but_for_pooling):
            state = model.state_dict()
            other_size = any(
                key in state and tensor.shape != state[key].shape
                for key, tensor in tensors.items()
                if not key.startswith("head.")
            )
            fitting.append((other_size, name))
    return [name for _, name in sorted(fitting, key=lambda pair: pair[0])]


@functools.cache
def _as_released(name: str, **knobs: bool) -> Backbone:
    """Build a variant on torch's "meta" device: shapes without memory. Kept, since all of them take seconds."""
    with torch.device("meta"):
        return VARIANTS[name](**knobs)
