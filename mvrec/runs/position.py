"""The exact position of a run in its data, so that it resumes there, also with other processes."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from mvrec.lightning_private import resume_after_finished_epochs, uncount_stepped_batch
from mvrec.run_data import data_of

PROGRESS, VALIDATION = "epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress"
OWED = "mvrec.owed_validation"
COUNTS = ("ready", "started", "processed")


class ExactPosition(L.Callback):
    """Makes every checkpoint resume at an optimiser step, also with another number of processes.

    A checkpoint that is saved while gradients accumulate does not hold them: it is reset to the optimiser step before,
    from which the same batches are read again. Running statistics of normalisation layers, which those batches have
    changed, are reset with it.

    A run that ends in the middle of an epoch (max_steps, max_time, early stopping) has counted that epoch as done when
    its last checkpoint is saved: the checkpoint is reset into the epoch, so that the rest of it is trained.

    A validation that was due at a checkpoint's step, but not run when it was saved, runs on resume before the next
    step.

    Lightning counts batches per process. Where processes, batch size or accumulation have changed but the global
    batch is the same, its counts are translated, and the run continues with the same global batches.
    """

    def __init__(self) -> None:
        self._statistics: dict[str, Tensor] = {}
        self._validated_at = -1  # batch of the last validation, counted from the start of training
        self._owes_validation = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let the end of an epoch be the same with and without `max_steps`."""
        resume_after_finished_epochs(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the batch of the last validation."""
        return {"validated_at": self._validated_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the batch of the last validation."""
        self._validated_at = state_dict["validated_at"]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the running statistics of the last optimiser step while gradients accumulate.

        An earlier run may have ended after it read a batch and before it trained on it. Lightning's total has counted
        that batch, which is read again: with one too many it would resume at another batch the next time.
        """
        total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
        total.ready, total.started = total.processed + 1, total.processed
        if trainer.accumulate_grad_batches > 1 and batch_idx % trainer.accumulate_grad_batches == 0:
            self._statistics = {name: buffer.detach().clone() for name, buffer in running_statistics(pl_module)}

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the batches of an owed validation from 0."""
        if self._owes_validation and not trainer.sanity_checking:
            self._owes_validation = False
            trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record that no validation is owed at this batch; checkpoints of the validation are saved after this."""
        if not trainer.sanity_checking:
            self._validated_at = trainer.fit_loop.total_batch_idx

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Reset a checkpoint to the end of an optimiser step within its epoch, and record an owed validation."""
        _reopen_epoch(trainer, checkpoint)
        if trainer.validating and not _validation_is_due(trainer):  # the run is ending, or max_time is over
            for counts in progress_of(checkpoint):
                counts["completed"] = counts["processed"] - 1  # as if saved at the end of the batch
        fitting = trainer.training or trainer.validating  # validating: an error has interrupted it
        owes = fitting and trainer.fit_loop.total_batch_idx != self._validated_at
        if not self._turn_back(trainer, checkpoint) and owes and _validation_is_due(trainer):
            checkpoint["loops"]["fit_loop"][OWED] = _validation_schedule(trainer)

    def _turn_back(self, trainer: L.Trainer, checkpoint: dict[str, Any]) -> bool:
        """Reset a checkpoint between two optimiser steps to the first of them; return whether it was between two."""
        progress = checkpoint["loops"]["fit_loop"][PROGRESS]
        begun = progress["current"]["processed"] % trainer.accumulate_grad_batches
        data = data_of(trainer)
        position = checkpoint.get(type(data).__qualname__, {})
        if not begun or not (trainer.training or trainer.validating) or "consumed" not in position:
            return False
        loops = checkpoint["loops"]["fit_loop"]
        at_start = progress["current"]["processed"] == begun
        for counts in (progress["current"], progress["total"]):
            # As if saved at the end of the batch, or before the first batch; an error may have come after the next
            # batch was read, which `ready` has counted.
            counts.update(dict.fromkeys(COUNTS, counts["processed"] - begun))
            counts["completed"] = counts["processed"] - (not at_start)
        progress["is_last_batch"] = False
        # On resume Lightning adds one to the count, at the start of an epoch only if a validation is due in it.
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
        """Translate the counts of batches to the present processes, and make Lightning run an owed validation."""
        self._translate(trainer, checkpoint)
        loops = checkpoint["loops"]["fit_loop"]
        self._owes_validation = OWED in loops and loops[OWED] == _validation_schedule(trainer)
        if self._owes_validation:
            # As if saved in the first batch of the validation, which Lightning then repeats from its start.
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
    """Reset a checkpoint whose run has ended in the middle of an epoch to its last batch."""
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
        return  # `_turn_back` resets it to the step before
    for counts in (batches["current"], batches["total"]):
        counts["completed"] = counts["processed"] - 1
    uncount_stepped_batch(loops)


def progress_of(checkpoint: dict[str, Any]) -> list[dict[str, int]]:
    """Return Lightning's counts of the batches of the epoch, and of all."""
    progress = checkpoint["loops"]["fit_loop"][PROGRESS]
    return [progress["current"], progress["total"]]


def _validation_is_due(trainer: L.Trainer) -> bool:
    """Return whether the schedule has a validation after the batch just ended; with max_time it has none."""
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
    """Return the settings that decide when a validation is due."""
    return [trainer.val_check_interval, trainer.check_val_every_n_epoch, trainer.limit_val_batches != 0]


def running_statistics(module: torch.nn.Module) -> list[tuple[str, Tensor]]:
    """Return the buffers of batch normalisation, which a forward pass in training changes."""
    return [
        (f"{name}.{key}" if name else key, buffer)
        for name, layer in module.named_modules()
        if isinstance(getattr(layer, "running_mean", None), Tensor)
        for key, buffer in layer.named_buffers(recurse=False)
    ]
