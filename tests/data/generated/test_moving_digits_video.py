import csv
import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from mvrec.data.generated import moving_digits_video as module
from mvrec.data.generated.moving_digits_video import ACTIONS, OPPOSITES, Motion, generate_moving_digits, poses
from mvrec.data.video.opening import open_video
from mvrec.errors import UserError

CLIPS = {"train": 2, "val": 1, "test": 1}
SMALL = {"clips_per_class": CLIPS, "num_frames": 8, "size": 32}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "moving digits"
    generate_moving_digits(root, **SMALL)
    return root


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def random_motion(seed=0):
    return Motion.draw(np.random.default_rng(seed))


def test_the_data_set_lists_the_videos_that_it_holds_and_others_can_read_it(dataset):
    assert {path.name for path in dataset.iterdir()} == {
        *("train", "val", "test", "train.csv", "val.csv", "test.csv", "classes.txt", "dataset.json")
    }
    assert dataset.stat().st_mode & 0o055 == (dataset / "train").stat().st_mode & 0o055 != 0
    assert (dataset / "classes.txt").read_text().split() == sorted(ACTIONS)
    assert len(set(ACTIONS)) == 12
    for split, count in CLIPS.items():
        with (dataset / f"{split}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        on_disk = {str(path.relative_to(dataset)): path.parent.name for path in dataset.glob(f"{split}/*/*.mp4")}
        assert {row["path"]: row["label"] for row in rows} == on_disk
        assert len(rows) == len(on_disk) == count * len(ACTIONS)
        assert set(on_disk.values()) == set(ACTIONS)
    assert json.loads((dataset / "dataset.json").read_text())["clips_per_class"] == CLIPS
    with open_video(dataset / "train" / "move_left" / "00000.mp4") as video:
        assert (video.num_frames, video.fps, video.size) == (8, 16, (32, 32))
        assert video.frames(range(8)).std() > 10


def test_a_clip_follows_from_its_seed_and_place_however_many_there_are(dataset, tmp_path):
    clips = {name: data for name, data in contents(dataset).items() if name.endswith(".mp4")}
    assert len(set(clips.values())) == len(clips) == 4 * 12
    generate_moving_digits(tmp_path / "more", **{**SMALL, "clips_per_class": {"train": 3, "val": 2, "test": 1}})
    more = contents(tmp_path / "more")
    assert {name: more[name] for name in clips} == clips
    generate_moving_digits(tmp_path / "other", **SMALL, seed=1)
    other = contents(tmp_path / "other")
    assert all(other[name] != data for name, data in clips.items())


def test_splits_share_no_handwriting():
    digits = module.split_digits(0)
    assert [len(images) for images in digits.values()] == [1258, 270, 269]
    images = [{image.tobytes() for image in digits[split]} for split in module.SPLITS]
    assert len(set.union(*images)) == sum(map(len, images))


def test_an_opposite_is_the_action_played_backwards():
    for action, opposite in OPPOSITES.items():
        forward, back = poses(action, random_motion(), 32), poses(opposite, random_motion(), 32)
        assert forward.shape == (32, 4)
        np.testing.assert_array_equal(back, forward[::-1], action)
        assert np.abs(forward - back).max() > 0.1


@pytest.mark.parametrize(("action", "opposite"), OPPOSITES.items())
def test_a_single_frame_without_its_number_does_not_tell_an_action_from_its_opposite(action, opposite):
    """Over many clips and all their frames, what is seen is spread the same way in both."""

    def seen(name, seeds):
        pose = np.concatenate([poses(name, random_motion(seed), 32) for seed in seeds])
        pose[:, [0, 1, 3]] %= 1
        return pose.T

    # The largest difference of two distributions, in ranks; 1000 clips each.
    for path, other in zip(seen(action, range(1000)), seen(opposite, range(1000, 2000)), strict=True):
        if np.ptp(path) > 0:
            ranks = np.searchsorted(np.sort(other), np.sort(path), side="right") / len(other)
            assert np.abs(ranks - np.arange(1, len(path) + 1) / len(path)).max() < 0.087


def test_direction_is_what_the_name_says():
    for action, column, sign in (
        *(("move_left", 0, -1), ("move_up", 1, -1), ("rotate_clockwise", 3, 1), ("move_up_right", 0, 1)),
        ("grow", 2, 1),
    ):
        assert np.all(np.sign(np.diff(poses(action, random_motion(), 32)[:, column])) == sign), action
    extent = poses("grow", replace(random_motion(), speed=0.9), 32)[:, 2]
    assert extent[-1] > 2 * extent[0]
    x, y = poses("orbit_clockwise", replace(random_motion(), x=0.5, y=0.5, angle=0.0, speed=1.0), 32)[:, :2].T
    assert min(x[16], y[24]) > 0.6  # at the right in the middle, and then goes down, which is where y grows
    assert max(x[0], y[8]) < 0.4
    with pytest.raises(ValueError, match="unknown action 'jump'; there are grow, "):
        poses("jump", random_motion(), 4)


def ink(pose, size=64):
    digit = np.zeros((8, 8), np.float32)
    digit[1:4, 5:7] = 1  # a block at the upper right
    return module.draw_ink(np.array([pose], np.float64), digit, size)[0]


def centre_of(picture):
    ys, xs = np.mgrid[: picture.shape[0], : picture.shape[1]]
    return (picture * xs).sum() / picture.sum(), (picture * ys).sum() / picture.sum()


def test_pose_is_what_is_drawn_and_what_leaves_the_picture_comes_back():
    x, y = centre_of(ink([0.5, 0.5, 0.5, 0.0]))
    assert x > 34
    assert y < 30
    turned_x, turned_y = centre_of(ink([0.5, 0.5, 0.5, 0.25]))  # clockwise: upper right becomes lower right
    assert (turned_x - 31.5, turned_y - 31.5) == pytest.approx((31.5 - y, x - 31.5), abs=0.1)
    moved_x, moved_y = centre_of(ink([0.6, 0.4, 0.5, 0.0]))
    assert (moved_x - x, moved_y - y) == pytest.approx((6.4, -6.4), abs=0.1)
    assert ink([0.5, 0.5, 0.25, 0.0]).sum() == pytest.approx(ink([0.5, 0.5, 0.5, 0.0]).sum() / 4, rel=0.02)
    np.testing.assert_allclose(ink([0.98, 0.3, 0.5, 0.1]), np.roll(ink([0.48, 0.3, 0.5, 0.1]), 32, axis=1), atol=1e-4)


def test_what_is_there_is_used_again_or_the_difference_is_named(dataset, monkeypatch):
    monkeypatch.setattr(module, "_write_clip", None)
    monkeypatch.setattr(module, "split_digits", None)
    before = contents(dataset)
    generate_moving_digits(dataset, **SMALL)
    with pytest.raises(UserError, match=r"num_frames is 8, not 16; fps is 16, not 8\): choose another folder"):
        generate_moving_digits(dataset, **{**SMALL, "num_frames": 16, "fps": 8})
    assert contents(dataset) == before


def test_what_belongs_to_someone_else_is_left_alone_and_an_empty_folder_filled(tmp_path):
    thesis, folder = tmp_path / "thesis", tmp_path / "folder"
    thesis.write_text("chapter 1")
    folder.mkdir()
    generate_moving_digits(folder, clips_per_class={"train": 1, "val": 1, "test": 1}, num_frames=2, size=16)
    (folder / "dataset.json").unlink()
    before = contents(tmp_path)
    for root in (thesis, folder):
        with pytest.raises(UserError, match=f"{root.name} exists and holds no moving digits"):
            generate_moving_digits(root, **SMALL)
    assert contents(tmp_path) == before


def test_impossible_parameters_and_missing_scikit_learn_are_one_line_and_nothing_is_written(tmp_path, monkeypatch):
    for changes, message in (
        ({"clips_per_class": {"train": 1, "val": 1}}, r"clips_per_class\['test'\] must be at least 1, got 0"),
        ({"clips_per_class": {**CLIPS, "val": 0}}, r"clips_per_class\['val'\] must be at least 1, got 0"),
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"fps": -1}, "fps must be at least 1, got -1"),
        ({"size": 33}, "size must be even, got 33"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ):
        with pytest.raises(UserError, match=message):
            generate_moving_digits(tmp_path / "data", **{**SMALL, **changes})
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r"need scikit-learn: .*\[demo\]"):
        generate_moving_digits(tmp_path / "data", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_interruption_leaves_nothing(tmp_path, monkeypatch):
    write, written = module._write_clip, []

    def fail_later(path, *args):
        assert not (tmp_path / "data").exists()  # before all is written
        if len(written) == 20:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *args)

    monkeypatch.setattr(module, "_write_clip", fail_later)
    with pytest.raises(KeyboardInterrupt):
        generate_moving_digits(tmp_path / "data", **SMALL)
    assert written
    assert list(tmp_path.iterdir()) == []


def test_of_two_processes_at_once_the_later_one_takes_what_the_other_wrote(dataset, tmp_path, monkeypatch):
    split_digits = module.split_digits

    def overtaken(seed):
        monkeypatch.setattr(module, "split_digits", split_digits)
        generate_moving_digits(tmp_path / "data", **SMALL)  # as the other one does
        return split_digits(seed)

    monkeypatch.setattr(module, "split_digits", overtaken)
    generate_moving_digits(tmp_path / "data", **SMALL)
    assert contents(tmp_path / "data") == contents(dataset)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
