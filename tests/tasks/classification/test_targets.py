import pytest
import torch
import torch.nn.functional as F

from mvrec.errors import UserError
from mvrec.tasks.classification.mixing import soft_targets
from mvrec.tasks.classification.targets import class_weight_tensor, classification_loss, compare_kinds, make_targets

HOTS = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
LOGITS = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def test_each_of_several_classes_is_smoothed_as_a_question_with_two_answers():
    for smoothing in (0.0, 0.3):
        targets = make_targets(HOTS, 4, smoothing=smoothing)
        expected = soft_targets(HOTS.long().flatten(), 2, smoothing=smoothing)[:, 1].view_as(HOTS)
        torch.testing.assert_close(targets, expected)
    assert torch.equal(HOTS, HOTS.round())  # the batch's labels stay as they are
    labels = torch.tensor([3, 0])
    assert torch.equal(make_targets(labels, 4, smoothing=0.2), soft_targets(labels, 4, smoothing=0.2))


def test_the_loss_is_averaged_over_clips_and_classes():
    for weights in (None, torch.tensor([2.0, 1, 1, 3])):
        positives = HOTS * LOGITS.sigmoid().log() * (1 if weights is None else weights)
        by_hand = -(positives + (1 - HOTS) * (-LOGITS).sigmoid().log()).mean()
        loss = classification_loss(LOGITS, HOTS, multi_label=True, class_weights=weights)
        assert float(loss) == pytest.approx(float(by_hand), rel=1e-5)


def test_one_class_is_softmax():
    targets, weights = torch.eye(4)[:3], torch.tensor([1.0, 2, 3, 4])
    loss = classification_loss(LOGITS, targets, multi_label=False, class_weights=weights)
    assert torch.equal(loss, F.cross_entropy(LOGITS, targets, weight=weights))


@pytest.mark.parametrize("saved", [False, True])
def test_a_checkpoint_of_the_other_kind_is_refused(saved):
    assert compare_kinds(saved, saved) is None
    has = "several classes" if saved else "one class"
    with pytest.raises(UserError, match=f"trained on files with {has} each, the data are files with (?!{has})"):
        compare_kinds(saved, not saved)


def test_class_weights_are_balanced_or_ones_own():
    weights = class_weight_tensor("balanced", [1, 3, 0, 4])  # the inverse of the sizes with a mean of one
    assert weights.tolist() == pytest.approx([8 / 3, 8 / 9, 1.0, 2 / 3])
    # Of several classes per file, positives and negatives are evened out.
    assert class_weight_tensor("balanced", [2, 5, 0], multi_label_files=10).tolist() == pytest.approx([4.0, 1.0, 1.0])
    assert class_weight_tensor([1, 0.5], [10, 10]).tolist() == [1.0, 0.5]
    for bad, words in (
        ([1.0], "has 1 numbers, the data have 2 classes"),
        ([1, -1], "must be 0 or above"),
        ([0, 0], "not all 0"),
    ):
        with pytest.raises(UserError, match=words):
            class_weight_tensor(bad, [3, 4])
