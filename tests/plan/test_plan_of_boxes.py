"""The plan of a folder of videos with boxes."""

import pytest
import yaml
from box_trees import write_list, write_lit_video
from cvat_files import box, task, write_xml

from mvrec.data.listing.boxes.finding import has_boxes
from mvrec.errors import UserError
from mvrec.plan.boxes import look_at_boxes

ROW = "a.mp4,0.5,.1,.1,.5,.5,run"


@pytest.mark.parametrize(
    ("name", "text", "boxed"),
    [
        ("boxes.csv", f"path,time,x1,y1,x2,y2,label\n{ROW}\n", True),
        ("train.csv", "time;path;x1;y1;x2;y2\n", True),
        ("train.csv", "a,902,.1,.1,.5,.5,3,1\n", True),
        ("boxes/a.xml", "<?xml version='1.0'?>\n<annotations>", True),
        ("annotations.xml", "<?xml version='1.0'?>\n<annotations>", True),
        ("train/boxes.csv", f"path,time,x1,y1,x2,y2,label\n{ROW}\n", True),
        ("train.csv", "path,label\na.mp4,run\n", False),
        ("train.csv", "a.mp4 3\n", False),
        ("annotations/a.xml", "<annotation><object/></annotation>", False),
        ("val.csv", f"path,time,x1,y1,x2,y2,label\n{ROW}\n", False),  # nothing to train on
        ("train/run/a.mp4", "", False),
    ],
)
def test_lists_of_boxes_are_told_from_others(tmp_path, name, text, boxed):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    assert has_boxes(tmp_path) is boxed


def write(root):
    rows = []
    for number in range(10):
        write_lit_video(root / f"{number}.mp4", (2 + number, 4, 30 + number, 40 + number // 2), size=(96, 160))
        rows += [f"{number}.mp4,{time},.1,.1,.5,.5,{label}" for time in (0.3, 0.6) for label in ("run", "sit")]
    write_list(root / "boxes.csv", *rows)
    return root


def test_key_frames_and_boxes_are_counted_and_split_by_videos(tmp_path):
    findings = look_at_boxes(write(tmp_path))
    assert (findings.files, findings.num_videos, findings.noun) == ({"train": 16, "val": 4}, 10, "key frame")
    assert findings.classes["val"] == {"run": 4, "sit": 4}
    assert (findings.has_splits, findings.val_fraction, findings.media.short_side) == (False, 0.2, 96)
    assert findings.remarks == ()
    assert look_at_boxes(tmp_path, fold="2/5").files == {"train": 16, "val": 4}
    write_list(tmp_path / "train.csv", ROW.replace("a.mp4", "0.mp4"), ROW.replace("a.mp4", "1.mp4"))
    write_list(tmp_path / "val.csv", ROW.replace("a.mp4", "1.mp4").replace("0.5", "0.7", 1))
    with pytest.raises(UserError, match=r"train.csv: all boxes have the action 'run', training needs boxes without it"):
        look_at_boxes(tmp_path)
    without = ROW.replace("a.mp4", "1.mp4").replace("run", "")
    write_list(tmp_path / "train.csv", ROW.replace("a.mp4", "0.mp4"), without)
    findings = look_at_boxes(tmp_path)
    assert (findings.has_splits, findings.files) == (True, {"train": 2, "val": 1})
    assert findings.remarks == ("1.mp4 is in train and in val: keep it in one, or the score will be too good",)
    write_list(tmp_path / "train.csv")
    with pytest.raises(UserError, match=r"train.csv: there are no boxes in it"):
        look_at_boxes(tmp_path)
    (tmp_path / "train.csv").unlink()
    with pytest.raises(UserError, match=r"has no training boxes: expected lists of boxes .*/train.csv"):
        look_at_boxes(tmp_path)


def test_faults_of_lists_end_a_plan_and_spellings_are_noted(tmp_path):
    root = write(tmp_path)
    rows = (root / "boxes.csv").read_text()
    for text, message in (
        ("", r"boxes.csv:1: it is empty: a list of boxes begins with"),
        (rows.replace(",y2,", ",", 1), r"boxes.csv:1: .* has no 'y2'"),
        (rows.replace("sit", "").replace("run", ""), "none of its boxes has a label"),
    ):
        (root / "boxes.csv").write_text(text)
        with pytest.raises(UserError, match=message):
            look_at_boxes(root)
        assert has_boxes(root)
    (root / "boxes.csv").write_text(rows.replace("sit", "Run", 1))
    (remark,) = look_at_boxes(root).remarks
    assert "'Run' and 'run' are two actions that differ only in spelling" in remark
    (root / "classes.txt").write_text("run\n")
    with pytest.raises(UserError, match=r"boxes.csv:\d+: 'sit' is not"):
        look_at_boxes(root)


@pytest.mark.parametrize("weights", [False, True])
def test_init_writes_a_detector_of_actions(command, tmp_path, weights):
    root, output, flags = write(tmp_path / "films"), tmp_path / "plan.yaml", []
    if weights:
        import torch

        from mvrec.models import create_model

        torch.save(create_model("mvit_v2_s_16x4").state_dict(), tmp_path / "weights.pth")
        flags = ["--model.weights", tmp_path / "weights.pth"]
    code, _, err = command("init", root, "-o", output, *flags)
    assert code == 0, err
    text = output.read_text()
    assert "# found: 20 key frames of 10 videos with boxes of 2 actions: run 20, sit 20; 160x96 pixels" in text
    plan = yaml.safe_load(text)
    assert plan["model"]["class_path"] == "mvrec.tasks.ActionDetection"
    data = plan["data"]["init_args"]
    assert (plan["data"]["class_path"], data["pixels"], data["val_fraction"]) == ("mvrec.data.VideoBoxes", "full", 0.2)
    assert data["augment"]["rand_augment"] is None
    assert "label_smoothing" not in plan["model"]["init_args"]


def test_a_folder_of_boxes_trains_without_a_config(command, tmp_path):
    write(tmp_path / "films")
    flags = ["--trainer.max_steps", 1, "--data.num_workers", 0, "--run_dir", tmp_path / "run"]
    code, _, err = command("fit", "--data.root", tmp_path / "films", *flags)
    assert code == 0, err
    assert "20 key frames of 10 videos with boxes of 2 actions" in err
    assert "evaluation sees full frames" in err
    assert list((tmp_path / "run").rglob("last.ckpt"))
    (tmp_path / "films/boxes.csv").rename(tmp_path / "mine.csv")
    code, _, err = command("init", tmp_path / "films", "-o", tmp_path / "y.yaml", "--data.boxes", tmp_path / "mine.csv")
    assert code == 0, err
    (tmp_path / "mine.csv").rename(tmp_path / "films/boxes.csv")
    code, _, err = command("init", tmp_path / "films", "-o", tmp_path / "x.yaml", "--model", "Classification")
    assert code == 2, err  # its folders are no classes


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("annotations/ava_train_v2.2.csv", "AVA, which is not planned: add --config ava_mvit_b_16x4"),
        ("JHMDB-GT.pkl", "JHMDB, which is not planned: add --data JHMDB --model ActionDetection"),
    ],
)
def test_a_public_data_set_needs_its_data_module(command, tmp_path, name, flags):
    write_list(tmp_path / "set" / name, "a,902,.1,.1,.5,.5,3,1", header="a,903,.1,.1,.5,.5,3,1")
    write_lit_video(tmp_path / "set/a.mp4", (2, 4, 30, 40))
    code, _, err = command("init", tmp_path / "set", "-o", tmp_path / "x.yaml")
    assert (code, f"is the release of {flags}" in err) == (2, True), err


def test_a_file_of_cvat_per_task_is_planned_with_the_attributes_of_actions(command, tmp_path):
    root = tmp_path / "films"
    for number, name in enumerate("abcde"):
        write_lit_video(root / f"videos/{name}.mp4", (2 + number, 4, 30, 40), size=(96, 160), num_frames=60)
        body = '<track id="0" label="person">' + "".join(box(frame, 2) for frame in range(60)) + "</track>"
        body += f'<track id="1" label="person">{box(0, 20, action="sit")}</track>'
        write_xml(root / f"annotations/{name}.xml", body, tasks=task(number, name, source=f"{name}.mp4"))
    flags = ["--data.attributes", "[action, talks]", "--data.every", 0.5]
    code, _, err = command("init", root, "-o", tmp_path / "x.yaml", *flags)
    assert code == 0, err
    assert (
        "found: 20 key frames of 5 videos with boxes of 2 actions: sit 5, walk 20" in (tmp_path / "x.yaml").read_text()
    )
    assert f"annotations/a.xml and 4 more: taking its paths as relative to {root}/videos" in err
