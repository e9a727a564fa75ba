"""Videos of several digits: their files, boxes and motions."""

import csv
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from mvrec.data import DigitBoxes, open_video
from mvrec.data.generated.digit_boxes import ACTIONS, COLUMNS, KEY_FRAME, draw_actors, draw_play, generate_digit_boxes
from mvrec.data.generated.moving_digits_video import split_digits
from mvrec.errors import UserError

VIDEOS = {"train": 6, "val": 2, "test": 2}
INK = 150  # brightness that paper does not reach


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxes") / "digits"
    generate_digit_boxes(folder, videos=VIDEOS)
    return folder


def rows_of(root, split):
    with (root / f"{split}.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_files_are_those_of_anybody_with_videos_and_boxes(root):
    assert (root / "classes.txt").read_text().splitlines() == list(ACTIONS)
    for split, count in VIDEOS.items():
        rows = rows_of(root, split)
        assert tuple(rows[0]) == COLUMNS
        of_video = Counter(row["path"] for row in rows)
        assert sorted(of_video) == [f"{split}/{number:05d}.mp4" for number in range(count)]
        assert set(of_video.values()) <= {2, 3}
        for row in rows:
            assert row["label"] in ACTIONS
            assert 0 <= float(row["x1"]) < float(row["x2"]) <= 1
            assert 0 <= float(row["y1"]) < float(row["y2"]) <= 1


def test_boxes_hold_the_ink_of_the_key_frame_and_no_other_place_has_some(root):
    for path in sorted({row["path"] for row in rows_of(root, "train")}):
        rows = [row for row in rows_of(root, "train") if row["path"] == path]
        video = open_video(root / path)
        assert (video.num_frames, video.fps, video.size) == (32, 16, (96, 96))
        assert {float(row["time"]) * video.fps for row in rows} == {KEY_FRAME}
        bright = video.frames([KEY_FRAME])[0].mean(-1) > INK
        for row in rows:
            left, top, right, bottom = (round(96 * float(row[name])) for name in ("x1", "y1", "x2", "y2"))
            assert bright[top:bottom, left:right].mean() > 0.02
            bright[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = False
        assert bright.sum() == 0


CHANGES = (  # of x, y, extent and rotation, upwards and downwards
    *(("move_right", "move_left"), ("move_down", "move_up"), ("grow", "shrink")),
    ("rotate_clockwise", "rotate_counterclockwise"),
)


def actions_of(actor):
    """The actions of a digit by its first and last pose: everything that changes by 0.05 widths or turns."""
    changes = actor.pose[-1] - actor.pose[0]
    return [pair[int(change < 0)] for change, pair in zip(changes, CHANGES, strict=True) if abs(change) > 0.05]


def test_each_digit_moves_as_its_label_says_apart_from_the_others():
    digits, rng = split_digits(0)["train"], np.random.default_rng(0)
    labels, counts = Counter(), Counter()
    for _ in range(300):
        actors = draw_actors(digits, rng)
        counts[len(actors)] += 1
        for actor in actors:
            labels[actor.action] += 1
            assert actions_of(actor) == [actor.action]
        boxes = [actor.box(KEY_FRAME) for actor in actors]
        for number, (left, top, right, bottom) in enumerate(boxes):
            for other in boxes[:number]:
                assert left >= other[2] or right <= other[0] or top >= other[3] or bottom <= other[1]
    assert set(counts) == {2, 3}
    assert min(labels.values()) > 0.7 * max(labels.values())
    assert set(labels) == set(ACTIONS)


def test_the_longer_video_goes_on_without_a_jump_while_actions_change(root):
    parts = draw_play(split_digits(0)["test"], np.random.default_rng(0))
    for before, after in pairwise(parts):
        for actor, later in zip(before, after, strict=True):
            assert np.abs(np.diff(np.concatenate([actor.pose, later.pose]), axis=0)).max() < 0.03
            assert actions_of(later) == [later.action] != [actor.action]
    with (root / "play.csv").open() as file:
        rows = list(csv.DictReader(file))
    video = open_video(root / "play.mp4")
    assert (video.num_frames, video.fps, video.size) == (4 * 32, 16, (384, 384))
    for seconds in (0.0, 2.0, 4.0, 7.75):
        bright = video.frames([round(16 * seconds)])[0].mean(-1) > INK
        rows_of_frame = [row for row in rows if float(row["time"]) == seconds]
        assert [row["person"] for row in rows_of_frame] == ["digit 1", "digit 2", "digit 3"]
        assert rows_of_frame[0]["label"] == ("move_left" if seconds >= 4 else "move_right")
        for row in rows_of_frame:
            left, top, right, bottom = (round(384 * float(row[name])) for name in ("x1", "y1", "x2", "y2"))
            assert bright[top:bottom, left:right].any()
            bright[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = False
        assert bright.sum() == 0


def test_the_data_module_makes_the_videos_and_reads_them(tmp_path):
    data = DigitBoxes(str(tmp_path / "digits"), train_videos=8, val_videos=2, test_videos=2, num_workers=0)
    data.prepare_data()
    data.setup("fit")
    assert data.class_names == ACTIONS
    batch = next(iter(data.train_dataloader()))
    assert tuple(batch.clips.shape) == (8, 3, 8, 96, 96)
    for view, pixels in zip(batch.targets, batch.clips, strict=True):
        assert view["actions"].sum(1).tolist() == [1] * len(view["corners"])
        for left, top, right, bottom in view["corners"].round().int().tolist():
            assert pixels[:, 4, top:bottom, left:right].float().mean(0).max() > INK  # frame T // 2 is the key frame
    assert len(list(data.val_dataloader())) == 1


def test_the_same_seed_gives_the_same_files_and_other_folders_are_refused(root, tmp_path):
    generate_digit_boxes(tmp_path / "again", videos=VIDEOS)
    for path in root.rglob("*.*"):
        assert (tmp_path / "again" / path.relative_to(root)).read_bytes() == path.read_bytes()
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    generate_digit_boxes(root, videos=VIDEOS)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.mp4").touch()
    with pytest.raises(UserError, match=r"holds no videos of several digits: .* --data VideoBoxes"):
        generate_digit_boxes(tmp_path / "mine", videos=VIDEOS)
    for changes, message in (
        ({"videos": {"train": 1, "val": 1}}, r"videos\['test'\] must be at least 1, got 0"),
        ({"size": 97}, "size must be even, got 97"),
        ({"size": 32}, "size must be at least 64, got 32"),
    ):
        with pytest.raises(UserError, match=f"videos of several digits: {message}"):
            generate_digit_boxes(tmp_path / "data", **{"videos": VIDEOS, **changes})
