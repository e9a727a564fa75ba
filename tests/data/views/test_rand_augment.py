import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import auto_augment as timm_augment

from mvrec.data.views.rand_augment import OPERATIONS, RandAugment

FILL = (124, 116, 104)
STRENGTHS = [0.0, 0.1, 0.37, 0.5, 0.7, 0.99]


def textures():
    rows, columns = np.mgrid[:60, :80]
    waves = [127 + 100 * np.sin(columns / 9 + c) * np.cos(rows / 7 - c) for c in range(3)]
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3))
    return {
        name: np.asarray(image).astype(np.uint8)
        for name, image in {"waves": np.stack(waves, -1), "noise": noise, "pale": noise // 3 + 40}.items()
    }


TEXTURES = textures()


class Signs(random.Random):
    """Draws only negative or only positive signs."""

    def __init__(self, *, negative):
        super().__init__(0)
        self.negative = negative

    def random(self):
        return 0.0 if self.negative else 0.999


def apply(name, image, strength, *, negative=False):
    clip = torch.from_numpy(image).permute(2, 0, 1)[None]
    result = OPERATIONS[name](clip, strength, Signs(negative=negative), FILL)
    assert result.dtype == torch.uint8
    assert result.shape == clip.shape
    return result[0].permute(1, 2, 0).numpy().astype(int)


def largest_difference(ours, theirs):
    return np.abs(ours - np.asarray(theirs).astype(int)).max()


@pytest.mark.parametrize("image", TEXTURES.values(), ids=TEXTURES)
@pytest.mark.parametrize(
    ("name", "theirs", "strengths", "tolerance"),
    [
        ("invert", "Invert", STRENGTHS, 0),
        ("posterize", "PosterizeIncreasing", STRENGTHS, 0),
        ("solarize", "SolarizeIncreasing", [*STRENGTHS, 1.0], 0),
        ("solarize_add", "SolarizeAdd", [*STRENGTHS, 1.0], 0),
        ("auto_contrast", "AutoContrast", [0.5], 1),
        ("equalize", "Equalize", [0.5], 0),
    ],
)
def test_pixels_of_operations_without_a_sign_are_those_of_timm(name, theirs, strengths, tolerance, image):
    for strength in strengths:
        to_arguments = timm_augment.LEVEL_TO_ARG[theirs]
        arguments = to_arguments(10 * strength, {}) if to_arguments else ()
        expected = timm_augment.NAME_TO_OP[theirs](Image.fromarray(image), *arguments)
        assert largest_difference(apply(name, image, strength), expected) <= tolerance, strength


def test_posterize_ends_in_black():
    assert apply("posterize", TEXTURES["noise"], 1.0).max() == 0  # PIL refuses to keep no bit


@pytest.mark.parametrize("image", TEXTURES.values(), ids=TEXTURES)
@pytest.mark.parametrize("negative", [True, False])
@pytest.mark.parametrize("name", ["color", "contrast", "brightness", "sharpness"])
def test_pixels_of_enhancements_are_those_of_timm(name, negative, image):
    for strength in [*STRENGTHS, 1.0]:
        factor = max(0.1, 1 + (-0.9 if negative else 0.9) * strength)
        expected = getattr(timm_augment, name)(Image.fromarray(image), factor)
        assert largest_difference(apply(name, image, strength, negative=negative), expected) <= 1, strength


GEOMETRY = {  # timm's function, its argument at strength 1, and the sign that ours has to give the same picture
    "rotate": ("rotate", 30.0, -1),
    "shear_x": ("shear_x", 0.3, 1),
    "shear_y": ("shear_y", 0.3, 1),
    "translate_x": ("translate_x_rel", 0.45, -1),
    "translate_y": ("translate_y_rel", 0.45, -1),
}


@pytest.mark.parametrize("negative", [True, False])
@pytest.mark.parametrize("strength", [0.31, 0.5, 0.73, 1.0])
@pytest.mark.parametrize("name", GEOMETRY)
def test_pixels_of_geometric_operations_are_those_of_timm(name, strength, negative):
    """The same picture wherever it does not blend with the fill; which of the two signs is which does not matter."""
    image = TEXTURES["waves"]
    function, largest, sign = GEOMETRY[name]
    argument = sign * (-1 if negative else 1) * largest * strength
    expected = getattr(timm_augment, function)(
        Image.fromarray(image), argument, fillcolor=FILL, resample=Image.Resampling.BILINEAR
    )
    ours = apply(name, image, strength, negative=negative)
    differing = torch.from_numpy(np.abs(ours - np.asarray(expected).astype(int)).max(-1) > 2).float()
    assert differing.mean() < 0.05
    # What differs is a line of at most two pixels: no 3x3 square differs as a whole.
    assert F.avg_pool2d(differing[None], 3, stride=1).max() < 1
    filled = (ours == FILL).all(-1)
    assert np.abs(filled.mean() - (np.asarray(expected) == FILL).all(-1).mean()) < 0.03
    assert filled.any()


def magnitudes(augment, monkeypatch, count=400):
    """The operations that are applied and their strengths, without doing them."""
    seen = []
    for name in OPERATIONS:

        def note(clip, strength, rng, fill, name=name):
            seen.append((name, strength))
            return clip

        monkeypatch.setitem(OPERATIONS, name, note)
    clip = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    per_clip = []
    for seed in range(count):
        before = len(seen)
        augment(clip, random.Random(seed))
        per_clip.append(len(seen) - before)
    return seen, per_clip


def test_operations_are_drawn_as_the_recipe_says(monkeypatch):
    seen, per_clip = magnitudes(RandAugment(num_ops=4, magnitude=7, magnitude_std=0.5), monkeypatch, 1000)
    strengths = np.array([strength for _, strength in seen])
    assert max(per_clip) == 4
    assert np.mean(per_clip) == pytest.approx(2, abs=0.15)
    assert strengths.mean() == pytest.approx(0.7, abs=0.01)
    assert strengths.std() == pytest.approx(0.05, abs=0.005)
    names, counts = np.unique([name for name, _ in seen], return_counts=True)
    assert len(names) == len(OPERATIONS) == 15
    assert counts.min() > 0.6 * len(seen) / 15
    assert {*timm_augment._RAND_INCREASING_TRANSFORMS} >= {"SolarizeIncreasing", "TranslateXRel"}
    assert len(timm_augment._RAND_INCREASING_TRANSFORMS) == 15


@pytest.mark.parametrize("magnitude", [0.0, 10.0])
def test_strength_stays_between_0_and_1(monkeypatch, magnitude):
    strengths = [strength for _, strength in magnitudes(RandAugment(magnitude=magnitude), monkeypatch)[0]]
    assert min(strengths) >= 0
    assert max(strengths) <= 1
    assert len({*strengths}) > 10


def test_a_probability_of_0_applies_no_operation_and_1_all(monkeypatch):
    clip = torch.from_numpy(TEXTURES["noise"]).permute(2, 0, 1)[None]
    assert torch.equal(RandAugment(probability=0.0)(clip, random.Random(0)), clip)
    assert set(magnitudes(RandAugment(probability=1.0, num_ops=3), monkeypatch)[1]) == {3}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("negative", [True, False])
def test_an_operation_does_to_each_frame_what_it_does_to_it_alone(name, negative):
    """A frame comes out as it does alone, so no frame has choices or statistics of its own clip."""
    clip = torch.from_numpy(np.stack(list(TEXTURES.values()))).permute(0, 3, 1, 2)
    together = OPERATIONS[name](clip, 0.7, Signs(negative=negative), FILL)
    for frame, expected in zip(clip, together, strict=True):
        alone = OPERATIONS[name](frame[None], 0.7, Signs(negative=negative), FILL)[0]
        assert torch.equal(alone, expected)
    assert not torch.equal(together, clip)


def test_rand_augment_follows_from_its_random_numbers_alone():
    clip = torch.from_numpy(TEXTURES["waves"]).permute(2, 0, 1)[None].expand(2, -1, -1, -1).contiguous()
    before, states = clip.clone(), (random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy())  # noqa: NPY002
    results = []
    for seed in range(20):
        augment = RandAugment(num_ops=6)
        results.append(augment(clip, random.Random(seed)))
        assert torch.equal(results[-1], augment(clip, random.Random(seed)))
        assert torch.equal(results[-1][0], results[-1][1])
    assert len({result.numpy().tobytes() for result in results}) > 15
    assert torch.equal(clip, before)
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    np.testing.assert_array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002


@pytest.mark.parametrize("magnitude", [-0.1, 10.5])
def test_impossible_magnitudes_are_refused(magnitude):
    with pytest.raises(ValueError, match=rf"must lie in 0\.\.10, got {magnitude}"):
        RandAugment(magnitude=magnitude)
