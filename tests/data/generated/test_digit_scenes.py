"""Scenes of digits on textures: their files, and that the splits share nothing."""

import numpy as np
import pytest
from PIL import Image

from mvrec.data import DigitScenes
from mvrec.data.generated.digit_scenes import CLASSES, generate_digit_scenes, split_digits
from mvrec.errors import UserError

IMAGES = {"train": 12, "val": 3, "test": 3}


def test_scenes_are_images_and_index_masks_of_five_classes(tmp_path):
    root = tmp_path / "scenes"
    generate_digit_scenes(root, images=IMAGES)
    counts = np.zeros(256, np.int64)
    for split, count in IMAGES.items():
        masks = sorted((root / "masks" / split).iterdir())
        assert len(masks) == count
        for path in masks:
            with Image.open(path) as mask, Image.open(root / "images" / split / path.name) as image:
                assert (mask.mode, mask.size, image.mode, image.size) == ("P", (128, 128), "RGB", (128, 128))
                counts += np.bincount(np.asarray(mask).ravel(), minlength=256)
                ink = np.asarray(image)[np.asarray(mask) == 4]
                assert ink.mean() > 140  # light ink
    shares = counts / counts.sum()
    assert (shares[:4] > 0.08).all()
    assert 0.03 < shares[4] < 0.2
    assert shares[5:].sum() == 0
    assert (root / "classes.txt").read_text().splitlines() == list(CLASSES)


def test_the_same_seed_gives_the_same_files_and_no_two_splits_share_a_digit(tmp_path):
    files = []
    for name in ("a", "b"):
        generate_digit_scenes(tmp_path / name, images=IMAGES)
        files.append({path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.png")})
    assert files[0] == files[1]
    digits = {split: {digit.tobytes() for digit in images} for split, (images, _) in split_digits(0).items()}
    assert sum(map(len, digits.values())) == len(set().union(*digits.values())) > 1700
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.png").touch()
    with pytest.raises(UserError, match=r"holds no digit scenes: choose a new folder .* --data MaskFolder"):
        generate_digit_scenes(tmp_path / "mine", images=IMAGES)
    with pytest.raises(UserError, match="with other parameters"):
        generate_digit_scenes(tmp_path / "a", images={**IMAGES, "val": 4})


def test_the_data_module_makes_the_scenes_and_reads_them(tmp_path):
    data = DigitScenes(str(tmp_path / "scenes"), train_images=8, val_images=2, test_images=2, num_workers=0)
    data.prepare_data()
    data.setup("fit")
    assert data.class_names == CLASSES
    batch = next(iter(data.train_dataloader()))
    assert (tuple(batch.clips.shape), tuple(batch.targets.shape)) == ((8, 3, 128, 128), (8, 128, 128))
    assert [tuple(batch.targets.shape) for batch in data.val_dataloader()] == [(1, 128, 128)] * 2
