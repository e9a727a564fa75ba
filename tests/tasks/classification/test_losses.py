import pytest
import torch

from mvrec.errors import UserError
from mvrec.tasks.classification.losses import class_weight_tensor


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
