"""Scenes with a box and a mask per digit: their files in both layouts say the same."""

import json

import numpy as np
import pytest
from PIL import Image

from mvrec.data.generated.digit_objects import CLASSES, DigitObjects, generate_digit_objects, visible_digits
from mvrec.data.generated.digit_scenes import Scene
from mvrec.data.sets.detection.object_folder import ObjectFolder
from mvrec.errors import UserError

IMAGES = {"train": 12, "val": 3, "test": 3}


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    root = tmp_path_factory.mktemp("objects") / "coco"
    generate_digit_objects(root, images=IMAGES)
    return root


def pixels_of(rle):
    """The mask that run lengths describe, column by column."""
    counts = rle["counts"]
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(rle["size"], order="F")


def test_masks_are_on_the_ink_and_boxes_around_the_masks(coco):
    labels = set()
    for split, count in IMAGES.items():
        file = json.loads((coco / f"annotations/instances_{split}.json").read_text())
        assert [category["name"] for category in file["categories"]] == list(CLASSES)
        assert [image["id"] for image in file["images"]] == list(range(1, count + 1))
        covered = {image["id"]: np.zeros((image["height"], image["width"]), int) for image in file["images"]}
        names = {image["id"]: image["file_name"] for image in file["images"]}
        for annotation in file["annotations"]:
            mask = pixels_of(annotation["segmentation"])
            left, top, width, height = annotation["bbox"]
            inside = mask[top : top + height, left : left + width]
            assert inside.sum() == mask.sum() == annotation["area"] >= 40
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()  # noqa: PT018
            image_id = annotation["image_id"]
            covered[image_id] += mask
            with Image.open(coco / split / names[image_id]) as image:
                assert np.asarray(image)[mask].mean() > 140  # light ink
            labels.add(annotation["category_id"])
        assert max(cover.max() for cover in covered.values()) == 1  # no pixel has two owners
        assert {annotation["image_id"] for annotation in file["annotations"]} <= names.keys()
    assert len(labels) > 7


def test_a_hidden_digit_is_no_object():
    owners = np.zeros((128, 128), np.uint8)
    owners[0, :39], owners[5, 60:100] = 1, 2
    scene = Scene(np.zeros((128, 128, 3), np.uint8), owners, owners, digits=(0, 1))
    (visible,) = visible_digits(scene, np.array([7, 3]))
    assert (visible.digit, visible.box()) == (3, (60, 5, 40, 1))


def test_both_layouts_are_read_with_the_same_boxes_and_masks_fit_them(coco, tmp_path):
    root = tmp_path / "yolo"
    generate_digit_objects(root, images=IMAGES, layout="yolo")
    data = DigitObjects(str(coco), train_images=12, val_images=3, test_images=3, batch_size=4, num_workers=0)
    data.prepare_data()  # keeps what is there
    boxes = ObjectFolder(str(root), num_workers=0)
    for module in (data, boxes):
        module.setup("fit")
        assert module.class_names == CLASSES
    for split in ("train", "val"):
        table, yolo = data.table(split), boxes.table(split)
        assert (table.labels == yolo.labels).all()
        np.testing.assert_allclose(table.boxes, yolo.boxes, atol=1e-3)
    batch = next(iter(data.train_dataloader()))
    assert tuple(batch.clips.shape) == (4, 3, 128, 128)
    for view in batch.targets:
        for box, mask in zip(view["boxes"].tolist(), view["masks"], strict=True):
            rows, columns = mask.nonzero().unbind(1)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_a_folder_of_something_else_is_refused(coco, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in coco.rglob("*")}
    generate_digit_objects(coco, images=IMAGES)
    assert {path: path.stat().st_mtime_ns for path in coco.rglob("*")} == before
    with pytest.raises(UserError, match="layout is coco, not yolo"):
        generate_digit_objects(coco, images=IMAGES, layout="yolo")
    (tmp_path / "a.png").touch()
    with pytest.raises(UserError, match=r"holds no scenes with objects: choose a new folder .* --data ObjectFolder"):
        generate_digit_objects(tmp_path, images=IMAGES)
    with pytest.raises(UserError, match="layout must be one of coco, yolo, got 'voc'"):
        generate_digit_objects(tmp_path / "b", images=IMAGES, layout="voc")
