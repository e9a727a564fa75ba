"""Tubes of UCF101-24 and JHMDB, from their pickles, of which no code runs."""

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_files import numbered_frame, read_numbers, write_video

from mvrec.data import JHMDB, UCF101_24
from mvrec.data.listing.boxes.tubes import read_tubes
from mvrec.data.loading.batch import SampleKey
from mvrec.data.views.clip_spec import ClipSpec
from mvrec.errors import UserError


def tube(first, last, left=1.0):
    return np.array([[frame, left, 2, 30, 40] for frame in range(first, last + 1)], np.float32)


def content():
    return {
        "labels": ["Basketball", "Biking"],
        "gttubes": {
            "Basketball/v_a": {0: [tube(3, 20), tube(11, 20, 5.0)]},
            "Biking/v_b": OrderedDict({1: [tube(1, 20)]}),
            "Biking/v_c": {np.int64(1): [tube(16, 21)]},
        },
        "train_videos": [["Basketball/v_a", "Biking/v_b"], ["Biking/v_c"]],
        "test_videos": [["Biking/v_c"], ["Basketball/v_a"]],
        "nframes": {"Basketball/v_a": 30},
        "resolution": {"Basketball/v_a": (48, 64)},
    }


def write_set(root, name, *, content=content, protocol=2):
    (root / name).write_bytes(pickle.dumps(content(), protocol=protocol))
    for video in ("Basketball/v_a", "Biking/v_b", "Biking/v_c"):
        (root / "videos" / video).parent.mkdir(parents=True, exist_ok=True)
        write_video(root / f"videos/{video}.mkv", num_frames=30, fps=30)


def ready(kind, root, **settings):
    settings = {"clip": ClipSpec(4, 3), "size": 48, "batch_size": 2, "num_workers": 0, "seed": 0, **settings}
    data = kind(str(root), **settings)
    data.setup("fit")
    return data


@pytest.mark.parametrize(("kind", "name"), [(UCF101_24, "UCF101v2-GT.pkl"), (JHMDB, "JHMDB-GT.pkl")])
@pytest.mark.parametrize("protocol", [2, 5])
def test_annotated_frames_are_key_frames_by_their_numbers(tmp_path, kind, name, protocol):
    write_set(tmp_path, name, protocol=protocol)
    data = ready(kind, tmp_path, key_frame_step=5, pixels="full")
    assert data.class_names == ("Basketball", "Biking")
    numbers = [round(sample.start_seconds * kind.fps) for sample in data.index("train")]
    assert numbers == [5, 10, 15, *(0, 5, 10, 15)]
    assert [len(data.index("train").target(row).places) for row in range(3)] == [1, 2, 2]
    assert [round(sample.start_seconds * kind.fps) for sample in data.index("val")] == [15, 20]
    item = data.eval_dataset("val")[SampleKey(0, 0)]
    assert read_numbers(item.views[0].permute(0, 2, 3, 1).numpy()) == [9, 12, 15, 18]
    assert item.targets[0].actions.tolist() == [[False, True]]
    assert data.protocol("val").scored_frames == "with_truth"
    second = ready(kind, tmp_path, split=2)
    assert (len(second.index("train")), len(second.index("val"))) == (6, 18)
    assert tuple(next(iter(second.train_dataloader())).clips.shape) == (2, 3, 4, 48, 48)


def test_folders_of_frames_are_read_by_the_same_numbers(tmp_path):
    write_set(tmp_path, "UCF101v2-GT.pkl")
    for video in ("Basketball/v_a", "Biking/v_b", "Biking/v_c"):
        (tmp_path / "rgb-images" / video).mkdir(parents=True)
        for number in range(30):
            Image.fromarray(numbered_frame(number, (48, 64))).save(
                tmp_path / f"rgb-images/{video}/{number + 1:05d}.png"
            )
    data = ready(UCF101_24, tmp_path, frames=True, pixels="full", clip=ClipSpec(4, 3, target_fps=None))
    assert data.index("val")[0].path == tmp_path / "rgb-images/Biking/v_c"
    item = data.eval_dataset("val")[SampleKey(0, 0)]
    assert read_numbers(item.views[0].permute(0, 2, 3, 1).numpy()) == [9, 12, 15, 18]


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_code_of_a_pickle_runs(tmp_path):
    harmed = tmp_path / "harmed"
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({**content(), "more": Harmful(harmed)}))
    with pytest.raises(UserError, match=r"x.pkl: not a pickle of tubes: it names .*, only arrays"):
        read_tubes(tmp_path / "x.pkl")
    assert not harmed.exists()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not a pickle of tubes: "),
        (b"no pickle", "not a pickle of tubes"),
        (pickle.dumps([1]), "it lacks 'labels', expected labels, gttubes, train_videos, test_videos"),
        (
            pickle.dumps({**content(), "gttubes": {"a": {0: [np.zeros((3, 4))]}}}),
            "not a pickle of tubes: cannot reshape",
        ),
        (pickle.dumps(content())[:-40], "not a pickle of tubes: "),
    ],
)
def test_another_or_damaged_file_is_one_line(tmp_path, raw, message):
    (tmp_path / "x.pkl").write_bytes(raw)
    with pytest.raises(UserError, match=message) as error:
        read_tubes(tmp_path / "x.pkl")
    assert "\n" not in str(error.value)


def test_a_split_or_a_pickle_that_does_not_exist_is_one_line(tmp_path):
    write_set(tmp_path, "JHMDB-GT.pkl")
    with pytest.raises(UserError, match=r"JHMDB-GT.pkl: data.split 3 does not exist, it has 2"):
        ready(JHMDB, tmp_path, split=3)
    with pytest.raises(UserError, match=r"no boxes in it; expected .*UCF101v2-GT.pkl"):
        ready(UCF101_24, tmp_path)
