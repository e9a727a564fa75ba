"""Average precision of boxes, next to recordings of ActivityNet's evaluator and to plain loops."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from slow_average_precision import overlap, slow_average_precision

from mvrec.tasks.action_detection.average_precision import Claims, FrameBoxes, average_precision, overlaps

GOLDEN = Path(__file__).parents[2] / "golden" / "dense"
RANKED = "rows_sorted_by_score_descending_stable_then_ties_earlier_first"  # the variant that a score of mvrec is


def recording(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


def rows_of(spec):
    """Detections and truth of a recording, without excluded frames and classes outside the list."""
    excluded = set(spec["input"]["excluded_frames"])
    detections, truth = spec["input"]["detections"], spec["input"]["ground_truth"]
    return [
        [(row[0], tuple(row[1:5]), row[5], *row[6:]) for row in rows if row[0] not in excluded]
        for rows in (detections, truth)
    ]


def frames_of(detections, truth, classes):
    """The rows as frames: a box per row, which claims its class alone."""
    places = {number: place for place, number in enumerate(classes)}
    keys = list(dict.fromkeys([row[0] for row in detections] + [row[0] for row in truth]))
    frames = []
    for key in keys:
        claims = [row for row in detections if row[0] == key and row[2] in places]
        boxes = [row for row in truth if row[0] == key and row[2] in places]
        scores = np.full((len(claims), len(classes)), np.nan)
        actions = np.zeros((len(boxes), len(classes)), bool)
        for place, row in enumerate(claims):
            scores[place, places[row[2]]] = row[3]
        for place, row in enumerate(boxes):
            actions[place, places[row[2]]] = True
        corners = [np.array([row[1] for row in rows], float).reshape(-1, 4) for rows in (claims, boxes)]
        frames.append(FrameBoxes(corners[0], scores, corners[1], actions))
    return frames


@pytest.mark.parametrize("name", ["ava_map_plain", "ava_map_ties"])
def test_it_equals_the_recorded_evaluator_with_ranked_rows(name):
    spec = recording(name)
    categories = spec["input"]["categories"]
    detections, truth = rows_of(spec)
    ranked = sorted(detections, key=lambda row: -row[3])  # the recording has frames in the order of their first rows
    frames = frames_of(ranked, truth, [category["id"] for category in categories])
    values = Claims.of(frames, len(categories)).average_precisions()
    recorded = spec["outputs"]["variants"][RANKED]
    nan = [math.nan if (value := recorded["AP_by_class_name"][c["name"]]) is None else value for c in categories]
    np.testing.assert_allclose(values, nan, atol=1e-12, rtol=0)
    assert np.nanmean(values) == pytest.approx(recorded["mAP@0.5"], abs=1e-12)


@pytest.mark.parametrize("name", ["ava_map_plain", "ava_map_ties"])
@pytest.mark.parametrize(
    ("variant", "rule"),
    [
        ("ties_earlier_row_first", {"rank_rows": False}),
        ("ties_later_row_first", {"rank_rows": False, "later_first": True}),
        (RANKED, {}),
    ],
)
def test_plain_loops_explain_every_recorded_variant(name, variant, rule):
    spec = recording(name)
    detections, truth = rows_of(spec)
    for category in spec["input"]["categories"]:
        rows = sorted(detections, key=lambda row: -row[3]) if variant == RANKED else detections
        value = slow_average_precision(rows, truth, category["id"], **rule)
        recorded = spec["outputs"]["variants"][variant]["AP_by_class_name"][category["name"]]
        assert value == (None if recorded is None else pytest.approx(recorded, abs=1e-12)), category


def random_case(rng):
    """Frames of boxes near each other with few score levels, some frames without truth or without boxes."""
    detections, truth, num_classes = [], [], int(rng.integers(1, 4))
    for frame in range(int(rng.integers(1, 4))):
        boxes = [random_box(rng) for _ in range(rng.integers(0, 5))]
        truth += [(frame, box, int(rng.integers(num_classes))) for box in boxes]
        for _ in range(rng.integers(0, 7)):
            near = boxes[rng.integers(len(boxes))] if boxes and rng.random() < 0.8 else random_box(rng)
            box = tuple(near[i] + round(rng.normal(0, 0.04), 2) for i in range(4))
            box = (*box[:2], max(box[2], box[0]), max(box[3], box[1]))  # some without area
            detections.append((frame, box, int(rng.integers(num_classes)), round(rng.random(), 1)))
    return detections, truth, num_classes


def random_box(rng):
    left, top = rng.integers(0, 60, 2) / 100
    width, height = rng.integers(0, 40, 2) / 100
    return (left, top, left + width, top + height)


def test_ten_thousand_random_cases_equal_plain_loops():
    rng = np.random.default_rng(23)
    compared = 0
    for _ in range(10_000):
        detections, truth, num_classes = random_case(rng)
        frames = frames_of(detections, truth, range(num_classes))
        values = Claims.of(frames, num_classes).average_precisions()
        for number in range(num_classes):
            slow = slow_average_precision(detections, truth, number)
            assert values[number] == pytest.approx(math.nan if slow is None else slow, abs=1e-12, nan_ok=True)
            compared += slow is not None and slow > 0
    assert compared > 5000


def test_overlaps_equal_plain_loops_and_boxes_without_area_overlap_nothing():
    rng = np.random.default_rng(0)
    boxes = [random_box(rng) for _ in range(20)] + [(0.1, 0.1, 0.1, 0.1)] * 2
    shares = overlaps(np.array(boxes), np.array(boxes))
    expected = [[overlap(a, b) for b in boxes] for a in boxes]
    np.testing.assert_allclose(shares, expected, atol=1e-12)
    assert shares[-1, -2] == 0


def single(scores, actions, *, places=None, truth=None):
    """One frame; all boxes lie on the true one unless others are given."""
    whole = np.array([[0.0, 0.0, 1.0, 1.0]])
    return FrameBoxes(
        np.repeat(whole, len(scores), 0) if places is None else np.array(places, float),
        np.array(scores, float),
        whole if truth is None else np.array(truth, float).reshape(-1, 4),
        np.array(actions, bool),
    )


def test_a_second_hit_on_one_true_box_is_wrong():
    claims = Claims.of([single([[0.3], [0.9]], [[True]])], 1)
    assert claims.right.tolist() == [[False], [True]]
    assert claims.average_precisions().tolist() == [1.0]


def test_half_an_overlap_is_enough_and_less_is_not():
    for right, share in ((True, 0.5), (False, 0.499)):
        claims = Claims.of([single([[0.5]], [[True]], places=[[0, 0, 1, share]])], 1)
        assert claims.right.tolist() == [[right]]


def test_claims_in_frames_without_truth_are_wrong_unless_such_frames_are_left_out():
    frames = [single([[0.9]], np.zeros((0, 1)), truth=[]), single([[0.8]], [[True]])]
    assert Claims.of(frames, 1).average_precisions().tolist() == [0.5]
    assert Claims.of(frames, 1, only_with_truth=True).average_precisions().tolist() == [1.0]


def test_missed_true_boxes_lower_recall_and_classes_without_truth_have_no_value():
    values = Claims.of([single([[0.9, 0.2, 0.1]], [[True, False, False]])], 3, missed=np.array([1, 1, 0]))
    assert values.average_precisions().tolist()[:2] == [0.5, 0.0]
    assert math.isnan(values.average_precisions()[2])


def test_the_area_is_under_the_greatest_precision_at_each_recall_or_above():
    # precision 1, 1/2, 2/3, 2/4, 3/5 at recall 1/4, 1/4, 2/4, 2/4, 3/4
    assert average_precision(np.array([True, False, True, False, True]), 4) == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)


def test_equal_scores_give_precision_times_recall():
    frames = [single([[0.5]], [[True]]), single([[0.5]], [[False]]), single([[0.5]], [[False]])]
    assert Claims.of(frames, 1, missed=np.array([1])).of_equal_scores().tolist() == [pytest.approx(1 / 3 * 1 / 2)]
