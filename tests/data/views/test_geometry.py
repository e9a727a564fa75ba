"""The same seeds give the same pixels for good, and targets follow them."""

import hashlib

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from mvrec.data.views.geometry import Box, Geometry, choose_geometry, eval_geometries
from mvrec.data.views.protocol import ImageProtocol
from mvrec.data.views.targets import Boxes, MaskMap, MultiHot, Values
from mvrec.data.views.transforms import Augment, train_view, views_of

AUGMENTS = {
    "area": Augment(rand_augment=None),
    "side": Augment(rand_augment=None, crop_side=(0.5, 1.0), flip_probability=1.0),
    "random": Augment(rand_augment=None, interpolation="random", flip_probability=0.3),
}
# Hashes of views that were made before crop, scale and flip became a `Geometry`.
TRAINING = {
    ("area", 48, 80): "80b082d83667352c",
    ("area", 90, 61): "b9ca051d56bfc001",
    ("side", 48, 80): "c9b9832ab1b7ded7",
    ("side", 90, 61): "86c779ca5b9fa221",
    ("random", 48, 80): "736ce4ca970b5f82",
    ("random", 90, 61): "02a763b027a10e31",
}
EVALUATION = {
    ("slowfast", 3, False, "bilinear", 48, 80): "b257ff05de2d978d",
    ("slowfast", 3, False, "bilinear", 90, 61): "a454df88470128e6",
    ("slowfast", 1, True, "bicubic", 48, 80): "29a5988b0cac9085",
    ("slowfast", 1, True, "bicubic", 90, 61): "06fcd453c55b5fae",
    ("torchvision", 1, False, "bilinear", 48, 80): "007f4fdab8be8425",
    ("torchvision", 1, False, "bilinear", 90, 61): "cb7ee38cbeb7fbde",
    ("torchvision", 1, True, "bilinear", 48, 80): "e6b6cb0fd9a6f8f4",
    ("torchvision", 1, True, "bilinear", 90, 61): "335bc963f9e5cbc0",
}
IMAGES = {(48, 80): "0bd22f1a804ecb54", (90, 61): "37e4a136e4037e22", (37, 37): "a5ab01519012bbdc"}

recorded = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="torch scales bytes otherwise there"
)


def frames_of(height, width):
    return np.random.default_rng(1000 * height + width).integers(0, 256, (2, height, width, 3), dtype=np.uint8)


def digest(pixels):
    return hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()[:16]


@recorded
@pytest.mark.parametrize(("name", "height", "width"), TRAINING)
def test_training_pixels_of_a_seed_are_the_recorded_ones(name, height, width):
    frames, augment, views = frames_of(height, width), AUGMENTS[name], []
    for seed in range(12):
        geometry = choose_geometry(height, width, size=32, augment=augment, seed=seed)
        views.append(train_view(frames, geometry, rand_augment=None, seed=seed))
    assert digest(torch.stack(views)) == TRAINING[name, height, width]


@recorded
@pytest.mark.parametrize("case", EVALUATION)
def test_evaluated_pixels_are_the_recorded_ones(case):
    rounding, num_crops, antialias, interpolation, height, width = case
    geometries = eval_geometries(
        height,
        width,
        short_side=37,
        size=32,
        num_crops=num_crops,
        interpolation=interpolation,
        antialias=antialias,
        rounding=rounding,
    )
    assert digest(views_of(frames_of(height, width), geometries)) == EVALUATION[case]


@recorded
@pytest.mark.parametrize(("height", "width"), IMAGES)
def test_evaluated_images_are_the_recorded_ones(height, width):
    geometries = ImageProtocol(short_side=37, size=32).geometries(height, width)
    assert digest(views_of(frames_of(height, width)[:1], geometries)) == IMAGES[height, width]


# -- targets follow -------------------------------------------------------------------------------------------------

HEIGHT, WIDTH = 40, 56
GEOMETRIES = [
    Geometry(Box(0, 0, HEIGHT, WIDTH), (HEIGHT, WIDTH)),
    Geometry(Box(3, 7, 21, 30), (32, 32), flip=True),
    Geometry(Box(3, 7, 21, 30), (21, 30)),
    Geometry(Box(0, 0, HEIGHT, WIDTH), (37, 51), Box(2, 9, 32, 32)),
    Geometry(Box(0, 0, HEIGHT, WIDTH), (20, 28), Box(0, 0, 16, 16), flip=True),
]
CORNERS = np.array(
    [[0, 0, 56, 40], [10, 5, 20, 20], [50.5, 30.25, 56, 40], [8, 4, 8.5, 39], [0, 0, 7, 3], [30, 38, 56, 40]],
    np.float32,
)


def moved_by_torchvision(value, geometry):
    interpolation = InterpolationMode.NEAREST
    value = tvf.resize(tvf.crop(value, *geometry.box), list(geometry.size), interpolation=interpolation)
    if geometry.crop is not None:
        value = tvf.crop(value, *geometry.crop)
    return tvf.horizontal_flip(value) if geometry.flip else value


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_class_maps_follow_the_pixels(geometry, dtype):
    classes = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH)).astype(dtype)
    moved = MaskMap(classes).moved(geometry).classes
    assert (moved.dtype, moved.shape) == (dtype, geometry.view_size)
    expected = moved_by_torchvision(tv_tensors.Mask(torch.from_numpy(classes)[None].int()), geometry)
    assert torch.equal(torch.from_numpy(moved).int(), expected[0])


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_boxes_follow_the_pixels_with_their_labels_and_masks(geometry):
    masks = np.random.default_rng(1).random((len(CORNERS), HEIGHT, WIDTH)) < 0.5
    moved = Boxes(CORNERS, np.arange(len(CORNERS)), masks).moved(geometry)
    boxes = tv_tensors.BoundingBoxes(torch.from_numpy(CORNERS), format="XYXY", canvas_size=(HEIGHT, WIDTH))
    expected = moved_by_torchvision(boxes, geometry)
    kept = (expected[:, 2] > expected[:, 0]) & (expected[:, 3] > expected[:, 1])
    assert moved.labels.tolist() == torch.nonzero(kept).flatten().tolist()
    torch.testing.assert_close(torch.from_numpy(moved.corners), expected[kept].as_subclass(torch.Tensor))
    whole = moved_by_torchvision(tv_tensors.Mask(torch.from_numpy(masks)), geometry)
    assert torch.equal(torch.from_numpy(moved.masks), whole[kept].as_subclass(torch.Tensor))


def test_a_view_without_any_of_the_boxes_has_none():
    boxes = Boxes(CORNERS[4:5], np.array([3]), np.ones((1, HEIGHT, WIDTH), bool))
    moved = boxes.moved(Geometry(Box(10, 10, 20, 20), (16, 16)))
    assert (moved.corners.shape, moved.labels.shape, moved.masks.shape) == ((0, 4), (0,), (0, 16, 16))
    (single,) = Boxes.batched([moved])
    assert {name: tuple(values.shape) for name, values in single.items()} == {
        **{"boxes": (0, 4), "labels": (0,), "masks": (0, 16, 16)},
    }


def test_what_is_not_about_places_stays():
    for target in (MultiHot((1, 2), 4), Values((0.5, -1.0))):
        assert target.moved(GEOMETRIES[1]) is target


def test_targets_of_one_shape_are_stacked():
    maps = [MaskMap(np.full((2, 3), 255, np.uint8)), MaskMap(np.zeros((2, 3), np.uint8))]
    batch = MaskMap.batched(maps)
    assert (batch.shape, batch.dtype, int(batch.max())) == ((2, 2, 3), torch.int64, 255)
    assert [single.shape for single in MaskMap.batched([*maps, MaskMap(np.zeros((1, 1)))])] == [(2, 3), (2, 3), (1, 1)]
    assert Values.batched([Values((1.0, 2.0)), Values((3.0, 4.0))]).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match="values must be finite, got nan"):
        Values((float("nan"),))
