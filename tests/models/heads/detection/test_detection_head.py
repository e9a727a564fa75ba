"""Heads of detection: empty images, half precision, what libraries do differently, wrong arguments."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.ops import FeaturePyramidNetwork, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from two_stage_recordings import RecordingSampler

from mvrec.models.backbone import FeatureInfo
from mvrec.models.heads.detection.head import DetectionHead, padded
from mvrec.models.heads.detection.masks import mask_targets
from mvrec.models.heads.detection.pooler import Pooler
from mvrec.models.heads.detection.results import ImageSize

CHANNELS = 16
LEVELS = [FeatureInfo(CHANNELS, stride) for stride in (4, 8, 16, 32)]
SMALL = {"channels": 16, "box_width": 24, "mask_convs": 1, "test_proposals": 50, "train_proposals": 50}
CANVAS = (64, 96)


def maps(height: int, width: int, *, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, CHANNELS, height // level.stride, width // level.stride, generator=generator)
        for level in LEVELS
    ]


def objects(count: int) -> dict[str, Tensor]:
    boxes = torch.tensor([[4.0, 4, 40, 40], [20, 10, 60, 50]])[:count]
    masks = torch.zeros(count, 60, 90, dtype=torch.uint8)
    masks[:, 12:36, 22:38] = 1
    return {"boxes": boxes, "labels": torch.tensor([0, 2])[:count], "masks": masks}


@pytest.mark.parametrize("counts", [(2, 0), (0, 0)])
@pytest.mark.parametrize("style", ["mmdetection", "torchvision", "detectron2"])
@pytest.mark.parametrize("norm", [False, True])
def test_images_without_objects_give_every_parameter_a_gradient(
    style: str, norm: bool, counts: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    knobs = {"head_norm": True, "neck_norm": True, "box_convs": 1} if norm else {}
    head = DetectionHead(LEVELS, 3, style=style, level_norm="layer", **SMALL, **knobs)
    images = [ImageSize(60, 90), ImageSize(60, 90)]
    losses = head(maps(*CANVAS), CANVAS, images, [objects(count) for count in counts])
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["class"] > 0
    assert (losses["mask"] > 0) == (sum(counts) > 0)
    sum(losses.values()).backward()
    assert not [name for name, parameter in head.named_parameters() if parameter.grad is None]


def test_arguments_make_the_same_head_again() -> None:
    head = DetectionHead(LEVELS, 3, detector="faster_rcnn", style="detectron2", rpn_convs=2, **SMALL)
    again = DetectionHead(LEVELS, 3, **head.arguments)
    again.load_state_dict(head.state_dict())
    assert again.arguments == head.arguments
    answers = [each.eval()(maps(*CANVAS), CANVAS, [ImageSize(60, 90)] * 2) for each in (head, again)]
    assert torch.equal(answers[0][0].boxes, answers[1][0].boxes)
    assert answers[0][0].mask_probabilities is None


def test_no_detection_and_maps_that_are_not_finite() -> None:
    head = DetectionHead(LEVELS, 3, score_threshold=1.0, **SMALL).eval()
    levels = maps(*CANVAS)
    levels[0][1, 0, 0, 0] = torch.nan
    first, second = head(levels, CANVAS, [ImageSize(60, 90)] * 2)
    assert first.boxes.shape == (0, 4)
    assert first.mask_probabilities.shape == (0, 28, 28)
    assert second.scores.isnan().tolist() == [True]


# -- Half precision on a large canvas -----------------------------------------------------------------------------


class GivenMaps(nn.Module):
    """torchvision's backbone of a detector, whose maps are given."""

    def __init__(self, levels: list[Tensor]) -> None:
        super().__init__()
        self.levels, self.out_channels = levels, CHANNELS
        self.fpn = FeaturePyramidNetwork([CHANNELS] * 4, CHANNELS, LastLevelMaxPool())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn({str(i): level for i, level in enumerate(self.levels)})


def shift_under_autocast(boxes: Tensor, half: Tensor) -> float:
    """The median distance in pixels of boxes under autocast from the nearest one in float32."""
    return torch.cdist(half.float(), boxes, p=torch.inf).amin(1).median().item()


def spread(predictor: nn.Module, rpn: nn.Module) -> None:
    """Make the answers differ between boxes, as those of a trained detector do."""
    torch.manual_seed(1)
    nn.init.normal_(predictor.cls_score.weight, std=0.5)
    nn.init.normal_(predictor.bbox_pred.weight, std=0.05)
    nn.init.normal_(rpn.head.cls_logits.weight, std=0.3)


def test_autocast_leaves_boxes_where_they_are_and_that_of_torchvision_does_not() -> None:
    torch.manual_seed(0)
    size, image = (800, 1344), ImageSize(800, 1333)
    levels = maps(*size, batch=1)
    head = DetectionHead(LEVELS, 3, channels=CHANNELS, box_width=64, detector="faster_rcnn").eval()
    spread(head.detector.roi_heads.boxes.box_predictor, head.detector.rpn)
    peer = FasterRCNN(GivenMaps(levels), 4, min_size=800, max_size=1333).eval()
    spread(peer.roi_heads.box_predictor, peer.rpn)
    picture = torch.zeros(3, 800, 1333)
    with torch.no_grad():
        full, their_full = head(levels, size, [image])[0], peer([picture])[0]["boxes"]
        with torch.autocast("cpu", torch.bfloat16):
            half, their_half = head(levels, size, [image])[0], peer([picture])[0]["boxes"]
    assert len(half.boxes) == len(their_half) == 100
    assert half.boxes.dtype == half.scores.dtype == torch.float32
    assert shift_under_autocast(full.boxes, half.boxes) < 0.5
    assert shift_under_autocast(their_full, their_half) > 0.5


# -- What libraries do differently --------------------------------------------------------------------------------


def test_a_box_is_read_on_the_map_of_its_size() -> None:
    sides = torch.tensor([0.0, 55, 56, 111, 112, 223, 224, 447, 448, 5000])
    boxes = torch.stack([sides * 0, sides * 0, sides, sides], 1)
    assert Pooler((4, 8, 16, 32), 7, style="mmdetection").levels_of(boxes).tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert Pooler((8, 16), 7, style="mmdetection").levels_of(boxes).tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(("style", "arguments"), [("mmdetection", (0, True)), ("torchvision", (2, False))])
def test_the_gradient_of_pooled_features_is_that_of_roi_align(style: str, arguments: tuple[int, bool]) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(30, 2, generator=generator) * torch.tensor([110.0, 70]) - 10
    boxes = torch.cat([start, start + torch.rand(30, 2, generator=generator) * 90], 1)
    boxes[:3] = torch.tensor([[5.0, 5, 5, 5], [0, 0, 96, 64], [-40, -40, -20, -20]])
    gradients = []
    for pool in (Pooler((8,), 7, style=style), None):
        level = torch.rand(2, 4, 8, 12, generator=torch.Generator().manual_seed(1)).requires_grad_()
        if pool is None:
            rows = torch.cat([torch.tensor([0.0] * 20 + [1.0] * 10)[:, None], boxes], 1)
            features = roi_align(level, rows, 7, 1 / 8, *arguments)
        else:
            features = pool([level], [boxes[:20], boxes[20:]])
        (features * torch.rand(features.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
        gradients.append(level.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)
    level = torch.rand(1, 4, 8, 12).requires_grad_()
    Pooler((8,), 7, style=style)([level], [boxes[:0]]).sum().backward()
    assert not level.grad.any()


def test_masks_of_mmdetection_go_on_in_the_padding_of_the_batch() -> None:
    full, corner = torch.ones(1, 20, 30, dtype=torch.uint8), torch.tensor([[26.0, 16, 30, 20]])
    for size, style, value in (
        ((32, 32), "mmdetection", 0),
        ((20, 30), "mmdetection", 1),
        ((32, 32), "detectron2", 1),
    ):
        cells = mask_targets(full, corner, torch.tensor([0]), 28, size=size, style=style)
        assert cells[0, -1, -1] == value
        assert cells[0, :-4, :-4].all()


def test_detectron2_divides_by_the_samples_that_it_wants_and_cuts_boxes_to_the_file() -> None:
    heads = {}
    for style in ("mmdetection", "detectron2"):
        torch.manual_seed(0)
        heads[style] = DetectionHead(LEVELS, 3, style=style, **SMALL)
        heads[style].detector.rpn.samples = 10_000
        heads[style].detector.rpn.fg_bg_sampler = sampler = RecordingSampler(10_000, 0.5)
    images, levels = [ImageSize(64, 96, 1.5, 1.5)] * 2, maps(*CANVAS)
    losses = {style: head(levels, CANVAS, images, [objects(2)] * 2) for style, head in heads.items()}
    sampled = sum(len(places) for pair in sampler.choices for places in pair)
    for key in ("rpn_class", "rpn_box"):
        expected = losses["mmdetection"][key] * sampled / 20_000
        torch.testing.assert_close(losses["detectron2"][key], expected)
    boxes = heads["detectron2"].eval()(levels, CANVAS, images)[0].boxes
    assert (boxes[:, 2:] <= torch.tensor([64.0, 43.0])).all()
    assert (heads["mmdetection"].eval()(levels, CANVAS, images)[0].boxes[:, 3] > 42.9).any()


# -- Arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"detector": "yolo"}, "detector must be one of mask_rcnn, .* got 'yolo'"),
        ({"style": "keras"}, "style must be one of mmdetection, torchvision, detectron2, got 'keras'"),
        ({"score_threshold": 1.5}, r"score_threshold must lie in 0\.\.1, got 1.5"),
        ({"max_detections": 0}, "max_detections must be 1 or more, got 0"),
        ({"detector": "cascade_rcnn", "style": "torchvision"}, "torchvision has no cascades"),
    ],
)
def test_wrong_arguments_are_named(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetectionHead(LEVELS, 3, **knobs)


def test_masks_that_are_missing_are_named() -> None:
    head = DetectionHead(LEVELS, 3, **SMALL)
    target = {key: x for key, x in objects(2).items() if key != "masks"}
    with pytest.raises(ValueError, match="mask_rcnn needs masks of all objects"):
        head(maps(*CANVAS), CANVAS, [ImageSize(60, 90)] * 2, [target, target])


def test_padding_reaches_the_next_multiple() -> None:
    assert padded(torch.ones(1, 3, 33, 64)).shape == (1, 3, 64, 64)
    assert padded(torch.ones(1, 3, 33, 64)).sum() == 3 * 33 * 64
