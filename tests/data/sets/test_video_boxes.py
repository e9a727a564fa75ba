"""Videos with boxes, from files to batches, and what is said of wrong ones."""

import logging

import numpy as np
import pytest
import torch
from box_trees import HEADER, write_boxed_videos, write_list, write_lit_video

from mvrec.data import VideoBoxes
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.data.views.targets import ActionBoxes
from mvrec.data.views.transforms import Augment, RandAugment
from mvrec.errors import UserError

CLIP = ClipSpec(num_frames=4, stride_frames=2)


def boxes(root, **settings):
    return VideoBoxes(str(root), **{"clip": CLIP, "size": 32, "batch_size": 2, "num_workers": 0, "seed": 0, **settings})


def ready(root, *, stage="fit", **settings):
    data = boxes(root, **settings)
    data.setup(stage)
    return data


def test_videos_and_one_list_become_batches(tmp_path):
    write_boxed_videos(tmp_path)
    data = ready(tmp_path)
    assert (data.class_names, data.num_classes, data.target_type) == (("run", "sit", "talk"), 3, ActionBoxes)
    assert (len(data.index("train")), len(data.index("val"))) == (5, 1)
    batch = next(iter(data.train_dataloader()))
    assert tuple(batch.clips.shape) == (2, 3, 4, 32, 32)
    assert [tuple(target["actions"].shape) for target in batch.targets] == [(2, 3), (2, 3)]
    assert batch.targets[0]["actions"].tolist()[0] == [1, 0, 1]
    scored = next(iter(data.val_dataloader()))
    assert tuple(scored.clips.shape) == (1, 3, 4, 32, 32)
    target = scored.targets[0]
    np.testing.assert_allclose(target["places"], [[0.1, 0.2, 0.4, 0.9], [0.5, 0.1, 0.9, 0.8]], rtol=1e-6)
    assert torch.equal(target["truth"], target["places"])
    assert data.class_counts == [5, 3, 7] or sum(data.class_counts) == 15
    record = data.record()
    assert (record["splits"]["train"]["files"], record["boxes"]) == (5, {"train": 10, "val": 2})


@pytest.mark.parametrize("unit", ["pixels", "shares"])
@pytest.mark.parametrize("pixels", ["centre", "full"])
def test_boxes_follow_the_pixels_in_training_and_evaluation(tmp_path, unit, pixels):
    places, rows = [(10, 6, 34, 40), (30, 10, 54, 46), (4, 20, 60, 30), (20, 4, 40, 44)], []
    for number, box in enumerate(places):
        write_lit_video(tmp_path / f"videos/{number}.mp4", box)
        scale = (1, 1, 1, 1) if unit == "pixels" else (64, 48, 64, 48)
        corners = ",".join(str(value / side) for value, side in zip(box, scale, strict=True))
        rows += [f"{number}.mp4,0.5,{corners},{'run' if number % 2 else 'sit'}"]
    write_list(tmp_path / "train.csv", *rows * 1)
    write_list(tmp_path / "val.csv", *rows)
    data = ready(tmp_path, size=48, repeats=8, pixels=pixels)
    assert data.eval_batch_size == (1 if pixels == "full" else None)
    lit_boxes = 0
    for loader in (data.train_dataloader(), data.val_dataloader()):
        for batch in loader:
            for clip, target in zip(batch.clips, batch.targets, strict=True):
                lit = clip[0, 2].numpy() > 125
                left, top, right, bottom = target["corners"][0].tolist()
                rows, columns = (np.arange(side) + 0.5 for side in lit.shape)
                inside = ((rows > top) & (rows < bottom))[:, None] & ((columns > left) & (columns < right))
                assert (lit != inside).mean() < 0.05
                lit_boxes += inside.any()
    assert lit_boxes > 20


def test_a_box_outside_a_crop_stays_without_area_or_is_left_out(tmp_path):
    write_lit_video(tmp_path / "a.mp4", (0, 0, 40, 48), size=(48, 192))
    rows = ["a.mp4,0.5,0,0,40,48,run", "a.mp4,0.5,0,0,192,48,sit"]
    write_list(tmp_path / "train.csv", *rows * 1)
    write_list(tmp_path / "val.csv", *rows)
    whole, cut = (ready(tmp_path, cropped=cropped, repeats=16, batch_size=1) for cropped in ("keep", "drop"))
    targets = next(iter(whole.train_dataloader())).targets
    areas = [((target["corners"][0, 2:] - target["corners"][0, :2]).prod().item()) for target in targets]
    assert 0 < sum(area == 0 for area in areas) < 16
    assert all(len(target["actions"]) == 2 for target in targets)
    targets = next(iter(cut.train_dataloader())).targets
    assert [len(target["actions"]) for target in targets] == [1 + (area > 0) for area in areas]
    assert [len(target["corners"]) for target in next(iter(cut.val_dataloader())).targets] == [2]


def test_the_boxes_of_a_detector_replace_the_true_ones_in_evaluation_and_join_them_in_training(tmp_path):
    write_boxed_videos(tmp_path, 3)
    rows = [f"{number}.mp4,0.5,0.1,0.2,0.4,0.89,{score}" for number in range(3) for score in (0.9, 0.2)]
    rows += ["0.mp4,0.25,0,0,1,1,.9", "2.mp4,0.25,0,0,1,1,.9"]
    listed = write_list(tmp_path / "detector/found.csv", *rows, header=HEADER.replace("label", "score"))
    data = ready(tmp_path, detections=str(listed), train_detections=str(listed), min_score=0.5, val_fraction=0.4)
    assert (data.protocol("val").boxes, data.protocol("val").min_score) == ("detected", 0.5)
    assert (len(data.index("train")), len(data.index("val"))) in ((2 + 2, 1), (2 + 1, 1 + 1))
    for batch in data.val_dataloader():
        for target in batch.targets:
            assert len(target["places"]) == 1
            assert len(target["truth"]) in (0, 2)
    for batch in data.train_dataloader():
        for target in batch.targets:
            if len(target["actions"]) == 1:
                assert target["actions"].sum() == 0  # a key frame that only the detector has
            else:
                assert torch.equal(target["actions"][2], target["actions"][0])


def test_one_list_is_split_by_videos_and_folds_have_each_video_once(tmp_path):
    write_boxed_videos(tmp_path, 6)
    validated = []
    for number in range(1, 4):
        data = ready(tmp_path, fold=f"{number}/3")
        assert (len(data.index("train")), len(data.index("val"))) == (4, 2)
        assert [len(batch.targets) for batch in data.val_dataloader()] == [2]
        validated += [sample.path.name for sample in data.index("val")]
    assert sorted(validated) == [f"{number}.mp4" for number in range(6)]
    with pytest.raises(UserError, match=r"data.fold: folds do not go together with a detector's boxes"):
        boxes(tmp_path, fold="1/3", detections="x.csv")


def test_the_hash_of_a_split_is_that_of_its_boxes(tmp_path):
    rows = write_boxed_videos(tmp_path, 3)
    first = ready(tmp_path).record()["splits"]
    assert ready(tmp_path, stage="test").record()["splits"]["train"] == first["train"]
    write_list(
        tmp_path / "boxes.csv", *[row.replace("0.9,run", "0.91,run").replace("0.9,talk", "0.91,talk") for row in rows]
    )
    second = ready(tmp_path).record()["splits"]
    assert second["train"]["sha256"] != first["train"]["sha256"]


def test_class_names_come_from_a_file_or_an_argument_and_others_are_named(tmp_path):
    write_boxed_videos(tmp_path, 3)
    (tmp_path / "classes.txt").write_text("talk\nsit\nrun\njump\n")
    assert ready(tmp_path).class_names == ("talk", "sit", "run", "jump")
    with pytest.raises(UserError, match=r"boxes.csv:4: 'talk' is not one of the 2 classes|boxes.csv:3: 'talk' is not"):
        ready(tmp_path, classes=["run", "sit"])


def test_classes_without_a_training_box_are_named(tmp_path, caplog):
    write_boxed_videos(tmp_path, 6)
    with caplog.at_level(logging.WARNING):
        ready(tmp_path, classes=["run", "sit", "talk", "jump"])
    assert "classes without a training box: 'jump'" in caplog.text


def test_wrong_boxes_and_times_are_bad_files_with_their_places(tmp_path):
    write_boxed_videos(tmp_path, 3)
    rows = ["0.mp4,0.5,1,2,30,40,run", "0.mp4,7,1,2,30,40,run", "1.mp4,0.5,70,2,90,40,sit", "3.mp4,0,1,2,30,40,sit"]
    write_list(tmp_path / "train.csv", *rows)
    write_list(tmp_path / "val.csv", *rows)
    data = ready(tmp_path)
    bad = [entry for batch in data.val_dataloader() for entry in batch.bad]
    assert [entry.cause for entry in bad] == [
        f"the key frame at 7 s lies behind its end at 1.00 s ({tmp_path}/val.csv:3)",
        f"{tmp_path}/val.csv:4: the box 70, 2, 90, 40 lies outside the frames of 64x48 pixels",
        "no such file",
    ]
    assert [len(entry.target.truth) for entry in bad] == [1, 1, 1]  # which count as missed


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"protocol": "avaa"},
            r"data.protocol: there is no protocol 'avaa', only ava, ava-gt-frames; did you mean 'ava'",
        ),
        ({"augment": Augment(rand_augment=RandAugment())}, r"data.augment.rand_augment must be null"),
        ({"clip": ClipSpec(sampling="segments")}, r"data.clip: a clip around a key frame takes neighbouring frames"),
        ({"val_fraction": 1.5}, r"data.val_fraction must lie in"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        boxes(tmp_path, **settings)


def test_missing_and_double_lists_are_one_line(tmp_path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(UserError, match=r"there are no boxes in it; expected lists of boxes .*/train.csv and"):
        ready(tmp_path)
    for name in ("boxes.csv", "boxes.tsv"):
        write_list(tmp_path / name)
    with pytest.raises(UserError, match=r"boxes.csv and .*boxes.tsv are both lists of boxes: remove one"):
        ready(tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["0.mp4,0.5,10,10,30,30,.9"], "its boxes are pixels, those of .*boxes.csv are shares of the frame: use one"),
        (["0.mp4,0.9,.1,.1,.3,.3,.9"], "none of its key frames is one of .*boxes.csv: take its paths and times"),
        (["0.mp4,0.5,.1,.1,.3,x,.9"], "found.csv:2: y2 'x' is not a number"),
    ],
)
def test_boxes_of_a_detector_that_do_not_fit_are_one_line(tmp_path, rows, message):
    write_boxed_videos(tmp_path, 3)
    listed = write_list(tmp_path / "detector/found.csv", *rows, header=HEADER.replace("label", "score"))
    with pytest.raises(UserError, match=message):
        ready(tmp_path, train_detections=str(listed), val_fraction=0.0)


def test_key_frames_without_boxes_are_left_out_and_counted(tmp_path, caplog):
    rows = write_boxed_videos(tmp_path, 2)
    write_list(tmp_path / "train.csv", *rows, "0.mp4,0.25,,,,,", "1.mp4,0.25,,,,,")
    with caplog.at_level(logging.INFO):
        data = ready(tmp_path)
    assert [sample.start_seconds for sample in data.index("train")] == [0.5, 0.5]
    assert f"2 key frames without boxes are left out, such as {tmp_path}/train.csv:8" in caplog.text


def test_loader_processes_read_the_same_as_this_one(tmp_path):
    write_boxed_videos(tmp_path, 4)
    batches = [next(iter(ready(tmp_path, num_workers=count).train_dataloader())) for count in (0, 2)]
    assert torch.equal(batches[0].clips, batches[1].clips)
    for first, second in zip(batches[0].targets, batches[1].targets, strict=True):
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
