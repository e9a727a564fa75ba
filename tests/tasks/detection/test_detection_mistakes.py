"""Kinds of mistakes, confusions and the best score, on images in which each can be seen."""

import numpy as np
import pytest

from mvrec.tasks.detection.image_regions import ImageRegions, Truth
from mvrec.tasks.detection.mistakes import best_score, claims_of, confusion, counted, mistakes_of

CAT, DOG = 0, 1


def image(true, detected, crowd=()) -> ImageRegions:
    """An image of boxes `(left, top, right, bottom, class)` and, if detected, their scores."""
    truth = np.array(true, np.float64).reshape(-1, 5)
    rows = np.array(detected, np.float64).reshape(-1, 6)
    boxes = np.concatenate([truth[:, :2], truth[:, 2:4] - truth[:, :2]], axis=1)
    flags = np.isin(np.arange(len(truth)), crowd)
    areas = boxes[:, 2] * boxes[:, 3]
    return ImageRegions(
        height=100,
        width=100,
        corners=rows[:, :4].astype(np.float32),
        scores=rows[:, 5].astype(np.float32),
        labels=rows[:, 4].astype(np.int64),
        masks=None,
        truth=Truth(1, boxes, truth[:, 4].astype(np.int64), flags, areas),
    )


def kinds_of(picture: ImageRegions, score: float = 0.3) -> tuple[list[str], list[bool]]:
    entry = mistakes_of(picture, claims_of(picture), score=score)
    return list(entry.kinds), entry.missed.tolist()


@pytest.mark.parametrize(
    ("box", "kind", "missed"),
    [
        ((0, 0, 10, 10, CAT, 0.9), "", False),
        ((0, 0, 10, 4, CAT, 0.9), "location", False),
        ((0, 0, 10, 9, DOG, 0.9), "class", False),
        ((0, 0, 10, 4, DOG, 0.9), "background", True),
        ((50, 50, 60, 60, CAT, 0.9), "background", True),
        ((0, 0, 10, 10, CAT, 0.2), "", True),
    ],
)
def test_a_detection_has_the_kind_of_its_overlap(box, kind, missed):
    assert kinds_of(image([(0, 0, 10, 10, CAT)], [box])) == ([kind], [missed])


def test_the_better_of_two_detections_has_the_object_whatever_the_order():
    worse, better = (0, 0, 10, 10, CAT, 0.5), (0, 0, 10, 9, CAT, 0.9)
    assert kinds_of(image([(0, 0, 10, 10, CAT)], [worse, better])) == (["duplicate", ""], [False])


def test_detections_in_a_crowd_are_no_mistakes_and_crowds_are_not_missed():
    picture = image([(0, 0, 80, 80, CAT)], [(5, 5, 15, 15, CAT, 0.9), (5, 5, 15, 15, DOG, 0.9)], crowd=(0,))
    assert kinds_of(picture) == (["", "background"], [False])
    assert best_score([picture], [claims_of(picture)]) == 0.5


def test_confusions_give_each_object_its_detection_once():
    true = [(0, 0, 10, 10, CAT), (20, 20, 40, 40, DOG), (60, 60, 70, 70, CAT)]
    detected = [
        (0, 0, 10, 10, CAT, 0.8),
        (0, 0, 10, 9, DOG, 0.9),  # the cat is already detected as one
        (20, 20, 40, 39, CAT, 0.7),
        (20, 20, 40, 38, CAT, 0.6),
        (80, 80, 90, 90, DOG, 0.5),
    ]
    picture = image(true, detected)
    mistakes = [mistakes_of(picture, claims_of(picture), score=0.3)]
    cats, dogs, background = [1, 0, 1], [1, 0, 0], [1, 2, 0]
    assert confusion([picture], mistakes, 2).tolist() == [cats, dogs, background]
    assert counted(mistakes) == {
        **{"right": 1, "location": 0, "class": 3, "duplicate": 0, "background": 1},
        "missed": 1,
    }


def test_the_best_score_balances_precision_and_recall_and_splits_no_equal_scores():
    true = [(20 * place, 0, 20 * place + 10, 10, CAT) for place in range(2)]
    right = [(*true[place][:4], CAT, score) for place, score in enumerate((0.9, 0.5))]
    wrong = [(place, 50, place + 10, 60, CAT, 0.5) for place in range(3)]
    for detected, score in ((right, 0.5), ([*right, *wrong[:1]], 0.5), ([*right, *wrong], 0.9), (wrong, 0.5)):
        picture = image(true, detected)  # F1: 2/3 from 0.9 on, 4/4, 4/5 and 4/7 from 0.5 on
        assert best_score([picture], [claims_of(picture)]) == pytest.approx(score), detected
