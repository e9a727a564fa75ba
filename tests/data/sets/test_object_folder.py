"""Images with objects from annotations to batches."""

import json
import logging

import numpy as np
import pytest
import torch
from object_images import write_coco
from PIL import Image

from mvrec.data import COCO, ObjectFolder
from mvrec.data.views.objects.augment import ObjectAugment, ScaleJitter
from mvrec.data.views.protocol import DetectionProtocol
from mvrec.errors import UserError

SIZES = [(40, 60), (60, 40), (48, 64), (64, 48)] * 3
SMALL = ObjectAugment(short_sides=(32, 48), longest=80)
KNOBS = {"augment": SMALL, "protocol": "mmdetection-80x48", "num_workers": 0, "seed": 3}


@pytest.fixture
def root(tmp_path):
    write_coco(tmp_path, "train", SIZES, without=(2, 7))
    write_coco(tmp_path, "val", SIZES[:3], without=(1,), seed=1)
    return tmp_path


def fitted(root, **knobs):
    data = ObjectFolder(str(root), **{**KNOBS, **knobs})
    data.setup("fit")
    return data


def test_training_batches_hold_views_of_several_sizes_with_the_objects_in_them(root):
    data = fitted(root, batch_size=4)
    assert (data.class_names, data.class_ids) == (("cat", "dog"), (3, 7))
    loader = data.train_dataloader()
    batches = list(loader)
    assert len(batches) == 3
    upright = []
    for batch in batches:
        sizes = torch.stack([single["size"] for single in batch.targets])
        assert list(batch.clips.shape[-2:]) == sizes.amax(0).tolist()
        for clip, single in zip(batch.clips, batch.targets, strict=True):
            height, width = single["size"].tolist()
            assert min(height, width) in (32, 48)
            assert not clip[:, height:].any()
            assert not clip[:, :, width:].any()
            upright.append(height > width)
            for label, box, mask in zip(single["labels"], single["boxes"], single["masks"], strict=True):
                x1, y1, x2, y2 = (round(value) for value in box.tolist())
                assert abs(int(mask.sum()) - (x2 - x1) * (y2 - y1)) <= x2 - x1 + y2 - y1
                centre = clip[:, (y1 + y2) // 2, (x1 + x2) // 2]
                assert centre[label] > 200
    groups = [sum(upright[start : start + 4]) for start in (0, 4, 8)]
    assert sorted(groups)[0::2] == [0, 4]  # 6 of both: a step of each kind and a mixed one
    assert sum(len(single["boxes"]) == 0 for batch in batches for single in batch.targets) == 2


def test_the_same_seed_gives_the_same_batches_with_and_without_workers(root):
    def pixels(workers):
        loader = fitted(root, batch_size=4, num_workers=workers).train_dataloader()
        return [(batch.clips, [single["masks"] for single in batch.targets]) for batch in loader]

    for (clips, masks), (others, other_masks) in zip(pixels(0), pixels(2), strict=True):
        assert torch.equal(clips, others)
        assert all(map(torch.equal, masks, other_masks))


def test_evaluation_has_one_scaled_image_per_batch_and_the_truth_of_its_file(root):
    data = fitted(root, batch_size=4)
    truth = json.loads((root / "val.json").read_text())
    batches = list(data.val_dataloader())
    assert [len(batch) for batch in batches] == [1, 1, 1]
    protocol = data.protocol("val")
    assert protocol == DetectionProtocol.named("mmdetection-80x48", normalisation=data.normalisation)
    for image, batch in zip(truth["images"], batches, strict=True):
        (single,) = batch.targets
        assert tuple(batch.clips.shape[-2:]) == protocol.network_size(image["height"], image["width"])
        assert int(single["image_id"]) == image["id"]
        objects = [entry for entry in truth["annotations"] if entry["image_id"] == image["id"]]
        assert single["truth_boxes"].tolist() == [entry["bbox"] for entry in objects]
        assert [data.class_ids[label] for label in single["truth_labels"]] == [e["category_id"] for e in objects]
        assert len(single["truth_masks"]) == len(objects)
    assert data.table("val").image_ids[data.table_rows("val")].tolist() == [image["id"] for image in truth["images"]]


def test_images_without_objects_are_told_and_left_out_on_request(root, caplog):
    with caplog.at_level(logging.INFO):
        assert len(fitted(root).index("train")) == 12
    assert "2 of 12 images have no object; learned as background" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        data = fitted(root, empty="drop", batch_size=5)
    assert "2 of 12 images have no object; left out, because data.empty is drop" in caplog.text
    assert len(data.index("train")) == 10
    assert data.table_rows("train").tolist() == [0, 1, 3, 4, 5, 6, 8, 9, 10, 11]
    assert all(len(single["boxes"]) for batch in data.train_dataloader() for single in batch.targets)
    assert len(data.index("val")) == 3
    assert data.record()["images_without_objects"] == {"train": 2, "val": 1}


def test_masks_are_made_only_where_outlines_are_wanted_and_there(tmp_path, root):
    for batch in fitted(root, masks=False).train_dataloader():
        assert all("masks" not in single for single in batch.targets)
    assert next(iter(fitted(root, masks=False).val_dataloader())).targets[0]["truth_masks"] is None
    boxes = tmp_path / "boxes"
    write_coco(boxes, "train", SIZES[:4], outlines=False)
    data = ObjectFolder(str(boxes), **KNOBS)
    data.setup("fit")
    assert all("masks" not in single for batch in data.train_dataloader() for single in batch.targets)
    turned = ObjectFolder(str(boxes), **{**KNOBS, "augment": ObjectAugment(rotation=5.0)})
    with pytest.raises(UserError, match=r"data\.augment\.rotation: 8 of 8 objects have no outline"):
        turned.setup("fit")


def test_turned_and_jittered_views_keep_boxes_tight(root):
    augment = ObjectAugment(rotation=40.0, jitter=ScaleJitter(64, (0.5, 1.5)))
    data = fitted(root, augment=augment, batch_size=4)
    count = 0
    for batch in data.train_dataloader():
        assert batch.clips.shape[-2:] == (64, 64)
        for single in batch.targets:
            for box, mask in zip(single["boxes"], single["masks"], strict=True):
                rows, columns = (torch.nonzero(mask.any(axis)).flatten() for axis in (1, 0))
                assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
                count += 1
    assert count > 10


def test_folds_and_hashes_split_one_file_of_annotations(tmp_path):
    write_coco(tmp_path, "objects", SIZES)
    data = ObjectFolder(str(tmp_path / "objects.json"), **{**KNOBS, "val_fraction": 0.25})
    data.setup("fit")
    assert (len(data.index("train")), len(data.index("val"))) == (9, 3)
    folds = [ObjectFolder(str(tmp_path), **KNOBS, fold=f"{number}/3") for number in (1, 2, 3)]
    paths = set()
    for fold in folds:
        fold.setup("fit")
        (single,) = next(iter(fold.val_dataloader())).targets
        image = fold.index("val")[0].path.name
        assert f"objects_{(int(single['image_id']) - 5) // 10}.png" == image
        paths |= {sample.path for sample in fold.index("val")}
    assert len(paths) == 12
    with pytest.raises(UserError, match=r"data\.fold: images without objects count in a score"):
        ObjectFolder(str(tmp_path), fold="1/3", empty="drop")


def test_a_bad_image_is_replaced_in_training_and_counts_with_its_truth_in_evaluation(root, caplog):
    (root / "images/train_0.png").write_bytes(b"no image")
    (root / "images/val_0.png").write_bytes(b"no image")
    data = fitted(root, batch_size=12, max_bad_fraction=0.5)
    (batch,) = data.train_dataloader()
    assert len(batch) == 12
    assert "train_0.png: not an image, or a damaged one" in caplog.text
    (bad,) = [entry for batch in data.val_dataloader() for entry in batch.bad]
    (single,) = type(bad.target).batched([bad.target])
    assert len(single["truth_boxes"]) == len(single["truth_masks"]) == 2


def test_boxes_of_a_turned_picture_fit_it_as_viewers_show_it_or_as_it_is_stored(tmp_path):
    content = write_coco(tmp_path, "objects", [(40, 60)] * 5)
    for path in (tmp_path / "images").iterdir():
        with Image.open(path) as image:
            image.save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    turned = ObjectFolder(str(tmp_path), **KNOBS)
    turned.setup("fit")
    with pytest.raises(UserError, match=r"60x40 \(image \d+\): its EXIF block turns it; .* set data\.upright false"):
        list(turned.train_dataloader())
    data = ObjectFolder(str(tmp_path), **KNOBS, upright=False)
    data.setup("fit")
    (batch,) = data.val_dataloader()
    assert (batch.bad, batch.targets[0]["frame"].tolist()) == ((), [40, 60])
    assert not any(batch.bad for batch in data.train_dataloader())
    assert "not turned as their EXIF blocks say" in str(data.val_protocol)
    for image in content["images"]:
        image |= {"height": 60, "width": 40}
    for entry in content["annotations"]:
        entry |= {"bbox": [1, 2, 3, 4], "segmentation": []}
    (tmp_path / "objects.json").write_text(json.dumps(content))
    shown = fitted(tmp_path)
    assert all(not batch.bad for batch in shown.train_dataloader())


def test_data_that_cannot_be_learned_are_one_line(root, tmp_path):
    content = json.loads((root / "train.json").read_text())
    (root / "train.json").write_text(json.dumps({**content, "annotations": []}))
    with pytest.raises(UserError, match=r"train\.json: none of its 12 images has an object"):
        fitted(root)
    crowds = [{**entry, "iscrowd": 1} for entry in content["annotations"]]
    (root / "train.json").write_text(json.dumps({**content, "annotations": crowds}))
    with pytest.raises(UserError, match=r"train\.json: all objects of its 12 images are crowds"):
        fitted(root)
    with pytest.raises(UserError, match=r"data\.protocol: there is no protocol 'mmdetectron-80x48', only"):
        ObjectFolder(str(root), protocol="mmdetectron-80x48")


def test_classes_without_objects_and_objects_without_outlines_are_named(root, caplog):
    content = json.loads((root / "train.json").read_text())
    content["categories"].append({"id": 9, "name": "cow"})
    content["annotations"][0].pop("segmentation")
    (root / "train.json").write_text(json.dumps(content))
    data = fitted(root)
    assert "classes without a training object: 'cow'" in caplog.text
    assert "1 of 20 objects have no outline: their masks are their boxes" in caplog.text
    assert data.class_names == ("cat", "dog", "cow")
    assert data.class_counts[2] == 0
    ordered = fitted(root, classes=["dog", "cow", "cat"])
    assert (ordered.class_names, ordered.class_ids) == (("dog", "cow", "cat"), (7, 9, 3))
    (single,) = next(iter(ordered.val_dataloader())).targets
    (before,) = next(iter(data.val_dataloader())).targets
    assert [("dog", "cow", "cat")[label] for label in single["truth_labels"]] == [
        data.class_names[label] for label in before["truth_labels"]
    ]
    with pytest.raises(UserError, match=r"train\.json: object \d+ of .*: 'cat' is none of the 1 classes: dog"):
        fitted(root, classes=["dog"])


def test_coco_is_read_in_the_layout_of_its_release(tmp_path, root):
    for split in ("train", "val"):
        (tmp_path / "coco" / f"{split}2017").mkdir(parents=True)
        (tmp_path / "coco/annotations").mkdir(exist_ok=True)
        (root / f"{split}.json").rename(tmp_path / f"coco/annotations/instances_{split}2017.json")
        for path in (root / "images").glob(f"{split}_*"):
            path.rename(tmp_path / f"coco/{split}2017/{path.name}")
    data = COCO(str(tmp_path / "coco"), **KNOBS)
    data.setup("fit")
    assert (len(data.index("train")), len(data.index("val"))) == (10, 3)
    assert (data.test_split, data.test_protocol.split) == ("val", "val")
    assert len(next(iter(data.train_dataloader()))) == 2
    assert np.isfinite(data.ratios).all()
