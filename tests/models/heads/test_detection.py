"""Our pyramids inside torchvision's detectors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from zoo_builds import BUILDS

from mvrec.models import FeaturePyramid
from mvrec.models.backbone import Backbone

SIZES = {"min_size": 128, "max_size": 160, "num_classes": 3}
FEW = {"rpn_pre_nms_top_n": 50, "rpn_post_nms_top_n": 20}  # boxes, while training and after
FEW_BOXES = {f"{key}_{when}": count for key, count in FEW.items() for when in ("train", "test")}


def images_and_targets() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two images of different sizes, each with one object."""
    images = [torch.rand(3, 128, 160), torch.rand(3, 90, 70)]
    targets = []
    for image in images:
        mask = torch.zeros(1, *image.shape[1:], dtype=torch.uint8)
        mask[0, 20:60, 10:50] = 1
        targets.append({"boxes": torch.tensor([[10.0, 20, 50, 60]]), "labels": torch.tensor([1]), "masks": mask})
    return images, targets


def check_detector(backbone: Backbone, detector: Callable[..., nn.Module], **knobs: Any) -> None:
    """One step of training and one of inference."""
    torch.manual_seed(0)
    stem = next(iter(backbone.parameters()))
    model = detector(FeaturePyramid(backbone, out_channels=32), **SIZES, **knobs)
    images, targets = images_and_targets()
    loss = sum(model(images, targets).values())
    loss.backward()
    assert loss.isfinite()
    assert stem.grad is not None
    assert stem.grad.abs().sum() > 0
    with torch.no_grad():
        predictions = model.eval()(images)
    for image, prediction in zip(images, predictions, strict=True):
        assert detector is RetinaNet or len(prediction["masks"])
        boxes = prediction["boxes"]
        assert boxes.isfinite().all()
        assert (boxes[:, 2] <= image.shape[2]).all()
        assert (boxes[:, 3] <= image.shape[1]).all()


def test_detectors_train_and_infer_on_small_networks() -> None:
    check_detector(BUILDS["shunted"](), MaskRCNN, box_batch_size_per_image=16, box_detections_per_img=4, **FEW_BOXES)
    four_grids = BUILDS["mvit_v2_image"](image_size=64, q_strides={1: 2, 2: 2, 3: 2})  # as the released ones have
    anchors = AnchorGenerator(tuple((size,) for size in (16, 32, 64, 128, 256)), ((0.5, 1.0, 2.0),) * 5)
    check_detector(four_grids, RetinaNet, anchor_generator=anchors)


def test_pyramid_has_one_width_and_the_strides_of_its_levels() -> None:
    backbone = BUILDS["shunted"]()
    maps = FeaturePyramid(backbone, out_channels=24)(torch.rand(1, 3, 128, 64))
    sizes = {"0": (32, 16), "1": (16, 8), "2": (8, 4), "3": (4, 2), "pool": (2, 1)}
    assert {name: tuple(level.shape[1:]) for name, level in maps.items()} == {n: (24, *s) for n, s in sizes.items()}
    assert backbone.num_classes == 0  # the head could get no gradient here
    maps["0"].sum().backward()
    assert not [name for name, p in backbone.named_parameters() if p.grad is None]
    maps = FeaturePyramid(BUILDS["cloformer"](), out_channels=24, levels=(1, 3))(torch.rand(1, 3, 64, 64))
    assert {name: level.shape[-1] for name, level in maps.items()} == {"1": 8, "3": 2, "pool": 1}


def test_network_without_maps_of_images_or_levels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs maps of images, got a MViT for inputs of shape \(3, 4, 32, 32\)"):
        FeaturePyramid(BUILDS["mvit_v1_video"]())
    with pytest.raises(ValueError, match=r"levels must lie in 0\.\.3, got \(2, 4\)"):
        FeaturePyramid(BUILDS["shunted"](), levels=(2, 4))
