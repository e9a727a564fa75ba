"""Boxes linked to people, and scores averaged along them."""

import numpy as np
import pytest

from mvrec.inference.actions.results import ActionPrediction, Person
from mvrec.inference.actions.tracks import Linker, longest_gap, overlaps, smoothed


def boxes(*corners):
    return np.array(corners, np.float32).reshape(-1, 4)


def test_overlap_is_intersection_over_union_by_hand():
    first, second = boxes((0, 0, 10, 10), (5, 5, 5, 9)), boxes((5, 0, 15, 10), (20, 20, 30, 30), (0, 0, 10, 10))
    assert overlaps(first, second).tolist() == [[pytest.approx(50 / 150), 0, 1], [0, 0, 0]]
    assert overlaps(first, boxes()).shape == (2, 0)


def test_boxes_keep_their_names_in_any_order_and_the_pair_that_overlaps_most_is_first():
    linker = Linker(most_gap=1)
    assert linker.link(0, boxes((0, 0, 10, 10), (100, 0, 110, 10))) == ("1", "2")
    assert linker.link(1, boxes((102, 0, 112, 10), (3, 0, 13, 10), (50, 0, 60, 10))) == ("2", "1", "3")
    # both overlap with 3 at 50..60; the nearer one gets the name
    assert linker.link(2, boxes((53, 0, 63, 10), (51, 0, 61, 10))) == ("4", "3")


def test_a_hidden_person_comes_back_within_the_gap_and_is_new_after_it():
    for gap, name in ((2, "1"), (1.9, "2")):
        linker = Linker(most_gap=gap)
        assert linker.link(0, boxes((0, 0, 10, 10))) == ("1",)
        assert linker.link(1, boxes()) == ()
        assert linker.link(2, boxes((1, 0, 11, 10))) == (name,)


def test_a_person_who_keeps_walking_is_the_same_after_a_step_of_more_than_the_box():
    linker = Linker(most_gap=9)
    assert linker.link(0, boxes((0, 0, 10, 10))) == ("1",)
    assert linker.link(0.5, boxes((5, 0, 15, 10))) == ("1",)
    assert linker.link(2.5, boxes((26, 0, 36, 10))) == ("1",)
    assert linker.link(2.5, boxes((26, 0, 36, 10))) == ("1",)  # the same moment again
    assert linker.link(3.5, boxes((26, 0, 36, 10), (60, 0, 70, 10))) == ("1", "2")  # stopped


def test_one_look_may_miss_a_person_or_all_looks_of_a_second():
    for step, moments, names in ((2, (0, 4), ["1", "1"]), (2, (0, 6), ["1", "2"]), (0.1, (0, 1, 2.2), ["1", "1", "2"])):
        linker = Linker(most_gap=longest_gap(step))
        assert [linker.link(moment, boxes((0, 0, 9, 9)))[0] for moment in moments] == names


def test_names_of_a_list_stay_and_numbers_differ_from_them():
    linker = Linker(most_gap=9)
    assert linker.link(0, boxes((0, 0, 10, 10), (30, 0, 40, 10)), ["1", ""]) == ("1", "2")
    assert linker.link(1, boxes((30, 0, 40, 10), (0, 0, 10, 10)), ["", "Ada"]) == ("2", "Ada")
    assert linker.link(2, boxes((30, 0, 40, 10), (0, 0, 10, 10))) == ("2", "Ada")


def prediction(seconds, **scores):
    people = [
        Person(name, (0, 0, 1, 1), None, np.array([score, 1 - score]), ("a", "b")) for name, score in scores.items()
    ]
    return ActionPrediction("v", seconds, seconds, people=tuple(people))


def scores_of(results, name):
    return [float(person.probabilities[0]) for result in results for person in result.people if person.name == name]


def test_scores_are_means_of_the_same_person_within_the_time_on_both_sides():
    frames = [prediction(t, x=score, **({"y": 0.5} if t != 2 else {})) for t, score in enumerate([0, 0, 1, 0, 0.6])]
    results = list(smoothed(frames, 1))
    assert [result.seconds for result in results] == [0, 1, 2, 3, 4]
    assert scores_of(results, "x") == pytest.approx([0, 1 / 3, 1 / 3, 1.6 / 3, 0.3])
    assert scores_of(results, "y") == [0.5] * 4
    assert scores_of(smoothed(frames, 0), "x") == [0, 0, 1, 0, 0.6]
    assert scores_of(smoothed(frames, 9), "x") == pytest.approx([1.6 / 5] * 5)


def test_a_key_frame_comes_as_soon_as_its_neighbours_are_known():
    read = []

    def frames():
        for second in range(6):
            read.append(second)
            yield prediction(second, x=second / 10)

    first = next(smoothed(frames(), 2))
    assert (first.seconds, read) == (0, [0, 1, 2, 3])
    assert scores_of([first], "x") == pytest.approx([0.1])
