"""Chance and certainty of scores."""

import math

import pytest
import torch
from score_keepers import scores_of

from mvrec.tasks.chance import above_chance, chance, luck, uncertainty, wilson
from mvrec.tasks.score_text import score_line


def test_chance_is_what_the_best_constant_answer_scores():
    counts, labels = [6, 3, 1, 0, 0, 0, 0], torch.tensor([0] * 6 + [1] * 3 + [2])
    logits = torch.tensor([0.6, 0.3, 0.1, 1e-12, 1e-12, 1e-12, 1e-12]).log().expand(10, 7)  # the classes' own shares
    constant = scores_of(logits, labels)
    assert constant.chance() == chance(counts)
    assert constant.chance() == pytest.approx(constant.metrics(), abs=1e-6)


def test_chance_of_several_classes_per_file_is_that_of_a_constant_answer():
    labels = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]])
    logits = torch.tensor([0.75, 0.25, 1e-12]).logit().expand(4, 3)  # above 0.5 is the first class alone
    constant = scores_of(logits, labels)
    assert constant.chance() == pytest.approx(constant.metrics(), abs=1e-6)


def test_of_equal_classes_it_is_one_in_k_and_without_files_there_is_none():
    assert chance([4] * 8) == pytest.approx({"top1": 1 / 8, "top5": 5 / 8, "mean_class": 1 / 8, "loss": math.log(8)})
    assert chance([4] * 5).keys() == {"top1", "mean_class", "loss"}  # the best five are all
    assert chance([0, 0]) == {}


def test_wilson_interval_is_the_known_one():
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(1.0, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)
    assert max(wilson(1.0, count)[1] for count in range(1, 200)) == 1.0
    assert min(wilson(0.0, count)[0] for count in range(1, 200)) == 0.0
    assert uncertainty(12) == pytest.approx(0.2462, abs=1e-4)


def test_luck_is_the_binomial_tail():
    exact = sum(math.comb(12, k) * 0.25**k * 0.75 ** (12 - k) for k in range(6, 13))
    assert luck(6, 12, 0.25) == pytest.approx(exact, rel=1e-9)
    assert (luck(0, 12, 0.25), luck(3, 3, 0.0), luck(3, 3, 1.0)) == (1.0, 0.0, 1.0)
    assert 0 <= luck(13_000, 50_000, 0.25) < 1e-6


def test_one_lucky_validation_of_many_is_not_above_chance_and_a_steady_or_a_clear_one_is():
    lucky = [0.25] * 14 + [7 / 12] + [0.25] * 5
    assert luck(7, 12, 0.25) < 0.05
    assert not above_chance(lucky, count=12, guess=0.25)
    assert above_chance([0.25] * 19 + [7 / 12], count=12, guess=0.25)  # the last
    assert above_chance([0.25, 1.0, 0.25], count=12, guess=0.25)  # a clear one, lost since
    assert not above_chance([1 / 3] * 15, count=3, guess=1 / 3)


def test_a_score_line_has_chance_next_to_each_value():
    scores = scores_of(torch.eye(3)[[0, 1, 1]] * 9, torch.tensor([0, 1, 2]))
    line = score_line(scores, "val", noun="videos", protocol="P", split="")
    assert line.startswith("val: top1 66.67 % (chance 33.33 %), mean_class 66.67 % (chance 33.33 %), loss ")
    assert "(chance 1.0986) (3/3 videos scored" in line
