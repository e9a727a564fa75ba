"""Cascade Mask R-CNN next to mmdetection's recorded outputs, and detectron2's form next to its rules."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from dense_golden import load_recording, maps, number_error, weights
from detection_golden import (
    STRIDES,
    TRAINING_SETS,
    EvenSampler,
    batch_size,
    check_detections,
    check_gradients,
    image_sizes,
    neck_name,
    objects,
)
from torch import Tensor, nn
from torchvision.ops import box_area

from mvrec.models.backbone import FeatureInfo
from mvrec.models.heads.detection import cascade
from mvrec.models.heads.detection.head import DetectionHead
from mvrec.models.heads.detection.paste import paste_masks
from mvrec.models.heads.detection.results import Detections, ImageSize

NAME = "det_cascade_mask_rcnn_mmdet_k5_97x203_150x90"
PARTS = (
    (".conv.", ".0."),
    ("rpn_head.rpn_conv.", "detector.rpn.head.conv.0.0."),
    ("rpn_head.rpn_cls.", "detector.rpn.head.cls_logits."),
    ("rpn_head.rpn_reg.", "detector.rpn.head.bbox_pred."),
    ("roi_head.bbox_head.", "detector.roi_heads.boxes."),
    ("roi_head.mask_head.", "detector.roi_heads.masks."),
    ("shared_fcs.0.", "box_head.fc6."),
    ("shared_fcs.1.", "box_head.fc7."),
    ("fc_cls.", "box_predictor.cls_score."),
    ("fc_reg.", "box_predictor.bbox_pred."),
    (".convs.", ".mask_head."),
    ("upsample.", "mask_predictor.conv5_mask."),
    ("conv_logits.", "mask_predictor.mask_fcn_logits."),
)
LOSSES = {"class": "loss_cls", "box": "loss_bbox", "mask": "loss_mask"}


def our_name(name: str) -> str:
    if name.startswith("neck."):
        return neck_name(name)
    for pattern, replacement in PARTS:
        name = name.replace(pattern, replacement)
    return name


def our_tensor(name: str, tensor: Tensor) -> Tensor:
    """The background is the first class in ours."""
    if "fc_cls" in name:
        return tensor.roll(1, 0)
    return torch.cat([torch.zeros_like(tensor[:1]), tensor]) if "conv_logits" in name else tensor


@pytest.fixture(scope="module")
def recording() -> dict[str, Any]:
    return load_recording(NAME)


@pytest.fixture
def head(recording: Mapping[str, Any]) -> DetectionHead:
    """The recorded network with its settings and the recorded choice of samples."""
    widths = [shape[1] for shape in recording["input"]["maps"]["shapes"]]
    levels = [FeatureInfo(*pair) for pair in zip(widths, STRIDES, strict=True)]
    knobs = {"box_width": 48, "mask_convs": 2, "mask_width": 24, "train_proposals": 200, "box_samples": 32}
    head = DetectionHead(levels, 5, detector="cascade_mask_rcnn", channels=32, rpn_samples=64, **knobs)
    head.load_state_dict({our_name(key): our_tensor(key, value) for key, value in weights(recording).items()})
    head.detector.rpn.candidates[True] = 500
    head.detector.rpn.fg_bg_sampler = EvenSampler(64, 0.5)
    for branch in head.detector.roi_heads.boxes:
        branch.fg_bg_sampler = EvenSampler(32, 0.25)
    return head


@pytest.mark.golden
def test_detections_are_the_recorded_ones(recording: Mapping[str, Any], head: DetectionHead) -> None:
    levels = maps(recording)
    for i, (image, recorded) in enumerate(zip(image_sizes(recording), recording["outputs"]["images"], strict=True)):
        with torch.no_grad():
            (detections,) = head.eval()([level[i : i + 1] for level in levels], batch_size(recording), [image])
        # The last bit of the maps moves scores of the third stage by 9e-6: each stage pools at the boxes of the others.
        check_detections(detections, recorded["detections_original_size"], scores=3e-5)
        check_masks(detections, image, recorded["detections_original_size"]["mask_areas"])


def check_masks(detections: Detections, image: ImageSize, areas: list[int]) -> None:
    masks = paste_masks(detections.mask_probabilities, detections.boxes, *image.frame)
    for area, recorded in zip(masks.sum((1, 2)).tolist(), areas, strict=True):
        assert abs(area - recorded) <= max(1, 0.002 * recorded)


@pytest.mark.golden
@pytest.mark.parametrize("training_set", TRAINING_SETS)
def test_losses_and_gradients_are_the_recorded_ones(
    recording: Mapping[str, Any], head: DetectionHead, training_set: str
) -> None:
    levels = [level.requires_grad_() for level in maps(recording)]
    targets, sizes = objects(recording, training_set), image_sizes(recording)
    recorded = recording["outputs"]["training"][training_set]
    losses = head(levels, batch_size(recording), sizes, targets)
    for part, name in (("rpn_class", "loss_rpn_cls_total"), ("rpn_box", "loss_rpn_bbox_total")):
        assert number_error(losses[part].item(), recorded["losses"][name]) <= 1e-5
    check_stages(losses, recorded["losses"])
    sum(losses.values()).backward()
    check_gradients(head, levels, recorded, {name: our_name(name) for name in recording["state_dict"]})
    proposals = [torch.tensor(boxes) for boxes in recording["input"]["given_proposals"]]
    with torch.no_grad():
        second = head.detector.roi_heads.losses(head.neck(levels), batch_size(recording), proposals, sizes, targets)
    check_stages(second, recorded["roi_losses_given_proposals"])


def check_stages(losses: Mapping[str, Tensor], recorded: Mapping[str, float]) -> None:
    for stage in range(3):
        for part, name in LOSSES.items():
            assert number_error(losses[f"{part}_{stage + 1}"].item(), recorded[f"s{stage}.{name}"]) <= 1e-5


def detectron2_head() -> DetectionHead:
    levels = [FeatureInfo(8, stride) for stride in STRIDES]
    knobs = {"rpn_convs": 2, "box_convs": 1, "mask_convs": 1, "box_width": 16, "head_norm": True, "box_samples": 24}
    return DetectionHead(levels, 3, detector="cascade_mask_rcnn", style="detectron2", channels=8, **knobs)


def detectron2_inputs() -> tuple[list[Tensor], tuple[int, int], list[ImageSize], list[dict[str, Tensor]]]:
    levels = [torch.randn(2, 8, 128 // stride, 128 // stride, requires_grad=True) for stride in STRIDES]
    masks = torch.zeros(1, 128, 128, dtype=torch.uint8)
    masks[:, 20:80, 10:60] = 1
    box = {"boxes": torch.tensor([[10.0, 20, 60, 80]]), "labels": torch.tensor([2]), "masks": masks}
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": masks[:0]}
    return levels, (128, 128), [ImageSize(128, 128), ImageSize(100, 128)], [box, empty]


def test_detectron2_samples_once_has_one_branch_of_masks_and_a_third_of_the_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    head, (levels, size, images, targets) = detectron2_head(), detectron2_inputs()
    for branch in head.detector.roi_heads.boxes[1:]:
        branch.fg_bg_sampler = None
    proposals = [torch.rand(40, 4).cumsum(1) * 30 for _ in images]
    gradients = []
    for _ in range(2):
        torch.manual_seed(1)
        losses = head.detector.roi_heads.losses(levels, size, proposals, images, targets)
        assert set(losses) == {f"{part}_{stage}" for part in ("class", "box") for stage in (1, 2, 3)} | {"mask_1"}
        del losses["mask_1"]
        gradients.append(torch.autograd.grad(sum(losses.values()), levels))
        monkeypatch.setattr(cascade, "_with_share_of_gradient", lambda level, _stages: level)
    for scaled, whole in zip(*gradients, strict=True):
        torch.testing.assert_close(scaled * 3, whole)


def test_detectron2_answers_with_the_mean_of_probabilities_and_the_last_boxes() -> None:
    torch.manual_seed(0)
    head, (levels, _, images, _) = detectron2_head().eval(), detectron2_inputs()
    heads = head.detector.roi_heads
    boxes, chances = [torch.rand(9, 4).cumsum(1) * 30], []
    with torch.no_grad():
        for branch in heads.boxes:
            nn.init.normal_(branch.box_predictor.bbox_pred.weight, std=0.3)
        (detections,) = heads([level[:1] for level in levels], boxes, images[:1])
        for branch in heads.boxes:
            logits, deltas = branch([level[:1] for level in levels], boxes)
            chances.append(logits.softmax(1))
            boxes = [branch.box_coder.decode_single(deltas[:, 0], boxes[0]).clamp(0, 128)]
    mean = torch.stack(chances).mean(0)[:, 1:]
    place, label = divmod(mean.argmax().item(), 3)
    assert detections.scores[0] == mean[place, label]
    assert detections.labels[0] == label
    torch.testing.assert_close(detections.boxes[0], boxes[0][place])


def test_every_parameter_of_a_cascade_has_a_gradient_without_objects() -> None:
    torch.manual_seed(0)
    for style in ("mmdetection", "detectron2"):
        levels, size, images, (_, empty) = detectron2_inputs()
        head = DetectionHead(
            [FeatureInfo(8, stride) for stride in STRIDES], 3, detector="cascade_mask_rcnn", style=style, channels=8
        )
        sum(head(levels, size, images, [empty, empty]).values()).backward()
        assert not [name for name, parameter in head.named_parameters() if parameter.grad is None]


def test_detectron2_trains_on_boxes_with_an_area_unless_there_are_none() -> None:
    torch.manual_seed(0)
    head, inputs = detectron2_head(), detectron2_inputs()
    first, second = head.detector.roi_heads.boxes[:2]
    areas: list[Tensor] = []
    second.register_forward_pre_hook(lambda _module, call: areas.append(box_area(torch.cat(call[1]))))
    for shift in (20, 1e6):  # to the right by two widths, and out of the image
        nn.init.constant_(first.box_predictor.bbox_pred.bias[0], shift)
        losses = head(*inputs)
        assert torch.stack([*losses.values()]).isfinite().all()
    some, none = areas
    assert 0 < len(some) < len(none) == 48
    assert some.min() > 0 == none.max()
