"""Folders of images and masks, from files to batches, and what is said of wrong ones."""

import json

import numpy as np
import pytest
import torch
from mask_trees import quarters, write_image, write_mask, write_pairs
from PIL import Image

from mvrec.data import MaskFolder
from mvrec.data.views.geometry import Box
from mvrec.data.views.mask_augment import MaskAugment, PhotometricDistortion
from mvrec.data.views.normalisation import Normalisation
from mvrec.data.views.protocol import MaskProtocol, protocol_of
from mvrec.data.views.targets import MaskMap
from mvrec.errors import UserError

NAMES = [f"{number:03d}" for number in range(20)]


def folder(root, **settings):
    settings = {"size": 32, "batch_size": 4, "num_workers": 0, "seed": 0, **settings}
    return MaskFolder(str(root), **settings)


def ready(root, **settings):
    data = folder(root, **settings)
    data.setup("fit")
    return data


def test_two_folders_become_batches_of_crops_and_whole_images(tmp_path):
    write_pairs(tmp_path, NAMES)
    data = ready(tmp_path)
    assert (data.num_classes, data.class_names) == (3, ("0", "1", "2"))
    assert (len(data.index("train")), len(data.index("val"))) == (18, 2)
    batch = next(iter(data.train_dataloader()))
    assert (tuple(batch.clips.shape), tuple(batch.targets.shape)) == ((4, 3, 32, 32), (4, 32, 32))
    assert batch.targets.dtype == torch.int64
    assert set(batch.targets.unique().tolist()) <= {0, 1, 2, 255}
    scored = list(data.val_dataloader())
    assert [tuple(batch.clips.shape) for batch in scored] == [(1, 3, 40, 56)] * 2
    for batch in scored:
        assert torch.equal(batch.targets[0], torch.from_numpy(quarters().astype(np.int64)))
    protocol = data.protocol("val")
    assert (type(protocol), protocol.name, protocol.size, protocol.upright) == (MaskProtocol, "whole", 32, True)


def test_training_crops_and_windows_may_be_rectangles(tmp_path):
    write_pairs(tmp_path, NAMES)
    data = ready(tmp_path, size=(24, 48), protocol="slide")
    batch = next(iter(data.train_dataloader()))
    assert (tuple(batch.clips.shape), tuple(batch.targets.shape)) == ((4, 3, 24, 48), (4, 24, 48))
    protocol = data.protocol("val")
    assert data.clip_shape == (3, 24, 48)
    assert (protocol.window, protocol.stride) == ((24, 48), (16, 32))
    assert protocol.windows(40, 56) == [Box(top, left, 24, 48) for top in (0, 16) for left in (0, 8)]
    assert "windows of 24 x 48 every 16 x 32" in str(protocol)
    for stored in (protocol.as_dict(), json.loads(json.dumps(protocol.as_dict()))):
        assert protocol_of(stored) == protocol
    with pytest.raises(UserError, match=r"data\.size must lie in 1\.\.16384, got 0"):
        folder(tmp_path, size=(24, 0))


def test_pixels_and_classes_of_a_crop_move_together(tmp_path):
    """The images are their own masks, so that each class is a colour."""
    for name in NAMES:
        values = np.repeat(np.repeat(np.random.default_rng(int(name)).integers(0, 4, (5, 7)), 16, 0), 16, 1)
        write_mask(tmp_path / f"masks/{name}.png", values)
        write_image(tmp_path / f"images/{name}.png", 1, 1)
        Image.fromarray(np.repeat((60 * values).astype(np.uint8)[..., None], 3, 2)).save(
            tmp_path / f"images/{name}.png"
        )
    augment = MaskAugment(scale=None, photometric=None)
    batch = next(iter(ready(tmp_path, augment=augment, batch_size=16, size=48).train_dataloader()))
    shown = batch.clips[:, 0].float() / 60
    inside = batch.targets != 255
    assert inside.float().mean() > 0.5
    agreeing = (shown - batch.targets).abs()[inside] < 0.1
    assert agreeing.float().mean() > 0.75  # all but the borders between classes, whose colours are mixed
    outside = batch.clips.permute(0, 2, 3, 1)[~inside]
    assert torch.equal(outside, torch.tensor([124, 116, 104], dtype=torch.uint8).expand_as(outside))


def test_padding_has_the_mean_colour_whatever_happens_to_the_image(tmp_path):
    write_pairs(tmp_path, NAMES, height=12, width=20)
    distortion = PhotometricDistortion(brightness=90, probability=1.0)
    augment = MaskAugment(scale=None, ratio=(1.0, 1.0), photometric=distortion)
    data = ready(tmp_path, augment=augment, normalisation=Normalisation((0.2, 0.4, 0.6), (0.5, 0.5, 0.5)))
    for batch in data.train_dataloader():
        for outside in (batch.clips[:, :, 12:], batch.clips[..., 20:]):
            colour = torch.tensor([51, 102, 153], dtype=torch.uint8).view(1, 3, 1, 1)
            assert torch.equal(outside, colour.expand_as(outside))
        assert (batch.targets[:, 12:] == 255).all()


def test_crops_are_a_function_of_the_seed(tmp_path):
    write_pairs(tmp_path, NAMES)
    first, again, other = (list(ready(tmp_path, seed=seed).train_dataloader()) for seed in (0, 0, 1))
    for batch, same, different in zip(first, again, other, strict=True):
        assert torch.equal(batch.clips, same.clips)
        assert torch.equal(batch.targets, same.targets)
        assert not torch.equal(batch.targets, different.targets)


@pytest.mark.parametrize("form", ["images/{split}", "{split}/images"])
def test_splits_are_folders_on_either_side(tmp_path, form):
    for split, count in (("training", 6), ("val", 3), ("test", 2)):
        for name in NAMES[:count]:
            folder_of_images = form.format(split=split)
            write_image(tmp_path / folder_of_images / f"{name}.jpg")
            write_mask(tmp_path / folder_of_images.replace("images", "masks") / f"{name}.png", quarters())
    data = ready(tmp_path)
    data.setup("test")
    assert [len(data.index(split)) for split in ("train", "val", "test")] == [6, 3, 2]
    assert data.protocol("test").split == "test"
    assert len(list(data.test_dataloader())) == 2


def test_folds_cover_every_image_once(tmp_path):
    write_pairs(tmp_path, NAMES)
    validated = []
    for number in range(1, 6):
        data = ready(tmp_path, fold=f"{number}/5")
        validated += [sample.path.name for sample in data.index("val")]
    assert sorted(validated) == [f"{name}.png" for name in NAMES]


def test_values_of_all_masks_are_classes_and_shown(tmp_path, caplog):
    write_pairs(tmp_path, NAMES)
    write_mask(tmp_path / "masks/019.png", quarters(values=(0, 7, 7, 255)))
    with caplog.at_level("INFO", logger="mvrec"):
        data = ready(tmp_path)
    assert data.class_names == ("0", "1", "2", "7")
    assert "values in 20 masks: 0 25 %, 255 not labelled 25 %, 1 24 %, 2 24 %, 7 2.5 %" in caplog.text
    maps = [data.index("train").target(row).classes for row in range(18)]
    assert {int(value) for classes in maps for value in np.unique(classes)} <= {0, 1, 2, 3, 255}


def test_masks_of_0_and_255_have_two_classes(tmp_path):
    write_pairs(tmp_path, NAMES, values=(0, 255, 0, 0))
    assert ready(tmp_path).class_names == ("0", "255")
    (tmp_path / "classes.txt").write_text("background\nobject\n")
    data = ready(tmp_path)
    assert data.class_names == ("background", "object")
    assert np.unique(data.index("train").target(0).classes).tolist() == [0, 1]


def test_255_next_to_other_values_is_not_labelled(tmp_path):
    write_pairs(tmp_path, NAMES, values=(0, 1, 0, 255))
    (tmp_path / "classes.txt").write_text("background\nobject\n")
    data = ready(tmp_path)
    assert np.unique(data.index("train").target(0).classes).tolist() == [0, 1, 255]


def test_masks_without_a_labelled_pixel_are_counted_and_values_are_recorded(tmp_path, caplog):
    write_pairs(tmp_path, NAMES, values=(0, 1, 2, 9))
    for name in NAMES[4:6]:
        write_mask(tmp_path / f"masks/{name}.png", quarters(values=(9, 255, 9, 9)))
    data = ready(tmp_path, ignore=9)
    assert f"2 of 20 masks have no labelled pixel, such as {tmp_path}/masks/004.png" in caplog.text
    assert data.record()["mask_values"] == {"0": 0, "1": 1, "2": 2}
    assert data.record()["not_labelled"] == [9, 255]


def test_ignored_values_are_not_labelled(tmp_path):
    write_pairs(tmp_path, NAMES, values=(0, 1, 2, 9))
    data = ready(tmp_path, ignore=[2, 9])
    assert data.class_names == ("0", "1")
    assert np.unique(data.index("train").target(0).classes).tolist() == [0, 1, 255]


def test_without_the_zero_label_classes_begin_at_1(tmp_path):
    write_pairs(tmp_path, NAMES, values=(0, 1, 2, 255))
    (tmp_path / "classes.txt").write_text("wall\nfloor\n")
    data = ready(tmp_path, reduce_zero_label=True)
    classes = data.index("train").target(0).classes
    assert (classes[0, 0], classes[0, -1], classes[-1, 0], classes[-1, -1]) == (255, 0, 1, 255)


def test_classes_txt_that_is_too_short_names_file_and_value(tmp_path):
    write_pairs(tmp_path, NAMES)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(UserError) as error:
        ready(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/masks/000.png: value 2 (11200 pixels), but the 2 classes have the values 0, 1, 255 not labelled: "
        "name all classes, or leave the value out with data.ignore 2, or set data.reduce_zero_label where 0 is none "
        "of them"
    )


@pytest.mark.parametrize("missing", ["image", "mask"])
def test_files_without_their_counterpart_are_one_line_or_left_out(tmp_path, missing, caplog):
    write_pairs(tmp_path, NAMES)
    (tmp_path / f"{missing}s/003.png").unlink()
    other = "mask" if missing == "image" else "image"
    text = f"{tmp_path}/{other}s: 1 {other} has no {missing} of the same name in {tmp_path}/{missing}s, such as 003.png"
    with pytest.raises(UserError) as error:
        ready(tmp_path)
    assert str(error.value).startswith(text)
    assert "data.unpaired skip" in str(error.value)
    data = ready(tmp_path, unpaired="skip")
    assert len(data.index("train")) + len(data.index("val")) == 19
    assert f"{text}; skipped" in caplog.text


@pytest.mark.parametrize("empty", ["images", "masks"])
def test_a_folder_without_images_or_masks_is_named(tmp_path, empty):
    write_pairs(tmp_path, NAMES)
    for path in (tmp_path / empty).iterdir():  # boxes, as YOLO's labels have them
        path.rename(path.with_suffix(".txt"))
    ending = "_a.png" if empty == "masks" else ".jpg"
    with pytest.raises(
        UserError, match=f"{tmp_path}/{empty}: no {empty} in it, which are files such as <name>{ending}"
    ):
        ready(tmp_path, mask_suffix="_a" if empty == "masks" else "")


def test_a_mask_of_another_size_is_a_bad_file_with_both_sizes(tmp_path):
    write_pairs(tmp_path, NAMES, split="train")
    write_pairs(tmp_path, NAMES[:3], split="val")
    write_mask(tmp_path / "masks/val/001.png", quarters(20, 28))
    write_mask(tmp_path / "masks/train/001.png", quarters(28, 20))
    data = ready(tmp_path, max_bad_fraction=0.5)
    bad = [entry for batch in data.val_dataloader() for entry in batch.bad]
    assert [(entry.path, entry.cause) for entry in bad] == [
        (
            f"{tmp_path}/images/val/001.png",
            "the image has 56x40 pixels, its mask masks/val/001.png has 28x20: "
            "make the mask of the image as viewers show it",
        )
    ]
    assert bad[0].target.classes.shape == (20, 28)  # pixels that a score counts as missed
    (cause,) = (entry.cause for batch in data.train_dataloader() for entry in batch.bad)
    assert cause.startswith("the image has 56x40 pixels, its mask masks/train/001.png has 20x28")


def test_an_image_turned_by_exif_needs_a_turned_mask(tmp_path):
    write_pairs(tmp_path, NAMES[:4], split="train")
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(tmp_path / "images/val/a.jpg", 40, 56, exif=exif)
    write_image(tmp_path / "images/val/b.jpg", 40, 56, exif=exif)
    write_mask(tmp_path / "masks/val/a.png", quarters(56, 40))
    write_mask(tmp_path / "masks/val/b.png", quarters(40, 56))
    batches = list(ready(tmp_path).val_dataloader())
    assert [tuple(batch.clips.shape[-2:]) for batch in batches if len(batch)] == [(56, 40)]
    (bad,) = (entry for batch in batches for entry in batch.bad)
    assert bad.cause.startswith("the image has 40x56 pixels turned as its EXIF block says, its mask masks/val/b.png")


def test_an_unreadable_image_keeps_its_mask_as_the_target(tmp_path):
    write_pairs(tmp_path, NAMES, split="train")
    write_pairs(tmp_path, NAMES[:2], split="val")
    (tmp_path / "images/val/001.png").write_bytes(b"no image")
    batches = list(ready(tmp_path).val_dataloader())
    (bad,) = (entry for batch in batches for entry in batch.bad)
    assert np.array_equal(bad.target.classes, quarters())


@pytest.mark.parametrize("settings", [{}, {"fold": "1/5"}])
def test_a_damaged_first_mask_is_a_bad_file_too(tmp_path, settings):
    write_pairs(tmp_path, NAMES)
    for name in NAMES[:3]:
        (tmp_path / f"masks/{name}.png").write_bytes(b"no mask")
    data = ready(tmp_path, batch_size=1, max_bad_fraction=0.5, **settings)
    assert data.target_type is MaskMap
    batches = [*data.train_dataloader(), *data.val_dataloader()]
    bad = {entry.path for batch in batches for entry in batch.bad}
    assert bad == {f"{tmp_path}/images/{name}.png" for name in NAMES[:3]}


def test_loader_processes_read_masks_too(tmp_path):
    write_pairs(tmp_path, NAMES)
    (tmp_path / "masks/004.png").write_bytes(b"no mask")
    data = ready(tmp_path, num_workers=1, batch_size=2, max_bad_fraction=0.5)
    batches = [*data.train_dataloader(), *data.val_dataloader()]
    (bad,) = (entry for batch in batches for entry in batch.bad)
    assert (bad.path, bad.cause) == (
        f"{tmp_path}/images/004.png",
        "mask masks/004.png: not an image, or a damaged one",
    )
