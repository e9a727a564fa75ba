"""Annotations of objects: every format gives one table, and every fault is one line with the file and the id."""

import json
import pickle
import re
import shutil

import numpy as np
import object_trees as trees
import pytest
from faster_coco_eval.core import mask as coco_masks
from PIL import Image
from pycocotools.coco import COCO

from mvrec.data.listing.objects.coco import read_coco, write_coco
from mvrec.data.listing.objects.finding import find_sources, has_objects
from mvrec.data.listing.objects.layouts import find_object_layout
from mvrec.data.listing.objects.shapes import box_of_polygons, compressed, run_lengths
from mvrec.data.listing.objects.table import ObjectPacking
from mvrec.data.loading.images import image_size
from mvrec.errors import UserError

WRITERS = {
    "coco": trees.write_coco,
    "voc": trees.write_voc,
    "yolo": trees.write_yolo,
    "yolo polygons": lambda root: trees.write_yolo(root, polygon=True),
    "labelme": trees.write_labelme,
    "csv": trees.write_csv,
}


def layout_of(root, **options):
    return find_object_layout(root, image_size, **{"val_fraction": 0.0, **options})


def write_xml(root):
    """A file for each image without lists of splits."""
    trees.write_voc(root)
    shutil.rmtree(root / "ImageSets")


def contents(layout, splits=("train",)):
    """The objects of each image by its name: class and box."""
    return {
        objects.path.rpartition("/")[2]: [
            (table.class_names[label], *box) for label, box in zip(objects.labels, objects.boxes.tolist(), strict=True)
        ]
        for split in splits
        for table in [layout.table(split)]
        for objects in map(table.objects, range(len(table)))
    }


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_objects(tmp_path, name):
    WRITERS[name](tmp_path)
    assert has_objects(tmp_path)
    layout = layout_of(tmp_path)
    splits = [split for split in ("train", "val") if layout.has(split)]
    assert splits == (["train", "val"] if name == "voc" else ["train"])
    assert layout.class_names() == list(trees.NAMES)
    objects = contents(layout, splits)
    assert objects.keys() == trees.BOXES.keys()
    for image, boxes in trees.BOXES.items():
        assert [box[0] for box in objects[image]] == [box[0] for box in boxes]
        assert np.allclose([box[1:] for box in objects[image]], [box[1:] for box in boxes], rtol=0, atol=1e-9)
    table = layout.table("train")
    assert all((tmp_path / path).is_file() for path in table.paths())
    assert table.has_shapes is (name in ("coco", "yolo polygons", "labelme"))
    if name != "csv":  # which says no sizes
        sizes = [*zip(table.heights.tolist(), table.widths.tolist(), strict=True)]
        assert sizes == [trees.SIZES[path.rpartition("/")[2]] for path in table.paths()]
    if table.has_shapes:
        assert np.allclose(table.objects(0).polygons(0)[0].ravel(), trees.outline(trees.BOXES["a.png"][0]))
    assert np.allclose(table.areas, table.boxes[:, 2] * table.boxes[:, 3])


def test_a_table_is_the_file_to_the_last_bit_and_masks_are_those_of_pycocotools(tmp_path):
    rng = np.random.default_rng(0)
    tree = trees.coco()
    # Two outlines, numbers of three places, crowds as run lengths and as compressed ones, an object without a shape.
    star = [[5.25, 4.125, 30.5, 8.0, 12.75, 33.333], [40.0, 2.0, 55.5, 3.5, 50.25, 20.75]]
    blob = rng.random((40, 60)) < 0.3
    runs = coco_masks.encode(np.asfortranarray(blob, np.uint8))
    tree["annotations"][0] |= {"segmentation": star, "bbox": [5.1, 4.125, 50.4, 29.208]}
    pixels = blob.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], pixels, [1 - pixels[-1]]])))
    shape = {"size": [40, 60], "counts": np.diff(edges, prepend=0).tolist()}
    extra = {"image_id": 10, "category_id": 3, "bbox": [0, 0, 60.0, 40.0], "area": 700, "iscrowd": 1}
    tree["annotations"] += [
        {**extra, "id": 5, "segmentation": shape},
        {**extra, "id": 1, "segmentation": {"size": [40, 60], "counts": runs["counts"].decode()}},
    ]
    path = trees.write_json(tmp_path / "x.json", tree)
    table, reference = read_coco(path), COCO(str(path))
    assert table.shapes.coordinates.dtype == np.float64  # thousandths are no hundredths
    for image in range(len(table)):
        objects = table.objects(image)
        entries = reference.imgToAnns[objects.image_id]
        assert objects.ids.tolist() == [entry["id"] for entry in entries]
        assert objects.boxes.tolist() == [entry["bbox"] for entry in entries]
        assert objects.areas.tolist() == [entry["area"] for entry in entries]
        assert objects.crowd.tolist() == [bool(entry["iscrowd"]) for entry in entries]
        for number, entry in enumerate(entries):
            mask, expected = objects.rle(number, objects.height, objects.width), reference.annToRLE(entry)
            counts = expected["counts"]  # text where the file has it
            assert mask == {**expected, "counts": counts.encode() if isinstance(counts, str) else counts}
    assert np.array_equal(coco_masks.decode(table.objects(0).rle(3, 40, 60)), blob)
    assert [table.class_names[label] for label in table.objects(0).labels] == ["dog", "cat", "cat", "cat"]
    assert table.class_ids == (3, 7)
    write_coco(tmp_path / "y.json", table, table.paths())
    again = read_coco(tmp_path / "y.json")
    assert again.digest() == table.digest()
    assert COCO(str(tmp_path / "y.json")).anns[1000]["segmentation"] == star
    assert pickle.loads(pickle.dumps(table)).digest() == table.digest()
    assert len(pickle.dumps(table.objects(1))) < 2000  # not the whole table


def test_a_million_objects_with_outlines_of_hundredths_take_less_than_300_megabytes():
    rng = np.random.default_rng(1)
    packed = ObjectPacking("train.json")
    polygons = [[float(f"{value:.2f}") for value in rng.uniform(-10, 5000, 40)] for _ in range(700)]
    images = [packed.add_image(f"{number:012d}.jpg", 480, 640) for number in range(100)]  # as many as in COCO
    for number, polygon in enumerate(polygons):
        packed.add_object(images[number // 7], 0, box_of_polygons([polygon]), polygons=[polygon])
    table = packed.table(["thing"])
    assert [table.shapes.polygons(number)[0].ravel().tolist() for number in range(700)] == polygons
    assert table.nbytes / 700 * 1e6 < 300e6


def test_run_lengths_are_decoded():
    rng = np.random.default_rng(2)
    for scale in (3, 40, 9000):
        counts = rng.integers(0, scale, 31)
        runs = compressed(counts.tolist(), 1, int(counts.sum()))
        assert run_lengths(runs).tolist() == counts.tolist()
    assert run_lengths(b"") is None
    assert run_lengths("ÿ".encode("latin-1")) is None
    assert run_lengths(b"o") is None  # more should follow


def test_splits_classes_and_parts_of_a_table(tmp_path):
    trees.write_images(tmp_path / "val2017")
    trees.write_images(tmp_path / "train2017")
    trees.write_json(tmp_path / "annotations/instances_train2017.json", trees.coco())
    trees.write_json(tmp_path / "annotations/captions_train2017.json", trees.coco())
    other = trees.coco(ids=(7, 3))
    other["categories"].append({"id": 9, "name": "unused"})
    trees.write_json(tmp_path / "annotations/instances_val2017.json", other)
    layout = layout_of(tmp_path)
    train, val = layout.table("train"), layout.table("val")
    assert train.path(0) == "train2017/a.png"
    assert val.class_names == train.class_names == ("cat", "dog")
    assert np.array_equal(val.labels, train.labels)
    assert val.class_ids == (7, 3)  # of its own file
    assert [(row.label, row.line) for row in layout.rows("val")] == [("val", 1), ("val", 2), ("val", 3)]
    part = train.only_images(np.array([False, True, True]))
    assert part.paths() == ["train2017/b.png", "train2017/c.png"]
    assert part.objects(0).polygons(0)[0].ravel().tolist() == trees.outline(trees.BOXES["b.png"][0])
    assert part.objects(1).boxes.shape == (0, 4)
    part = train.only_objects(np.array([False, True, False]))
    assert part.starts.tolist() == [0, 1, 1, 1]
    assert part.objects(0).polygons(0)[0].ravel().tolist() == trees.outline(trees.BOXES["a.png"][1])
    with pytest.raises(UserError, match=r"instances_val2017.json: object 1000 of .*a.png \(image 10\): 'dog' is none"):
        val.with_classes(["cat"])


def test_a_set_without_splits_is_split_by_its_paths(tmp_path):
    boxes = {f"{number}.png": trees.BOXES["a.png"] for number in range(10)}
    sizes = dict.fromkeys(boxes, (40, 60))
    trees.write_images(tmp_path / "images", sizes)
    trees.write_json(tmp_path / "instances_default.json", trees.coco(boxes, sizes))
    layout = layout_of(tmp_path, val_fraction=None)
    paths = [set(layout.table(split).paths()) for split in ("train", "val")]
    assert [len(of_split) for of_split in paths] == [8, 2]
    assert not paths[0] & paths[1]
    assert layout.val_fraction == 0.2
    (tmp_path / "classes.txt").write_text("dog\nbird\ncat\n")  # other numbers, and a class without objects
    table = layout_of(tmp_path).table("train")
    assert (table.class_names, table.class_ids) == (("dog", "bird", "cat"), (7, 8, 3))
    assert table.labels[:2].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree["annotations"][0].update(category_id=4), r"object 1000 of .*no category 4, only 3, 7"),
        (lambda tree: tree["annotations"][0].update(image_id=77), "annotation 1000: there is no image 77"),
        (lambda tree: tree["annotations"][1].update(id=1000), "annotation 1000 is there twice"),
        (lambda tree: tree["images"][1].update(id=10), "image 10 is there twice"),
        (lambda tree: tree["images"][1].update(file_name="a.png"), "image images/a.png is there twice"),
        (lambda tree: tree["categories"][1].update(name="cat"), "'cat' is there twice, with the ids 3 and 7"),
        (lambda tree: tree["categories"][1].update(id=3), "category 3 is there twice, as 'cat' and as 'dog'"),
        (
            lambda tree: tree["annotations"][0].update(bbox=[1, 2, 0, 4]),
            r"object 1000 of images/a.png \(image 10\).*no area",
        ),
        (lambda tree: tree["annotations"][0].update(bbox=[1, 2, 4]), "annotation 1000 of image 10: the bbox"),
        (
            lambda tree: tree["annotations"][0].update(bbox=[1, 2, float("nan"), 4]),
            "annotation 1000 of image 10: the bbox",
        ),
        (lambda tree: tree["annotations"][0].update(bbox=[60, 2, 3, 4]), "object 1000 of .* outside an image of 60x40"),
        (lambda tree: tree["annotations"][0].update(segmentation=[[1, 2, 3, 4]]), "1000 of .* a polygon of 2 points"),
        (lambda tree: tree["annotations"][0].update(segmentation=[[1, 2, 3]]), "annotation 1000 .*not x and y in turn"),
        (
            lambda tree: tree["annotations"][0].update(segmentation={"size": [60, 40], "counts": [2400]}),
            "annotation 1000 of image 10: its run lengths are of a mask of 40x60 pixels, the image has 60x40",
        ),
        (
            lambda tree: tree["annotations"][0].update(segmentation={"size": [40, 60], "counts": [2401]}),
            "annotation 1000 of image 10: its run lengths cover 2401 of the 2400 pixels",
        ),
        (
            lambda tree: tree["annotations"][0].update(segmentation={"size": [40, 60], "counts": "5o"}),
            "annotation 1000 of image 10: its run lengths are malformed",
        ),
        (lambda tree: tree.pop("categories"), "no 'categories'"),
        (lambda tree: tree["images"].clear(), "no images"),
        (lambda tree: tree["annotations"].clear(), "none of its 3 images has an object"),
        (
            lambda tree: [image.update(file_name=f"x{image['id']}.png") for image in tree["images"]],
            "no image x10.png is in",
        ),
    ],
)
def test_faults_of_coco_are_one_line_with_file_and_id(tmp_path, change, message):
    trees.write_images(tmp_path / "images")
    tree = trees.coco()
    change(tree)
    path = trees.write_json(tmp_path / "train.json", tree)
    with pytest.raises(UserError, match=message) as error:
        layout_of(tmp_path).table("train")
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "train.json: the file is empty"),
        (json.dumps(trees.coco())[:-300], "it ends in the middle"),
        (json.dumps(trees.coco())[:-1], "it ends in the middle"),
        (json.dumps(trees.coco()).replace('"annotations"', "annotations"), "train.json:1: not valid JSON at character"),
        ("[]", "it is a list, as detections are"),
    ],
)
def test_json_that_is_cut_or_malformed_is_one_line(tmp_path, text, message):
    path = tmp_path / "train.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_coco(path)


def test_the_order_of_a_file_does_not_matter(tmp_path):
    tree = trees.coco()
    tree["annotations"] = tree["annotations"][::-1]
    first = read_coco(trees.write_json(tmp_path / "a.json", tree))
    backwards = dict(reversed({"info": {}, **tree}.items()))
    assert [*backwards][:2] == ["categories", "annotations"]
    assert read_coco(trees.write_json(tmp_path / "b.json", backwards)).digest() == first.digest()


def test_faulty_objects_are_left_out_on_request(tmp_path):
    path = trees.write_coco(tmp_path)
    tree = json.loads(path.read_text())
    tree["annotations"][0]["bbox"][2] = 0
    trees.write_json(path, tree)
    layout = layout_of(tmp_path, bad_boxes="drop")
    assert layout.table("train").ids.tolist() == [1001, 2000]
    assert [text for _, text in layout.notes if "1 box without area" in text and "object 1000" in text]


@pytest.mark.parametrize(
    ("write", "change", "message"),
    [
        (
            trees.write_yolo,
            ("labels/a.txt", "2 0.5 0.5 0.1 0.1"),
            r"labels/a.txt:1: there is no class 2: .*data.yaml names 2",
        ),
        (trees.write_yolo, ("labels/a.txt", "1 12 20 5 5"), "labels/a.txt:1: .*expected shares of the image"),
        (trees.write_yolo, ("labels/a.txt", "1 0.1 0.2 0.3"), "labels/a.txt:1: 4 fields"),
        (trees.write_yolo, ("labels/a.txt", "1 0.1 0.2 0.3 0.1 0.9"), "labels/a.txt:1: 6 fields"),
        (
            trees.write_yolo,
            ("labels/a.txt", "1 0.5 0.5 0 0.1"),
            r"labels/a.txt:1: the box has no area",
        ),
        (
            trees.write_yolo,
            ("data.yaml", "train: images\nnames: [cat, cat]"),
            "data.yaml: the class 'cat' is named twice",
        ),
        (trees.write_yolo, ("data.yaml", "train: pictures\nnames: [cat, dog]"), "data.yaml: train: there is no "),
        (trees.write_yolo, ("data.yaml", "train: images\nnames: [cat, dog]\nnc: 3"), "data.yaml: nc is 3"),
        (trees.write_yolo, ("data.yaml", "train: images\nnc: 2"), "data.yaml: it names no classes"),
        (trees.write_yolo, ("data.yaml", "names: [cat, dog]"), "data.yaml: it names no images"),
        (trees.write_yolo, ("data.yaml", "train: ["), "data.yaml:1: not valid YAML: "),
        (trees.write_yolo, ("data.yaml", ""), "data.yaml: it has no keys"),
        (trees.write_voc, ("Annotations/a.xml", "<annotation><object>"), "a.xml: not XML, or cut short"),
        (trees.write_voc, ("JPEGImages", None), "there is no .*JPEGImages"),
        (write_xml, ("Annotations/a.xml", ""), "a.xml: not XML, or cut short"),
        (
            trees.write_voc,
            ("Annotations/a.xml", "<annotation><object><name>dog</name></object></annotation>"),
            "a.xml: object 1 has no <bndbox>",
        ),
        (trees.write_labelme, ("a.json", '{"shapes": [], "imagePath": '), "a.json:1: not valid JSON, or cut short"),
        (
            trees.write_labelme,
            ("a.json", '{"imagePath": "a.png", "shapes": [{"label": "x", "shape_type": "line", "points": [[1, 2]]}]}'),
            "a.json: shape 1: a line of 1 points is no object",
        ),
        (trees.write_labelme, ("a.json", ""), "a.json:1: not valid JSON, or cut short"),
        (trees.write_coco, ("annotations.json", ""), "annotations.json: the file is empty"),
        (trees.write_coco, ("annotations.json", '{"ima'), "annotations.json:1: .*the file is cut short"),
        (trees.write_coco, ("annotations.json", "{}"), "annotations.json: it has no 'categories'"),
        (trees.write_coco, ("annotations/instances_val.json", "[]"), "instances_val.json: it is a list"),
        (trees.write_coco, ("annotations/instances_train.json", '{"a": 1}'), "_train.json: it has no 'categories'"),
        (trees.write_coco, ("train/_annotations.coco.json", '[{"bbox": []}]'), "coco.json: it is a list"),
        (trees.write_csv, ("objects.csv", "a.png,1,2,3,4,cat"), "objects.csv:1: expected the columns path,x1"),
        (trees.write_csv, ("objects.csv", ""), "objects.csv:1: expected the columns path,x1"),
        (trees.write_csv, ("objects.csv", "path,x1,y1,x2,label"), "objects.csv:1: expected the columns path,x1"),
        (trees.write_csv, ("objects.csv", "path,x1,y1,x2,y2,label\na.png,1,2,x,4,cat"), "objects.csv:2: x2 'x'"),
        (
            trees.write_csv,
            ("objects.csv", "path,x1,y1,x2,y2,label\na.png,1,2,3,4,"),
            "objects.csv:2: the label is empty",
        ),
        (
            trees.write_csv,
            ("objects.csv", "path,x1,y1,x2,y2,label\na.png,.1,.2,.3,.4,cat"),
            "objects.csv:2: corners are",
        ),
        (
            trees.write_csv,
            ("objects.csv", "path,x1,y1,x2,y2,label\na.png,9,2,9,4,cat"),
            "objects.csv: object 1 of a.png",
        ),
    ],
)
def test_faults_of_other_formats_are_one_line_with_the_file(tmp_path, write, change, message):
    write(tmp_path)
    name, text = change
    if text is None:
        shutil.rmtree(tmp_path / name)
    else:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        layout_of(tmp_path).class_names()
    assert re.match(str(tmp_path), str(error.value))


def test_two_annotations_of_a_split_are_refused(tmp_path):
    trees.write_json(tmp_path / "annotations/instances_train2014.json", trees.coco())
    trees.write_json(tmp_path / "annotations/instances_train2017.json", trees.coco())
    with pytest.raises(UserError, match=r"2014.json and .*2017.json are both annotations of train"):
        find_sources(tmp_path)
    assert find_sources(tmp_path / "annotations/instances_train2017.json")[""].format == "coco"


@pytest.mark.parametrize("name", ["split folders", "roboflow", "lists", "no yaml"])
def test_layouts_of_yolo(tmp_path, name):
    if name == "split folders":
        trees.write_yolo(tmp_path, split="train")
        trees.write_yolo(tmp_path, split="val")
        (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\nnc: 2")
    elif name == "roboflow":  # whose paths have one folder up too much
        for split in ("train", "valid"):
            trees.write_yolo(tmp_path / split, yaml=False)
        (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnames: ['cat', 'dog']")
    elif name == "lists":
        trees.write_yolo(tmp_path, yaml=False)
        (tmp_path / "train.txt").write_text("./images/a.png\n./images/c.png\n")
        (tmp_path / "val.txt").write_text("images/b.png\n")
        (tmp_path / "data.yaml").write_text("train: train.txt\nval: val.txt\nnames: {0: cat, 1: dog}")
    else:
        for split in ("train", "val"):
            trees.write_yolo(tmp_path / split, yaml=False)
        (tmp_path / "train/labels/0.txt").write_text("0 0.5 0.5 0.1 0.1\n")  # of no image
        (tmp_path / "classes.txt").write_text("cat\ndog\n")
    layout = layout_of(tmp_path)
    counts = [len(layout.table(split)) for split in ("train", "val")]
    assert counts == ([2, 1] if name == "lists" else [3, 3])
    notes = [text for _, text in layout.notes if "without an image" in text]
    orphan = f"1 file of labels without an image, such as {tmp_path}/train/labels/0.txt; left out"
    assert notes == ([orphan] if name == "no yaml" else [])
    assert layout.table("val").class_names == trees.NAMES
    if name == "no yaml":
        (tmp_path / "classes.txt").unlink()
        layout = layout_of(tmp_path)
        assert layout.class_names() == ["0", "1"]
        assert [text for _, text in layout.notes if "the classes have no names" in text]


def test_labels_of_a_turned_photograph_are_shares_of_the_upright_one(tmp_path):
    trees.write_yolo(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "images/a.jpg", exif=exif)
    (tmp_path / "images/a.png").unlink()
    table = layout_of(tmp_path).table("train")
    assert (table.heights[0], table.widths[0]) == (60, 40)
    assert np.allclose(table.boxes[0], [10 / 60 * 40, 5 / 40 * 60, 20 / 60 * 40, 30 / 40 * 60])


def test_shapes_of_a_group_are_one_object_and_difficult_ones_are_ignored(tmp_path):
    trees.write_labelme(tmp_path / "labelme")
    path = tmp_path / "labelme/a.json"
    tree = json.loads(path.read_text())
    triangle = {"label": "dog", "group_id": 1, "points": [[1, 1], [9, 1], [1, 9]]}
    tree["shapes"] += [triangle, {**triangle, "points": [[20, 20], [30, 20], [30, 30]]}]
    trees.write_json(path, tree)
    objects = layout_of(tmp_path / "labelme").table("train").objects(0)
    assert objects.boxes[2].tolist() == [1, 1, 29, 29]
    assert (len(objects.polygons(2)), objects.areas[2]) == (2, 32 + 50)
    trees.write_voc(tmp_path / "voc")
    path = tmp_path / "voc/Annotations/a.xml"
    path.write_text(path.read_text().replace("<difficult>0", "<difficult>1", 1))
    assert layout_of(tmp_path / "voc").table("train").crowd.tolist() == [True, False]
