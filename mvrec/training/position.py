"""Where a run stands, so that it can go on exactly there, also with other processes than before."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

PROGRESS = "epoch_loop.batch_progress"
COUNTS = ("ready", "started", "processed")


class ExactPosition(L.Callback):
    """Lets every checkpoint stand at an optimiser step, and lets another number of processes take it up.

    A checkpoint that is saved while gradients are being accumulated does not hold them: it is turned back to the
    optimiser step before, from which the same batches are read again. Running statistics of normalisation layers,
    which those batches have moved already, are turned back with it.

    Lightning counts batches per process. Where processes, batch size or accumulation have changed with the global
    batch staying what it was, its counts are translated, and the run goes on with the same global batches.
    """

    def __init__(self) -> None:
        self._statistics: dict[str, Tensor] = {}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the running statistics of the last optimiser step while gradients accumulate."""
        if trainer.accumulate_grad_batches > 1 and batch_idx % trainer.accumulate_grad_batches == 0:
            self._statistics = {name: buffer.detach().clone() for name, buffer in running_statistics(pl_module)}

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Turn a checkpoint between two optimiser steps back to the first of them."""
        progress = checkpoint["loops"]["fit_loop"][PROGRESS]
        begun = progress["current"]["processed"] % trainer.accumulate_grad_batches
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        position = checkpoint.get(type(datamodule).__qualname__, {})
        if not begun or not trainer.training or "consumed" not in position:
            return
        loops = checkpoint["loops"]["fit_loop"]
        at_start = progress["current"]["processed"] == begun
        for counts in (progress["current"], progress["total"]):
            for name in COUNTS:
                counts[name] -= begun
            # As if saved where the batch ended, or before the first one began.
            counts["completed"] = counts["processed"] - (not at_start)
        progress["is_last_batch"] = False
        # Lightning counts one up when it goes on there; at the start of an epoch only where validation is due in it.
        if not at_start or trainer.fit_loop.epoch_loop._should_check_val_epoch():
            loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1
        state = {**position, "consumed": position["consumed"] - begun * position["draws_per_batch"]}
        checkpoint[type(datamodule).__qualname__] = state
        if "combined_loader" in loops["state_dict"]:
            loops["state_dict"]["combined_loader"] = [state]
        weights = checkpoint.get("current_model_state", checkpoint["state_dict"])
        weights.update({name: value for name, value in self._statistics.items() if name in weights})

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Translate the counts of batches to those of these processes."""
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        position = checkpoint.get(type(datamodule).__qualname__, {})
        before, now = position.get("draws_per_batch"), getattr(datamodule, "draws_per_batch", None)
        if before is None or now is None or before == now:
            return
        progress = checkpoint["loops"]["fit_loop"][PROGRESS]
        for counts in (progress["current"], progress["total"]):
            behind = counts["processed"] - counts["completed"]
            for name in COUNTS:
                counts[name] = counts[name] * before // now
            counts["completed"] = max(counts["processed"] - behind, 0)


def running_statistics(module: torch.nn.Module) -> list[tuple[str, Tensor]]:
    """The buffers of batch normalisation, which a forward pass in training moves."""
    return [
        (f"{name}.{key}" if name else key, buffer)
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.modules.batchnorm._NormBase)
        for key, buffer in layer.named_buffers(recurse=False)
    ]
