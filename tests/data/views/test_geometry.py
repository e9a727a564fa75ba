"""The same seeds give the same pixels for good, and targets follow them."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from mvrec.data.views.geometry import Box, Geometry, choose_geometry
from mvrec.data.views.targets import MaskMap, MultiHot, Values
from mvrec.data.views.transforms import Augment, train_view, views_of

AUGMENTS = {
    "area": Augment(rand_augment=None),
    "side": Augment(rand_augment=None, crop_side=(0.5, 1.0), flip_probability=1.0),
    "random": Augment(rand_augment=None, interpolation="random", flip_probability=0.3),
}
# Hashes of views that were made before crop, scale and flip became a `Geometry`.
TRAINING = {"area": "ed4a8da2438ee655", "side": "bbf2980bb7cd94de", "random": "294c551ecfb099aa"}


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="torch scales bytes otherwise there"
)
@pytest.mark.parametrize("name", TRAINING)
def test_training_pixels_of_a_seed_are_the_recorded_ones(name):
    digest = hashlib.sha256()
    for height, width in ((48, 80), (90, 61)):
        frames = np.random.default_rng(1000 * height + width).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        for seed in range(12):
            geometry = choose_geometry(height, width, size=32, augment=AUGMENTS[name], seed=seed)
            digest.update(train_view(frames, geometry, rand_augment=None, seed=seed).contiguous().numpy().tobytes())
    assert digest.hexdigest()[:16] == TRAINING[name]


HEIGHT, WIDTH = 40, 56
GEOMETRIES = [
    Geometry(Box(0, 0, HEIGHT, WIDTH), (HEIGHT, WIDTH)),
    Geometry(Box(3, 7, 21, 30), (32, 32), flip=True),
    Geometry(Box(3, 7, 21, 30), (21, 30)),
    Geometry(Box(0, 0, HEIGHT, WIDTH), (37, 51), Box(2, 9, 32, 32)),
    Geometry(Box(0, 0, HEIGHT, WIDTH), (20, 28), Box(0, 0, 16, 16), flip=True),
    Geometry(Box(3, 7, 21, 30), (32, 24), flip=True, padded=(40, 33)),
    Geometry(Box(0, 0, HEIGHT, WIDTH), (20, 28), Box(1, 2, 16, 11), padded=(16, 32)),
]


def moved_by_torchvision(value, geometry, fill=0):
    interpolation = InterpolationMode.NEAREST
    value = tvf.resize(tvf.crop(value, *geometry.box), list(geometry.size), interpolation=interpolation)
    if geometry.crop is not None:
        value = tvf.crop(value, *geometry.crop)
    value = tvf.horizontal_flip(value) if geometry.flip else value
    if geometry.padded is None:
        return value
    missing = [padded - side for padded, side in zip(geometry.padded, geometry.content_size, strict=True)]
    return tvf.pad(value, [0, 0, missing[1], missing[0]], fill=fill)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_class_maps_follow_the_pixels(geometry):
    rng = np.random.default_rng(0)
    for dtype in (np.uint8, np.int64):
        classes = rng.integers(0, 256, (HEIGHT, WIDTH)).astype(dtype)
        moved = MaskMap(classes).moved(geometry).classes
        assert (moved.dtype, moved.shape) == (dtype, geometry.view_size)
        expected = moved_by_torchvision(tv_tensors.Mask(torch.from_numpy(classes)[None].int()), geometry, fill=255)
        assert torch.equal(torch.from_numpy(moved).int(), expected[0])


def test_a_padded_view_keeps_its_pixels_at_the_upper_left_and_has_one_colour_beside_them():
    frames = np.random.default_rng(0).integers(0, 256, (2, HEIGHT, WIDTH, 3), dtype=np.uint8)
    geometry = Geometry(Box(3, 7, 21, 30), (32, 24), flip=True, padded=(40, 33))
    (view,) = views_of(frames, [geometry], padding=(1, 2, 3))
    (content,) = views_of(frames, [replace(geometry, padded=None)])
    assert view.shape == (2, 3, *geometry.view_size)
    assert torch.equal(view[..., :32, :24], content)
    for outside in (view[..., 32:, :], view[..., :, 24:]):
        assert torch.equal(outside, torch.tensor([1, 2, 3], dtype=torch.uint8).view(1, 3, 1, 1).expand_as(outside))
    with pytest.raises(ValueError, match="a view of 32x24 pixels cannot be padded to 31x24"):
        replace(geometry, padded=(31, 24))


def test_targets_of_one_shape_are_stacked_and_those_without_places_stay():
    for target in (MultiHot((1, 2), 4), Values((0.5, -1.0))):
        assert target.moved(GEOMETRIES[1]) is target
    maps = [MaskMap(np.full((2, 3), 255, np.uint8)), MaskMap(np.zeros((2, 3), np.uint8))]
    batch = MaskMap.batched(maps)
    assert (batch.shape, batch.dtype, int(batch.max())) == ((2, 2, 3), torch.int64, 255)
    assert [single.shape for single in MaskMap.batched([*maps, MaskMap(np.zeros((1, 1)))])] == [(2, 3), (2, 3), (1, 1)]
    assert Values.batched([Values((1.0, 2.0)), Values((3.0, 4.0))]).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match="values must be finite, got nan"):
        Values((float("nan"),))
