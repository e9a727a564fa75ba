"""From logits and labels to loss and probabilities: softmax for one class per clip, sigmoids for any number."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mvrec.errors import UserError
from mvrec.tasks.classification.mixing import soft_targets

ClassWeights = Literal["balanced"] | Sequence[float]


def make_targets(labels: Tensor, num_classes: int, *, smoothing: float = 0.0) -> Tensor:
    """Return the class probabilities to train towards, float (B, K).

    In multi-label data each class is a yes-or-no question, and smoothing moves both answers towards 1/2: a share is
    spread over all outcomes (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567), of which there are two, as in
    Keras's `BinaryCrossentropy(label_smoothing)`.

    Args:
        labels: Class indices (B,), or multi-hot (B, K).
        num_classes: K.
        smoothing: Share of the target to spread.
    """
    if labels.ndim == 1:
        return soft_targets(labels, num_classes, smoothing=smoothing)
    return labels.float() * (1 - smoothing) + smoothing / 2


def classification_loss(
    logits: Tensor, targets: Tensor, *, multi_label: bool, class_weights: Tensor | None = None
) -> Tensor:
    """Return the softmax cross-entropy averaged over clips; for multi-label data that of sigmoids, over classes too.

    Args:
        logits: Float (B, K), raw.
        targets: Class probabilities (B, K).
        multi_label: Whether a clip may have several classes, or none.
        class_weights: Weight of each class (K,). In multi-label data that of its positives (torch's `pos_weight`).
    """
    if multi_label:
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=class_weights)
    return F.cross_entropy(logits, targets, weight=class_weights)


def compare_kinds(saved: bool, multi_label: bool) -> None:
    """Check that a checkpoint and the data agree on whether a file may have several classes.

    Raises:
        UserError: They disagree.
    """
    if saved != multi_label:
        has, have = ("several classes", "one class") if saved else ("one class", "several classes")
        raise UserError(f"the checkpoint was trained on files with {has} each, the data are files with {have} each")


def class_weight_tensor(
    setting: ClassWeights, counts: Sequence[int], *, multi_label_files: int | None = None
) -> Tensor:
    """Return one weight per class, float (K,).

    "balanced" weighs a class of n of the N training samples with N / (K n), so that the mean over the samples is 1; a
    class without samples gets 1. If a file may have several classes, the weight is that of a class's positives: with
    n of N files it is (N - n) / n, so that positives and negatives weigh the same. The counts cover the whole
    training split, so they are the same on every process.

    Args:
        setting: "balanced", or the weights themselves.
        counts: Training samples of each class.
        multi_label_files: N, in data whose files may have several classes.

    Raises:
        UserError: Weights that are not one positive number per class.
    """
    if setting == "balanced":
        sizes = torch.tensor([int(count) for count in counts], dtype=torch.float64)
        if multi_label_files is not None:
            return torch.where(sizes > 0, (multi_label_files - sizes) / sizes.clamp_min(1), 1.0).float()
        present = int((sizes > 0).sum())
        return torch.where(sizes > 0, sizes.sum() / (present * sizes.clamp_min(1)), 1.0).float()
    weights = [float(weight) for weight in setting]
    if len(weights) != len(counts):
        raise UserError(f"model.class_weights has {len(weights)} numbers, the data have {len(counts)} classes")
    if min(weights) < 0 or max(weights) <= 0:
        raise UserError(f"model.class_weights must be 0 or above, and not all 0, got {weights}")
    return torch.tensor(weights)


def probabilities_of(logits: Tensor, *, multi_label: bool) -> Tensor:
    """Return softmax, or sigmoid in multi-label data, of logits (B, K): float64 (B, K) on the CPU."""
    logits = logits.float().cpu()
    # In float32 the sigmoid of all logits above 17 is 1, and their order would be lost.
    return logits.double().sigmoid() if multi_label else logits.softmax(dim=1).double()
