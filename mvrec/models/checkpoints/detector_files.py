"""Files of detectors of other libraries: the facts that they hold, and how they are written."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mvrec.models.checkpoints.coco_classes import NAMES_BY_ID
from mvrec.models.checkpoints.detectors import (
    KIND,
    NORMALIZER,
    TORCHVISION,
    Library,
    detector_arguments,
    head_of_detector,
    library_of,
    module_names,
    num_objects,
    parts_of,
    with_our_rows,
    with_their_rows,
)
from mvrec.models.checkpoints.layouts import as_in_detectron2
from mvrec.models.checkpoints.segmenters import names_in_meta

TASK = "detection"
# The class that tells predictions of a detector, which this package may not import.
OUTPUTS = "mvrec.tasks.detection.outputs.DetectionOutputs"
BACKBONES: dict[Library, str] = {
    "mmdetection": "backbone.",
    "detectron2": "backbone.bottom_up.",
    "torchvision": "backbone.backbone.",
}
BASELINE = "net."  # the beginning of names within another library's network


def protocol_of(library: Library) -> dict[str, Any]:
    """Return how a library scores on COCO, and the pixels that its networks see: RGB, mean and deviation of ImageNet.

    detectron2 scales by PIL, which averages over all covered pixels.
    """
    return {
        "kind": KIND,
        "name": f"{library}-1333x800",
        "split": "val",
        "scale": [1333, 800],
        "rounding": library,
        "interpolation": "bilinear",
        "antialias": library == "detectron2",
        "normalisation": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        "upright": True,
    }


def detector_facts(tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of another library's detector, as files of ours have them; none for other files.

    mmdetection has class names in `meta`, as `CLASSES` before version 3 and under `dataset_meta` since then. Files with
    as many classes as COCO's without names get those of COCO; others are numbered.

    Args:
        tensors: The tensors by the file's names.
        content: All of the file.
    """
    origin = library_of(tensors)
    if origin is None:
        return {}
    library, names = origin[0], head_of_detector(tensors)
    head = {own_name: with_our_rows(own_name, tensors[name], library) for name, own_name in names.items()}
    arguments, count = detector_arguments(head, library), num_objects(head)
    if arguments is None or count is None:
        return {}
    meta = content.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    facts = {
        "layout": library,
        "task": TASK,
        "outputs": OUTPUTS,
        **_classes(meta, count),
        "head": arguments,
        "protocol": protocol_of(library),
    }
    earlier = meta.get("mvrec")
    earlier = earlier if isinstance(earlier, Mapping) else {}
    return facts | {key: earlier[key] for key in ("head", "protocol", "class_ids") if earlier.get(key) is not None}


def _classes(meta: Mapping[str, Any], count: int) -> dict[str, Any]:
    names = names_in_meta(meta)
    if len(names) == count:
        return {"class_names": [str(name) for name in names]}
    if count == len(NAMES_BY_ID):
        return {"class_names": list(NAMES_BY_ID.values()), "class_ids": list(NAMES_BY_ID)}
    last = max(NAMES_BY_ID)
    if count in (last, last + 1):  # torchvision numbers classes as the file, and RetinaNet's have the background too
        ids = list(range(last + 1 - count, last + 1))
        return {"class_names": [NAMES_BY_ID.get(number, f"unused {number}") for number in ids], "class_ids": ids}
    return {"class_names": [f"class {number}" for number in range(count)]}


def as_detector_file(
    tensors: Mapping[str, Tensor], library: Library, *, class_names: Sequence[str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a detector's file with the names and rows of another library, for `torch.save`.

    Args:
        tensors: All tensors by our names.
        library: Whose.
        class_names: K names.
        facts: The head's arguments, the protocol and other facts that the library has no place for.
    """
    pairs = module_names(library, parts_of(tensors)) if library != "torchvision" else {}
    tensors = as_in_detectron2(tensors) if library == "detectron2" else tensors
    state = {
        _their_name(name, library, pairs): with_their_rows(name, tensor, library).contiguous()
        for name, tensor in tensors.items()
        if not name.endswith(NORMALIZER)
    }
    names = tuple(class_names)
    meta = {"CLASSES": names, "dataset_meta": {"classes": names}, "mvrec": dict(facts)}
    return {"meta": meta, "state_dict" if library == "mmdetection" else "model": state}


def _their_name(name: str, library: Library, pairs: Mapping[str, str]) -> str:
    if library == "torchvision":
        for own_place, place in TORCHVISION.items():
            if name.startswith(own_place):
                return place + name.removeprefix(own_place)
    module, _, last = name.rpartition(".")
    if module in pairs:
        return f"{pairs[module]}.{last}"
    if library == "torchvision" and name.startswith(BASELINE):
        return "backbone.body." + name.removeprefix(BASELINE)
    return BACKBONES[library] + name.removeprefix(BASELINE)
