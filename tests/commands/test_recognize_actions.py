"""`mvrec recognize` with an action detector: rows, videos with boxes, and wrong requests."""

import csv
import io
import json

import av
import numpy as np
import pytest
from walkers import ACTIONS, boxes_at, save_detector, write_boxes, write_walk

from mvrec.data.listing.boxes.reading import read_boxes
from mvrec.inference.objects.box_drawing import colour_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a small action detector."""
    folder = tmp_path_factory.mktemp("lauf")
    save_detector(folder / "checkpoints/best.ckpt")
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two videos, a file that is none, and the boxes of both videos."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("a.b", "ü"):
        write_walk(folder / f"{name}.mp4", 25)
    (folder / "broken.mp4").write_text("no video")
    both = "".join(
        write_boxes(folder / "one.csv", [0, 5, 10, 20], video=f"{name}.mp4").read_text() for name in ("a.b", "ü")
    )
    lines = both.splitlines()
    (folder / "boxes.csv").write_text("\n".join([lines[0], *(line for line in lines if line != lines[0])]) + "\n")
    (folder / "one.csv").unlink()
    return folder


def frames_of(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_rows_and_videos_of_a_list_of_boxes(command, run, videos, tmp_path):
    sources = [videos / "a.b.mp4", videos / "ü.mp4"]
    boxes, over = ["--boxes", videos / "boxes.csv"], ["--overlays", tmp_path / "over", "--min_action=0"]
    code, out, err = command("recognize", *sources, "--ckpt", run, *boxes, *over, "--format=csv", "--top=2")
    assert code == 0, err
    assert "scores are means over a person's key frames within 1 s; --smooth 0 leaves them as they are" in err
    assert "full frames" in err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["path", "time", "x1", "y1", "x2", "y2", "label", "person", "score"]
    assert len(rows) == 2 * 3 * 2 * 2  # videos, key frames, people, actions
    assert {row["label"] for row in rows} <= set(ACTIONS)
    assert [row["person"] for row in rows[:4]] == ["1", "1", "2", "2"]
    assert {row["time"] for row in rows} == {"0.000", "1.000", "2.000"}
    assert sorted(path.name for path in (tmp_path / "over").iterdir()) == ["a.b.mp4", "ü.mp4"]
    drawn, plain = frames_of(tmp_path / "over/ü.mp4"), frames_of(videos / "ü.mp4")
    factor = drawn.shape[1] // plain.shape[1]
    assert drawn.shape == (25, 96 * factor, 160 * factor, 3)
    # In the middle between two boxes of the list: the line around the red square has the colour of the first person.
    left, top, _, bottom = (boxes_at(15)[0] * factor).astype(int)
    edge = drawn[15, top + 5 : bottom - 5, left : left + 2].astype(int)
    assert np.abs(edge - colour_of(0)).mean() < 40
    assert (np.abs(drawn[15].astype(int) - plain[15].repeat(factor, 0).repeat(factor, 1)) > 60).any(-1).mean() < 0.5


def test_what_is_written_is_a_list_of_boxes_again(command, run, videos, tmp_path):
    output = tmp_path / "actions.csv"
    code, _, err = command(
        *("recognize", videos / "ü.mp4", "--ckpt", run, "--boxes", videos / "boxes.csv"), "--top=1", "-o", output
    )
    assert code == 0, err
    rows = list(read_boxes(output))
    assert [row.seconds for row in rows] == [0, 0, 1, 1, 2, 2]
    assert np.allclose([row.corners for row in rows[2:4]], boxes_at(10), atol=0.01)
    assert all(row.label in ACTIONS and 0 <= row.score <= 1 and not row.relative for row in rows)


def test_a_detector_of_ones_own_finds_people_and_broken_files_are_named(command, run, videos):
    auto = ["--people=auto", "--detector=walkers.squares_detector", "--detect_every=0.5"]
    sources = sorted(videos.glob("*.mp4"))
    code, out, err = command("recognize", *sources, "--ckpt", run, *auto, "--format=jsonl")
    assert code == 1
    assert "unreadable: " in err
    assert "broken.mp4" in err.splitlines()[-1]
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["path"].rsplit("/", 1)[1] for line in lines if "error" in line] == ["broken.mp4"]
    people = [line for line in lines if "error" not in line]
    assert len(people) == 2 * 3 * 2
    assert {line["person"] for line in people} == {"1", "2"}
    assert set(people[0]["actions"]) == set(ACTIONS)
    assert people[0]["box_score"] == pytest.approx(0.95)
    code, out, _ = command("recognize", videos / "ü.mp4", "--ckpt", run, *auto, "--min_action=1")
    assert code == 0
    assert out.splitlines()[3].endswith("ü.mp4  0:00:01.0  2: no action of 100 % or more")


def test_of_a_damaged_video_the_beginning_is_drawn_and_it_counts_as_unreadable(command, run, videos, tmp_path):
    auto = ["--people=auto", "--detector=walkers.squares_detector", "--decoder=walkers.Damaged"]
    code, out, err = command("recognize", videos / "ü.mp4", "--ckpt", run, *auto, "--overlays", tmp_path)
    assert code == 1
    assert len(out.splitlines()) == 3 * 2 + 1
    assert "the written video ends at 2.40 s" in err
    assert len(frames_of(tmp_path / "ü.mp4")) == 24


def test_wrong_requests_are_one_line(command, run, videos, image_run, tmp_path):
    video, boxes = videos / "ü.mp4", ["--boxes", videos / "boxes.csv"]
    for arguments, message in (
        ([], "say where people are, with --boxes LIST or --people auto: "),
        ([*boxes, "--people=auto"], "both are given"),
        ([*boxes, "--detector=fcos_resnet50_fpn"], "--detector goes with --people auto, and --boxes is given"),
        (["--people=auto"], "--detector fasterrcnn_resnet50_fpn needs its weights: add --detector_weights FILE"),
        (["--people=auto", "--detector=yolo"], "torchvision has no detector 'yolo', only "),
        ([*boxes, "--window=2"], "--window is not for action detectors"),
        ([*boxes, "--masks", tmp_path], "--masks is not for action detectors"),
        ([*boxes, "--protocol=ava"], "--protocol is not for action detectors"),
        ([*boxes, "--every=0"], "--every must be above 0"),
        (["--boxes", videos / "box.csv"], "box.csv: No such file"),
        ([*boxes, "--overlays", videos], "--overlays would overwrite the source itself: "),
    ):
        code, out, err = command("recognize", video, "--ckpt", run, *arguments)
        assert (code, out) == (2, ""), message
        assert message in err.splitlines()[-1]
    code, _, err = command("recognize", "rtsp://example.org/x", "--ckpt", run, *boxes)
    assert (code, "an action detector takes files: record rtsp://example.org/x first" in err) == (2, True)
    code, _, err = command("recognize", videos, "--ckpt", image_run, *boxes)
    assert (code, "--boxes is for action detectors, and " in err) == (2, True)


def test_other_commands_say_that_they_are_for_other_networks(command, run, videos, tmp_path):
    video = videos / "ü.mp4"
    code, _, err = command("extract", video, "--ckpt", run, "-o", tmp_path)
    assert (code, "looks at key frames with boxes" in err) == (2, True)
    code, _, err = command("explain", video, "--ckpt", run, "-o", tmp_path / "x.png")
    assert (code, "its task is action_detection, and mvrec explain is for classification" in err) == (2, True)
