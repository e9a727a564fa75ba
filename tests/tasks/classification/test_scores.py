import math

import pytest
import torch
from score_keepers import scores_of
from torchmetrics.functional.classification import multiclass_accuracy

from mvrec.data.loading.batch import PADDING_ID, BadSample
from mvrec.data.views.targets import ClassIndex
from mvrec.errors import UserError
from mvrec.tasks.classification.scores import ClassTally
from mvrec.tasks.scores import NOT_FINITE, ScoreKeeper

BAD = BadSample(9, "x.mp4", "cut short", target=ClassIndex(0))


def logits_of(*rows):
    return torch.tensor(rows, dtype=torch.float64).log().float()


def test_metrics_are_those_worked_out_by_hand():
    """Five samples of 6 classes and one that could not be read and whose class is unknown."""
    rows = [
        [0.50, 0.10, 0.10, 0.10, 0.10, 0.10],  # class 0: right
        [0.20, 0.50, 0.12, 0.08, 0.06, 0.04],  # class 0: second
        [0.20, 0.50, 0.12, 0.08, 0.06, 0.04],  # class 5: last
        [0.05, 0.05, 0.05, 0.05, 0.10, 0.70],  # class 5: right
        [0.60, 0.08, 0.08, 0.08, 0.08, 0.08],  # class 0: right
    ]
    bad = BadSample(9, "x.mp4", "cut short")
    scores = scores_of(logits_of(*rows), torch.tensor([0, 0, 5, 5, 0]), ids=[7, 1, 12, 3, 4], failed=[bad])
    assert scores.sample_ids.tolist() == [1, 3, 4, 7, 12]
    assert scores.labels.tolist() == [0, 5, 0, 0, 5]
    torch.testing.assert_close(scores.probabilities[1], torch.tensor(rows[3], dtype=torch.float64), atol=1e-6, rtol=0)
    metrics = scores.metrics()
    assert list(metrics) == ["top1", "top5", "mean_class", "loss"]
    assert metrics["top1"] == pytest.approx(3 / 6)
    assert metrics["top5"] == pytest.approx(4 / 6)
    assert metrics["mean_class"] == pytest.approx((2 / 3 + 1 / 2) / 2)  # classes without samples do not count
    assert metrics["loss"] == pytest.approx(-sum(map(math.log, [0.5, 0.2, 0.04, 0.7, 0.6])) / 5)
    assert scores.counts() == "5/6 videos scored, 1 failed"
    assert scores.failed == (bad,)


def test_five_classes_and_fewer_have_no_top5_and_nothing_to_score():
    for num_classes in (1, 5):
        metrics = scores_of(torch.zeros(1, num_classes), torch.tensor([num_classes - 1])).metrics()
        assert list(metrics) == ["top1", "mean_class", "loss"]
        assert metrics["loss"] == pytest.approx(math.log(num_classes))
    scores = scores_of(torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64), failed=[BAD])
    assert scores.probabilities.shape == (0, 7)
    metrics = scores.metrics()
    assert math.isnan(metrics.pop("loss"))  # 0 would be the best of all
    assert metrics == {"top1": 0.0, "top5": 0.0, "mean_class": 0.0}


@pytest.mark.parametrize("multi_label", [False, True])
def test_views_are_averaged_after_softmax_or_sigmoid_wherever_they_come(multi_label):
    keeper = ScoreKeeper(ClassTally(2, multi_label=multi_label), num_views=3, expected=2)
    views = {4: [[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]], 0: [[0.2, 0.8], [0.2, 0.8], [0.8, 0.2]]}
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0]]) if multi_label else torch.tensor([0, 1])
    for number in range(3):  # views of a sample may be spread over batches
        probabilities = torch.tensor([views[4][number], views[0][number]])
        # A constant that is added to all logits of a view changes no softmax.
        logits = probabilities.logit() if multi_label else probabilities.log() + number
        keeper.add(logits, labels, torch.tensor([4, 0]))
    keeper.add(torch.ones(1, 2), labels[:1], torch.tensor([PADDING_ID]))
    scores = keeper.gather()
    assert scores.sample_ids.tolist() == [0, 4]
    assert torch.equal(scores.labels, labels.flip(0))
    expected = torch.tensor([[0.4, 0.6], [0.6, 0.4]], dtype=torch.float64)
    torch.testing.assert_close(scores.probabilities, expected, atol=1e-6, rtol=0)


def test_wrong_numbers_of_views_and_samples_are_named():
    for count in (1, 3):
        with pytest.raises(UserError, match=f"sample 8 was scored on {count} views, the protocol has 2"):
            scores_of(torch.zeros(1, 2), torch.tensor([0]), views=count, ids=[8], num_views=2)
    for expected in (1, 3):
        with pytest.raises(UserError, match=f"2 samples came in, {expected} were expected"):
            scores_of(torch.zeros(1, 2), torch.tensor([0]), failed=[BAD], expected=expected)


def test_a_part_of_a_split_is_called_one():
    for total, text in ((8, "only 2 of 8 clips: 2/2 clips scored"), (2, "2/2 clips scored")):
        scores = scores_of(torch.eye(2), torch.tensor([0, 0]), ids=[5, 6], expected=None, total=total)
        assert (scores.partial, scores.expected, scores.top_k(1)) == (total == 8, 2, 0.5)
        assert scores.counts("clips") == f"{text}, 0 failed"


def test_logits_that_are_not_finite_fail_and_are_named():
    for value in (math.nan, math.inf, -math.inf):
        keeper = ScoreKeeper(ClassTally(3), num_views=2, expected=2, path_of="file {}".format)
        logits = torch.tensor([[9.0, 0, 0], [9.0, 0, 0], [9.0, 0, 0], [9.0, value, 0]])
        keeper.add(logits, torch.zeros(4, dtype=torch.int64), torch.tensor([0, 0, 1, 1]))
        scores = keeper.gather()
        assert scores.failed == (BadSample(1, "file 1", NOT_FINITE, target=ClassIndex(0)),) == scores.not_finite
        assert scores.sample_ids.tolist() == [0]
        metrics = scores.metrics()
        assert metrics["top1"] == 0.5
        assert math.isnan(metrics["loss"])


def test_a_file_that_fails_for_one_of_its_views_has_failed_once():
    """Processes that share its views may each meet it, or one may have read its part."""
    keeper = ScoreKeeper(ClassTally(2), num_views=2, expected=2)
    keeper.add(torch.eye(2)[[0, 0, 0]], torch.zeros(3, dtype=torch.int64), torch.tensor([0, 0, 9]))
    for _ in range(2):
        keeper.fail((BAD,))
    scores = keeper.gather()
    assert (scores.sample_ids.tolist(), len(scores.failed), scores.expected) == ([0], 1, 2)
    assert scores.top_k(1) == 0.5


def test_a_network_that_says_the_same_of_all_classes_is_right_about_none():
    """Its best class would be the first, and its accuracy the share of that class."""
    scores = scores_of(torch.zeros(6, 4), torch.tensor([0, 0, 0, 1, 2, 3]))
    assert [scores.top_k(k) for k in (1, 2, 3, 4)] == [0, 0, 0, 1]
    assert scores.confusion().diag().tolist() == [0, 0, 0, 0]
    assert scores.ranked(4)[:, -1].tolist() == scores.labels.tolist()
    rows = [[0.1, 0.4, 0.4, 0.1], [0.3, 0.5, 0.1, 0.1], [0.4, 0.4, 0.1, 0.1]]
    scores = scores_of(logits_of(*rows), torch.tensor([1, 0, 1]))
    assert scores.ranked(2).tolist() == [[2, 1], [1, 0], [0, 1]]
    assert (scores.top_k(1), scores.top_k(2)) == (0.0, 1.0)


def test_without_ties_top_k_is_that_of_torchmetrics():
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(200, 7, generator=generator), torch.randint(7, (200,), generator=generator)
    scores = scores_of(logits, labels)
    for k in (1, 3, 5):
        expected = multiclass_accuracy(logits, labels, num_classes=7, average="micro", top_k=k)
        assert scores.top_k(k) == pytest.approx(float(expected))
        assert scores.ranked(k).tolist() == logits.softmax(dim=1).double().topk(k).indices.tolist()


def test_logits_in_low_precision_and_with_gradients():
    logits = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.bfloat16, requires_grad=True)
    probabilities = scores_of(logits, torch.tensor([1]), views=2).probabilities
    assert probabilities.dtype == torch.float64
    assert not probabilities.requires_grad
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-6)
