"""The sizes of images in detection are those of the frameworks, to the last pixel."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from mvrec.data.loading.images import protocol_view
from mvrec.data.views.protocol import DetectionProtocol

GOLDEN = Path(__file__).parents[2] / "golden/dense/det_resize_rule_mm.json"


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


def test_sizes_of_mmdetection_are_the_recorded_ones(golden):
    sizes = golden["input"]["original_sizes_h_w"]
    for (height, width), records in zip(sizes, golden["outputs"]["sizes"], strict=True):
        for (longest, shortest), record in zip(golden["input"]["limits_long_short"], records, strict=True):
            protocol = DetectionProtocol.named(f"mmdetection-{longest}x{shortest}")
            assert list(protocol.network_size(height, width)) == record["new_h_w"]


def image_u8(height, width, seed):
    """A smooth image uint8 (height, width, 3), by the rule of the recordings."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (3, -(-height // 8), -(-width // 8)), generator=generator)
    coarse = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :height, :width]
    noise = torch.randint(-16, 17, (3, height, width), generator=generator)
    return (coarse + noise).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def test_pixels_of_mmdetection_are_the_recorded_ones_to_a_grey_level(golden):
    image, record = golden["input"]["image"], golden["outputs"]["resized_rgb_uint8"]
    longest, shortest = image["limits_long_short"]
    protocol = DetectionProtocol.named(f"mmdetection-{longest}x{shortest}")
    view = protocol_view(image_u8(*image["size"], image["seed"]), protocol)
    assert list(view.shape) == [1, 3, *record["shape"][:2]]
    rows = view[0].permute(1, 2, 0)[: len(record["first_rows"])]
    assert (rows.int() - torch.tensor(record["first_rows"])).abs().max() <= 1


def test_sizes_of_torchvision_are_those_of_its_detectors():
    transform = GeneralizedRCNNTransform(800, 1333, [0.0] * 3, [1.0] * 3).eval()
    protocol = DetectionProtocol.named("torchvision-1333x800")
    for height, width in np.random.default_rng(0).integers(1, 60, (60, 2)).tolist():
        image = torch.zeros(1, 20 + height, 20 + width)
        resized, _ = transform.resize(image)
        assert protocol.network_size(*image.shape[1:]) == tuple(resized.shape[1:])
    assert protocol.network_size(427, 640) == (800, 1199)


def test_sizes_of_detectron2_round_once_after_both_limits():
    # ResizeShortestEdge.get_output_shape(height, width, 800, 1333) of detectron2
    sizes = {(480, 640): (800, 1067), (640, 427): (1199, 800), (300, 1000): (400, 1333), (1000, 300): (1333, 400)}
    protocol = DetectionProtocol.named("detectron2-1333x800")
    assert {size: protocol.network_size(*size) for size in sizes} == sizes
    assert protocol.antialias


def test_names_have_any_sizes_and_others_are_refused():
    assert DetectionProtocol.named("mmdetection-512x512").scale == (512, 512)
    assert DetectionProtocol.named("torchvision-480x640").scale == (640, 480)
    whole = DetectionProtocol.named("whole")
    assert whole.network_size(37, 5301) == (37, 5301)
    for name in ("mmdet-1333x800", "mmdetection-0x800", "mmdetection", "whole-ms"):
        with pytest.raises(ValueError, match=f"there is no protocol '{name}', only mmdetection-1333x800, "):
            DetectionProtocol.named(name)


def test_a_score_line_of_detection_tells_all_that_changes_a_score():
    assert str(DetectionProtocol()) == (
        "val images, mmdetection-1333x800, at most 1333 x 800 pixels, sides rounded as in mmdetection, bilinear "
        "without antialias"
    )
    assert str(DetectionProtocol.named("whole", split="test", upright=False)) == (
        "test images, whole, own size, not turned as their EXIF blocks say"
    )
