"""Detectors in files: the head that some tensors describe, and its names in mmdetection, detectron2 and torchvision.

Modules of our head have torchvision's names, with the background as the first class. mmdetection and detectron2 have it
last, and give it neither boxes nor masks.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Library = Literal["mmdetection", "detectron2", "torchvision"]
KIND = "objects"  # of our head
NORMALIZER = ".normalizer"  # the end of the name of RetinaNet's running mean in detectron2's form, which no file has
# Layers whose rows are classes.
CLASS_ROWS = re.compile(r"\.(cls_score|bbox_pred|mask_fcn_logits|classification_head\.cls_logits)\.(weight|bias)$")
NECK, DETECTOR, LEVEL_NORMS = "head.neck.", "head.detector.", "head.level_norms."
ROI, BOXES, MASKS = f"{DETECTOR}roi_heads.", f"{DETECTOR}roi_heads.boxes.", f"{DETECTOR}roi_heads.masks."
# Rows of classes: with one for the background, and with four for each class.
SCORES = re.compile(r"\.box_predictor\.cls_score\.(weight|bias)$")
CORRECTIONS = re.compile(r"\.box_predictor\.bbox_pred\.(weight|bias)$")
MASK_ROWS = re.compile(r"\.mask_predictor\.mask_fcn_logits\.(weight|bias)$")
COARSEST = 5  # detectron2's number of the map of stride 32


class Parts(NamedTuple):
    """Numbers of a detector's layers, on which the numbers in names depend.

    Attributes:
        levels: Maps of the network under the pyramid.
        rpn_convs: Convolutions of the first stage.
        box_convs: Convolutions of a branch of boxes.
        mask_convs: Convolutions of a branch of masks.
        box_stages: Branches of boxes of a cascade, one after the other; 0 for no cascade.
        mask_stages: Branches of masks of a cascade; 0 for a single branch.
        towers: Convolutions of each tower of RetinaNet.
        tower_norms: Norms of a tower; only none or some are told apart.
    """

    levels: int
    rpn_convs: int = 0
    box_convs: int = 0
    mask_convs: int = 0
    box_stages: int = 0
    mask_stages: int = 0
    towers: int = 0
    tower_norms: int = 0


# Patterns of the names of modules, by the fields of `Parts`.
OURS = {
    "levels": r"head\.neck\.inner_blocks\.(\d+)\.0",
    "rpn_convs": r".*\.rpn\.head\.conv\.(\d+)\.0",
    "box_convs": r".*\.roi_heads\.boxes(?:\.\d+)?\.box_head\.(\d+)\.0",
    "mask_convs": r".*\.roi_heads\.masks(?:\.\d+)?\.mask_head\.(\d+)\.0",
    "box_stages": r".*\.roi_heads\.boxes\.(\d+)\.box_predictor\.cls_score",
    "mask_stages": r".*\.roi_heads\.masks\.(\d+)\.mask_predictor\.mask_fcn_logits",
    "towers": r".*\.classification_head\.conv\.(\d+)\.0",
    "tower_norms": r".*\.classification_head\.conv\.(\d+)\.1",
}
THEIRS: dict[Library, dict[str, str]] = {
    "mmdetection": {
        "levels": r"neck\.lateral_convs\.(\d+)\.conv",
        "rpn_convs": r"rpn_head\.rpn_conv(?:\.(\d+)\.conv)?",
        "box_convs": r"roi_head\.bbox_head(?:\.\d+)?\.shared_convs\.(\d+)\.conv",
        "mask_convs": r"roi_head\.mask_head(?:\.\d+)?\.convs\.(\d+)\.conv",
        "box_stages": r"roi_head\.bbox_head\.(\d+)\.fc_cls",
        "mask_stages": r"roi_head\.mask_head\.(\d+)\.conv_logits",
        "towers": r"bbox_head\.cls_convs\.(\d+)\.conv",
        "tower_norms": r"bbox_head\.cls_convs\.(\d+)\.gn",
    },
    "detectron2": {
        "levels": r"backbone\.fpn_lateral(\d+)",
        "rpn_convs": r"proposal_generator\.rpn_head\.conv(?:\.conv(\d+))?",
        "box_convs": r"roi_heads\.box_head(?:\.\d+)?\.conv(\d+)",
        "mask_convs": r"roi_heads\.mask_head\.mask_fcn(\d+)",
        "box_stages": r"roi_heads\.box_predictor\.(\d+)\.cls_score",
        "mask_stages": r"()never",  # one branch for all stages
        "towers": r"head\.cls_subnet\.(\d*[02468])",  # four of each kind, with norms between them and without
        "tower_norms": r"head\.cls_subnet\.(1)",
    },
}


def is_detector(names: Iterable[str]) -> bool:
    """Return whether tensors, by our names, hold the head of a detector."""
    return any(name.startswith(DETECTOR) for name in names)


def num_objects(tensors: Mapping[str, Tensor]) -> int | None:
    """Return the classes K of a detector by our names; None without its last layers."""
    scores = next((tensor for name, tensor in tensors.items() if SCORES.search(name)), None)
    if scores is not None:
        return scores.shape[0] - 1
    logits, boxes = (
        tensors.get(f"{DETECTOR}{name}.bias") for name in ("classification_head.cls_logits", "regression_head.bbox_reg")
    )
    return None if logits is None or boxes is None else 4 * logits.shape[0] // boxes.shape[0]


def detector_arguments(tensors: Mapping[str, Tensor], style: Library) -> dict[str, Any] | None:
    """Return the arguments of `DetectionHead` for tensors by our names; None if it is no detector of ours.

    Args:
        tensors: All tensors of the head, by our names.
        style: The library that has trained them.
    """
    parts, channels = parts_of(tensors), _size(tensors, f"{NECK}inner_blocks.0.0.weight", 0)
    if num_objects(tensors) is None or channels is None:
        return None
    common = {
        "style": style,
        "channels": channels,
        "level_norm": "group" if f"{LEVEL_NORMS}0.weight" in tensors else "none",
        "neck_norm": f"{NECK}inner_blocks.0.1.weight" in tensors,
    }
    if parts.towers:
        p6 = _size(tensors, f"{NECK}extra_blocks.p6.weight", 1)
        widest = _size(tensors, f"{NECK}inner_blocks.{parts.levels - 1}.0.weight", 1)
        # Of equal widths the libraries with a rule take the output.
        is_input = p6 == widest and (p6 != channels or style == "mmdetection")
        return {
            "detector": "retinanet",
            **common,
            "p6_source": "input" if is_input else "output",
            "head_norm": parts.tower_norms > 0,
            "max_detections": 300 if style == "torchvision" else 100,
        }
    has_masks = any(MASK_ROWS.search(name) for name in tensors)
    mask_width = next((tensor.shape[1] for name, tensor in tensors.items() if name.endswith("conv5_mask.weight")), None)
    name = "mask_rcnn" if has_masks else "rcnn" if parts.box_stages else "faster_rcnn"
    return {
        "detector": f"cascade_{name}" if parts.box_stages else name,
        **common,
        "head_norm": any(re.search(r"\.(box|mask)_head\.0\.1\.weight$", name) for name in tensors),
        "rpn_convs": parts.rpn_convs,
        "box_width": next(tensor.shape[1] for name, tensor in tensors.items() if name.endswith("cls_score.weight")),
        "box_convs": parts.box_convs,
        "mask_convs": parts.mask_convs or 4,
        "mask_width": None if mask_width == channels else mask_width,
    }


def _size(tensors: Mapping[str, Tensor], name: str, axis: int) -> int | None:
    return tensors[name].shape[axis] if name in tensors else None


def parts_of(names: Iterable[str], patterns: Mapping[str, str] | None = None) -> Parts:
    """Return the layers of a detector from the names of its tensors.

    Args:
        names: The names.
        patterns: Of the names of modules, which capture the numbers of these; None for those of our names.
    """
    modules = {name.rpartition(".")[0] for name in names}
    counts = {
        part: len({match.group(1) for name in modules if (match := re.fullmatch(pattern, name))})
        for part, pattern in (patterns or OURS).items()
    }
    return Parts(**counts)


# -- names --------------------------------------------------------------------------------------------------------


# Names of modules: ours below `head.`, mmdetection's, detectron2's, and of which layers there are several. {s} is the
# number of a cascade's stage, {i} that of a layer from 0 on, {n} from 1 on, {level} that of detectron2's maps.
MODULES = """
neck.inner_blocks.{i}.0           neck.lateral_convs.{i}.conv         backbone.fpn_lateral{level}       levels
neck.inner_blocks.{i}.1           neck.lateral_convs.{i}.bn           backbone.fpn_lateral{level}.norm  levels
neck.layer_blocks.{i}.0           neck.fpn_convs.{i}.conv             backbone.fpn_output{level}        levels
neck.layer_blocks.{i}.1           neck.fpn_convs.{i}.bn               backbone.fpn_output{level}.norm   levels
neck.extra_blocks.p6              neck.fpn_convs.{levels}.conv        backbone.top_block.p6             once
neck.extra_blocks.p7              neck.fpn_convs.{after}.conv         backbone.top_block.p7             once
level_norms.{i}                   level_norms.{i}                     level_norms.{i}                   levels
detector.rpn.head.conv.{i}.0      rpn_head.rpn_conv{rpn}              {p}.conv{rpn}                     rpn_convs
detector.rpn.head.cls_logits      rpn_head.rpn_cls                    {p}.objectness_logits             once
detector.rpn.head.bbox_pred       rpn_head.rpn_reg                    {p}.anchor_deltas                 once
{b}.box_head.{i}.0                {h}.shared_convs.{i}.conv           roi_heads.box_head{s}.conv{n}     box_convs
{b}.box_head.{i}.1                {h}.shared_convs.{i}.bn             roi_heads.box_head{s}.conv{n}.norm box_convs
{b}.box_head.{layer}              {h}.shared_fcs.{i}                  roi_heads.box_head{s}.fc{n}       box_layers
{b}.box_predictor.cls_score       {h}.fc_cls                          roi_heads.box_predictor{s}.cls_score boxes
{b}.box_predictor.bbox_pred       {h}.fc_reg                          roi_heads.box_predictor{s}.bbox_pred boxes
{m}.mask_head.{i}.0               {k}.convs.{i}.conv                  roi_heads.mask_head.mask_fcn{n}   mask_convs
{m}.mask_head.{i}.1               {k}.convs.{i}.bn                    roi_heads.mask_head.mask_fcn{n}.norm mask_convs
{m}.mask_predictor.conv5_mask     {k}.upsample                        roi_heads.mask_head.deconv        masks
{m}.mask_predictor.mask_fcn_logits {k}.conv_logits                    roi_heads.mask_head.predictor     masks
{c}.conv.{i}.0                    bbox_head.cls_convs.{i}.conv        head.cls_subnet.{tower}           towers
{c}.conv.{i}.1                    bbox_head.cls_convs.{i}.gn          head.cls_subnet.{norm}            tower_norms
{c}.cls_logits                    bbox_head.retina_cls                head.cls_score                    once
{r}.conv.{i}.0                    bbox_head.reg_convs.{i}.conv        head.bbox_subnet.{tower}          towers
{r}.conv.{i}.1                    bbox_head.reg_convs.{i}.gn          head.bbox_subnet.{norm}           tower_norms
{r}.bbox_reg                      bbox_head.retina_reg                head.bbox_pred                    once
"""
PLACES = {
    "p": "proposal_generator.rpn_head",
    "c": "detector.classification_head",
    "r": "detector.regression_head",
}


def module_names(library: Library, parts: Parts) -> dict[str, str]:
    """Return the names of modules in mmdetection or detectron2, by ours."""
    is_mmdetection = library == "mmdetection"
    fixed = PLACES | {"levels": parts.levels, "after": parts.levels + 1}
    several = ".{i}.conv" if is_mmdetection else ".conv{i}"
    layers = [f"{parts.box_convs + 1}"] if parts.box_convs else ["fc6", "fc7"]
    tower_norms = parts.towers if parts.tower_norms else 0
    step = 3 if tower_norms else 2  # a convolution, a norm if there are any, and a ReLU
    counts = {**parts._asdict(), "box_layers": len(layers), "tower_norms": tower_norms}
    stages = {"box": parts.box_stages, "mask": parts.mask_stages}
    names = {}
    for module, *others, layer in map(str.split, MODULES.strip().splitlines()):
        for stage in range(max(stages.get(layer[:3], stages.get(layer[:4], 1)), 1)):
            for i in range(counts.get(layer, 1)):
                values = {
                    **fixed,
                    **{
                        "i": i,
                        "n": i + 1,
                        "tower": step * i,
                        "norm": step * i + 1,
                        "level": COARSEST - parts.levels + i + 1,
                    },
                    "layer": layers[min(i, len(layers) - 1)],
                    "rpn": several.format(i=i) if parts.rpn_convs > 1 else "",
                    **_branches(stage, parts),
                }
                names[f"head.{module}".format(**values)] = others[not is_mmdetection].format(**values)
    return names


def _branches(stage: int, parts: Parts) -> dict[str, str]:
    """Return the places of the branches of a stage, ours and those of mmdetection."""
    of_boxes = f".{stage}" if parts.box_stages else ""
    of_masks = f".{stage}" if parts.mask_stages else ""
    return {
        "s": of_boxes,
        "b": f"detector.roi_heads.boxes{of_boxes}",
        "m": f"detector.roi_heads.masks{of_masks}",
        "h": f"roi_head.bbox_head{of_boxes}",
        "k": f"roi_head.mask_head{of_masks}",
    }


# torchvision's places of our modules, and the names of its published files, from before convolutions had norms.
TORCHVISION: dict[str, str] = {
    LEVEL_NORMS: "level_norms.",
    NECK: "backbone.fpn.",
    f"{DETECTOR}rpn.": "rpn.",
    f"{BOXES}box_": "roi_heads.box_",
    f"{MASKS}mask_": "roi_heads.mask_",
    f"{DETECTOR}classification_head.": "head.classification_head.",
    f"{DETECTOR}regression_head.": "head.regression_head.",
}
EARLIER: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)(\.(?:weight|bias))", lambda match: f"{match[1]}.0{match[2]}"),
    (r"(rpn\.head\.conv)(\.(?:weight|bias))", lambda match: f"{match[1]}.0.0{match[2]}"),
    (r"(roi_heads\.mask_head)\.mask_fcn(\d)(\..*)", lambda match: f"{match[1]}.{int(match[2]) - 1}.0{match[3]}"),
    (r"(head\..*_head\.conv)\.(\d)(\.(?:weight|bias))", lambda match: f"{match[1]}.{int(match[2]) // 2}.0{match[3]}"),
)


def _from_torchvision(name: str) -> str | None:
    """Return our name of a tensor of torchvision's detectors; None for the others."""
    for pattern, renamed in EARLIER:
        if match := re.fullmatch(pattern, name):
            name = renamed(match)
    places = TORCHVISION.items()
    return next((own_place + name.removeprefix(place) for own_place, place in places if name.startswith(place)), None)


def library_of(names: Iterable[str]) -> tuple[Library, str] | None:
    """Return whose detector has such names, and the beginning of them all; None for other files."""
    marks: tuple[tuple[Library, str], ...] = (
        ("mmdetection", r"(.*?)(?:rpn_head\.rpn_cls|bbox_head\.retina_cls)\.weight"),
        ("detectron2", r"(.*?)(?:proposal_generator\.rpn_head\.objectness_logits|(?<!\w)head\.cls_score)\.weight"),
        ("torchvision", r"(.*?)(?<!\w)(?:rpn\.head\.cls_logits|head\.classification_head\.cls_logits)\.weight"),
    )
    names = [name for name in names if not name.startswith(DETECTOR) and f".{DETECTOR}" not in name]
    for library, mark in marks:
        if match := next((match for name in names if (match := re.fullmatch(mark, name))), None):
            return library, match.group(1)
    return None


def head_of_detector(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return our names of the tensors of another library's head, by the names of the file; nothing for other files."""
    origin = library_of(tensors)
    if origin is None:
        return {}
    library, prefix = origin
    inside = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
    if library == "torchvision":
        names = {name: own_name for name in inside if (own_name := _from_torchvision(name)) is not None}
    else:
        parts = parts_of(inside, THEIRS[library])
        if library == "detectron2" and parts.box_stages:
            parts = parts._replace(mask_stages=1)
        modules = {module: own_module for own_module, module in module_names(library, parts).items()}
        split = [(name, *name.rpartition(".")[::2]) for name in inside]
        names = {name: f"{modules[module]}.{last}" for name, module, last in split if module in modules}
    return {prefix + name: own_name for name, own_name in names.items()}


# -- rows of classes ----------------------------------------------------------------------------------------------


def with_our_rows(name: str, tensor: Tensor, library: Library) -> Tensor:
    """Return a tensor of another library's head with the rows of ours: the background first, and everywhere."""
    if library == "torchvision":
        return tensor
    if SCORES.search(name):
        return tensor.roll(1, 0)
    if MASK_ROWS.search(name):
        return torch.cat([tensor.new_zeros(1, *tensor.shape[1:]), tensor])
    if CORRECTIONS.search(name) and not _is_shared(name):
        return torch.cat([tensor.new_zeros(4, *tensor.shape[1:]), tensor])
    return tensor


def with_their_rows(name: str, tensor: Tensor, library: Library) -> Tensor:
    """Return a tensor of ours with the rows of another library."""
    if library == "torchvision":
        return tensor
    if SCORES.search(name):
        return tensor.roll(-1, 0)
    if MASK_ROWS.search(name):
        return tensor[1:]
    return tensor[4:] if CORRECTIONS.search(name) and not _is_shared(name) else tensor


def _is_shared(name: str) -> bool:
    """Return whether all classes share corrections of boxes: in a cascade."""
    return re.search(r"\.boxes\.\d+\.", name) is not None
