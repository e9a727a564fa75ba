"""AVA as it is released: lists, classes, excluded key frames, a detector's boxes, and films by time."""

import logging
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from video_files import numbered_frame, read_numbers, write_video

from mvrec.data import AVA
from mvrec.data.listing.boxes.ava import read_ava, read_label_map
from mvrec.data.loading.batch import SampleKey
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.errors import UserError

LABELS = """item {
  name: "bend/bow (at the waist)"
  id: 1
}
item {
  name: "carry/hold (an object)"
  id: 17
}
item {
  id: 80
  name: "watch (a \\"person\\")"
}
"""
TRAIN = """a-1,0902,0.100,0.200,0.400,0.900,17,0
a-1,0902,0.100,0.200,0.400,0.900,80,0
a-1,0902,0.500,0.100,0.900,0.800,2,1
a-1,0903,0.500,0.100,0.900,0.800,1,1
gone,0902,0.500,0.100,0.900,0.800,1,1
"""
VAL = """b_2,0902,0.100,0.200,0.400,0.900,1,7
b_2,0903,0.100,0.200,0.400,0.900,17,7
b_2,0904,0.100,0.200,0.400,0.900,17,7
gone2,0902,0.500,0.100,0.900,0.800,1,1
"""
DETECTED = """b_2,0902,0.101,0.200,0.400,0.900,,0.97
b_2,0902,0.500,0.100,0.900,0.800,,0.79
b_2,0903,0.100,0.200,0.400,0.900,,0.9
b_2,0905,0.100,0.200,0.400,0.900,,1.0
"""


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """Two films' cuts of five seconds from second 900 on, and the release's lists."""
    root = tmp_path_factory.mktemp("ava")
    (root / "annotations").mkdir()
    for name, text in {
        "ava_train_v2.2.csv": TRAIN,
        "ava_val_v2.2.csv": VAL,
        "ava_action_list_v2.2_for_activitynet_2019.pbtxt": LABELS,
        "ava_action_list_v2.2.pbtxt": LABELS + 'item { name: "other" id: 2 }\n',
        "ava_val_excluded_timestamps_v2.2.csv": "b_2,0903\n",
        "detected_val.csv": DETECTED,
        "detected_train.csv": DETECTED.replace("b_2", "a-1"),
    }.items():
        (root / "annotations" / name).write_text(text)
    (root / "videos/cut").mkdir(parents=True)
    write_video(root / "videos/cut/a-1.mkv", num_frames=150)
    write_video(root / "videos/b_2.mp4", num_frames=150)
    return root


def ready(root, *, stage="fit", **settings):
    settings = {"clip": ClipSpec(4, 3), "size": 32, "batch_size": 2, "num_workers": 0, "seed": 0, **settings}
    data = AVA(str(root), **{"offset": 900, **settings})
    data.setup(stage)
    return data


def test_classes_are_those_of_the_label_map_and_rows_of_others_are_left_out(release, caplog):
    with caplog.at_level(logging.INFO):
        data = ready(release)
    assert data.class_names == ("bend/bow (at the waist)", "carry/hold (an object)", 'watch (a "person")')
    assert data.action_ids == (1, 17, 80)
    assert "1 rows of 1 actions that the label map does not name are left out" in caplog.text
    assert "3 classes; published figures are means of the 60" in caplog.text
    assert [(sample.path.name, sample.start_seconds) for sample in data.index("train")] == [
        ("a-1.mkv", 902),
        ("a-1.mkv", 903),
    ]
    assert "1 of 2 videos are missing, such as gone; left out of training" in caplog.text
    target = data.index("train").target(0)
    assert target.actions.tolist() == [[False, True, True], [False, False, False]]
    np.testing.assert_allclose(target.places[0], [0.1, 0.2, 0.4, 0.9], rtol=1e-6)
    assert data.class_counts == [1, 1, 1]
    assert data.protocol("val").antialias is False


def test_evaluation_leaves_out_excluded_key_frames_and_keeps_those_of_missing_films(release, caplog):
    with caplog.at_level(logging.INFO):
        data = ready(release)
    assert [(sample.path.name, sample.start_seconds) for sample in data.index("val")] == [
        *(("b_2.mp4", 902), ("b_2.mp4", 904), ("gone2.mp4", 902)),
    ]
    assert "1 excluded key frames are left out" in caplog.text
    batches = list(data.val_dataloader())
    assert [entry.cause for batch in batches for entry in batch.bad] == ["no such file"]
    assert sum(len(batch) for batch in batches) == 2


def test_key_frames_are_read_by_time_from_the_cut(release):
    data = ready(release, pixels="full", size=48)
    item = data.eval_dataset("val")[SampleKey(0, 0)]
    assert read_numbers(item.views[0].permute(0, 2, 3, 1).numpy()) == [54, 57, 60, 63]
    (bad,) = ready(release, offset=0).eval_dataset("val")[SampleKey(0, 0)].bad
    assert bad.cause == (
        "the key frame at 902 s lies behind its end at 5.00 s "
        f"({release}/annotations/ava_val_v2.2.csv:1): of a video cut out from 900 s on, set data.offset 900"
    )
    (bad,) = ready(release, offset=903).eval_dataset("val")[SampleKey(0, 0)].bad
    assert "the key frame at 902 s, less the offset of 903 s, lies before its start" in bad.cause


def test_a_detectors_boxes_are_asked_about_with_their_score_and_learned_with_the_labels_of_true_ones(release):
    folder = release / "annotations"
    data = ready(
        release, detections=str(folder / "detected_val.csv"), train_detections=str(folder / "detected_train.csv")
    )
    index = data.index("val")
    targets = {(sample.path.name, sample.start_seconds): index.target(n) for n, sample in enumerate(index)}
    assert {key: len(target.places) for key, target in targets.items()} == {
        **{("b_2.mp4", 902): 1, ("b_2.mp4", 904): 0, ("b_2.mp4", 905): 1, ("gone2.mp4", 902): 0},
    }
    assert len(targets["b_2.mp4", 902].truth) == 1
    index = data.index("train")
    assert [sample.start_seconds for sample in index] == [902, 903, 905]
    assert index.target(0).actions.tolist() == [[False, True, True], [False] * 3, [False, True, True]]
    assert ready(release, detections=str(folder / "detected_val.csv"), min_score=0.5).index("val").target(
        0
    ).places.shape == (
        2,
        4,
    )


def test_folders_of_frames_are_read_as_their_films(release, tmp_path):
    for name in ("annotations", "videos"):
        (tmp_path / name).symlink_to(release / name)
    for film in ("a-1", "b_2"):
        (tmp_path / "frames" / film).mkdir(parents=True)
        for number in [*range(50, 58), *range(59, 66)]:  # 58 is missing
            frame = Image.fromarray(numbered_frame(number, (48, 64)))
            frame.save(tmp_path / f"frames/{film}/{film}_{number + 1:06d}.png")
        for number in (0, 120):
            Image.fromarray(numbered_frame(0, (48, 64))).save(tmp_path / f"frames/{film}/{film}_{number + 1:06d}.png")
    data = ready(tmp_path, frames=True, offset=0, pixels="full", size=48, clip=ClipSpec(4, 2))
    item = data.eval_dataset("val")[SampleKey(0, 0)]
    assert read_numbers(item.views[0].permute(0, 2, 3, 1).numpy()) == [56, 57, 60, 62]
    assert data.index("val")[0].path == tmp_path / "frames/b_2"
    batch = next(iter(data.train_dataloader()))
    assert tuple(batch.clips.shape) == (2, 3, 4, 48, 48)
    assert torch.is_tensor(batch.targets[0]["corners"])


def test_a_field_behind_the_action_is_a_person_or_a_score(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a,902,0,0,.5,1,3,12\na,902,0,0,.5,1,,0.5\na,902,0,0,.5,1,-1,1.0\na,902,0,0,.5,1,4\na,903\n")
    rows = [(row.label, row.person, row.score, row.has_box) for row in read_ava(path)]
    assert str(rows) == str(
        [
            *(("3", "12", np.nan, True), ("", "", 0.5, True), ("", "", 1.0, True)),
            *(("4", "", np.nan, True), ("", "", np.nan, False)),
        ]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,902,0,0,.5,1\n", "x.csv:1: 6 fields, expected video,second,x1,y1,x2,y2,action,person"),
        ("a,902,0,0,.5,1,3,1\na,902,0,zero,.5,1,3,1\n", "x.csv:2: y1 'zero' is not a number"),
        ("a,902,0,0,.5,inf,3,1\n", "x.csv:1: y2 'inf' is not a finite number"),
        ("a,-2,0,0,.5,1,3,1\n", "x.csv:1: the second '-2' is negative"),
        ("a,902,0,0,.5,1,3,high\n", "x.csv:1: the score 'high' is not a number"),
    ],
)
def test_a_wrong_row_of_ava_is_one_line(tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(UserError, match=rf"^{tmp_path}/{message}"):
        list(read_ava(tmp_path / "x.csv"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has no actions; expected items such as"),
        ('item { name: "a" }', "an item without a name and an id"),
        ('item { name: "a" id: 1 }\nitem { name: "b" id: 1 }', ":2: the action 'b' with the id 1 repeats a name or an"),
    ],
)
def test_a_wrong_label_map_is_one_line(tmp_path, text, message):
    (tmp_path / "x.pbtxt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_label_map(tmp_path / "x.pbtxt")


def test_the_other_form_of_a_label_map_is_read(tmp_path):
    (tmp_path / "x.pbtxt").write_text(
        "# all\nlabel {\n  name: 'sit'\n  label_id: 11\n  label_type: PERSON_MOVEMENT\n}\n"
    )
    assert read_label_map(tmp_path / "x.pbtxt") == {"11": "sit"}


def test_missing_films_lists_and_label_maps_are_one_line(release, tmp_path):
    (tmp_path / "ava_train_v2.2.csv").write_text(TRAIN)
    with pytest.raises(UserError, match=r"there is no ava_action_list_v2.2_for_activitynet_2019.pbtxt"):
        ready(tmp_path)
    (tmp_path / "ava_action_list_v2.2_for_activitynet_2019.pbtxt").write_text(LABELS)
    with pytest.raises(UserError, match=r"no video a-1 is in .*; expected .*/videos/<id>.mp4"):
        ready(tmp_path)
    with pytest.raises(UserError, match=r"no boxes in it; expected .*ava_train_v2.1.csv and"):
        ready(release, version="2.1")


def test_proposals_of_mmaction2_are_a_detectors_boxes(release, tmp_path):
    boxes = {
        "b_2,0902": np.array([[0.101, 0.2, 0.4, 0.9, 0.97], [0.5, 0.1, 0.9, 0.8, 0.79]]),
        "b_2,0905": [[0, 0, 1, 1, 0.9]],
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(boxes))
    data = ready(release, detections=str(tmp_path / "x.pkl"))
    frames = [(sample.path.name, sample.start_seconds) for sample in data.index("val")]
    assert frames == [("b_2.mp4", 902), ("b_2.mp4", 904), ("gone2.mp4", 902), ("b_2.mp4", 905)]
    assert [len(data.index("val").target(row).places) for row in range(4)] == [1, 0, 0, 1]
    for wrong in ([1], {"b_2": boxes["b_2,0902"]}, {"b_2,0902": [[1, 2, 3]]}, {"b_2,0902": [[0, 0, 1, 1, np.nan]]}):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(wrong))
        with pytest.raises(UserError, match=r"x.pkl: not a pickle of proposals: "):
            ready(release, detections=str(tmp_path / "x.pkl"))
