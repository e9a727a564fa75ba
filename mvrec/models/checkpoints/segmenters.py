"""Segmenters in files: the head that some tensors describe, and mmsegmentation's names and facts of one.

mmsegmentation names the parts of a segmenter `backbone`, `neck`, `decode_head` and `auxiliary_head`. Below these the
names of our heads are the same. It has no norms of levels; files of ours have them as a fifth part.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mvrec.models.checkpoints.detectors import KIND as OBJECTS
from mvrec.models.checkpoints.detectors import is_detector, num_objects

Tensors = dict[str, Tensor]
LAYOUT = "mmsegmentation"
BACKBONE = "backbone."
PARTS = {
    "level_norms.": "head.level_norms.",
    "neck.": "head.neck.",
    "decode_head.": "head.decoder.",
    "auxiliary_head.": "head.auxiliary.",
}
CLASSIFIER = re.compile(r"^head\.(decoder|auxiliary)\.(conv_seg|linear_pred)\.(weight|bias)$")
# The class that tells predictions of a segmenter, which this package may not import.
OUTPUTS = "mvrec.tasks.segmentation.outputs.SegmentationOutputs"
BOXES_TASK = "action_detection"
CLASSES = "classes"  # the kind of a head that is not on the maps
# How mmsegmentation scores on ADE20K, and the pixels that its networks see: RGB, mean and deviation of ImageNet.
PROTOCOL = {
    "kind": "masks",
    "name": "mmseg-2048x512",
    "split": "val",
    "size": 512,
    "scale": [2048, 512],
    "align": 1,
    "mode": "whole",
    "window": 512,
    "stride": 341,
    "ratios": [1.0],
    "flip": False,
    "upright": True,
    "normalisation": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}


def is_segmenter(names: Mapping[str, Any]) -> bool:
    """Return whether tensors, by our names, hold a head on the maps of a network."""
    return any(name.startswith("head.decoder.") for name in names)


def head_kind(tensors: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    """Return what the head in a file answers for, as `MapsHead.kind`, or "classes" of whole images or clips.

    A head for boxes has the names of a classifier, as in SlowFast; only the file's facts tell them apart.

    Args:
        tensors: All tensors by our names.
        details: The file's own facts.
    """
    if is_segmenter(tensors):
        return "pixels"
    if is_detector(tensors):
        return OBJECTS
    return "boxes" if details.get("task") == BOXES_TASK else CLASSES


def num_classes(tensors: Mapping[str, Tensor]) -> int | None:
    """Return the classes of the head in some tensors, by our names; None without a head."""
    if is_segmenter(tensors):
        name = "linear_pred" if "head.decoder.linear_pred.weight" in tensors else "conv_seg"
        classifier = tensors.get(f"head.decoder.{name}.weight")
        return None if classifier is None else classifier.shape[0]
    if is_detector(tensors):
        return num_objects(tensors)
    heads = [tensor for name, tensor in tensors.items() if name.startswith("head.") and tensor.ndim == 2]
    return heads[0].shape[0] if heads else None


def head_arguments(tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Return the arguments of `SegmentationHead` for tensors by our names; None if no decoder of ours has these."""

    def width(name: str, axis: int) -> int | None:
        tensor = tensors.get(f"head.{name}.weight")
        return None if tensor is None else tensor.shape[axis]

    marks = {
        "semantic_fpn": "scale_heads.0.0.conv",
        "upernet": "psp_modules.0.1.conv",
        "segformer": "linear_pred",
        "segformer_mmseg": "fusion_conv.conv",
    }
    decoder = next((name for name, mark in marks.items() if width(f"decoder.{mark}", 0)), None)
    channels = width("decoder.linear_pred" if decoder == "segformer" else "decoder.conv_seg", 1)
    if decoder is None or channels is None:
        return None
    auxiliary = width("auxiliary.conv_seg", 1)
    return {
        "decoder": decoder,
        "channels": channels,
        "neck_channels": width("neck.lateral_convs.0.conv", 0),
        "dropout": 0.1,
        "auxiliary": auxiliary is not None,
        "auxiliary_channels": auxiliary,
        "level_norm": "group" if width("level_norms.0", 0) else "none",
    }


# -- mmsegmentation -----------------------------------------------------------------------------------------------


def head_of_mmseg(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, str]:
    """Return our names of the tensors of mmsegmentation's head, by the names of the file.

    Args:
        tensors: All tensors of the file.
        prefix: That of the backbone's names in it.

    Returns:
        Nothing for files of other kinds, and for heads that we do not have.
    """
    if not re.fullmatch(r"(.*\.)?backbone\.", prefix):
        return {}
    outer = prefix.removesuffix(BACKBONE)
    names = {}
    for name in tensors:
        part = next((part for part in PARTS if name.startswith(outer + part)), None)
        if part is not None:
            names[name] = PARTS[part] + name.removeprefix(outer + part)
    arguments = head_arguments({names[name]: tensors[name] for name in names})
    if arguments is None:
        return {}
    if arguments["decoder"] == "segformer":  # the authors' code makes a second classifier, and does not use it
        unused = "head.decoder.conv_seg."
        names = {name: renamed for name, renamed in names.items() if not renamed.startswith(unused)}
    return names


def mmseg_facts(tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a segmenter in mmsegmentation's file, as files of ours have them; none for other files.

    Class names stand in `meta`, as `CLASSES` before version 1 and under `dataset_meta` since then. Without them classes
    are numbered.

    Args:
        tensors: The tensors by the file's names.
        content: All of the file.
    """
    prefix = next((name[: name.index("decode_head.")] for name in tensors if "decode_head." in name), None)
    if prefix is None:
        return {}
    names = head_of_mmseg(tensors, prefix + BACKBONE)
    head = {renamed: tensors[name] for name, renamed in names.items()}
    arguments, count = head_arguments(head), num_classes(head)
    if arguments is None or count is None:
        return {}
    meta = content.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    classes = names_in_meta(meta)
    if len(classes) != count:
        classes = [f"class {number}" for number in range(count)]
    facts = {
        "layout": LAYOUT,
        "task": "segmentation",
        "outputs": OUTPUTS,
        "class_names": [str(name) for name in classes],
        "head": arguments,
        "protocol": PROTOCOL,
    }
    earlier = meta.get("mvrec")
    return facts | {
        key: earlier[key] for key in ("head", "protocol") if isinstance(earlier, Mapping) and key in earlier
    }


def names_in_meta(meta: Mapping[str, Any]) -> Sequence[str]:
    """Return the class names that mmsegmentation or mmdetection of any version has written; none if there are none."""
    described = meta.get("dataset_meta") or {}
    names = described.get("classes") or described.get("CLASSES") or meta.get("CLASSES") or ()
    return names if isinstance(names, Sequence) and not isinstance(names, str) else ()


def as_mmseg(
    tensors: Mapping[str, Tensor],
    *,
    class_names: Sequence[str],
    palette: Sequence[Sequence[int]],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Return a segmenter's file with the names of mmsegmentation, for versions before and since 1.

    Args:
        tensors: All tensors by our names.
        class_names: K names.
        palette: K colours (R, G, B).
        facts: The head's arguments and the protocol, which mmsegmentation has no place for.
    """
    state = {_name_in_mmseg(name): tensor for name, tensor in tensors.items()}
    classes, colours = tuple(class_names), [list(colour) for colour in palette]
    meta = {"CLASSES": classes, "PALETTE": colours, "dataset_meta": {"classes": classes, "palette": colours}}
    return {"meta": {**meta, "mvrec": facts}, "state_dict": state}


def _name_in_mmseg(name: str) -> str:
    for part, place in PARTS.items():
        if name.startswith(place):
            return part + name.removeprefix(place)
    return BACKBONE + name
