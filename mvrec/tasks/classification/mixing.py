"""Mixup and CutMix for images and clips.

torchvision's refuse 5-D input, and common others cut time and height instead of height and width.
"""

import math
import random
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mvrec.ranges import check_ranges


class Draw(NamedTuple):
    """The drawn way to mix a batch.

    Attributes:
        is_cutmix: CutMix in place of Mixup.
        keep: The share of each sample's own pixels, of CutMix before its rectangle is cut off at the border.
    """

    is_cutmix: bool
    keep: float


@dataclass(frozen=True)
class Mixing:
    """Blends each sample of a batch with its mirror image in batch order.

    One draw per batch decides between Mixup (Zhang et al. 2018, https://arxiv.org/abs/1710.09412) and CutMix
    (Yun et al. 2019, https://arxiv.org/abs/1905.04899, the same rectangle in all frames).

    Attributes:
        mixup_alpha: Beta parameter of Mixup; 0 turns it off.
        cutmix_alpha: Beta parameter of CutMix; 0 turns it off.
        probability: Chance that a batch is mixed at all.
        switch_probability: Chance of CutMix if both are on.
    """

    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    probability: float = 1.0
    switch_probability: float = 0.5

    def __post_init__(self) -> None:
        check_ranges("", vars(self))
        if max(self.mixup_alpha, self.cutmix_alpha) == 0:
            raise ValueError(
                f"mixing needs a positive mixup_alpha or cutmix_alpha, got {self.mixup_alpha}, {self.cutmix_alpha}"
            )

    def __call__(self, clips: Tensor, targets: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            clips: Float (B, ..., H, W).
            targets: Class probabilities (B, K).
            seed: Determines all random choices.

        Returns:
            Mixed clips and targets of the same shapes.
        """
        rng = random.Random(seed)
        draw = self.draw(rng)
        if draw is None:
            return clips, targets
        keep = draw.keep
        if draw.is_cutmix:
            clips, keep = cutmix(clips, keep, rng)
        else:
            clips = clips.lerp(clips.flip(0), 1 - keep)
        return clips, targets.lerp(targets.flip(0), 1 - keep)

    def draw(self, rng: random.Random) -> Draw | None:
        """Draw how a batch is mixed; `None` for one that is not."""
        if rng.random() >= self.probability:
            return None
        is_cutmix = self.mixup_alpha == 0 or (self.cutmix_alpha > 0 and rng.random() < self.switch_probability)
        alpha = self.cutmix_alpha if is_cutmix else self.mixup_alpha
        return Draw(is_cutmix, rng.betavariate(alpha, alpha))


def cutmix(clips: Tensor, keep: float, rng: random.Random) -> tuple[Tensor, float]:
    """Paste a rectangle of about `1 - keep` of the frame from the mirrored batch.

    Returns:
        Mixed clips, and the share of the frame that was kept (the rectangle is cut off at the border).
    """
    height, width = clips.shape[-2:]
    h, w = (round(side * math.sqrt(1 - keep)) for side in (height, width))
    y, x = rng.randrange(height), rng.randrange(width)
    top, bottom = max(y - h // 2, 0), min(y + h // 2, height)
    left, right = max(x - w // 2, 0), min(x + w // 2, width)
    mixed = clips.clone()
    mixed[..., top:bottom, left:right] = clips.flip(0)[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def soft_targets(labels: Tensor, num_classes: int, *, smoothing: float = 0.0) -> Tensor:
    """Return class probabilities (B, K) of labels (B,), smoothed towards uniform (Szegedy et al. 2016)."""
    hard = torch.zeros(len(labels), num_classes, device=labels.device).scatter_(1, labels[:, None], 1.0)
    return hard * (1 - smoothing) + smoothing / num_classes
