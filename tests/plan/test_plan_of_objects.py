"""The plan of a folder of images with objects."""

import json

import object_trees as trees
import pytest
import torch
import yaml
from mask_trees import quarters, write_mask

from mvrec.data.listing.objects.finding import has_objects
from mvrec.models import create_model
from mvrec.models.checkpoints.detector_files import as_detector_file
from mvrec.models.heads.detection.head import DetectionHead
from mvrec.plan.objects import look_at_objects


def write(root, count=10, *, shapes=True):
    boxes = {f"{number}.png": trees.BOXES["a.png"][: 1 + number % 2] for number in range(count)}
    sizes = dict.fromkeys(boxes, (80, 96))
    trees.write_images(root / "images", sizes)
    trees.write_json(root / "annotations.json", trees.coco(boxes, sizes, shapes=shapes))
    return root


def test_objects_are_counted_split_and_measured(tmp_path):
    findings = look_at_objects(write(tmp_path))
    assert (findings.files, findings.has_splits, findings.val_fraction) == ({"train": 8, "val": 2}, False, 0.2)
    assert (findings.num_objects, findings.has_shapes, findings.media.short_side) == (15, True, 80)
    totals = {name: sum(of_split[name] for of_split in findings.classes.values()) for name in trees.NAMES}
    assert totals == {"dog": 10, "cat": 5}
    assert look_at_objects(tmp_path, fold="2/5").files == {"train": 8, "val": 2}


def test_what_spoils_a_score_is_a_remark(tmp_path):
    for split, name in (("train", "b.png"), ("val", "c.png")):
        boxes = {f"{split}.png": trees.BOXES[name], f"{split}2.png": []}
        trees.write_images(tmp_path / split, dict.fromkeys(boxes, (50, 50)), seed=len(split))
        trees.write_json(tmp_path / f"{split}.json", trees.coco(boxes, dict.fromkeys(boxes, (50, 50))))
    (tmp_path / "val/val.png").write_bytes((tmp_path / "train/train.png").read_bytes())
    assert look_at_objects(tmp_path).remarks == (
        "train/train.png and val/val.png are the same image, in train and in val: keep it in one, or the score will be "
        "too good",
        "1 image to train on without objects: learned as background",
        "no object to train on for 1 class, such as 'dog'",
        "no validation image has an object: there will be no score",
    )


def test_objects_without_outline_among_others_are_a_remark(tmp_path):
    path = write(tmp_path) / "annotations.json"
    annotations = json.loads(path.read_text())
    annotations["annotations"][3].pop("segmentation")
    path.write_text(json.dumps(annotations))
    (remark,) = look_at_objects(tmp_path, val_fraction=0.01).remarks
    assert remark.startswith("1 of 14 objects have no outline, such as ")
    assert remark.endswith(": masks need all")


@pytest.mark.parametrize("place", ["folder", "file"])
def test_init_writes_a_detector(command, tmp_path, place):
    root, output = write(tmp_path / "scenes", shapes=place == "folder"), tmp_path / "plan.yaml"
    root = root if place == "folder" else root / "annotations.json"
    code, _, err = command("init", root, "-o", output)
    assert code == 0, err
    assert "10 images with 15 objects of 2 classes: cat 5, dog 10" in output.read_text()
    plan = yaml.safe_load(output.read_text())
    assert plan["model"]["class_path"] == "mvrec.tasks.Detection"
    assert plan["model"]["init_args"]["detector"] == ("mask_rcnn" if place == "folder" else "faster_rcnn")
    assert plan["data"]["class_path"] == "mvrec.data.ObjectFolder"
    assert plan["data"]["init_args"]["protocol"] == "mmdetection-128x80"
    assert "label_smoothing" not in plan["model"]["init_args"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("annotations/instances_train.json", "{}", "instances_train.json: it has no 'categories'"),
        ("annotations/instances_val.json", "[]", "instances_val.json: it is a list"),
        ("data.yaml", "train: [", "data.yaml:1: not valid YAML"),
        ("objects.csv", "path,x1,y1,x2,label", "objects.csv:1: expected the columns"),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--print_config"]])
def test_the_fault_of_annotations_comes_before_keys_of_the_detector(command, tmp_path, name, text, message, flags):
    root = tmp_path / "scenes"
    trees.write_images(root / "images")
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(text)
    line = ["--data.root", root, "--model.channels", 8, "--data.bad_boxes", "drop", *flags]
    code, _, err = command("fit", *line)
    assert code == 2
    assert message in err


def test_a_folder_with_masks_too_needs_the_name_of_the_task(command, tmp_path):
    root, output = write(tmp_path / "scenes"), tmp_path / "plan.yaml"
    for number in range(10):
        write_mask(root / f"masks/{number}.png", quarters(80, 96))
    assert has_objects(root)
    for flags, task in (([], "Segmentation"), (["--model", "Detection"], "Detection")):
        code, _, err = command("init", root, "-o", output, *flags)
        assert code == 0, err
        assert yaml.safe_load(output.read_text())["model"]["class_path"] == f"mvrec.tasks.{task}"
        output.unlink()


def test_a_recipe_for_all_tasks_fits_a_detector_of_another_library(command, tmp_path):
    root, weights = write(tmp_path / "scenes"), tmp_path / "det.pth"
    network = create_model("cloformer_xxs")
    network.head = DetectionHead(network.feature_info, 3, detector="cascade_mask_rcnn", channels=64, box_width=32)
    names = ["cat", "dog", "bird"]
    torch.save(as_detector_file(network.state_dict(), "mmdetection", class_names=names, facts={}), weights)
    flags = ["--config", "finetune", "--data.root", root, "--model.weights", weights]
    code, out, err = command("fit", *flags, "--print_config")
    assert code == 0, err
    config = yaml.safe_load(out)
    model, data = (config[name]["init_args"] for name in ("model", "data"))
    assert config["model"]["class_path"] == "mvrec.tasks.Detection"
    assert (model["detector"], model["channels"], model["head"]["box_width"]) == ("cascade_mask_rcnn", 64, 32)
    assert model["backbone"]["class_path"] == "mvrec.models.cloformer_xxs"
    assert (model["layer_decay"], data["batch_size"]) == (0.75, 8)  # the recipe's
    assert config["data"]["class_path"] == "mvrec.data.ObjectFolder"


def test_labels_of_yolo_train_are_scored_and_used_without_a_config(command, tmp_path):
    root, run = tmp_path / "parts", tmp_path / "run"
    for split in ("train", "val"):
        trees.write_yolo(root, split=split)
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    small = ["--model.channels", 8, "--model.head.box_width", 16, "--model.head.test_proposals", 20]
    code, _, err = command("fit", "--data.root", root, "--run_dir", run, "--trainer.max_steps", 1, *small)
    assert code == 0, err
    assert "6 images with 6 objects of 2 classes: cat 4, dog 2" in err
    assert "3 train, 3 val, by images/train/, images/val/" in err
    code, out, err = command("test", run)
    assert code == 0, err
    assert "3/3 images scored, 0 failed, 3 objects" in out + err
    code, _, err = command("recognize", root / "images/val", "--ckpt", run, "-o", tmp_path / "objects.json")
    assert code == 0, err
    assert len(yaml.safe_load((tmp_path / "objects.json").read_text())["images"]) == 3
