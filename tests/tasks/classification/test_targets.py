import pytest
import torch
import torch.nn.functional as F

from mvrec.errors import UserError
from mvrec.tasks.classification.mixing import Mixing, soft_targets
from mvrec.tasks.classification.targets import class_weight_tensor, classification_loss, compare_kinds, make_targets

HOTS = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
LOGITS = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.8])
def test_targets_of_several_classes(smoothing):
    targets = make_targets(HOTS, 4, smoothing=smoothing)
    assert torch.equal(targets[HOTS == 1].unique(), torch.tensor([1 - smoothing / 2]))
    assert torch.equal(targets[HOTS == 0].unique(), torch.tensor([smoothing / 2]))
    assert torch.equal(HOTS, HOTS.round())  # the batch's labels stay as they are


def test_smoothing_of_sigmoids_is_that_of_two_classes():
    """Each class is a question with two answers, smoothed like any other such."""
    expected = soft_targets(HOTS.long().flatten(), 2, smoothing=0.3)[:, 1].view_as(HOTS)
    torch.testing.assert_close(make_targets(HOTS, 4, smoothing=0.3), expected)


def test_targets_of_one_class_are_as_before():
    labels = torch.tensor([3, 0])
    assert torch.equal(make_targets(labels, 4, smoothing=0.2), soft_targets(labels, 4, smoothing=0.2))


def test_the_loss_is_averaged_over_clips_and_classes():
    by_hand = -(HOTS * LOGITS.sigmoid().log() + (1 - HOTS) * (-LOGITS).sigmoid().log())
    loss = classification_loss(LOGITS, HOTS, multi_label=True)
    assert float(loss) == pytest.approx(float(by_hand.sum() / 12), rel=1e-5)
    weighted = classification_loss(LOGITS, HOTS, multi_label=True, class_weights=torch.tensor([2.0, 1, 1, 3]))
    by_hand = -(HOTS * LOGITS.sigmoid().log() * torch.tensor([2.0, 1, 1, 3]) + (1 - HOTS) * (-LOGITS).sigmoid().log())
    assert float(weighted) == pytest.approx(float(by_hand.mean()), rel=1e-5)


def test_one_class_is_softmax():
    targets, weights = torch.eye(4)[:3], torch.tensor([1.0, 2, 3, 4])
    loss = classification_loss(LOGITS, targets, multi_label=False, class_weights=weights)
    assert torch.equal(loss, F.cross_entropy(LOGITS, targets, weight=weights))
    assert loss != classification_loss(LOGITS, targets, multi_label=True)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("options", [{"mixup_alpha": 0.0}, {"cutmix_alpha": 0.0}])
def test_mixing_blends_what_both_clips_are(seed, options):
    """A mixed clip has the classes of both, each with its share; targets need not add up to 1."""
    clips = torch.arange(3.0).view(3, 1, 1, 1, 1).expand(3, 1, 2, 16, 16).clone()
    mixed, targets = Mixing(**options)(clips, make_targets(HOTS, 4), seed=seed)
    foreign = float((mixed[0] / 2).mean())  # the share of clip 2, which is 2 everywhere
    torch.testing.assert_close(targets[0], (1 - foreign) * HOTS[0] + foreign * HOTS[2], atol=1e-5, rtol=0)
    assert torch.equal(targets[1], HOTS[1])  # mirrored onto itself
    assert 0 <= targets.min() <= targets.max() <= 1


@pytest.mark.parametrize("saved", [False, True])
def test_a_checkpoint_of_the_other_kind_is_refused(saved):
    assert compare_kinds(saved, saved) is None
    has = ("several classes", "one class")[:: 1 if saved else -1]
    with pytest.raises(UserError, match=f"trained on files with {has[0]} each, the data are files with {has[1]} each"):
        compare_kinds(saved, not saved)


def test_balanced_weights_are_the_inverse_of_the_sizes_with_a_mean_of_one():
    weights = class_weight_tensor("balanced", [1, 3, 0, 4])
    assert weights.tolist() == pytest.approx([8 / 3, 8 / 9, 1.0, 2 / 3])
    assert (weights * torch.tensor([1, 3, 0, 4])).sum() / 8 == pytest.approx(1)


def test_balanced_weights_of_several_classes_per_file_even_out_positives_and_negatives():
    assert class_weight_tensor("balanced", [2, 5, 0], multi_label_files=10).tolist() == pytest.approx([4.0, 1.0, 1.0])


def test_weights_of_ones_own_are_taken_as_they_are():
    assert class_weight_tensor([1, 0.5], [10, 10]).tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("weights", "words"),
    [([1.0], "has 1 numbers, the data have 2 classes"), ([1, -1], "must be 0 or above"), ([0, 0], "not all 0")],
)
def test_bad_weights(weights, words):
    with pytest.raises(UserError, match=words):
        class_weight_tensor(weights, [3, 4])
