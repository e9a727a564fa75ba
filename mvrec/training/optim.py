"""The learning rate of every step."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
import torch
from torch.optim import Optimizer

from mvrec.errors import UserError
from mvrec.ranges import check_ranges

OptimizerCallable = Callable[[Iterable[Any]], Optimizer]


def check_optimizer(make: OptimizerCallable) -> None:
    """Build an optimiser for one weight, so that wrong settings fail before any data are read.

    Raises:
        UserError: The optimiser refuses its settings, or the learning rate is not above 0.
    """
    weight = torch.nn.Parameter(torch.zeros(1, device="cpu"))
    try:
        optimizer = make([weight])
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"model.optimizer: {error}") from None
    for group in optimizer.param_groups:
        check_ranges("model.optimizer.", {"lr": group["lr"]})


@dataclass(frozen=True)
class WarmupCosine:
    """Schedule with a linear warm-up, half a cosine, and a constant rate at the end.

    Attributes:
        warmup_epochs: Epochs over which the rate rises linearly.
        start_factor: Rate of the first step as a share of the peak rate.
        end_factor: Rate at the end as a share of the peak rate.
        cooldown_epochs: Last epochs, with the end rate.
        cosine_from: The begin of the cosine: at the end of the "warmup" (SlowFast), or at the "start", with the warm-up
            laid over its first part (timm), which gives lower rates: half-way through 300 epochs with 20 of warm-up
            0.50 of the peak instead of 0.56.
        per: When the rate changes: at every optimiser "step"; at every "epoch", to the rate of its first step, as in
            timm's training script; or "epoch_late", with the rate of the epoch before, so that the first two share one,
            as in DeiT's script, which steps to e after epoch e and not to e + 1.
    """

    warmup_epochs: float = 0.0
    start_factor: float = 0.01
    end_factor: float = 0.01
    cooldown_epochs: float = 0.0
    cosine_from: Literal["warmup", "start"] = "warmup"
    per: Literal["step", "epoch", "epoch_late"] = "step"

    def __post_init__(self) -> None:
        check_ranges("schedule.", vars(self))
        if self.cosine_from not in ("warmup", "start"):
            raise ValueError(f"schedule.cosine_from must be 'warmup' or 'start', got {self.cosine_from!r}")
        if self.per not in ("step", "epoch", "epoch_late"):
            raise ValueError(f"schedule.per must be 'step', 'epoch' or 'epoch_late', got {self.per!r}")

    def factor(self, step: int, *, total_steps: int, steps_per_epoch: int) -> float:
        """Return the rate of optimiser step `step` (from 0) as a share of the peak rate."""
        if self.per != "step":
            epoch = step // steps_per_epoch
            step = steps_per_epoch * (max(epoch - 1, 0) if self.per == "epoch_late" else epoch)
        warmup = self.warmup_epochs * steps_per_epoch
        if step < warmup:
            return self.start_factor + (1 - self.start_factor) * step / warmup
        first = warmup if self.cosine_from == "warmup" else 0.0
        last = total_steps - self.cooldown_epochs * steps_per_epoch
        progress = min((step - first) / max(last - first, 1), 1.0)
        return self.end_factor + (1 - self.end_factor) * (1 + math.cos(math.pi * progress)) / 2


def count_steps(trainer: L.Trainer) -> float:
    """Count the steps of the whole run; as a side effect also the batches of an epoch.

    Raises:
        UserError: A run without an end, or a validation interval longer than an epoch.
    """
    try:
        total_steps = trainer.estimated_stepping_batches
        trainer.fit_loop.setup_data()  # counts the batches if the line above did not need to
    except ValueError as error:
        if isinstance(error, UserError) or "val_check_interval" not in str(error):
            raise
        raise UserError(
            f"trainer.val_check_interval={trainer.val_check_interval} is more than the "
            f"{trainer.num_training_batches} batches of an epoch; --trainer.check_val_every_n_epoch null counts "
            "over epochs"
        ) from None
    if total_steps == math.inf:
        raise UserError("the schedule needs an end: set trainer.max_epochs or trainer.max_steps")
    return total_steps
