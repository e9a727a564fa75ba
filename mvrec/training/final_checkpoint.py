"""No trained step is lost when a run ends between two checkpoints."""

from pathlib import Path
from typing import Any

import lightning as L


class FinalCheckpoint(L.Callback):
    """Saves `last.ckpt` when training ends at a step that no checkpoint has, as runs measured in steps do.

    Args:
        folder: Where the run's checkpoints are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._saved_step = -1

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember the step."""
        self._saved_step = trainer.global_step

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save unless the last step is saved already; all processes take part."""
        if trainer.checkpoint_callbacks and self._saved_step != trainer.global_step:
            trainer.save_checkpoint(self.folder / "last.ckpt")
