"""Objects followed from frame to frame, and drawn."""

import numpy as np
import pytest
from faster_coco_eval.core import mask as rle

from mvrec.inference.objects.following import followed
from mvrec.inference.objects.results import ObjectPrediction
from mvrec.inference.results import Prediction
from mvrec.tasks.regions import Regions

NAMES = ("car", "tree")


def regions(boxes, labels=None, scores=None, *, size=(100, 200), masks=False):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.array(labels or [0] * len(boxes), np.int64)
    scores = np.array(scores or [0.9] * len(boxes), np.float32)
    return Regions(boxes, scores, labels, NAMES, masks_of(boxes, size) if masks else None, size)


def masks_of(boxes, size):
    """The left half of each box."""
    masks = np.zeros((len(boxes), *size), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top:bottom, left : (left + right) // 2] = 1
    return tuple(rle.encode(np.asfortranarray(mask)) for mask in masks)


def frame(source, seconds, *arguments, **values):
    output = regions(*arguments, **values)
    return ObjectPrediction(source, seconds, seconds + 0.1, output=output, pixels=np.zeros((100, 200, 3), np.uint8))


def test_objects_keep_their_tracks_through_gaps_crossings_and_other_classes():
    frames = [
        frame("v", 0.0, [[0, 0, 40, 40], [100, 0, 140, 40], [100, 50, 140, 90]], [0, 0, 1]),
        frame("v", 0.1, [[110, 0, 150, 40], [10, 0, 50, 40], [100, 50, 140, 90]], [0, 0, 1]),
        frame("v", 0.2, [[120, 0, 160, 40]]),
        frame("v", 0.3, [[30, 0, 70, 40], [130, 0, 170, 40], [30, 0, 70, 40]], [0, 0, 1]),
        frame("w", 0.3, [[130, 0, 170, 40]]),  # where car 2 was in the other video
    ]
    image = ObjectPrediction("x.png", None, None, output=regions([[0, 0, 9, 9]]), pixels=frames[0].pixels)
    broken = Prediction("y.mp4", None, None, error="damaged")
    answers = list(followed([image, *frames[:4], broken, frames[4]]))
    assert answers[0].tracks == ()
    assert answers[5] is broken
    tracks = [answer.tracks for answer in answers if isinstance(answer, ObjectPrediction)][1:]
    assert tracks == [
        ("car 1", "car 2", "tree 1"),
        ("car 2", "car 1", "tree 1"),
        ("car 2",),
        ("car 1", "car 2", "tree 2"),
        ("car 1",),
    ]
    assert answers[4].as_dict()["objects"][2] == {
        "label": "tree",
        "score": pytest.approx(0.9),
        "box": [30, 0, 70, 40],
        "track": "tree 2",
    }


def test_masks_and_boxes_are_drawn_in_the_colours_of_classes_or_tracks():
    output = regions([[20, 30, 80, 70], [100, 30, 160, 70]], [0, 1], masks=True)
    prediction = ObjectPrediction("x", None, None, output=output, pixels=np.full((100, 200, 3), 100, np.uint8))
    drawn = prediction.overlay(1.0)
    assert drawn.shape == (300, 600, 3)  # three times as large, for readable text
    assert np.array_equal(drawn[3 * 95, 3 * 190], [100, 100, 100])
    assert np.array_equal(drawn[3 * 60, 3 * 70], [100, 100, 100])  # in the box, outside the mask
    first, second = drawn[3 * 60, 3 * 40], drawn[3 * 60, 3 * 120]
    assert not np.array_equal(first, second)
    assert np.array_equal(drawn[3 * 70 - 1, 3 * 75], first)  # the box has the colour of its mask
    half = prediction.overlay(0.5)[3 * 60, 3 * 40]
    assert np.abs(half.astype(float) - (first.astype(float) + 100) / 2).max() <= 1
    tracked = ObjectPrediction("x", 0.0, 0.1, output=output, pixels=prediction.pixels, tracks=("car 5", "tree 5"))
    drawn = tracked.overlay(1.0)
    assert np.array_equal(drawn[3 * 60, 3 * 40], drawn[3 * 60, 3 * 120])
    with pytest.raises(ValueError, match=r"opacity must lie between 0 and 1, got 1\.5"):
        prediction.overlay(1.5)


def test_rows_are_those_of_a_list_of_boxes_and_an_empty_image_has_one():
    rows = frame("v", 0.5, [[1, 2, 3, 4]], [1]).as_rows()
    assert rows == [
        {
            **{"path": "v", "time": 0.5, "x1": 1.0, "y1": 2.0, "x2": 3.0, "y2": 4.0},
            **{"label": "tree", "score": pytest.approx(0.9), "track": ""},
        }
    ]
    (row,) = frame("v", 0.5, []).as_rows()
    assert row == {**dict.fromkeys(row), "path": "v", "time": 0.5}
