"""The recordings of mmdetection's detectors in two stages, and our heads with their weights."""

import re
from typing import Any

import torch
from dense_golden import load_recording, weights
from detection_golden import STRIDES, EvenSampler
from torch import Tensor

from mvrec.models.backbone import FeatureInfo
from mvrec.models.heads.detection.head import DetectionHead

NAMES = (
    (r"^neck\.lateral_convs\.(\d)\.conv", r"neck.inner_blocks.\1.0"),
    (r"^neck\.fpn_convs\.(\d)\.conv", r"neck.layer_blocks.\1.0"),
    (r"^rpn_head\.rpn_conv", "detector.rpn.head.conv.0.0"),
    (r"^rpn_head\.rpn_cls", "detector.rpn.head.cls_logits"),
    (r"^rpn_head\.rpn_reg", "detector.rpn.head.bbox_pred"),
    (r"^roi_head\.bbox_head\.shared_fcs\.0", "detector.roi_heads.boxes.box_head.fc6"),
    (r"^roi_head\.bbox_head\.shared_fcs\.1", "detector.roi_heads.boxes.box_head.fc7"),
    (r"^roi_head\.bbox_head\.fc_cls", "detector.roi_heads.boxes.box_predictor.cls_score"),
    (r"^roi_head\.bbox_head\.fc_reg", "detector.roi_heads.boxes.box_predictor.bbox_pred"),
    (r"^roi_head\.mask_head\.convs\.(\d)\.conv", r"detector.roi_heads.masks.mask_head.\1.0"),
    (r"^roi_head\.mask_head\.upsample", "detector.roi_heads.masks.mask_predictor.conv5_mask"),
    (r"^roi_head\.mask_head\.conv_logits", "detector.roi_heads.masks.mask_predictor.mask_fcn_logits"),
)
BACKGROUND_ROWS = {"bbox_pred": 4, "mask_fcn_logits": 1}  # of torchvision, in front


def our_name(name: str) -> str:
    for pattern, replacement in NAMES:
        if re.search(pattern, name):
            return re.sub(pattern, replacement, name)
    raise KeyError(name)


def our_tensor(name: str, tensor: Tensor) -> Tensor:
    """A tensor with the background as the first class, by our name of it."""
    layer = name.split(".")[-2]
    if layer == "cls_score":
        return tensor.roll(1, 0)
    rows = 0 if ".rpn." in name else BACKGROUND_ROWS.get(layer, 0)
    return torch.cat([tensor.new_zeros(rows, *tensor.shape[1:]), tensor])


class RecordingSampler(EvenSampler):
    """The recording's choice, which is kept."""

    def __init__(self, count: int, share: float) -> None:
        super().__init__(count, share)
        self.choices: list[tuple[Tensor, Tensor]] = []

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        flags = super().__call__(matched_idxs)
        self.choices += [tuple(torch.where(each)[0] for each in pair) for pair in zip(*flags, strict=True)]
        return flags


def recorded_head(name: str) -> tuple[dict[str, Any], DetectionHead]:
    """A recording of Mask R-CNN and our head with its weights and its samplers."""
    spec = load_recording(name)
    config, shapes = spec["reference"]["config"], spec["state_dict"]
    channels = config["neck"]["in_channels"]
    levels = [FeatureInfo(width, stride) for width, stride in zip(channels, STRIDES, strict=True)]
    training = config["train_cfg"]
    head = DetectionHead(
        levels,
        config["roi_head"]["bbox_head"]["num_classes"],
        channels=config["neck"]["out_channels"],
        box_width=shapes["roi_head.bbox_head.fc_cls.weight"]["shape"][1],
        train_proposals=training["rpn_proposal"]["max_per_img"],
    )
    names = {key: our_name(key) for key in shapes}
    head.load_state_dict({names[key]: our_tensor(names[key], tensor) for key, tensor in weights(spec).items()})
    rpn, boxes = head.detector.rpn, head.detector.roi_heads.boxes
    rpn.candidates[True] = training["rpn_proposal"]["nms_pre"]
    rpn.fg_bg_sampler = RecordingSampler(training["rpn"]["sampler"]["num"], training["rpn"]["sampler"]["pos_fraction"])
    boxes.fg_bg_sampler = RecordingSampler(
        training["rcnn"]["sampler"]["num"], training["rcnn"]["sampler"]["pos_fraction"]
    )
    return spec, head.eval()
