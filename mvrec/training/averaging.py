"""Averaged weights: Lightning's callbacks, and what has to be there for them."""

from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging

from mvrec.errors import UserError
from mvrec.training.sharding import is_sharded


def check_averaging(trainer: L.Trainer, checkpoint: str | None) -> None:
    """Refuse what Lightning only warns of: averaging that starts anew in the middle of a run.

    Args:
        trainer: The trainer with its callbacks.
        checkpoint: What is resumed.

    Raises:
        UserError: The checkpoint has no averages, or weights are sharded.
    """
    if not any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        return
    if is_sharded(trainer):
        raise UserError("averaged weights need whole weights on every process: take trainer.strategy=ddp")
    if checkpoint is None or not Path(checkpoint).is_file():
        return
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    if "averaging_state" not in saved:
        raise UserError(
            f"{checkpoint} has no averaged weights: it was saved by a run without EMA. Resume without the callback, or "
            f"start a new run from its weights: --model.weights {checkpoint}"
        )
