import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from mvrec.data.views.geometry import (
    Box,
    choose_geometry,
    random_crop_box,
    spatial_crops,
)
from mvrec.data.views.normalisation import Normalisation
from mvrec.data.views.rand_augment import RandAugment
from mvrec.data.views.transforms import (
    Augment,
    RandomErasing,
    crop_and_resize,
    erase,
    pixel_seed,
    rand_augment_batch,
    train_view,
)


def whole(flip_probability):
    return Augment((1.0, 1.0), (1.0, 1.0), flip_probability=flip_probability, rand_augment=None)


def noise(num_frames=4, height=40, width=56, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), np.uint8)


def trained(frames, *, size, augment, seed):
    geometry = choose_geometry(*frames.shape[1:3], size=size, augment=augment, seed=seed)
    return train_view(frames, geometry, rand_augment=augment.rand_augment, seed=seed)


def test_train_view_is_a_function_of_its_seed():
    frames, states = noise(), (random.getstate(), torch.get_rng_state())
    before = frames.copy()
    views = [trained(frames, size=24, augment=Augment(), seed=seed) for seed in range(10)]
    for seed, view in enumerate(views):
        assert (view.shape, view.dtype, view.is_contiguous()) == ((4, 3, 24, 24), torch.uint8, True)
        assert torch.equal(view, trained(frames, size=24, augment=Augment(), seed=seed))
    assert len({view.numpy().tobytes() for view in views}) == 10
    np.testing.assert_array_equal(frames, before)
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    still = np.repeat(noise(1), 5, axis=0)
    for seed in range(10):  # all frames get the same crop, flip and operations
        view = trained(still, size=24, augment=Augment(rand_augment=RandAugment(8)), seed=seed)
        assert torch.equal(view, view[:1].expand_as(view))


def test_as_many_views_are_flipped_as_the_probability_says():
    frames = noise(2, 32, 32)
    upright = torch.from_numpy(frames).permute(0, 3, 1, 2)

    def flips(probability):
        views = [trained(frames, size=32, augment=whole(probability), seed=seed) for seed in range(200)]
        assert all(torch.equal(view, upright) or torch.equal(view, upright.flip(-1)) for view in views)
        return sum(torch.equal(view, upright.flip(-1)) for view in views)

    assert flips(0.0) == 0
    assert flips(1.0) == 200
    assert 70 < flips(0.5) < 130


def assert_inside(boxes, height, width):
    assert all(0 <= box.top <= height - box.height and 0 <= box.left <= width - box.width for box in boxes)


@pytest.mark.parametrize(("height", "width"), [(240, 320), (321, 241), (50, 400)])
def test_crop_boxes_stay_inside_and_keep_their_bounds(height, width):
    augment, rng = Augment(), random.Random(0)
    boxes = [random_crop_box(height, width, augment, rng) for _ in range(500)]
    assert_inside(boxes, height, width)
    shares = np.array([box.height * box.width / (height * width) for box in boxes])
    aspects = np.array([box.width / box.height for box in boxes])
    assert 0.07 < shares.min() < shares.max() <= 1.0
    assert 0.72 < aspects.min() < aspects.max() < 1.39
    if width < 400:  # the wide frame has no room for large boxes
        assert shares.min() < 0.1
        assert shares.max() > 0.85
        assert aspects.min() < 0.77
        assert aspects.max() > 1.3
    assert len({(box.top, box.left) for box in boxes}) > 150


def test_a_crop_box_is_the_centre_where_none_fits():
    boxes = {(30, 300): Box(0, 130, 30, 40), (300, 30): Box(130, 0, 40, 30), (90, 100): Box(0, 0, 90, 100)}
    for size, box in boxes.items():
        assert random_crop_box(*size, Augment(crop_area=(2.0, 2.0)), random.Random(0)) == box
    assert random_crop_box(30, 30, Augment(crop_side=(1.0, 1.0)), random.Random(0)) == Box(0, 0, 30, 30)


@pytest.mark.parametrize(("height", "width"), [(240, 320), (320, 240), (2, 900)])
def test_square_crops_of_a_share_of_the_short_side(height, width):
    augment = Augment(crop_side=(224 / 320, 224 / 256))
    boxes = [random_crop_box(height, width, augment, random.Random(seed)) for seed in range(400)]
    assert_inside(boxes, height, width)
    sides = [box.height for box in boxes]
    assert sides == [box.width for box in boxes]
    assert (min(sides), max(sides)) == pytest.approx((0.7 * min(height, width), 0.875 * min(height, width)), abs=1)
    assert min(box.left for box in boxes) < 0.05 * width
    assert max(box.left + box.width for box in boxes) > 0.95 * width
    assert min(box.top for box in boxes) < 0.05 * height
    assert max(box.top + box.height for box in boxes) > 0.95 * height


def test_impossible_crops_are_refused():
    for name, bounds, message in (
        *(("crop_side", bounds, "two ascending numbers in 0..1") for bounds in ((0.0, 1.0), (0.5, 0.4), (0.9, 1.1))),
        *(("crop_area", bounds, "two ascending positive numbers") for bounds in ((0.0, 1.0), (0.5, 0.4))),
        ("crop_aspect", (2, 1), "two ascending positive numbers"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be {message}, got {bounds[0]}, {bounds[1]}"):
            Augment(**{name: bounds})
    with pytest.raises(ValueError, match="a crop of 224 pixels does not fit in frames of 223x300"):
        spatial_crops(223, 300, 224, 1)
    with pytest.raises(ValueError, match="crops per clip must be 1 or 3, got 2"):
        spatial_crops(256, 256, 224, 2)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crop_and_resize_is_torchvisions(interpolation):
    frames = noise()[::-1]
    images = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2).contiguous()
    for box in (Box(3, 5, 20, 30), Box(0, 0, 40, 56)):
        for size in ((24, 24), (50, 31), (20, 30)):
            expected = tvf.resized_crop(images, *box, list(size), InterpolationMode(interpolation), antialias=True)
            view = crop_and_resize(frames, box, size, interpolation=interpolation)
            assert (view.dtype, view.shape) == (torch.uint8, (4, 3, *size))
            torch.testing.assert_close(view, expected, atol=1, rtol=0)  # memory formats round differently
            assert (view != expected).float().mean() < 0.02


def test_normalisation_is_torchvisions():
    for normalisation in (Normalisation(), Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))):
        clips = torch.from_numpy(noise(2)).permute(3, 0, 1, 2)[None]  # (B, C, T, H, W)
        before = clips.clone()
        images = tvf.to_dtype(clips[0].transpose(0, 1), torch.float32, scale=True)
        expected = tvf.normalize(images, list(normalisation.mean), list(normalisation.std)).transpose(0, 1)[None]
        torch.testing.assert_close(normalisation(clips), expected, atol=1e-6, rtol=1e-6)
        assert torch.equal(clips, before)
        torch.testing.assert_close(normalisation(clips[:, :, 0]), expected[:, :, 0], atol=1e-6, rtol=1e-6)


def erased(seeds, erasing=None, shape=(3, 4, 60, 80)):
    clips = torch.full((len(seeds), *shape), 100.0)
    return erase(clips, torch.tensor(seeds), erasing or RandomErasing(probability=1.0))


def test_erasing_overwrites_one_rectangle_in_all_frames_with_noise():
    clips = erased(list(range(40)))
    shares, values = [], []
    for clip in clips:
        mask = clip != 100
        assert torch.equal(mask, mask[:1, :1].expand_as(mask))
        rows, columns = mask[0, 0].any(1), mask[0, 0].any(0)
        assert torch.equal(mask[0, 0], rows[:, None] & columns)
        shares.append(mask[0, 0].float().mean().item())
        values.append(clip[mask])
    assert min(shares) > 0.018
    assert 0.25 < max(shares) < 0.34
    values = torch.cat(values)
    assert values.mean().item() == pytest.approx(0, abs=0.02)
    assert values.std().item() == pytest.approx(1, abs=0.02)
    box = clips[0][clips[0] != 100].view(3, 4, -1)
    assert not torch.equal(box[0, 0], box[0, 1])  # fresh noise in every frame and channel
    assert not torch.equal(box[0, 0], box[1, 0])


@pytest.mark.parametrize("shape", [(3, 4, 32, 32), (3, 32, 32)])
def test_erasing_fills_with_noise_one_colour_or_black(shape):
    """One colour per frame and channel, or black, over the same rectangles as noise."""
    noise, colour, black = (
        erased(list(range(20)), RandomErasing(probability=1.0, mode=mode), shape=shape)
        for mode in ("pixel", "rand", "const")
    )
    for pixel, rand, const in zip(noise, colour, black, strict=True):
        mask = pixel != 100
        assert torch.equal(rand != 100, mask)
        assert torch.equal(const, torch.where(mask, 0.0, 100.0))
        pictures = zip(rand.flatten(0, -3), mask.flatten(0, -3), strict=True)
        colours = [channel[inside].unique().tolist() for channel, inside in pictures]
        assert {len(values) for values in colours} == {1}
        assert len({values[0] for values in colours}) == len(colours) == math.prod(shape[:-2])
    values = torch.cat([clip[clip != 100].unique() for clip in colour])
    assert abs(values.mean()) < 0.5
    assert 0.5 < values.std() < 1.5


@pytest.mark.parametrize("shape", [(5, 40, 50, 3), (1, 40, 50, 3)])
def test_rand_augment_on_the_device_equals_the_workers(shape):
    """Bit for bit on the CPU, for clips and images, whatever else is in the batch."""
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    augment = Augment(rand_augment=RandAugment(num_ops=3))
    plain = replace(augment, rand_augment=None)
    seeds = [11, 12, 13, 14]
    in_worker, raw = (
        torch.stack([trained(frames, size=24, augment=transform, seed=pixel_seed(seed)) for seed in seeds]).transpose(
            1, 2
        )
        for transform in (augment, plain)
    )  # (B, C, T, H, W)
    if shape[0] == 1:
        in_worker, raw = in_worker[:, :, 0], raw[:, :, 0]  # images (B, C, H, W)
    on_device = rand_augment_batch(raw, torch.tensor(seeds), augment.rand_augment)
    assert torch.equal(on_device, in_worker)
    assert not torch.equal(on_device, raw)
    assert torch.equal(rand_augment_batch(raw[2:3], torch.tensor(seeds[2:3]), augment.rand_augment)[0], in_worker[2])


def test_erasing_follows_from_the_seed_of_a_clip_and_touches_a_share_in_place():
    state = torch.get_rng_state()
    together = erased([5, 6, 7])
    assert torch.equal(erased([5, 6, 7]), together)
    for position, seed in enumerate([5, 6, 7]):
        assert torch.equal(erased([seed])[0], together[position])
    assert len({clip[clip != 100][0].item() for clip in together}) == 3  # each has noise of its own
    assert torch.equal(torch.get_rng_state(), state)
    touched = (erased(list(range(400)), RandomErasing(), shape=(1, 1, 12, 12)) != 100).flatten(1).any(1)
    assert 60 < touched.sum() < 140  # of 100 expected
    clips = torch.full((1, 3, 2, 16, 16), 100.0)
    assert erase(clips, torch.tensor([1]), RandomErasing(probability=0.0)) is clips
    assert (clips == 100).all()


def test_erased_boxes_take_both_aspects():
    erasing, rng = RandomErasing(probability=1.0), random.Random(0)
    boxes = [box for _ in range(500) if (box := erasing.box(200, 200, rng))]
    aspects = np.array([box.height / box.width for box in boxes])
    assert len(boxes) == 500
    assert 0.27 < aspects.min() < 0.35
    assert 2.9 < aspects.max() < 3.7
    assert np.log(aspects).mean() == pytest.approx(0, abs=0.15)
    assert_inside(boxes, 200, 200)
