"""What the loss compares logits with, and the loss: cross-entropy for one class per clip, sigmoids for any number."""

import torch.nn.functional as F
from torch import Tensor

from mvrec.errors import UserError
from mvrec.tasks.classification.mixing import soft_targets


def make_targets(labels: Tensor, num_classes: int, *, smoothing: float = 0.0) -> Tensor:
    """Class probabilities that a batch is trained towards, float (B, K).

    In multi-label data each class is a question with two answers, and smoothing moves both towards 1/2: a share is
    spread over all outcomes (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567), of which there are two, as in
    Keras's `BinaryCrossentropy(label_smoothing)`.

    Args:
        labels: Class indices (B,), or multi-hot (B, K).
        num_classes: K.
        smoothing: Share of the target that is spread.
    """
    if labels.ndim == 1:
        return soft_targets(labels, num_classes, smoothing=smoothing)
    return labels.float() * (1 - smoothing) + smoothing / 2


def classification_loss(
    logits: Tensor, targets: Tensor, *, multi_label: bool, class_weights: Tensor | None = None
) -> Tensor:
    """Softmax cross-entropy averaged over clips; in multi-label data that of sigmoids, averaged over clips and classes.

    Args:
        logits: Float (B, K), raw.
        targets: Class probabilities (B, K).
        multi_label: Whether a clip may have several classes, or none.
        class_weights: Weight of each class (K,). In multi-label data that of its positives (torch's `pos_weight`).
    """
    if multi_label:
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=class_weights)
    return F.cross_entropy(logits, targets, weight=class_weights)


def compare_kinds(saved: bool, found: bool) -> None:
    """Check that a checkpoint and the data agree on whether a file may have several classes.

    Raises:
        UserError: They do not.
    """
    if saved != found:
        has, have = ("several classes", "one class") if saved else ("one class", "several classes")
        raise UserError(f"the checkpoint was trained on files with {has} each, the data are files with {have} each")
