"""Weights of classes in the loss."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mvrec.errors import UserError

ClassWeights = Literal["balanced"] | Sequence[float]


def class_weight_tensor(wanted: ClassWeights, counts: Sequence[int]) -> Tensor:
    """One weight per class, float (K,).

    "balanced" weighs a class of n of the N training samples with N / (K n), so that the mean over the samples is 1; a
    class without samples gets 1. The counts are those of the whole training split, hence the same on every process.

    Args:
        wanted: "balanced", or the weights themselves.
        counts: Training samples of each class.

    Raises:
        UserError: Weights that are not one positive number per class.
    """
    if wanted == "balanced":
        sizes = torch.tensor([int(count) for count in counts], dtype=torch.float64)
        present = int((sizes > 0).sum())
        return torch.where(sizes > 0, sizes.sum() / (present * sizes.clamp_min(1)), 1.0).float()
    weights = [float(weight) for weight in wanted]
    if len(weights) != len(counts):
        raise UserError(f"model.class_weights has {len(weights)} numbers, the data have {len(counts)} classes")
    if min(weights) < 0 or max(weights) <= 0:
        raise UserError(f"model.class_weights must be 0 or above, and not all 0, got {weights}")
    return torch.tensor(weights)
