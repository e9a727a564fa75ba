"""Weights of classes in the loss."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mvrec.errors import UserError

ClassWeights = Literal["balanced"] | Sequence[float]


def class_weight_tensor(wanted: ClassWeights, counts: Sequence[int], *, multi_label_files: int | None = None) -> Tensor:
    """One weight per class, float (K,).

    "balanced" weighs a class of n of the N training samples with N / (K n), so that the mean over the samples is 1; a
    class without samples gets 1. Where a file may have several classes, the weight is that of a class's positives: with
    n of N files it is (N - n) / n, so that positives and negatives weigh the same. The counts are those of the whole
    training split, hence the same on every process.

    Args:
        wanted: "balanced", or the weights themselves.
        counts: Training samples of each class.
        multi_label_files: N, in data whose files may have several classes.

    Raises:
        UserError: Weights that are not one positive number per class.
    """
    if wanted == "balanced":
        sizes = torch.tensor([int(count) for count in counts], dtype=torch.float64)
        if multi_label_files is not None:
            return torch.where(sizes > 0, (multi_label_files - sizes) / sizes.clamp_min(1), 1.0).float()
        present = int((sizes > 0).sum())
        return torch.where(sizes > 0, sizes.sum() / (present * sizes.clamp_min(1)), 1.0).float()
    weights = [float(weight) for weight in wanted]
    if len(weights) != len(counts):
        raise UserError(f"model.class_weights has {len(weights)} numbers, the data have {len(counts)} classes")
    if min(weights) < 0 or max(weights) <= 0:
        raise UserError(f"model.class_weights must be 0 or above, and not all 0, got {weights}")
    return torch.tensor(weights)
