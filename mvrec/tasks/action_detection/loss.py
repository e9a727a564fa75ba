"""The loss of an action detector: each action of each box is a yes-or-no question."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

LossName = Literal["cross_entropy", "focal"]
# mmaction2's figures for SlowFast on AVA (configs/detection/slowfast, "focal-alpha3-gamma1").
FOCAL_FACTOR, FOCAL_POWER = 3.0, 1.0


def action_loss(logits: Tensor, actions: Tensor, *, kind: LossName = "cross_entropy") -> Tensor:
    """Return the binary cross-entropy averaged over boxes and classes; 0 without boxes.

    Without boxes the loss still depends on the logits, so that all parameters have a gradient: processes of a
    distributed training wait for each other's.

    Args:
        logits: (N, K).
        actions: float (N, K), 1 for the actions of each box.
        kind: "focal" weighs each question with (1 - p) ** 1 and all with 3, p the probability of the true answer (Lin
            et al. 2017, https://arxiv.org/abs/1708.02002).
    """
    questions = F.binary_cross_entropy_with_logits(logits.float(), actions, reduction="none")
    if kind == "focal":
        probability = (-questions).exp()
        questions = FOCAL_FACTOR * (1 - probability) ** FOCAL_POWER * questions
    return questions.sum() / max(questions.numel(), 1)
