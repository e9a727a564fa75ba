"""The learning rate of every step."""

import bisect
import itertools
import logging
import math
from abc import ABC
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mvrec.class_paths import calling, path_of
from mvrec.errors import UserError
from mvrec.ranges import check_ranges
from mvrec.run_data import RunData

log = logging.getLogger(__name__)


class Scheduler(ABC):  # noqa: B024 - torch's and timm's have no base in common
    """Any scheduler of torch or timm, or one like theirs: it has `step`, `state_dict` and `load_state_dict`."""

    @classmethod
    def __subclasshook__(cls, kind: type) -> bool:
        """Return whether a class has the methods."""
        return kind is cls or all(hasattr(kind, name) for name in ("step", "state_dict", "load_state_dict"))


OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
SchedulerCallable = Callable[[Optimizer], Scheduler]
Per = Literal["step", "epoch"]


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


class WarmupPolynomial(LambdaLR):
    """Schedule of segmentation recipes: a linear warm-up, then a power of the remaining share of the steps, to 0.

    Use it as `model.lr_scheduler`, with `model.lr_scheduler_per: step` (mmsegmentation's LinearLR and PolyLR).

    Args:
        optimizer: The optimiser.
        total_steps: Steps of the run.
        warmup_steps: Steps over which the rate rises linearly.
        start_factor: Rate of the first step as a share of the peak rate.
        power: The power, 1 for a straight line.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        total_steps: int,
        warmup_steps: int = 0,
        start_factor: float = 1e-6,
        power: float = 1.0,
    ) -> None:
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(f"warmup_steps must lie in 0..total_steps - 1, got {warmup_steps} of {total_steps}")

        def factor(step: int) -> float:
            if step < warmup_steps:
                return start_factor + (1 - start_factor) * step / warmup_steps
            return max(1 - (step - warmup_steps) / (total_steps - warmup_steps), 0.0) ** power

        super().__init__(optimizer, factor)


class WarmupMultiStep(LambdaLR):
    """Schedule of detection recipes: a linear warm-up, and a smaller rate from each milestone on.

    Use it as `model.lr_scheduler`, with `model.lr_scheduler_per: step` (mmdetection's and detectron2's MultiStepLR).

    Args:
        optimizer: The optimiser.
        milestones: Steps from which the rate is multiplied by `gamma` once more.
        gamma: The factor.
        warmup_steps: Steps over which the rate rises linearly.
        start_factor: Rate of the first step as a share of the peak rate.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        milestones: list[int],
        gamma: float = 0.1,
        warmup_steps: int = 0,
        start_factor: float = 1e-3,
    ) -> None:
        if any(later <= earlier for earlier, later in itertools.pairwise([warmup_steps, *milestones])):
            raise ValueError(f"milestones must rise from warmup_steps={warmup_steps} on, got {milestones}")

        def factor(step: int) -> float:
            if step < warmup_steps:
                return start_factor + (1 - start_factor) * step / warmup_steps
            return gamma ** bisect.bisect_right(milestones, step)

        super().__init__(optimizer, factor)


def lr_scale(reference: int | None, data: RunData, trainer: L.Trainer) -> float:
    """Return the factor of the learning rate: views per step over their number for which the rate is meant, and log it.

    Args:
        reference: That number, over all processes and accumulated batches; `None` gives 1.
        data: The data module.
        trainer: The trainer of the run.
    """
    if reference is None:
        return 1.0
    clips = data.clips_per_step * trainer.world_size * trainer.accumulate_grad_batches
    noun = f"{data.val_protocol.view_noun}s"
    scale = clips / reference
    log.info("%d %s per step: learning rate scaled by %d/%d = %.4g", clips, noun, clips, reference, scale)
    return scale


def scheduled(
    optimizer: Optimizer,
    trainer: L.Trainer,
    schedule: WarmupCosine,
    *,
    scheduler: SchedulerCallable | None = None,
    per: Per | None = None,
) -> dict[str, Any]:
    """Return an optimiser with its schedule, in Lightning's form.

    Args:
        optimizer: The optimiser, with the peak rates.
        trainer: The trainer of the run.
        schedule: The schedule, unless there is a scheduler.
        scheduler: Makes a scheduler of torch or timm.
        per: When a scheduler changes the rate; see `own_scheduler`.

    Raises:
        UserError: A run without an end; settings that the scheduler refuses.
    """
    total_steps = count_steps(trainer)
    if scheduler is not None:
        return {"optimizer": optimizer, "lr_scheduler": own_scheduler(scheduler, optimizer, per=per)}
    steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)

    def factor(step: int) -> float:
        return schedule.factor(step, total_steps=int(total_steps), steps_per_epoch=steps_per_epoch)

    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


def own_scheduler(make: SchedulerCallable, optimizer: Optimizer, *, per: Per | None) -> dict[str, Any]:
    """Return a scheduler of torch or timm in Lightning's form.

    Args:
        make: Makes the scheduler.
        optimizer: Its optimiser.
        per: When it changes the rate: after every optimiser "step" or "epoch". By default after an epoch, and for
            timm's schedulers as their `t_in_epochs` says.

    Raises:
        UserError: It refuses its settings, needs a score that it does not name, or has another interval.
    """
    with calling("model.lr_scheduler", make):
        scheduler: Any = make(optimizer)
    name = path_of(scheduler)
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau) and not hasattr(scheduler, "monitor"):
        raise UserError(
            f"model.lr_scheduler: {name} needs a score: lightning.pytorch.cli.ReduceLROnPlateau has an argument "
            "monitor, such as val/loss"
        )
    own_per = None if (epochs := getattr(scheduler, "t_in_epochs", None)) is None else "epoch" if epochs else "step"
    if None not in (per, own_per) and per != own_per:
        raise UserError(f"model.lr_scheduler_per {per}: {name} counts in {own_per}s, as its argument t_in_epochs says")
    monitor = {"monitor": scheduler.monitor} if hasattr(scheduler, "monitor") else {}
    return {"scheduler": scheduler, "interval": own_per or per or "epoch", **monitor}


def check_scheduler(make: SchedulerCallable | None, per: Per | None) -> None:
    """Build a scheduler for one weight, so that wrong settings fail before any data are read.

    Raises:
        UserError: See `own_scheduler`.
    """
    if make is not None:
        weight = torch.nn.Parameter(torch.zeros(1, device="cpu"))
        own_scheduler(make, torch.optim.SGD([weight], lr=1.0, momentum=0.9), per=per)


def step_scheduler(scheduler: Any, metric: Any, trainer: L.Trainer) -> None:
    """Move a scheduler on after a step or an epoch: with the monitored score, or timm's with the count.

    Raises:
        PartError: The scheduler raises an exception.
    """
    with calling("model.lr_scheduler", scheduler):
        if hasattr(scheduler, "step_update"):  # of timm
            scheduler.step(trainer.current_epoch + 1, metric)
            scheduler.step_update(trainer.global_step, metric)
        elif metric is None:
            scheduler.step()
        else:
            scheduler.step(metric)


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
