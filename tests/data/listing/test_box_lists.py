"""Lists of boxes: rows, tables, and what is said of wrong rows."""

import math

import numpy as np
import pytest
from box_trees import HEADER, write_list

from mvrec.data.listing.boxes.reading import read_boxes
from mvrec.data.listing.boxes.rows import BoxRow, Faults
from mvrec.data.listing.boxes.table import overlap, pack_boxes
from mvrec.data.listing.boxes.targets import KeyFrames
from mvrec.errors import UserError


def table_of(tmp_path, *rows, header=HEADER, name="boxes.csv"):
    return pack_boxes(read_boxes(write_list(tmp_path / name, *rows, header=header)))


def test_columns_come_in_any_order_and_person_score_and_labels_are_optional(tmp_path):
    path = write_list(tmp_path / "a.csv", "9;a b.mp4;1.5;10;20;30;40;0.25", header="Person;path;time;x1;y1;x2;y2;score")
    assert list(read_boxes(path)) == [BoxRow("a b.mp4", 1.5, (10, 20, 30, 40), False, "", "9", 0.25, str(path), 2)]
    path = write_list(tmp_path / "b.csv", "a,0,0,0,.5,1,run; talk", "a,0,0,0,.25,1,", header=HEADER + "s")
    assert [(row.label, row.relative, row.where) for row in read_boxes(path)] == [
        ("run", True, f"{path}:2"),
        ("talk", True, f"{path}:2"),
        ("", True, f"{path}:3"),
    ]


def test_rows_of_one_box_are_one_with_several_labels_in_the_order_of_first_rows(tmp_path):
    table = table_of(
        tmp_path,
        *("b.mp4,2,0,0,.5,.5,sit", "a.mp4,1,.5,0,1,1,run", "b.mp4,1,0,0,.5,.5,run", "a.mp4,1,0,0,.5,1,sit"),
        *("a.mp4,1,.5,0,1,1,sit", "a.mp4,1,.5,0,1,1,run", "b.mp4,1.5,,,,,", "b.mp4,2,.5,.5,.75,1,"),
    )
    assert table.videos == ("b.mp4", "a.mp4")
    assert [table.videos[n] for n in table.frame_videos] == ["b.mp4"] * 3 + ["a.mp4"]
    assert table.seconds.tolist() == [1, 1.5, 2, 1]
    assert (table.labels, table.class_counts().tolist()) == (("sit", "run"), [3, 2])
    boxes = table.frame(table.find("a.mp4", 1.0004))
    assert (boxes.corners.tolist(), boxes.actions.tolist()) == ([[0.5, 0, 1, 1], [0, 0, 0.5, 1]], [[1, 1], [1, 0]])
    assert boxes.lines.tolist() == [3, 5]
    boxes = table.frame(table.find("b.mp4", 2))
    assert (boxes.corners.tolist(), boxes.actions.tolist()) == (
        [[0, 0, 0.5, 0.5], [0.5, 0.5, 0.75, 1]],
        [[True, False], [False, False]],
    )
    assert len(table.frame(table.find("b.mp4", 1.5)).corners) == 0
    assert table.find("b.mp4", 1.7) is None
    assert table.find("c.mp4", 1) is None
    assert table.where(table.find("b.mp4", 2)) == f"{tmp_path}/boxes.csv:2"


def test_random_rows_equal_a_plain_dictionary(tmp_path):
    rng = np.random.default_rng(0)
    expected, rows = {}, []
    for _ in range(3000):
        video, second = f"{rng.integers(9)}.mp4", int(rng.integers(5))
        corners = tuple((rng.integers(0, 4, 2) / 8).tolist() + ((4 + rng.integers(0, 4, 2)) / 8).tolist())
        label = ["", "run", "sit", "talk"][rng.integers(4)]
        rows.append(f"{video},{second},{','.join(map(str, corners))},{label}")
        expected.setdefault((video, second), {}).setdefault(corners, set()).update([label] if label else [])
    table = table_of(tmp_path, *rows)
    assert len(table) == len(expected)
    some = table.only_videos(lambda video: video in ("3.mp4", "7.mp4", "8.mp4"))
    for tables, frames in ((table, expected), (some, {k: v for k, v in expected.items() if k[0][0] in "378"})):
        assert len(tables) == len(frames)
        for (video, second), boxes in frames.items():
            frame = tables.frame(tables.find(video, second))
            assert [tuple(corners) for corners in frame.corners.tolist()] == list(boxes)
            names = [{tables.labels[n] for n in np.flatnonzero(row)} for row in frame.actions]
            assert names == list(boxes.values())
    numbers = {"run": 1, "sit": -1, "talk": 1}
    classes = table.with_classes(["jump", "move"], [numbers[label] for label in table.labels])
    for (video, second), boxes in expected.items():
        actions = classes.frame(classes.find(video, second)).actions
        assert actions.tolist() == [[False, bool(names & {"run", "talk"})] for names in boxes.values()]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.mp4,1,.5,0,.25,1,run", "boxes.csv:3: the box has no area, x2 0.25 is not greater than x1 0.5: boxes are"),
        ("a.mp4,1,0,.5,1,.5,run", "boxes.csv:3: the box has no area, y2 0.5 is not greater than y1 0.5"),
        ("a.mp4,1,1.1,0,1.2,1,run", "boxes.csv:3: the box 1.1, 0, 1.2, 1 lies outside the picture"),
        ("a.mp4,1,-.5,0,-.1,1,run", "boxes.csv:3: the box -0.5, 0, -0.1, 1 lies outside the picture"),
        ("a.mp4,1,0,0,nan,1,run", "boxes.csv:3: x2 'nan' is not a finite number"),
        ("a.mp4,1,0,,1,1,run", "boxes.csv:3: y1 is empty"),
        ("a.mp4,1,0,0,1,one,run", "boxes.csv:3: y2 'one' is not a number"),
        ("a.mp4,-1,0,0,1,1,run", "boxes.csv:3: '-1' is not a number of seconds from 0 on"),
        ("a.mp4,,0,0,1,1,run", "boxes.csv:3: time must not be empty"),
        (",1,0,0,1,1,run", "boxes.csv:3: path must not be empty"),
        ("a.mp4,1,,,,,run", "boxes.csv:3: the label 'run' has no box"),
        ("a.mp4,1,0,0,1,1", "boxes.csv:3: 6 fields, the header has 7"),
        ("a.mp4,1,10,20,30,40,run", "boxes.csv:3: a box in pixels, but that of {0}:2 is in shares of the frame"),
    ],
)
def test_a_wrong_row_is_one_line_with_its_place(tmp_path, row, message):
    path = write_list(tmp_path / "boxes.csv", "a.mp4,0,0,0,1,1,run", row)
    with pytest.raises(UserError) as error:
        pack_boxes(row for row in read_boxes(path) if Faults().accepts(row))
    assert message.format(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_header_without_a_column_names_it(tmp_path):
    path = write_list(tmp_path / "boxes.csv", header="path,time,x1,y1,x2,yy2,label")
    with pytest.raises(UserError, match=r"boxes.csv:1: .* has no 'y2'; did you mean 'yy2'"):
        list(read_boxes(path))


def test_faults_may_be_left_out_and_are_counted(tmp_path):
    path = write_list(
        tmp_path / "boxes.csv", "a,0,0,0,1,1,run", "a,0,1,0,0,1,run", "a,0,0,0,0,1,sit", "a,0,1,0,1.5,1,run"
    )
    faults = Faults(drop=True)
    assert len([row for row in read_boxes(path) if faults.accepts(row)]) == 1
    assert faults.counts == {"empty": 2, "outside": 1}
    assert f"{path}:3: " in faults.firsts["empty"]
    path = write_list(tmp_path / "boxes.csv", "a,0,-.1,0,1,1,run", "a,0,0,0,1.004,1,run", "a,0,0,0,1,1.2,run")
    assert [faults.accepts(row) for row in read_boxes(path)] == [True] * 3
    assert (faults.counts["cut"], faults.firsts["cut"]) == (2, f"{path}:2: -0.1, 0, 1, 1")


def test_boxes_that_reach_over_the_border_are_cut(tmp_path):
    table = table_of(tmp_path, "a,0,-.25,.5,1.25,1.5,run")
    assert table.corners.tolist() == [[0, 0.5, 1, 1]]


def test_overlap_is_the_shared_area_over_the_joint_one():
    first = np.array([[0, 0, 2, 2], [5, 5, 6, 6]], np.float32)
    second = np.array([[1, 1, 3, 3], [0, 0, 2, 2], [2, 0, 4, 2], [1, 1, 1, 1]], np.float32)
    np.testing.assert_allclose(overlap(first, second), [[1 / 7, 1, 0, 0], [0, 0, 0, 0]])


def detected(tmp_path, training, *, keeps_unmatched=True):
    """True boxes of two key frames, and those of a detector in the second and in a third."""
    rows = ["a,1,0,0,.5,1,run", "a,1,0,0,.5,1,sit", "a,2,0,0,.5,1,sit", "a,2,.5,0,1,1,", "a,4,,,,,"]
    header = HEADER.replace("label", "score")
    truth = table_of(tmp_path, *rows)
    boxes = table_of(
        tmp_path, "a,2,0,0,.5,.98,.9", "a,2,0,0,.5,.8,.8", "a,3,0,0,1,1,.7", header=header, name="detector.csv"
    )
    return KeyFrames(truth, boxes, training, keeps_unmatched)


def test_a_network_learns_from_true_boxes_and_detected_ones_take_over_their_labels(tmp_path):
    key_frames = detected(tmp_path, training=True)
    assert [(row.start_seconds, row.label) for row in key_frames.rows("train")] == [
        (1, "train"),
        (2, "train"),
        (3, "train"),
    ]
    target = key_frames.target("a", 2)
    assert target.actions.tolist() == [[False, True], [False, False], [False, True], [False, False]]
    np.testing.assert_allclose(target.places[2:], [[0, 0, 0.5, 0.98], [0, 0, 0.5, 0.8]], rtol=1e-6)
    assert (target.truth.tolist(), target.true_actions.tolist()) == ([[0, 0, 0.5, 1]], [[False, True]])
    assert [line.rpartition("/")[2] for line in key_frames.lines("a", 2)] == [
        *("boxes.csv:4", "boxes.csv:5", "detector.csv:2", "detector.csv:3"),
    ]
    key_frames = detected(tmp_path, training=True, keeps_unmatched=False)
    assert [row.start_seconds for row in key_frames.rows("train")] == [1, 2]
    assert len(key_frames.target("a", 2).places) == 3


def test_a_network_is_asked_about_detected_boxes_and_compared_with_the_true_ones(tmp_path):
    key_frames = detected(tmp_path, training=False)
    assert [row.start_seconds for row in key_frames.rows("val")] == [1, 2, 3]
    assert [len(key_frames.target("a", second).places) for second in (1, 2, 3)] == [0, 2, 1]
    assert [len(key_frames.target("a", second).truth) for second in (1, 2, 3)] == [1, 1, 0]
    target = key_frames.target("a", 1)
    assert target.places.shape == (0, 4)
    assert (target.actions.shape, target.true_actions.tolist()) == ((0, 2), [[True, True]])


def test_a_box_without_a_score_passes_any_least_score(tmp_path):
    boxes = table_of(tmp_path, "a,2,0,0,.5,1,.9", "a,2,0,0,.5,.8,.3", header=HEADER.replace("label", "score"))
    assert boxes.only_boxes(~(boxes.scores < 0.5)).corners.tolist() == [[0, 0, 0.5, 1]]
    truth = table_of(tmp_path, "a,2,0,0,.5,1,run")
    assert math.isnan(truth.scores[0])
    assert len(truth.only_boxes(~(truth.scores < 0.5)).corners) == 1


def test_many_rows_take_a_few_bytes_each():
    rows = (
        BoxRow(f"film-{number // 4000}", 902 + number // 4 % 1000, (0, 0, 0.5, 0.25 * (1 + number % 4)), True, "run")
        for number in range(40_000)
    )
    table = pack_boxes(rows)
    assert (len(table), len(table.corners)) == (10_000, 40_000)
    assert table.nbytes / len(table.corners) < 50
