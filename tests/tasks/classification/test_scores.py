import math

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy

from mvrec.data.loading.batch import PADDING_ID, BadSample
from mvrec.data.views.targets import ClassIndex
from mvrec.errors import UserError
from mvrec.tasks.classification.scores import ClassTally
from mvrec.tasks.scores import NOT_FINITE, ScoreKeeper


def logits_of(*rows):
    return torch.tensor(rows, dtype=torch.float64).log().float()


def test_metrics_worked_by_hand():
    """Four samples scored on 6 classes and one that could not be read."""
    keeper = ScoreKeeper(ClassTally(6), num_views=1, expected=5)
    rows = [
        [0.50, 0.10, 0.10, 0.10, 0.10, 0.10],  # class 0: right
        [0.20, 0.50, 0.12, 0.08, 0.06, 0.04],  # class 0: second
        [0.20, 0.50, 0.12, 0.08, 0.06, 0.04],  # class 5: last
        [0.05, 0.05, 0.05, 0.05, 0.10, 0.70],  # class 5: right
    ]
    keeper.add(logits_of(*rows[2:]), torch.tensor([5, 5]), torch.tensor([12, 3]))
    keeper.add(logits_of(*rows[:2]), torch.tensor([0, 0]), torch.tensor([7, 1]))
    keeper.fail((BadSample(9, "x.mp4", "cut short"),))
    scores = keeper.gather()
    assert scores.sample_ids.tolist() == [1, 3, 7, 12]
    assert scores.labels.tolist() == [0, 5, 0, 5]
    torch.testing.assert_close(scores.probabilities[1], torch.tensor(rows[3], dtype=torch.float64), atol=1e-6, rtol=0)
    metrics = scores.metrics()
    assert list(metrics) == ["top1", "top5", "mean_class", "loss"]
    assert metrics["top1"] == pytest.approx(2 / 5)
    assert metrics["top5"] == pytest.approx(3 / 5)
    assert metrics["mean_class"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert metrics["loss"] == pytest.approx(-sum(map(math.log, [0.5, 0.2, 0.04, 0.7])) / 4)
    assert scores.counts() == "4/5 videos scored, 1 failed"
    assert [bad.path for bad in scores.failed] == ["x.mp4"]


def test_mean_class_accuracy_weighs_classes_not_samples():
    keeper = ScoreKeeper(ClassTally(5), num_views=1, expected=4)
    keeper.add(torch.eye(5)[[0, 0, 0, 0]], torch.tensor([0, 0, 0, 3]), torch.arange(4))
    scores = keeper.gather()
    assert scores.top_k(1) == pytest.approx(3 / 4)
    assert scores.mean_class_accuracy() == pytest.approx(1 / 2)  # classes without samples do not count


@pytest.mark.parametrize("num_classes", [1, 2, 4, 5])
def test_fewer_than_five_classes(num_classes):
    keeper = ScoreKeeper(ClassTally(num_classes), num_views=1, expected=1)
    keeper.add(torch.zeros(1, num_classes), torch.tensor([num_classes - 1]), torch.tensor([0]))
    metrics = keeper.gather().metrics()
    assert metrics[f"top{num_classes}"] == 1.0
    assert metrics["loss"] == pytest.approx(math.log(num_classes))


def test_views_are_averaged_after_the_softmax_wherever_they_come():
    keeper = ScoreKeeper(ClassTally(2), num_views=3, expected=2)
    views = {4: [[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]], 0: [[0.2, 0.8], [0.2, 0.8], [0.8, 0.2]]}
    for number in range(3):  # views of a sample may be spread over batches
        rows = [views[4][number], views[0][number]]
        # A constant that is added to all logits of a view changes nothing.
        keeper.add(logits_of(*rows) + number, torch.tensor([0, 1]), torch.tensor([4, 0]))
    scores = keeper.gather()
    expected = torch.tensor([[0.4, 0.6], [0.6, 0.4]], dtype=torch.float64)
    torch.testing.assert_close(scores.probabilities, expected, atol=1e-6, rtol=0)
    assert scores.top_k(1) == 1.0


@pytest.mark.parametrize("count", [1, 3])
def test_wrong_number_of_views(count):
    keeper = ScoreKeeper(ClassTally(2), num_views=2, expected=1)
    keeper.add(torch.zeros(count, 2), torch.zeros(count, dtype=torch.int64), torch.full((count,), 8))
    with pytest.raises(UserError, match=f"sample 8 was scored on {count} views, the protocol has 2"):
        keeper.gather()


@pytest.mark.parametrize(("expected", "came"), [(3, 2), (1, 2)])
def test_missing_and_surplus_samples(expected, came):
    keeper = ScoreKeeper(ClassTally(2), num_views=1, expected=expected)
    keeper.add(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0]))
    keeper.fail((BadSample(1, "x.mp4", "empty"),))
    with pytest.raises(UserError, match=f"{came} samples came in, {expected} were expected"):
        keeper.gather()


def test_a_part_can_be_scored_on_purpose():
    keeper = ScoreKeeper(ClassTally(2), num_views=1, expected=None)
    keeper.add(torch.eye(2), torch.tensor([0, 0]), torch.tensor([5, 6]))
    scores = keeper.gather()
    assert scores.expected == 2
    assert scores.top_k(1) == 0.5


@pytest.mark.parametrize(("total", "text"), [(8, "only 2 of 8 clips: 2/2 clips scored"), (2, "2/2 clips scored")])
def test_a_part_of_a_split_is_called_one(total, text):
    keeper = ScoreKeeper(ClassTally(2), num_views=1, expected=None, total=total)
    keeper.add(torch.eye(2), torch.tensor([0, 0]), torch.tensor([5, 6]))
    scores = keeper.gather()
    assert scores.partial == (total == 8)
    assert scores.counts("clips") == f"{text}, 0 failed"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_fail_and_are_named(value):
    keeper = ScoreKeeper(ClassTally(3), num_views=2, expected=2, path_of="file {}".format)
    logits = torch.tensor([[9.0, 0, 0], [9.0, 0, 0], [9.0, 0, 0], [9.0, value, 0]])
    keeper.add(logits, torch.zeros(4, dtype=torch.int64), torch.tensor([0, 0, 1, 1]))
    scores = keeper.gather()
    assert scores.failed == (BadSample(1, "file 1", NOT_FINITE, target=ClassIndex(0)),) == scores.not_finite
    assert scores.sample_ids.tolist() == [0]
    metrics = scores.metrics()
    assert metrics["top1"] == 0.5
    assert math.isnan(metrics["loss"])


def test_a_network_that_says_the_same_of_all_classes_is_right_about_none():
    """Its best class would be the first, and its accuracy the share of that class."""
    keeper = ScoreKeeper(ClassTally(4), num_views=1, expected=6)
    keeper.add(torch.zeros(6, 4), torch.tensor([0, 0, 0, 1, 2, 3]), torch.arange(6))
    scores = keeper.gather()
    assert [scores.top_k(k) for k in (1, 2, 3, 4)] == [0, 0, 0, 1]
    assert scores.confusion().diag().tolist() == [0, 0, 0, 0]
    assert scores.ranked(4)[:, -1].tolist() == scores.labels.tolist()


def test_ties_of_other_classes_cost_nothing_and_without_ties_all_is_as_before():
    keeper = ScoreKeeper(ClassTally(4), num_views=1, expected=3)
    rows = [[0.1, 0.4, 0.4, 0.1], [0.3, 0.5, 0.1, 0.1], [0.4, 0.4, 0.1, 0.1]]
    keeper.add(logits_of(*rows), torch.tensor([1, 0, 1]), torch.arange(3))
    scores = keeper.gather()
    assert scores.ranked(2).tolist() == [[2, 1], [1, 0], [0, 1]]
    assert (scores.top_k(1), scores.top_k(2)) == (0.0, 1.0)
    keeper = ScoreKeeper(ClassTally(7), num_views=1, expected=200)
    logits = torch.randn(200, 7, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(7, (200,), generator=torch.Generator().manual_seed(2))
    keeper.add(logits, labels, torch.arange(200))
    scores = keeper.gather()
    for k in (1, 3, 5):
        theirs = multiclass_accuracy(logits, labels, num_classes=7, average="micro", top_k=k)
        assert scores.top_k(k) == pytest.approx(float(theirs))
        assert scores.ranked(k).tolist() == logits.softmax(dim=1).double().topk(k).indices.tolist()


def test_padding_does_not_count():
    keeper = ScoreKeeper(ClassTally(2), num_views=1, expected=1)
    keeper.add(torch.eye(2), torch.tensor([0, 0]), torch.tensor([0, PADDING_ID]))
    keeper.add(torch.eye(2), torch.tensor([0, 0]), torch.tensor([PADDING_ID, PADDING_ID]))
    scores = keeper.gather()
    assert scores.sample_ids.tolist() == [0]
    assert scores.top_k(1) == 1.0


def test_nothing_could_be_read():
    keeper = ScoreKeeper(ClassTally(7), num_views=2, expected=1)
    keeper.fail((BadSample(0, "x.mp4", "empty"),))
    scores = keeper.gather()
    assert scores.probabilities.shape == (0, 7)
    metrics = scores.metrics()
    assert math.isnan(metrics.pop("loss"))  # 0 would be the best of all
    assert metrics == {"top1": 0.0, "top5": 0.0, "mean_class": 0.0}


def test_logits_in_low_precision_and_with_gradients():
    keeper = ScoreKeeper(ClassTally(3), num_views=2, expected=1)
    logits = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]], dtype=torch.bfloat16, requires_grad=True)
    keeper.add(logits, torch.tensor([1, 1]), torch.tensor([0, 0]))
    probabilities = keeper.gather().probabilities
    assert probabilities.dtype == torch.float64
    assert not probabilities.requires_grad
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-6)
