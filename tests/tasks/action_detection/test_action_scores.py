"""Scores of action detection from tallies of several processes, and their files."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mvrec.data.listing.index import Sample
from mvrec.data.loading.batch import BadSample
from mvrec.data.views.targets import ActionBoxes
from mvrec.tasks.action_detection.action_numbers import ActionNumbers
from mvrec.tasks.action_detection.frame_claims import ranked_claims
from mvrec.tasks.action_detection.predictions import (
    frame_names,
    write_confusion,
    write_detections,
    write_per_class,
    write_predictions,
    write_worst,
)
from mvrec.tasks.action_detection.scores import ActionTally, found
from mvrec.tasks.scores import ScoreKeeper

WHOLE = [0.0, 0.0, 1.0, 1.0]
LEFT, RIGHT = [0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]
NAMES = ("walk", "talk", "sit")


def target(truth, actions, *, places=None):
    """The targets of a view, as `ActionBoxes.batched` gives them; boxes are those of the truth unless given."""
    boxes = ActionBoxes(
        places=np.array(truth if places is None else places, np.float32).reshape(-1, 4),
        actions=np.zeros((len(truth if places is None else places), 3), bool),
        truth=np.array(truth, np.float32).reshape(-1, 4),
        true_actions=np.array(actions, bool).reshape(-1, 3),
    )
    return ActionBoxes.batched([boxes.in_frame(100, 100)])[0]


def random_views(count=12):
    rng = np.random.default_rng(1)
    views = []
    for _ in range(count):
        boxes = [[LEFT, RIGHT, WHOLE][place] for place in rng.permutation(3)[: rng.integers(0, 4)]]
        views.append(
            (
                torch.from_numpy(rng.random((len(boxes), 3)).round(1)),  # many equal scores
                target(boxes, rng.random((len(boxes), 3)) < 0.4),
            )
        )
    return views


def scored(views, *, processes=1, order=None, failed=(), **rule):
    """Scores of views, which several processes share out."""
    keepers = [ScoreKeeper(ActionTally(3, **rule), num_views=1, expected=len(views)) for _ in range(processes)]
    for place, sample in enumerate(order or range(len(views))):
        outputs, boxes = views[sample]
        if sample in failed:
            bad = keepers[0].tally.target(boxes)
            keepers[0].fail((BadSample(sample, f"{sample}.mp4", "damaged", target=bad),))
            continue
        keepers[place % processes].add([outputs], [boxes], torch.tensor([sample]))
    first, *others = keepers
    for other in others:
        first.tally.merge(other.tally)
        first._views |= other._views
    return first.gather()


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_scores_are_equal_on_any_number_of_processes_in_any_order(processes):
    views = random_views()
    whole = scored(views)
    shared = scored(views, processes=processes, order=[7, 3, 11, 0, 5, 1, 10, 2, 9, 4, 8, 6])
    assert 0 < whole.metrics()["map"] < 1
    assert shared.metrics() == whole.metrics()
    assert shared.sample_ids.tolist() == list(range(12))
    assert [table.tolist() for table in shared.confusion()] == [table.tolist() for table in whole.confusion()]
    assert shared.counts() == whole.counts()


@pytest.mark.parametrize("only_with_truth", [False, True])
def test_claims_give_the_score_of_any_draw_of_key_frames(only_with_truth):
    views, rule = random_views(), {"only_with_truth": only_with_truth, "failed": (4,)}
    scores = scored(views, **rule)
    claims = ranked_claims(scores)
    assert claims.scores(np.ones((1, 12)))[0] == pytest.approx(scores.metrics()["map"], abs=1e-12)
    views = [
        (torch.rand(len(scores), 3, generator=torch.manual_seed(place)), truth)
        for place, (scores, truth) in enumerate(views)
    ]
    counts = np.array([2, 0, 1, 3, 1, 1, 1, 2, 0, 1, 1, 1])
    drawn = np.repeat(np.arange(12), counts)
    figure = scored([views[place] for place in drawn], only_with_truth=only_with_truth, failed=(6,)).metrics()["map"]
    assert ranked_claims(scored(views, **rule)).scores(counts[None] * 1.0)[0] == pytest.approx(figure, abs=1e-12)


def test_true_boxes_of_an_unreadable_key_frame_are_missed():
    views = [(torch.tensor([[0.9, 0.1, 0.1]]), target([WHOLE], [[1, 0, 0]])) for _ in range(2)]
    assert scored(views).metrics() == {"map": 1.0}
    scores = scored(views, failed={1})
    assert scores.metrics() == {"map": 0.5}
    assert scores.missed().tolist() == [1, 0, 0]
    assert scores.confusion()[1].tolist() == [1, 0, 0]
    assert scores.counts() == "1/2 key frames scored, 1 failed, 1 boxes, 2 true, 1 of them covered, map of 1/3 classes"


def test_a_key_frame_with_probabilities_that_are_not_finite_fails_with_its_boxes():
    scores = scored([(None, target([WHOLE], [[0, 1, 0]]))])
    assert scores.missed().tolist() == [0, 1, 0]
    assert scores.metrics() == {"map": 0.0}


def test_key_frames_without_truth_count_as_the_protocol_says():
    views = [
        (torch.tensor([[0.9, 0.1, 0.1]]), target([], [], places=[WHOLE])),
        (torch.tensor([[0.8, 0.1, 0.1]]), target([WHOLE], [[1, 0, 0]])),
    ]
    assert scored(views).metrics() == {"map": 0.5}
    assert scored(views, only_with_truth=True).metrics() == {"map": 1.0}


def test_nothing_true_is_no_score_rather_than_zero():
    scores = scored([(torch.zeros(0, 3), target([], []))])
    assert math.isnan(scores.metrics()["map"])
    assert scores.chance() == {}


def test_boxes_of_a_detector_are_compared_with_the_true_ones():
    views = [(torch.tensor([[0.2, 0.9, 0.1], [0.3, 0.1, 0.8]]), target([LEFT], [[0, 1, 0]], places=[RIGHT, LEFT]))]
    scores = scored(views)
    assert scores.average_precisions[1] == 0.5  # the box on the other person claims it more surely
    assert found(scores.frames[0]) == (0, 1)
    assert scores.confusion()[0].tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]
    nowhere = scored([(torch.tensor([[0.2, 0.9, 0.1]]), target([LEFT], [[0, 1, 0]], places=[RIGHT]))])
    assert nowhere.confusion()[1].tolist() == [0, 1, 0]
    assert nowhere.facts()["true_boxes_covered"] == 0


def test_answers_are_as_many_as_a_box_has_actions():
    scores = scored([(torch.tensor([[0.9, 0.5, 0.1]]), target([WHOLE], [[0, 1, 1]]))])
    assert found(scores.frames[0]) == (1, 2)  # walk and talk are answered, talk and sit are true
    assert scores.confusion()[0].tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0]]


def test_chance_is_what_equal_answers_score():
    views = [(torch.full((2, 3), 0.5), target([LEFT, RIGHT], [[1, 0, 0], [0, 1, 0]])) for _ in range(2)]
    assert scored(views).chance() == {"map": 0.5}


def test_actions_follow_their_names_in_batches_and_in_unreadable_files():
    numbers = ActionNumbers(["sit", "walk", "talk"], NAMES)
    view = target([LEFT, RIGHT], [[1, 0, 0], [0, 1, 1]])
    (moved,) = numbers.labels([view])
    assert moved["true_actions"].tolist() == [[False, True, False], [True, False, True]]
    bad = ActionTally(3).target(view)
    assert numbers.target(bad).true_actions.tolist() == moved["true_actions"].tolist()


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))


def test_files_hold_key_frames_detections_actions_and_confusions(tmp_path):
    views = [
        (torch.tensor([[0.9, 0.25, 0.1]]), target([LEFT], [[1, 0, 0]])),
        (torch.tensor([[0.9, 0.5, 0.1]]), target([WHOLE], [[0, 1, 1]])),
        (torch.zeros(0, 3), target([], [])),
    ]
    samples = [Sample(Path("a/x.mp4"), 0, 902.0), Sample(Path("a/x.mp4"), 0, 903.5), Sample(Path("b/y.mp4"), 0, 4.0)]
    scores = scored(views, failed={2})
    write_predictions(tmp_path / "p.csv", scores, samples=samples, columns={"found": ["1", "2", "3"]})
    rows = read(tmp_path / "p.csv")
    assert [(row["found"], row["actions"], row["error"], row["list_found"]) for row in rows] == [
        ("1", "1", "", "1"),
        ("1", "2", "", "2"),
        ("", "", "damaged", "3"),
    ]
    write_detections(tmp_path / "d.csv", scores, names=frame_names(samples), action_ids=[3, 12, 80])
    lines = (tmp_path / "d.csv").read_text().splitlines()
    assert lines[:2] == ["x,0902,0,0,0.5,1,3,0.899999976", "x,0902,0,0,0.5,1,12,0.25"]
    assert lines[3].startswith("x,903.5,0,0,1,1,3,")
    write_per_class(tmp_path / "c.csv", scores, class_names=NAMES)
    assert [row["class"] for row in read(tmp_path / "c.csv")] == list(NAMES)
    assert [row["average_precision"] for row in read(tmp_path / "c.csv")] == ["1.000000", "1.000000", "0.500000"]
    write_confusion(tmp_path / "m.csv", scores, class_names=NAMES)
    assert read(tmp_path / "m.csv")[2] == {"": "sit", "walk": "1", "talk": "0", "sit": "0", "(failed)": "0"}
    write_worst(tmp_path / "w.json", scores, samples=samples, class_names=NAMES)
    (worst,) = json.loads((tmp_path / "w.json").read_text())
    assert (worst["number"], worst["seconds"], worst["found"], worst["actions"]) == (1, 903.5, 1, 2)
    assert worst["true"][0]["actions"] == ["talk", "sit"]
    assert worst["true"][0]["answers"] == ["walk", "talk"]
    assert worst["boxes"][0]["best"][0] == ["walk", 0.9]


def test_two_videos_of_one_name_are_told_apart_in_avas_form():
    samples = [Sample(Path("a/x.mp4"), 0, 1.0), Sample(Path("b/x.mp4"), 0, 1.0), Sample(Path("b/y.mp4"), 0, 12.0)]
    assert frame_names(samples) == [("a/x.mp4", "0001"), ("b/x.mp4", "0001"), ("y", "0012")]
