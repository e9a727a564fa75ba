"""Heads in torchvision's style next to torchvision's detectors with the same random weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from mvrec.models.backbone import FeatureInfo
from mvrec.models.baselines.names import create_baseline
from mvrec.models.checkpoints import load_weights
from mvrec.models.checkpoints.files import read_weights
from mvrec.models.heads.detection.head import DetectionHead
from mvrec.models.heads.detection.paste import paste_masks
from mvrec.models.heads.detection.results import Detections, ImageSize

LEVELS = [FeatureInfo(256 * 2**i, 4 * 2**i) for i in range(4)]  # of ResNet-50
NUM_CLASSES = 5
FRAMES = ((97, 203), (150, 90))
VERSION_2 = {"neck_norm": True, "head_norm": True, "rpn_convs": 2, "box_convs": 4}
CASES = {
    "maskrcnn_resnet50_fpn": {"detector": "mask_rcnn"},
    "maskrcnn_resnet50_fpn_v2": {"detector": "mask_rcnn", **VERSION_2},
    "fasterrcnn_resnet50_fpn": {"detector": "faster_rcnn"},
}
FEW = {
    **{"min_size": 128, "max_size": 224, "rpn_post_nms_top_n_train": 60, "rpn_post_nms_top_n_test": 60},
    **{"box_detections_per_img": 20, "box_batch_size_per_image": 32},
}
OUR_FEW = {"train_proposals": 60, "test_proposals": 60, "max_detections": 20, "box_samples": 32}
RENAMES = (
    ("backbone.fpn.", "neck."),
    ("rpn.", "detector.rpn."),
    ("roi_heads.box_", "detector.roi_heads.boxes.box_"),
    ("roi_heads.mask_", "detector.roi_heads.masks.mask_"),
)
LOSSES = {
    **{"loss_objectness": "rpn_class", "loss_rpn_box_reg": "rpn_box", "loss_classifier": "class"},
    **{"loss_box_reg": "box", "loss_mask": "mask"},
}


def our_name(name: str) -> str:
    return next(new + name.removeprefix(old) for old, new in RENAMES if name.startswith(old))


def detector_and_head(name: str) -> tuple[nn.Module, DetectionHead]:
    """torchvision's detector, whose answers differ between boxes, and our head with its weights."""
    torch.manual_seed(0)
    make = getattr(detection, name)
    model = make(weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1, **FEW).eval()
    with torch.no_grad():
        for layer in (model.roi_heads.box_predictor.cls_score, model.rpn.head.cls_logits, model.rpn.head.bbox_pred):
            layer.weight.mul_(20)
    head = DetectionHead(LEVELS, NUM_CLASSES, style="torchvision", **OUR_FEW, **CASES[name]).eval()
    state = {our_name(key): x for key, x in model.state_dict().items() if not key.startswith("backbone.body.")}
    head.load_state_dict(state)
    return model, head


def truth() -> list[dict[str, Tensor]]:
    """Objects of the frames, the second one without any; labels from 1 on, as torchvision has them."""
    boxes = torch.tensor([[20.0, 10, 90, 60], [110, 30, 190, 95]])
    masks = torch.zeros(2, *FRAMES[0], dtype=torch.uint8)
    masks[0, 10:60, 30:80], masks[1, 40:95, 110:180] = 1, 1
    empty = {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64)}
    return [
        {"boxes": boxes, "labels": torch.tensor([1, 4]), "masks": masks},
        {**empty, "masks": torch.zeros(0, *FRAMES[1], dtype=torch.uint8)},
    ]


def inputs(model: nn.Module) -> tuple[ImageList, list[dict[str, Tensor]], dict[str, Tensor]]:
    """A batch of two frames, its objects, and the network's maps of it."""
    generator = torch.Generator().manual_seed(1)
    batch, targets = model.transform([torch.rand(3, *frame, generator=generator) for frame in FRAMES], truth())
    with torch.no_grad():
        return batch, targets, model.backbone.body(batch.tensors)


def sizes_of(batch: ImageList) -> list[ImageSize]:
    return [
        ImageSize(height, width, width / frame[1], height / frame[0])
        for (height, width), frame in zip(batch.image_sizes, FRAMES, strict=False)  # of the first, or both
    ]


@pytest.mark.parametrize("name", CASES)
def test_detections_are_those_of_torchvision(name: str) -> None:
    model, head = detector_and_head(name)
    batch, _, levels = inputs(model)
    with torch.no_grad():
        features = model.backbone.fpn(levels)
        proposals, _ = model.rpn(batch, features)
        answers, _ = model.roi_heads(features, proposals, batch.image_sizes)
        answers = model.transform.postprocess(answers, batch.image_sizes, list(FRAMES))
        detections = head([*levels.values()], batch.tensors.shape[-2:], sizes_of(batch))
    for answer, image, frame in zip(answers, detections, FRAMES, strict=True):
        check_answer(answer, image, frame)


def check_answer(answer: dict[str, Tensor], image: Detections, frame: tuple[int, int]) -> None:
    assert len(image.boxes) == 20
    assert torch.equal(image.labels + 1, answer["labels"])
    assert torch.equal(image.scores, answer["scores"])
    assert torch.equal(image.boxes, answer["boxes"])
    if "masks" in answer:
        masks = paste_masks(image.mask_probabilities, image.boxes, *frame, style="torchvision")
        assert torch.equal(masks, answer["masks"][:, 0] >= 0.5)


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_of_torchvision(name: str) -> None:
    model, head = detector_and_head(name)
    batch, targets, levels = inputs(model)
    model.train()
    head.train()
    torch.manual_seed(2)
    features = model.backbone.fpn(levels)
    proposals, of_rpn = model.rpn(batch, features, targets)
    losses = of_rpn | model.roi_heads(features, proposals, batch.image_sizes, targets)[1]
    for target in targets:
        target["labels"] = target["labels"] - 1
    torch.manual_seed(2)
    actual = head([*levels.values()], batch.tensors.shape[-2:], sizes_of(batch), targets)
    assert len(actual) == len(losses)
    for key, loss in losses.items():
        torch.testing.assert_close(actual[LOSSES[key]], loss, rtol=1e-6, atol=1e-7)
    sum(losses.values()).backward()
    sum(actual.values()).backward()
    parameters = dict(head.named_parameters())
    for key, parameter in model.named_parameters():
        if not key.startswith("backbone.body."):
            difference = (parameters[our_name(key)].grad - parameter.grad).norm()
            # Rounding turns a ReLU of the many off or on.
            assert difference <= 1e-3 * parameter.grad.norm() + 1e-6, key


def test_a_file_of_a_detector_with_frozen_norms_has_its_detections_with_their_eps(tmp_path: Path) -> None:
    """COCO_V1 was trained with an eps of 0."""
    torch.manual_seed(0)
    body = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=FrozenBatchNorm2d)
    model = MaskRCNN(body, num_classes=NUM_CLASSES + 1, **FEW).eval()
    overwrite_eps(model, 0.0)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_var.uniform_(1e-5, 2e-5)
            module.weight.mul_(4e-3)  # outputs remain about 1
    torch.save(model.state_dict(), tmp_path / "v1.pth")
    errors = []
    for eps in (0.0, None):
        network = create_baseline("torchvision/resnet18", num_classes=2, norm_eps=eps)
        arguments = read_weights(tmp_path / "v1.pth").details["head"] | {"max_detections": 20, "test_proposals": 60}
        network.place_head(DetectionHead(network.feature_info, NUM_CLASSES, **arguments), NUM_CLASSES)
        assert load_weights(network, tmp_path / "v1.pth").complete
        picture = torch.rand(3, *FRAMES[0], generator=torch.Generator().manual_seed(1))
        batch, _ = model.transform([picture])
        with torch.no_grad():
            answer = model([picture])[0]
            image = network.eval()(batch.tensors, sizes_of(batch))[0]
        assert len(image.boxes) == len(answer["boxes"]) == 20
        errors.append((image.scores - answer["scores"]).abs().max())
        if eps == 0:
            assert torch.equal(image.labels + 1, answer["labels"])
            torch.testing.assert_close(image.boxes, answer["boxes"], rtol=0, atol=1e-3)
    assert errors[0] < 1e-5 < errors[1]
