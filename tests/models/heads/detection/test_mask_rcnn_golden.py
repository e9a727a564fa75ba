"""Mask R-CNN next to recorded outputs of mmdetection: proposals, detections, masks, losses and gradients."""

from typing import Any

import numpy as np
import pytest
import torch
from dense_golden import maps, number_error
from detection_golden import (
    TRAINING_SETS,
    batch_size,
    check_anchors,
    check_detections,
    check_gradients,
    check_maps,
    image_sizes,
    objects,
)
from faster_coco_eval.core import mask as coco
from torch import Tensor
from two_stage_recordings import our_name, recorded_head

from mvrec.models.heads.detection.head import DetectionHead
from mvrec.models.heads.detection.paste import paste_masks
from mvrec.models.heads.detection.results import Detections

pytestmark = pytest.mark.golden
NAMES = ("det_mask_rcnn_mmdet_k6_128x160", "det_mask_rcnn_mmdet_k6_97x203_150x90")
LOSSES = {
    **{"rpn_class": "loss_rpn_cls_total", "rpn_box": "loss_rpn_bbox_total"},
    **{"class": "loss_cls", "box": "loss_bbox", "mask": "loss_mask"},
}


@pytest.mark.parametrize("name", NAMES)
def test_detections_are_those_of_mmdetection(name: str) -> None:
    spec, head = recorded_head(name)
    for number, (image, outputs) in enumerate(zip(image_sizes(spec), spec["outputs"]["images"], strict=True)):
        levels = [level[number : number + 1] for level in maps(spec)]
        with torch.no_grad():
            neck = head.neck(levels)
            proposals = head.detector.rpn(neck, batch_size(spec), [image])[0][0]
            detections = head(levels, batch_size(spec), [image])[0]
        check_maps(neck, outputs["neck_maps"])
        check_anchors(head.detector.rpn.anchors, neck, spec)
        assert len(proposals) == outputs["proposals_count"]
        assert (proposals[:20] - torch.tensor(outputs["proposals_top20"]["boxes"])).abs().max() < 1e-3
        check_detections(detections, outputs["detections_original_size"], scores=1e-5)
        check_masks(detections, outputs["detections_original_size"])


def check_masks(detections: Detections, recorded: dict[str, Any]) -> None:
    height, width = recorded["mask_shape"][1:]
    masks = paste_masks(detections.mask_probabilities, detections.boxes, height, width).numpy()
    areas = np.array(recorded["mask_areas"])
    assert (np.abs(masks.sum((1, 2)) - areas) <= np.maximum(1, 0.002 * areas)).all()
    codes = [{"size": [height, width], "counts": counts.encode()} for counts in recorded["mask_rle_first20"]]
    different = coco.decode(codes).transpose(2, 0, 1) != masks[: len(codes)]
    assert different.sum((1, 2)).max() <= 2


@pytest.mark.parametrize("training_set", TRAINING_SETS)
@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_are_those_of_mmdetection(name: str, training_set: str) -> None:
    spec, head = recorded_head(name)
    recorded, truth = spec["outputs"]["training"][training_set], objects(spec, training_set)
    for target, image in zip(truth, image_sizes(spec), strict=True):  # as data give them, without the batch's padding
        target["masks"] = target["masks"][:, : image.height, : image.width]
    levels = [level.requires_grad_() for level in maps(spec)]
    losses = head(levels, batch_size(spec), image_sizes(spec), truth)
    assert samples(head, levels, spec) == recorded["samples_pos_neg_sumpos_sumneg"]
    for key, entry in LOSSES.items():
        assert number_error(losses[key].item(), recorded["losses"][entry]) < 1e-5, key
    sum(losses.values()).backward()
    check_gradients(head, levels, recorded, {key: our_name(key) for key in recorded["grad_norm"]})
    assert not [key for key, parameter in head.named_parameters() if parameter.grad is None]
    proposals = [torch.tensor(boxes) for boxes in spec["input"]["given_proposals"]]
    with torch.no_grad():
        neck = head.neck(levels)
        second = head.detector.roi_heads.losses(neck, batch_size(spec), proposals, image_sizes(spec), truth)
    for key, loss in second.items():
        assert number_error(loss.item(), recorded["roi_losses_given_proposals"][LOSSES[key]]) < 1e-5, key


def samples(head: DetectionHead, levels: list[Tensor], spec: dict[str, Any]) -> list[list[int]]:
    """Numbers of positive and negative samples, and sums of their places; anchors outside of an image do not count."""
    neck, rpn = head.neck(levels), head.detector.rpn
    numbers = [rpn.anchors.usable(neck, image).cumsum(0) - 1 for image in image_sizes(spec)]
    first = [[number[kind] for kind in pair] for number, pair in zip(numbers, rpn.fg_bg_sampler.choices, strict=True)]
    second = head.detector.roi_heads.boxes.fg_bg_sampler.choices
    return [[*map(len, pair), *(int(kind.sum()) for kind in pair)] for pair in (*first, *second)]
