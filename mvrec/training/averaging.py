"""Averaged weights: checks for Lightning's averaging callbacks."""

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging

from mvrec.errors import UserError
from mvrec.training.sharding import is_sharded


def check_averaging(trainer: L.Trainer, resumed: Mapping[str, Any] | None, *, path: str) -> None:
    """Refuse averaging that starts anew in the middle of a run; Lightning only warns.

    Args:
        trainer: The trainer with its callbacks.
        resumed: The resumed checkpoint, if any.
        path: Its file, for messages.

    Raises:
        UserError: The checkpoint has no averages, or weights are sharded.
    """
    if not any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        return
    if is_sharded(trainer):
        raise UserError("averaged weights need whole weights on every process: set trainer.strategy=ddp")
    if resumed is not None and "averaging_state" not in resumed:
        raise UserError(
            f"{path} has no averaged weights: it was saved by a run without EMA. Resume without the callback, or start "
            f"a new run from its weights: --model.weights {path}"
        )
