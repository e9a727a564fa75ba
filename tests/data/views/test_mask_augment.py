"""Training views of images with masks: scale, crop with the rule about large classes, colours."""

import colorsys
import random

import numpy as np
import pytest
import torch

from mvrec.data.views.geometry import Box, rescaled_size
from mvrec.data.views.mask_augment import (
    MaskAugment,
    PhotometricDistortion,
    choose_mask_geometry,
    largest_share,
    recoloured,
)
from mvrec.data.views.protocol import MaskProtocol


def views(classes, *, count=200, size=64, **ranges):
    augment = MaskAugment(**{"scale": None, **ranges})
    return [choose_mask_geometry(classes, size=size, augment=augment, seed=seed) for seed in range(count)]


def test_scales_cover_the_ratio_and_keep_proportions_to_a_pixel():
    classes = np.zeros((200, 300), np.uint8)
    factors = []
    for way in views(classes, ratio=(0.5, 2.0)):
        assert way.view_size == way.size == (64, 64)
        vertical, horizontal = way.size[0] / way.box.height, way.size[1] / way.box.width
        assert abs(vertical - horizontal) * max(way.box.height, way.box.width) < 2
        assert 0 <= way.box.top <= 200 - way.box.height
        assert 0 <= way.box.left <= 300 - way.box.width
        factors.append(vertical)
    assert 0.48 < min(factors) < 0.6
    assert 1.8 < max(factors) < 2.1
    flips = [way.flip for way in views(classes)]
    assert 70 < sum(flips) < 130


def test_the_scale_of_the_recipe_is_a_limit_of_both_sides():
    assert rescaled_size(683, 512, (2048, 512)) == (683, 512)
    assert rescaled_size(480, 640, (2048, 512), 0.5) == (256, 341)
    assert rescaled_size(100, 1000, (2048, 512)) == (205, 2048)
    for height, width in ((683, 512), (100, 1000), (37, 53)):
        assert MaskProtocol().network_size(height, width, 1.5) == rescaled_size(height, width, (2048, 512), 1.5)


def test_an_image_smaller_than_the_crop_is_whole_and_padded():
    for way in views(np.zeros((40, 90), np.uint8), ratio=(1.0, 1.0)):
        assert (way.size, way.padded, way.box.height, way.box.width) == ((40, 64), (64, 64), 40, 64)


def test_crops_may_be_rectangles():
    for way in views(np.zeros((200, 300), np.uint8), size=(40, 80), ratio=(0.5, 2.0)):
        assert way.view_size == way.size == (40, 80)
        assert abs(way.box.width - 2 * way.box.height) <= 2
        assert 20 <= way.box.height <= 80
    for way in views(np.zeros((30, 90), np.uint8), size=(40, 80), ratio=(1.0, 1.0)):
        assert (way.size, way.padded) == ((30, 80), (40, 80))


def test_crops_avoid_a_class_over_most_of_them():
    classes = np.zeros((256, 256), np.uint8)
    classes[:64, :64] = 1  # crops of 64 pixels elsewhere have one class
    shares = {}
    for share in (0.75, 1.0):
        ways = views(classes, ratio=(1.0, 1.0), largest_share=share)
        shares[share] = np.mean([largest_share(classes, way.box) < 0.75 for way in ways])
    assert shares[1.0] < 0.15
    assert shares[0.75] > 0.3


def test_shares_leave_out_unlabelled_pixels_and_have_a_value_without_any():
    classes = np.full((100, 100), 255, np.uint8)
    assert largest_share(classes, Box(0, 0, 100, 100)) == 1
    classes[:10, :30], classes[10:20, :10] = 3, 5
    assert largest_share(classes, Box(0, 0, 100, 100)) == pytest.approx(0.75)


@pytest.mark.parametrize(("turn", "factor"), [(0, 0.5), (0, 0.9), (0, 1.4), (0.1, 1), (-0.1, 1), (0.07, 1.3)])
def test_hue_and_saturation_are_those_of_hsv(turn, factor):
    pixels = np.random.default_rng(0).integers(0, 256, (500, 3)).astype(np.uint8)
    pixels[:6] = [[0, 0, 0], [255, 255, 255], [80, 80, 80], [255, 0, 0], [10, 0, 10], [81, 80, 80]]
    frames = torch.from_numpy(pixels.T.copy()).view(1, 3, 1, -1)
    result = recoloured(frames, turn=turn, saturation=factor)[0, :, 0].T.numpy()
    for before, after in zip(pixels, result, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(before / 255))
        expected = np.array(colorsys.hsv_to_rgb((hue + turn) % 1, min(saturation * factor, 1), value)) * 255
        assert np.abs(after - expected).max() <= 0.51


def test_distortion_changes_colours_within_its_ranges_by_the_seed_alone():
    image = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (1, 3, 24, 32), dtype=np.uint8))
    distortion = PhotometricDistortion()
    results = [distortion(image, random.Random(seed)) for seed in range(60)]
    assert torch.equal(results[7], distortion(image, random.Random(7)))
    assert all(result.dtype == torch.uint8 and result.shape == image.shape for result in results)
    unchanged = sum(torch.equal(result, image) for result in results)
    assert 0 <= unchanged < 12  # (1/2)^4 of them
    assert PhotometricDistortion(probability=0.0)(image, random.Random(0)) is image
    only = {"contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": 0, "probability": 1.0}
    shifts = [
        int((PhotometricDistortion(**only)(image, random.Random(seed)).int() - image.int()).abs().max())
        for seed in range(40)
    ]
    assert max(shifts) <= 32
    assert max(shifts) > 24
    half = PhotometricDistortion(brightness=0, contrast=(0.5, 0.5), saturation=(1.0, 1.0), hue=0, probability=1.0)
    assert all(torch.equal(half(image, random.Random(seed)), image // 2) for seed in range(8))  # second or last


def test_hues_turn_by_a_tenth_of_the_circle_at_most():
    image = torch.tensor([[255, 0, 0]], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4).contiguous()
    ranges = {"brightness": 0.0, "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "probability": 1.0}
    hues = []
    for seed in range(100):
        red, green, blue = PhotometricDistortion(**ranges)(image, random.Random(seed))[0, :, 0, 0].tolist()
        hue = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)[0]
        hues.append((hue + 0.5) % 1 - 0.5)
    assert -0.102 <= min(hues) < -0.08
    assert 0.08 < max(hues) <= 0.102


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ratio": (2.0, 0.5)}, "ratio must be two ascending positive numbers, got 2.0, 0.5"),
        ({"largest_share": 1.5}, "largest_share must lie in 0..1, got 1.5"),
        ({"scale": (0, 512)}, "scale must be two positive numbers of pixels, got 0, 512"),
        ({"flip_probability": 2.0}, "flip_probability must lie in 0..1, got 2"),
    ],
)
def test_ranges_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        MaskAugment(**values)
