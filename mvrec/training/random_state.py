"""Randomness of the model (dropout, stochastic depth) as a function of seed, rank and position."""

from typing import Any

import lightning as L
import torch

from mvrec.seeds import derive_seed


class SeedEveryStep(L.Callback):
    """Seeds torch before every training step from (seed, epoch, batch, rank).

    A resumed run then draws the same numbers as an uninterrupted one, without random states in checkpoints, and
    processes draw different masks from the start.

    Args:
        seed: The root of all randomness.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the CPU's generator, and the device's."""
        # Without a GPU only the former, because seeding a GPU that is not in use formats a traceback, 0.7 ms.
        generators = torch.default_generator if pl_module.device.type == "cpu" else torch
        generators.manual_seed(derive_seed(self.seed, "step", trainer.current_epoch, batch_idx, trainer.global_rank))
