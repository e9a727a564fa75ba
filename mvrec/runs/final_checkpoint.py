"""A last checkpoint when a run ends between two checkpoints, so that no trained step is lost."""

import logging
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim import Optimizer

from mvrec.lightning_private import uncount_stepped_batch
from mvrec.run_data import data_of
from mvrec.runs.checkpoint_files import LAST
from mvrec.runs.preemption import PreemptedError
from mvrec.runs.run_checkpoints import BestAndLast

log = logging.getLogger(__name__)


class FinalCheckpoint(L.Callback):
    """Saves `last.ckpt` when training ends, normally or by an error, at a step that it lacks.

    Args:
        checkpoints: The callback that writes it.
    """

    def __init__(self, checkpoints: BestAndLast) -> None:
        self.checkpoints = checkpoints
        self._stepping = -1  # the last batch that changed weights
        self._unused = 0  # draws of a batch that was read but not trained on

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Mark the weights as half changed until the batch counts as processed."""
        self._stepping = trainer.fit_loop.epoch_loop.batch_progress.total.ready

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save unless the last step is saved; all processes take part."""
        if trainer.checkpoint_callbacks and self.checkpoints.last_step != trainer.global_step:
            self.checkpoints.save_last_now(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save what can be saved, and log it."""
        fitting = trainer.state.fn == "fit" and trainer.checkpoint_callbacks and not trainer.sanity_checking
        if isinstance(exception, PreemptedError) or not fitting or self._stepping < 0:
            return  # already saved, or nothing was trained
        cause = "interrupted" if isinstance(exception, KeyboardInterrupt) else type(exception).__name__
        path, done = self.checkpoints.folder / LAST, trainer.global_step
        if self.checkpoints.last_step != done and self._can_save(trainer):
            self._save(trainer)
        if not path.is_file():
            log.warning("%s at step %d: nothing is saved yet", cause, done)
        elif self.checkpoints.last_step == done:
            log.warning("%s at step %d: saved in %s; --resume auto continues from there", cause, done, path)
        else:
            log.warning(
                "%s at step %d: this step could not be saved; --resume auto continues from %s", cause, done, path
            )

    def _can_save(self, trainer: L.Trainer) -> bool:
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress
        averaged = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        regular = trainer.training or (trainer.validating and not averaged)  # a validation may hold averages as weights
        whole = regular and progress.total.processed >= self._stepping
        return bool(whole and trainer.world_size == 1 and trainer.global_step)  # other processes would not wait here

    def _save(self, trainer: L.Trainer) -> None:
        current: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        draws = data_of(trainer).draws_per_batch
        self._unused = draws * (current.ready - current.processed)
        try:
            self.checkpoints.save_last_now(trainer)
        except Exception as error:
            log.warning("cannot save: %s", error)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Give a batch back that was read but made no step, so that it is read again."""
        name = type(data_of(trainer)).__qualname__
        if self._unused and "consumed" in checkpoint.get(name, {}):
            state = {**checkpoint[name], "consumed": checkpoint[name]["consumed"] - self._unused}
            checkpoint[name] = state
            loops = checkpoint["loops"]["fit_loop"]["state_dict"]
            if "combined_loader" in loops:
                loops["combined_loader"] = [state]
            self._uncount(trainer, checkpoint)

    def _uncount(self, trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
        """Make up for the step that Lightning adds on resume, as if this were saved at the end of a batch."""
        current: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        processed = current.processed
        if processed and processed % trainer.accumulate_grad_batches == 0:  # `ExactPosition` sees to the others
            uncount_stepped_batch(checkpoint["loops"]["fit_loop"])
