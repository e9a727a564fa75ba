"""`mvrec data show`: the pixels and choices on the page are those of the first training step."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mvrec.data.generated.moving_digits import MovingDigits
from mvrec.data.views.normalisation import IMAGENET_NORMALISATION, Normalisation
from mvrec.data.views.rand_augment import RandAugment
from mvrec.data.views.transforms import Augment, RandomErasing, erase
from mvrec.errors import UserError
from mvrec.looking import command
from mvrec.looking.page import data_page
from mvrec.looking.views import first_views, frames_of
from mvrec.seeds import derive_seed
from mvrec.tasks.classification.mixing import Mixing
from mvrec.tasks.classification.targets import make_targets


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> MovingDigits:
    augment = Augment(crop_area=(0.5, 1.0), flip_probability=0.0, rand_augment=RandAugment(), random_erasing=None)
    root = tmp_path_factory.mktemp("look ä") / "digits"
    data = MovingDigits(
        str(root), clips_per_class=2, eval_clips_per_class=1, augment=augment, batch_size=24, num_workers=0, seed=3
    )
    data.prepare_data()
    data.setup("fit")
    return data


def test_pixels_equal_the_loaders(digits: MovingDigits) -> None:
    views, notes = first_views(digits, None, per_class=2)
    assert notes == []
    batch = next(iter(digits.train_dataloader()))
    paths = [str(digits.index("train")[number].path) for number in batch.sample_ids.tolist()]
    shown = {view.path: view for view in views if view.split == "train"}
    assert sorted(shown) == sorted(paths)
    for path, clip, number in zip(paths, batch.clips, batch.targets.tolist(), strict=True):
        np.testing.assert_array_equal(shown[path].pixels, clip.permute(1, 2, 3, 0).numpy())
        assert shown[path].label == digits.class_names[number]
        assert {"span", "crop", "flip", "RandAugment"} == dict(shown[path].choices).keys()
    val = next(iter(digits.val_dataloader()))
    np.testing.assert_array_equal(
        np.stack([view.pixels for view in views if view.split == "val"]), val.clips.permute(0, 2, 3, 4, 1).numpy()
    )


def test_mixed_and_erased_views_are_those_of_the_loss(digits: MovingDigits, monkeypatch: pytest.MonkeyPatch) -> None:
    mixing, erasing = Mixing(cutmix_alpha=0), RandomErasing(probability=1.0, mode="const")
    monkeypatch.setattr(digits, "augment", replace(digits.augment, random_erasing=erasing))
    views, _ = first_views(digits, mixing, per_class=2)
    batch = next(iter(digits.train_dataloader()))
    clips = erase(digits.normalisation(batch.clips), batch.seeds, erasing)
    clips, targets = mixing(clips, make_targets(batch.targets, 12), seed=derive_seed("mix", int(batch.seeds[0])))
    paths = [str(digits.index("train")[number].path) for number in batch.sample_ids.tolist()]
    shown = {view.path: view for view in views if view.split == "train"}
    for path, clip, soft in zip(paths, clips, targets, strict=True):
        np.testing.assert_array_equal(shown[path].pixels, frames_of(clip, digits.normalisation))
        assert dict(shown[path].choices)["mixing"].startswith("Mixup, lambda ")
        assert f"{soft.max():.2f}" in shown[path].label
        assert dict(shown[path].choices)["erased"] != "nothing"


@pytest.mark.parametrize("normalisation", [Normalisation(), IMAGENET_NORMALISATION])
def test_every_grey_level_survives(normalisation: Normalisation) -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 3, 1, 1)
    np.testing.assert_array_equal(
        frames_of(normalisation(levels)[0], normalisation)[0], levels[0].permute(1, 2, 0).numpy()
    )


def test_page_plays_and_loads_nothing(digits: MovingDigits) -> None:
    views, _ = first_views(digits, None, per_class=1)
    page = data_page(digits, views, ["a <b>.mp4: is empty"])
    assert page.count("infinite") == len(views) == 24
    assert "a &lt;b&gt;.mp4" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)|url\((?!data:)", page)


def test_wrong_requests_are_one_line(tmp_path: Path) -> None:
    for arguments in (["show"], ["show", str(tmp_path)], ["show", "no_such.yaml"], ["sho"]):
        with pytest.raises(UserError):
            command.main(arguments)
