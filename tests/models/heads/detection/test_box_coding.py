"""Anchors, corrections of boxes, and the objects that boxes belong to."""

import math

import pytest
import torch
from torchvision.models.detection._utils import Matcher as TorchvisionMatcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from mvrec.models.heads.detection.anchors import Anchors
from mvrec.models.heads.detection.coding import BoxCoder, Matcher
from mvrec.models.heads.detection.results import ImageSize

IGNORED = Matcher.BETWEEN_THRESHOLDS


def test_anchors_of_bfloat16_maps_are_exact_and_those_of_torchvision_are_not() -> None:
    maps = [torch.zeros(1, 1, 200, 334, dtype=torch.bfloat16)]
    images = ImageList(torch.zeros(1, 3, 800, 1336), [(800, 1333)])
    exact = Anchors([4], [[40.3]])
    rounded = AnchorGenerator(((40,),), ((0.5, 1.0, 2.0),))
    (anchors,), (others,) = exact(images, maps), rounded(images, maps)
    assert anchors.dtype == torch.float32
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    torch.testing.assert_close(centres[-1], torch.tensor([333.0 * 4, 199 * 4]))
    assert (((others[:, :2] + others[:, 2:]) / 2).double()[-1] - centres[-1]).abs().max() >= 2


def test_detectron2_orders_the_anchors_of_a_cell_by_size_and_mmdetection_by_ratio() -> None:
    maps = [torch.zeros(1, 1, 1, 1)]
    by_ratio, by_size = (
        Anchors([4], [[8, 16]], style=style).of_levels(maps, ())[0] for style in ("mmdetection", "detectron2")
    )
    assert by_size.equal(by_ratio.unflatten(0, (3, 2)).transpose(0, 1).flatten(0, 1))
    areas = ((by_size[:, 2:] - by_size[:, :2]).prod(1)).tolist()
    assert areas == pytest.approx([64] * 3 + [256] * 3)


def test_training_leaves_out_anchors_in_the_padding_of_a_batch_and_on_request_at_the_border() -> None:
    maps, image = [torch.zeros(1, 1, 8, 8)], ImageSize(17, 40)  # padded alone to 32 x 64
    usable = Anchors([8], [[8]]).usable(maps, image)
    assert usable.unflatten(0, (8, 8, 3)).all(2).tolist() == [[True] * 8] * 4 + [[False] * 8] * 4
    within = Anchors([8], [[8]]).usable(maps, image, within=True).unflatten(0, (8, 8, 3))[..., 1]
    assert within.nonzero().tolist() == [[1, column] for column in (1, 2, 3, 4)]  # 4..12 of 17 rows, ..36 of 40 columns
    assert Anchors([8], [[8]], style="torchvision").usable(maps, image) is None


def test_boxes_are_float32_whatever_the_corrections_are_and_their_sides_are_limited() -> None:
    boxes = torch.tensor([[1200.0, 700, 1300.5, 790.25]])
    codes = torch.tensor([[0.1, -0.2, 9.0, -9.0]], dtype=torch.bfloat16)
    both, upper = (BoxCoder((1, 1, 1, 1), style=style) for style in ("mmdetection", "torchvision"))
    decoded = both.decode_single(codes, boxes)
    assert decoded.dtype == torch.float32
    width, height = (decoded[0, 2:] - decoded[0, :2]).tolist()
    assert (width, height) == pytest.approx((100.5 * 62.5, 90.25 / 62.5), rel=1e-4)
    narrow = both.decode_single(codes[:, [1, 0, 3, 2]], boxes)[0]
    assert (narrow[2] - narrow[0]).item() == pytest.approx(100.5 / 62.5, rel=1e-4)
    height = (upper.decode_single(codes, boxes)[0, 3] - upper.decode_single(codes, boxes)[0, 1]).item()
    assert height == pytest.approx(90.25 * math.exp(-9), rel=0.01)
    weighted = BoxCoder((10, 10, 5, 5))
    truth = torch.tensor([[1190.0, 690, 1310, 770]])
    torch.testing.assert_close(weighted.decode_single(weighted.encode_single(truth, boxes), boxes), truth)
    assert weighted.decode_single(torch.zeros(0, 12), torch.zeros(0, 4)).shape == (0, 12)


def test_an_object_has_its_best_box_in_mmdetection_even_if_that_overlaps_another_object_more() -> None:
    overlaps = torch.tensor([[0.6, 0.3, 0.0, 0.45], [0.4, 0.2, 0.0, 0.1]])  # objects x boxes
    best, overlapped = (Matcher(0.5, 0.4, least_best=0.0, style=style) for style in ("mmdetection", "torchvision"))
    assert best(overlaps).tolist() == [1, -1, -1, IGNORED]
    assert overlapped(overlaps).tolist() == [0, -1, -1, IGNORED]
    assert overlapped(overlaps).equal(TorchvisionMatcher(0.5, 0.4, allow_low_quality_matches=True)(overlaps))
    assert Matcher(0.5, 0.4, least_best=0.45)(overlaps).tolist() == [0, -1, -1, IGNORED]  # 0.4 is too little
    assert Matcher(0.5, 0.4, least_best=0.0)(torch.zeros(1, 3)).tolist() == [-1, -1, -1]  # no box overlaps it


def test_without_objects_or_boxes_nothing_matches_and_unusable_boxes_are_ignored() -> None:
    matcher = Matcher(0.5, 0.5)
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    assert matcher.assign(torch.zeros(0, 4), boxes).tolist() == [-1, -1]
    assert matcher.assign(boxes, torch.zeros(0, 4)).tolist() == []
    assert matcher.assign(boxes, boxes).tolist() == [0, 1]
    assert matcher.assign(boxes, boxes, torch.tensor([False, True])).tolist() == [IGNORED, 1]
