"""No trained step is lost when a run ends between two checkpoints."""

import logging
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim import Optimizer

from mvrec.run_data import data_of
from mvrec.runs.checkpoint_files import LAST
from mvrec.runs.preemption import PreemptedError
from mvrec.runs.run_checkpoints import BestAndLast

log = logging.getLogger(__name__)


class FinalCheckpoint(L.Callback):
    """Saves `last.ckpt` when training ends at a step that it does not have: at its end, or by an error.

    Args:
        checkpoints: Writes it.
    """

    def __init__(self, checkpoints: BestAndLast) -> None:
        self.checkpoints = checkpoints
        self._stepping = -1  # the batch after which weights were last changed
        self._unused = 0  # draws of a batch that was read, but not trained on

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """From here on weights may be half changed, until the batch is counted as processed."""
        self._stepping = trainer.fit_loop.epoch_loop.batch_progress.total.ready

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save unless the last step is saved already; all processes take part."""
        if trainer.checkpoint_callbacks and self.checkpoints.last_step != trainer.global_step:
            self.checkpoints.save_last_now(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save what can be saved, and say so."""
        fitting = trainer.state.fn == "fit" and trainer.checkpoint_callbacks and not trainer.sanity_checking
        if isinstance(exception, PreemptedError) or not fitting or self._stepping < 0:
            return  # saved, or nothing was trained
        cause = "interrupted" if isinstance(exception, KeyboardInterrupt) else type(exception).__name__
        path, done = self.checkpoints.folder / LAST, trainer.global_step
        if self.checkpoints.last_step != done and self._can_save(trainer):
            self._save(trainer)
        if not path.is_file():
            log.warning("%s at step %d: nothing is saved yet", cause, done)
        elif self.checkpoints.last_step == done:
            log.warning("%s at step %d: all of it is in %s; --resume auto goes on from there", cause, done, path)
        else:
            log.warning("%s at step %d: this step could not be saved; --resume auto goes on from %s", cause, done, path)

    def _can_save(self, trainer: L.Trainer) -> bool:
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress
        averaged = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        own = trainer.training or (trainer.validating and not averaged)  # averages stand in for weights in a validation
        whole = own and progress.total.processed >= self._stepping
        return bool(whole and trainer.world_size == 1 and trainer.global_step)  # other processes do not wait here

    def _save(self, trainer: L.Trainer) -> None:
        current: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        draws = data_of(trainer).draws_per_batch
        self._unused = draws * (current.ready - current.processed)
        try:
            self.checkpoints.save_last_now(trainer)
        except Exception as error:
            log.warning("cannot save: %s", error)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """A batch that no step was made with is read again."""
        name = type(data_of(trainer)).__qualname__
        if self._unused and "consumed" in checkpoint.get(name, {}):
            state = {**checkpoint[name], "consumed": checkpoint[name]["consumed"] - self._unused}
            checkpoint[name] = state
            loops = checkpoint["loops"]["fit_loop"]["state_dict"]
            if "combined_loader" in loops:
                loops["combined_loader"] = [state]
