"""`mvrec prep index` on images with objects: COCO JSON of every format, counts, and every kind of fault."""

import json

import object_trees as trees
import pytest
from mask_trees import write_image
from prep_support import read_json, run
from pycocotools.coco import COCO


@pytest.mark.parametrize("write", [trees.write_voc, trees.write_yolo, trees.write_labelme, trees.write_csv])
def test_every_format_becomes_json_of_coco(tmp_path, write):
    write(tmp_path / "set")
    code, _, err = run("index", tmp_path / "set", "--out", tmp_path / "lists", "--val-fraction", "0")
    assert (code, err.count("error")) == (0, 0)
    splits = ["train", "val"] if write is trees.write_voc else ["train"]
    boxes, sizes = {}, {}
    for split in splits:
        reference = COCO(str(tmp_path / f"lists/{split}.json"))
        names = {category["id"]: category["name"] for category in reference.dataset["categories"]}
        for image in reference.dataset["images"]:
            name = image["file_name"].rpartition("/")[2]
            sizes[name] = image["height"], image["width"]
            boxes[name] = [
                (names[entry["category_id"]], *(round(value, 6) for value in entry["bbox"]))
                for entry in reference.imgToAnns[image["id"]]
            ]
    assert boxes == trees.BOXES
    assert sizes == trees.SIZES
    # The annotations are a data set themselves.
    assert run("index", tmp_path / "lists/train.json", "--out", tmp_path / "again", "--val-fraction", "0")[0] == 0
    first, second = (json.loads((tmp_path / place / "train.json").read_text()) for place in ("lists", "again"))
    assert first["annotations"] == second["annotations"]


def test_index_counts_classes_sizes_and_images_without_objects(tmp_path):
    trees.write_coco(tmp_path)
    code, out, _ = run("index", tmp_path, "--out", tmp_path / "lists", "--val-fraction", "0")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert ["train", "3", "1", "3", "0", "3", "70x30", "to", "50x50"] in lines
    assert ["cat", "2"] in lines
    assert ["dog", "1"] in lines
    assert ["small", "3"] in lines
    report = read_json(tmp_path / "lists/report.json")
    assert report["splits"]["train"]["without_objects"] == 1
    assert report["objects_per_class"] == {"cat": {"train": 2}, "dog": {"train": 1}}


def test_index_names_every_kind_of_fault_and_leaves_it_out(tmp_path):
    sizes = {**trees.SIZES, "d.png": (20, 20), "e.png": (20, 20), "f.png": (20, 20)}
    boxes = {
        **trees.BOXES,
        "d.png": [("cat", 1, 1, 5, 5)],
        "e.png": [("cat", 1, 1, 5, 5)],
        "f.png": [("cat", 30, 1, 5, 5)],
    }
    tree = trees.coco(boxes, sizes)
    tree["annotations"][0]["bbox"][3] = 0
    tree["annotations"][1]["segmentation"] = [[1, 2, 3, 4]]
    trees.write_json(tmp_path / "train.json", tree)
    trees.write_images(tmp_path / "images", sizes)
    (tmp_path / "images/b.png").unlink()
    write_image(tmp_path / "images/d.png", 20, 24)
    (tmp_path / "images/e.png").write_bytes(b"no image")
    val = trees.coco({"g.png": [("cat", 1, 1, 5, 5)]}, {"g.png": (30, 70)})
    trees.write_json(tmp_path / "val.json", val)
    (tmp_path / "images/g.png").write_bytes((tmp_path / "images/c.png").read_bytes())
    code, out, _ = run("index", tmp_path, "--out", tmp_path / "lists")
    assert code == 1
    assert "1 box without area, for example " in out
    assert "train.json: object 1000 of images/a.png (image 10): the box has no area, it is 20 wide and 0 high" in out
    assert "1 shape of fewer than three points, for example " in out
    assert "1 box outside the image, for example " in out
    assert f"1 image is missing, for example {tmp_path}/images/b.png" in out
    assert "1 image has another size than its annotations say" in out
    assert f"{tmp_path}/images/d.png: 24x20 pixels, and 20x20 in " in out
    assert f"1 image cannot be read, for example {tmp_path}/images/e.png" in out
    assert "1 image is in more than one split, for example images/c.png = images/g.png" in out
    assert "no object in train for 1 class, for example dog" in out  # whose one object is left out
    written = json.loads((tmp_path / "lists/train.json").read_text())
    assert [image["file_name"].rpartition("/")[2] for image in written["images"]] == ["a.png", "c.png", "f.png"]
    assert written["annotations"] == []


def test_other_jobs_refuse_to_part_images_from_their_objects(tmp_path):
    trees.write_yolo(tmp_path / "set")
    for job in ("resize", "shard"):
        code, _, err = run(job, tmp_path / "set", tmp_path / "out")
        assert code == 2
        assert "data.yaml has objects of the images" in err
