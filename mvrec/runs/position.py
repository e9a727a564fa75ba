"""Where a run stands, so that it can go on exactly there, also with other processes than before."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from mvrec.lightning_private import uncount_stepped_batch
from mvrec.run_data import data_of

PROGRESS, VALIDATION = "epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress"
OWED = "mvrec.owed_validation"
COUNTS = ("ready", "started", "processed")


class ExactPosition(L.Callback):
    """Lets every checkpoint stand at an optimiser step, and lets another number of processes take it up.

    A checkpoint that is saved while gradients are being accumulated does not hold them: it is turned back to the
    optimiser step before, from which the same batches are read again. Running statistics of normalisation layers,
    which those batches have moved already, are turned back with it.

    A run that ends in the middle of an epoch (max_steps, max_time, early stopping) has counted that epoch as done when
    its last checkpoint is saved: the checkpoint is turned back into the epoch, so that what is left of it is trained.

    A validation that was due at the step of a checkpoint, and had not been made when it was saved, is made when the run
    goes on, before the next step.

    Lightning counts batches per process. Where processes, batch size or accumulation have changed with the global
    batch staying what it was, its counts are translated, and the run goes on with the same global batches.
    """

    def __init__(self) -> None:
        self._statistics: dict[str, Tensor] = {}
        self._validated_at = -1  # batch, counted from the start of training, after which validation was last made
        self._owes_validation = False

    def state_dict(self) -> dict[str, Any]:
        """Where validation was last made."""
        return {"validated_at": self._validated_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The same after a resume."""
        self._validated_at = state_dict["validated_at"]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the running statistics of the last optimiser step while gradients accumulate."""
        if trainer.accumulate_grad_batches > 1 and batch_idx % trainer.accumulate_grad_batches == 0:
            self._statistics = {name: buffer.detach().clone() for name, buffer in running_statistics(pl_module)}

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the batches of a validation that is made up for from 0."""
        if self._owes_validation and not trainer.sanity_checking:
            self._owes_validation = False
            trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember that nothing is owed at this batch; checkpoints that validation leads to are saved after this."""
        if not trainer.sanity_checking:
            self._validated_at = trainer.fit_loop.total_batch_idx

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Turn a checkpoint back to where an optimiser step has ended and its epoch has not, and note what it owes."""
        _reopen_epoch(trainer, checkpoint)
        if trainer.validating and not _validation_is_due(trainer):  # made because the run ends, or by the clock
            for counts in progress_of(checkpoint):
                counts["completed"] = counts["processed"] - 1  # as if saved where the batch ended
        fitting = trainer.training or trainer.validating  # in a validation that has not ended, by an error
        owes = fitting and trainer.fit_loop.total_batch_idx != self._validated_at
        if not self._turn_back(trainer, checkpoint) and owes and _validation_is_due(trainer):
            checkpoint["loops"]["fit_loop"][OWED] = _validation_schedule(trainer)

    def _turn_back(self, trainer: L.Trainer, checkpoint: dict[str, Any]) -> bool:
        """Turn a checkpoint between two optimiser steps back to the first of them; returns whether it was one."""
        progress = checkpoint["loops"]["fit_loop"][PROGRESS]
        begun = progress["current"]["processed"] % trainer.accumulate_grad_batches
        data = data_of(trainer)
        position = checkpoint.get(type(data).__qualname__, {})
        if not begun or not (trainer.training or trainer.validating) or "consumed" not in position:
            return False
        loops = checkpoint["loops"]["fit_loop"]
        at_start = progress["current"]["processed"] == begun
        for counts in (progress["current"], progress["total"]):
            for name in COUNTS:
                counts[name] -= begun
            # As if saved where the batch ended, or before the first one began.
            counts["completed"] = counts["processed"] - (not at_start)
        progress["is_last_batch"] = False
        # Lightning counts one up when it goes on there; at the start of an epoch only where validation is due in it.
        if not at_start or _validates_in_this_epoch(trainer):
            uncount_stepped_batch(loops)
        state = {**position, "consumed": position["consumed"] - begun * position["draws_per_batch"]}
        checkpoint[type(data).__qualname__] = state
        if "combined_loader" in loops["state_dict"]:
            loops["state_dict"]["combined_loader"] = [state]
        weights = checkpoint.get("current_model_state", checkpoint["state_dict"])
        weights.update({name: value for name, value in self._statistics.items() if name in weights})
        return True

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Translate the counts of batches to those of these processes, and have Lightning make an owed validation."""
        self._translate(trainer, checkpoint)
        loops = checkpoint["loops"]["fit_loop"]
        self._owes_validation = OWED in loops and loops[OWED] == _validation_schedule(trainer)
        if self._owes_validation:
            # As if saved in the first batch of the validation, where Lightning goes on by making all of it.
            for counts in progress_of(checkpoint):
                counts["completed"] = counts["processed"]
            loops[VALIDATION]["total"].update(ready=1, started=1, processed=0, completed=0)
            loops[VALIDATION]["current"].update(ready=0, started=0, processed=0, completed=0)

    def _translate(self, trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
        data = data_of(trainer)
        position = checkpoint.get(type(data).__qualname__, {})
        before, now = position.get("draws_per_batch"), data.draws_per_batch
        if before in (None, now):
            return
        for counts in progress_of(checkpoint):
            behind = counts["processed"] - counts["completed"]
            for name in COUNTS:
                counts[name] = counts[name] * before // now
            counts["completed"] = max(counts["processed"] - behind, 0)


def _reopen_epoch(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Turn a checkpoint whose run has ended in the middle of an epoch back to its last batch."""
    loops = checkpoint["loops"]["fit_loop"]
    epochs, batches = loops["epoch_progress"], loops[PROGRESS]
    ended = epochs["total"]["ready"] == epochs["total"]["processed"]
    if not ended or batches["is_last_batch"] or not 0 < batches["current"]["processed"] < trainer.num_training_batches:
        return
    for counts in (epochs["current"], epochs["total"]):
        counts["processed"] -= 1
        counts["completed"] = counts["processed"]
    checkpoint["epoch"] -= 1
    if batches["current"]["processed"] % trainer.accumulate_grad_batches:
        return  # which will be turned back to the step before
    for counts in (batches["current"], batches["total"]):
        counts["completed"] = counts["processed"] - 1
    uncount_stepped_batch(loops)


def progress_of(checkpoint: dict[str, Any]) -> list[dict[str, int]]:
    """Return Lightning's counts of the batches of the epoch, and of all."""
    progress = checkpoint["loops"]["fit_loop"][PROGRESS]
    return [progress["current"], progress["total"]]


def _validation_is_due(trainer: L.Trainer) -> bool:
    """Return whether the schedule has a validation after the batch that has just ended; by the clock it has none."""
    fit, loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
    epochs: Any = fit.epoch_progress.total
    in_epoch = epochs.ready == epochs.processed + 1
    if not in_epoch or not _validates_in_this_epoch(trainer) or not isinstance(trainer.val_check_batch, int):
        return False
    batch = loop.total_batch_idx if trainer.check_val_every_n_epoch is None else loop.batch_idx
    return (batch + 1) % trainer.val_check_batch == 0


def _validates_in_this_epoch(trainer: L.Trainer) -> bool:
    every = trainer.check_val_every_n_epoch
    return trainer.enable_validation and (every is None or (trainer.current_epoch + 1) % every == 0)


def _validation_schedule(trainer: L.Trainer) -> list[Any]:
    """What decides when validation is due."""
    return [trainer.val_check_interval, trainer.check_val_every_n_epoch, trainer.limit_val_batches != 0]


def running_statistics(module: torch.nn.Module) -> list[tuple[str, Tensor]]:
    """Return the buffers of batch normalisation, which a forward pass in training moves."""
    return [
        (f"{name}.{key}" if name else key, buffer)
        for name, layer in module.named_modules()
        if isinstance(getattr(layer, "running_mean", None), Tensor)
        for key, buffer in layer.named_buffers(recurse=False)
    ]
