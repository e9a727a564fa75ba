"""RetinaNet next to mmdetection's recorded outputs and to torchvision's network."""

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from dense_golden import load_recording, maps, number_error, weights
from detection_golden import (
    STRIDES,
    TRAINING_SETS,
    batch_size,
    check_anchors,
    check_detections,
    check_gradients,
    check_maps,
    image_sizes,
    neck_name,
    objects,
)
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from mvrec.models.backbone import FeatureInfo
from mvrec.models.heads.detection.head import DetectionHead
from mvrec.models.heads.detection.neck import Neck
from mvrec.models.heads.detection.results import ImageSize
from mvrec.models.heads.detection.retinanet import RetinaNet

RECORDINGS = ("det_retinanet_mmdet_k6_97x203_150x90", "det_retinanet_mmdet_k6_128x160")
TOWERS = {
    "bbox_head.cls_convs.": "detector.classification_head.conv.",
    "bbox_head.reg_convs.": "detector.regression_head.conv.",
    "bbox_head.retina_cls.": "detector.classification_head.cls_logits.",
    "bbox_head.retina_reg.": "detector.regression_head.bbox_reg.",
}


def our_name(name: str) -> str:
    for prefix, replacement in TOWERS.items():
        if name.startswith(prefix):
            return replacement + name.removeprefix(prefix).replace(".conv.", ".0.")
    return neck_name(name, finest=1)


def build(spec: Mapping[str, Any]) -> DetectionHead:
    widths = [shape[1] for shape in spec["input"]["maps"]["shapes"]]
    levels = [FeatureInfo(*pair) for pair in zip(widths, STRIDES, strict=True)]
    head = DetectionHead(levels, 6, detector="retinanet", channels=32)
    head.load_state_dict({our_name(name): tensor for name, tensor in weights(spec).items()})
    return head


@pytest.mark.golden
@pytest.mark.parametrize("name", RECORDINGS)
def test_detections_are_the_recorded_ones(name: str) -> None:
    spec = load_recording(name)
    model, levels = build(spec).eval(), maps(spec)
    check_anchors(model.detector.anchors, model.neck(levels[1:]), spec)
    for i, (image, recorded) in enumerate(zip(image_sizes(spec), spec["outputs"]["images"], strict=True)):
        rows = [level[i : i + 1] for level in levels]
        with torch.no_grad():
            check_maps(model.neck(rows[1:]), recorded["neck_maps"])
            for size, kind in ((image, "original"), (ImageSize(*image[:2]), "network")):
                (detections,) = model(rows, batch_size(spec), [size])
                check_detections(detections, recorded[f"detections_{kind}_size"])


@pytest.mark.golden
@pytest.mark.parametrize("training_set", TRAINING_SETS)
@pytest.mark.parametrize("name", RECORDINGS)
def test_losses_and_gradients_are_the_recorded_ones(name: str, training_set: str) -> None:
    spec = load_recording(name)
    model, levels = build(spec).train(), [level.requires_grad_() for level in maps(spec)]
    losses = model(levels, batch_size(spec), image_sizes(spec), objects(spec, training_set))
    sum(losses.values()).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    recorded = spec["outputs"]["training"][training_set]
    assert number_error(losses["class"].item(), recorded["losses"]["loss_cls_total"]) <= 1e-5
    assert number_error(losses["box"].item(), recorded["losses"]["loss_bbox_total"]) <= 1e-5
    check_gradients(model, levels, recorded, {name: our_name(name) for name in spec["state_dict"]})


class GivenMaps(nn.Module):
    """torchvision's neck on maps that do not depend on the image."""

    def __init__(self, levels: list[Tensor], channels: int, p6_channels: int) -> None:
        super().__init__()
        self.levels, self.out_channels = levels, channels
        widths = [level.shape[1] for level in levels]
        self.fpn = FeaturePyramidNetwork(widths, channels, extra_blocks=LastLevelP6P7(p6_channels, channels))

    def forward(self, _images: Tensor) -> dict[str, Tensor]:
        return self.fpn(OrderedDict((str(i), level) for i, level in enumerate(self.levels)))


def torchvision_network(levels: list[Tensor], channels: int, *, second_version: bool) -> TorchvisionRetinaNet:
    """One with scores of many sizes, which are all 0.01 in a fresh one."""
    backbone = GivenMaps(levels, channels, levels[-1].shape[1] if second_version else channels)
    head = RetinaNetHead(channels, 9, 5, norm_layer=partial(nn.GroupNorm, 32) if second_version else None)
    if second_version:
        head.regression_head._loss_type = "giou"
    for tower, output in ((head.classification_head, "cls_logits"), (head.regression_head, "bbox_reg")):
        for layer in tower.conv:
            nn.init.kaiming_normal_(layer[0].weight)
        nn.init.normal_(tower.get_submodule(output).weight, std=0.1)
    return TorchvisionRetinaNet(backbone, 5, head=head, min_size=200, max_size=288)


@pytest.mark.parametrize("second_version", [False, True])
def test_style_torchvision_has_its_detections_and_losses_to_the_bit(second_version: bool) -> None:
    torch.manual_seed(0)
    levels = [torch.randn(2, 16 * 2**i, 28 // 2**i, 36 // 2**i) for i in range(3)]
    reference = torchvision_network(levels, 32, second_version=second_version)
    infos = [FeatureInfo(level.shape[1], stride) for level, stride in zip(levels, STRIDES[1:], strict=True)]
    neck = Neck(infos, 32, coarser="convolutions", source="input" if second_version else "output")
    neck.load_state_dict(reference.backbone.fpn.state_dict())
    model = RetinaNet(32, 5, style="torchvision", max_detections=300, norm=second_version)
    model.load_state_dict(reference.head.state_dict())
    images = [torch.rand(3, 210, 280), torch.rand(3, 224, 150)]
    targets = [
        {"boxes": torch.tensor([[10.0, 20, 90, 120], [100, 5, 130, 44]]), "labels": torch.tensor([3, 0])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    batch, objects_of_views = reference.transform(images, targets)
    size = tuple(batch.tensors.shape[-2:])
    views = [
        ImageSize(*view, view[1] / image.shape[2], view[0] / image.shape[1])
        for view, image in zip(batch.image_sizes, images, strict=True)
    ]
    expected = reference.train()(images, targets)
    losses = model(neck(levels), size, views, objects_of_views)
    assert losses == {"class": expected["classification"], "box": expected["bbox_regression"]}
    with torch.no_grad():
        for detections, others in zip(model(neck(levels), size, views), reference.eval()(images), strict=True):
            assert len(detections.boxes) > 50
            assert detections.boxes.equal(others["boxes"])
            assert detections.scores.equal(others["scores"])
            assert detections.labels.equal(others["labels"])


def test_bfloat16_moves_boxes_of_a_large_canvas_by_less_than_half_a_pixel() -> None:
    torch.manual_seed(0)
    levels = [torch.randn(1, 32, 800 // stride, 1344 // stride) for stride in (8, 16, 32, 64, 128)]
    model = RetinaNet(32, 3, max_detections=1000).eval()
    for tower, output in ((model.classification_head, "cls_logits"), (model.regression_head, "bbox_reg")):
        for layer in tower.conv:
            nn.init.kaiming_normal_(layer[0].weight)
        nn.init.normal_(tower.get_submodule(output).weight, std=0.03)
    images = [ImageSize(800, 1333)]
    with torch.no_grad():
        (exact,) = model(levels, (800, 1344), images)
        with torch.autocast("cpu", torch.bfloat16):
            (rounded,) = model(levels, (800, 1344), images)
    assert rounded.boxes.dtype == rounded.scores.dtype == torch.float32
    distances = torch.cdist(rounded.boxes[:100], exact.boxes, p=torch.inf).amin(1)
    assert distances.median() < 0.5


def test_style_detectron2_divides_losses_by_a_running_mean_that_is_saved() -> None:
    torch.manual_seed(0)
    levels = [torch.randn(1, 8, 16 // 2**i, 16 // 2**i) for i in range(5)]
    target = {"boxes": torch.tensor([[10.0, 10, 60, 60]]), "labels": torch.tensor([1])}
    inputs = (levels, (128, 128), [ImageSize(128, 128)], [target])
    model = RetinaNet(8, 3, style="detectron2")
    matches = model.matcher.assign(target["boxes"], torch.cat(model.anchors.of_levels(levels, ())))
    positives = (matches >= 0).sum().item()
    assert positives > 0
    sums, divisor = [], 100.0
    for _ in range(2):
        divisor = 0.9 * divisor + 0.1 * positives
        sums.append(model(*inputs)["box"].item() * divisor)
    assert sums[0] == pytest.approx(sums[1])
    resumed = RetinaNet(8, 3, style="detectron2")
    resumed.load_state_dict(model.state_dict())
    assert resumed(*inputs)["box"].item() == pytest.approx(sums[0] / (0.9 * divisor + 0.1 * positives))
