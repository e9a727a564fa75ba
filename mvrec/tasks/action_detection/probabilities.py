"""From a network, clips and boxes to the probabilities of actions."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mvrec.models.heads.actions import numbered

LEAST_BOXES = 2  # torch compiles a network once for any number of rows from here on, and again for none and for one


def box_logits(network: Any, clips: Tensor, corners: Sequence[Tensor]) -> Tensor:
    """Return the logits of each action for the boxes of clips, one clip after the other: (N, K); see below."""
    boxes = numbered([places.to(clips.device, torch.float32) for places in corners])
    padded = F.pad(boxes, (0, 0, 0, max(LEAST_BOXES - len(boxes), 0)))
    return network(clips, padded)[: len(boxes)]


def box_probabilities(network: Any, clips: Tensor, corners: Sequence[Tensor]) -> list[Tensor]:
    """Return the probability of each action for the boxes of clips.

    Args:
        network: From normalised clips and numbered boxes to logits.
        clips: (V, C, T, H, W), normalised.
        corners: The boxes of each clip, (N, 4) in pixels of the clip.

    Returns:
        For each clip float64 (N, K) on the CPU: in float32 the sigmoid of all logits above 17 is 1.
    """
    probabilities = box_logits(network, clips, corners).detach().float().cpu().double().sigmoid()
    return list(probabilities.split([len(places) for places in corners]))
