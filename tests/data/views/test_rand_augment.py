import itertools
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import auto_augment as timm_augment

from mvrec.data.views.rand_augment import OPERATIONS, RandAugment

FILL = (124, 116, 104)
STRENGTHS = [0.0, 0.1, 0.37, 0.7, 0.99]
UNSIGNED = {  # whose strength has no sign: timm's names
    **{"invert": "Invert", "auto_contrast": "AutoContrast", "equalize": "Equalize", "solarize_add": "SolarizeAdd"},
    **{"posterize": "PosterizeIncreasing", "solarize": "SolarizeIncreasing"},
}


ROWS, COLUMNS = np.mgrid[:60, :80]
WAVES = np.stack([127 + 100 * np.sin(COLUMNS / 9 + c) * np.cos(ROWS / 7 - c) for c in range(3)], -1)
NOISE = np.random.default_rng(0).integers(0, 256, (60, 80, 3))
TEXTURES = {name: np.uint8(image) for name, image in {"waves": WAVES, "noise": NOISE, "pale": NOISE // 3 + 40}.items()}


def signs(*, negative):
    """Draws only negative or only positive signs."""
    return SimpleNamespace(random=lambda: 0.0 if negative else 0.999)


def clip_of(*images):
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def apply(name, image, strength, *, negative=False):
    clip = clip_of(image)
    result = OPERATIONS[name](clip, strength, signs(negative=negative), FILL)
    assert (result.dtype, result.shape) == (torch.uint8, clip.shape)
    return result[0].permute(1, 2, 0).numpy().astype(int)


def timms(name, image, strength, *, negative):
    if name not in UNSIGNED:
        return getattr(timm_augment, name)(image, max(0.1, 1 + (-0.9 if negative else 0.9) * strength))
    to_arguments = timm_augment.LEVEL_TO_ARG[UNSIGNED[name]]
    return timm_augment.NAME_TO_OP[UNSIGNED[name]](image, *(to_arguments(10 * strength, {}) if to_arguments else ()))


@pytest.mark.parametrize("name", [*UNSIGNED, "color", "contrast", "brightness", "sharpness"])
def test_pixels_of_colour_operations_are_those_of_timm(name):
    tolerance = int(name == "auto_contrast" or name not in UNSIGNED)
    strengths = STRENGTHS if name == "posterize" else [*STRENGTHS, 1.0]  # PIL refuses to keep no bit
    for (texture, image), strength, negative in itertools.product(TEXTURES.items(), strengths, (True, False)):
        expected = timms(name, Image.fromarray(image), strength, negative=negative)
        difference = apply(name, image, strength, negative=negative) - np.asarray(expected).astype(int)
        assert np.abs(difference).max() <= tolerance, (texture, strength)
    assert apply("posterize", image, 1.0).max() == 0


GEOMETRY = {  # timm's function, its argument at strength 1, and the sign that ours has to give the same picture
    "rotate": ("rotate", 30.0, -1),
    "shear_x": ("shear_x", 0.3, 1),
    "shear_y": ("shear_y", 0.3, 1),
    "translate_x": ("translate_x_rel", 0.45, -1),
    "translate_y": ("translate_y_rel", 0.45, -1),
}


@pytest.mark.parametrize("negative", [True, False])
@pytest.mark.parametrize("name", GEOMETRY)
def test_pixels_of_geometric_operations_are_those_of_timm(name, negative):
    """The same picture wherever it does not blend with the fill; which of the two signs is which does not matter."""
    image = TEXTURES["waves"]
    function, largest, sign = GEOMETRY[name]
    for strength in (0.31, 0.73, 1.0):
        argument = sign * (-1 if negative else 1) * largest * strength
        options = {"fillcolor": FILL, "resample": Image.Resampling.BILINEAR}
        expected = getattr(timm_augment, function)(Image.fromarray(image), argument, **options)
        actual = apply(name, image, strength, negative=negative)
        differing = torch.from_numpy(np.abs(actual - np.asarray(expected).astype(int)).max(-1) > 2).float()
        assert differing.mean() < 0.05
        # What differs is a line of at most two pixels: no 3x3 square differs as a whole.
        assert F.avg_pool2d(differing[None], 3, stride=1).max() < 1
        filled = (actual == FILL).all(-1)
        assert np.abs(filled.mean() - (np.asarray(expected) == FILL).all(-1).mean()) < 0.03
        assert filled.any()


@pytest.fixture
def drawn(monkeypatch):
    """The operations that are applied and their strengths, without doing them, for each of so many clips."""

    def draw(augment, num_clips=400):
        clips = []
        for name in OPERATIONS:

            def note(clip, strength, rng, fill, name=name):
                clips[-1].append((name, strength))
                return clip

            monkeypatch.setitem(OPERATIONS, name, note)
        for seed in range(num_clips):
            clips.append([])
            augment(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), random.Random(seed))
        return clips

    return draw


def test_operations_are_drawn_as_the_recipe_says(drawn):
    clips = drawn(RandAugment(num_ops=4, magnitude=7, magnitude_std=0.5), 1000)
    operations = [operation for clip in clips for operation in clip]
    strengths = np.array([strength for _, strength in operations])
    assert max(map(len, clips)) == 4
    assert len(operations) / 1000 == pytest.approx(2, abs=0.15)
    assert strengths.mean() == pytest.approx(0.7, abs=0.01)
    assert strengths.std() == pytest.approx(0.05, abs=0.005)
    names, counts = np.unique([name for name, _ in operations], return_counts=True)
    assert len(names) == len(OPERATIONS) == len(timm_augment._RAND_INCREASING_TRANSFORMS) == 15
    assert counts.min() > 0.6 * len(operations) / 15
    assert {len(clip) for clip in drawn(RandAugment(probability=1.0, num_ops=3))} == {3}
    assert {len(clip) for clip in drawn(RandAugment(probability=0.0))} == {0}


def test_strength_stays_between_0_and_1(drawn):
    for magnitude in (0.0, 10.0):
        strengths = {strength for clip in drawn(RandAugment(magnitude=magnitude)) for _, strength in clip}
        assert 0 <= min(strengths) < max(strengths) <= 1
        assert len(strengths) > 10
    for magnitude in (-0.1, 10.5):
        with pytest.raises(ValueError, match=rf"must lie in 0\.\.10, got {magnitude}"):
            RandAugment(magnitude=magnitude)


def test_an_operation_does_to_each_frame_what_it_does_to_it_alone():
    """A frame comes out as it does alone, so no frame has choices or statistics of its own clip."""
    clip = clip_of(*TEXTURES.values())
    for name, operation in OPERATIONS.items():
        for negative in (True, False):
            together = operation(clip, 0.7, signs(negative=negative), FILL)
            alone = [operation(frame[None], 0.7, signs(negative=negative), FILL) for frame in clip]
            assert torch.equal(torch.cat(alone), together), name
            assert not torch.equal(together, clip), name
