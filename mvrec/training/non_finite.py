"""Steps whose gradients are not finite are left out, by all processes together."""

import json
import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from mvrec.errors import UserError
from mvrec.run_data import data_of

log = logging.getLogger(__name__)


class NonFiniteGuard(L.Callback):
    """Leaves weights and optimiser as they are where a gradient is NaN or infinite, and stops a run that is broken.

    Each such step is counted, named once per run in a warning, and written with the ids, files and seeds of its
    samples to `non_finite/rank_<r>.jsonl`, so that the very batch can be made again: a sample follows from epoch, row
    and seed. The norm of the gradients is logged as `train/grad_norm`.

    Mixed precision with fp16 meets infinite gradients while its loss scale settles; they count too.

    Args:
        folder: Where the files go.
        max_in_a_row: Steps that may be left out one after the other before training stops.

    Attributes:
        skipped: Steps left out so far.
    """

    def __init__(self, folder: Path, *, max_in_a_row: int = 10) -> None:
        self.folder, self.max_in_a_row = folder, max_in_a_row
        self.skipped = 0
        self._in_a_row = 0
        self._batches: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """The counts, for checkpoints."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember which batches the gradients come from; with accumulation a step has several."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._batches = []
        names = ("sample_ids", "view_ids", "seeds")
        self._batches.append({"batch": batch_idx, **{name: getattr(batch, name, None) for name in names}})

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Look at the gradients, which data parallel processes have averaged by now.

        Raises:
            UserError: Too many steps in a row were left out.
        """
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = total_norm(gradients)
        finite = torch.isfinite(norm)
        if trainer.world_size > 1:  # sharded gradients differ between processes
            finite = trainer.strategy.reduce(finite.float(), reduce_op="sum") == trainer.world_size
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (trainer.global_step + 1) % every == 0:
            pl_module.log("train/grad_norm", norm, batch_size=1)
        if bool(finite):
            self._in_a_row = 0
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None  # no optimiser touches such a parameter or its state
        self._leave_out(trainer)

    def _leave_out(self, trainer: L.Trainer) -> None:
        self.skipped += 1
        self._in_a_row += 1
        path = self._write(trainer)
        if self._in_a_row >= self.max_in_a_row:
            raise UserError(
                f"the gradients of {self._in_a_row} steps in a row are not finite, the last of them step "
                f"{trainer.global_step} in epoch {trainer.current_epoch}; their samples are in {path}: lower "
                "model.optimizer.lr, set trainer.gradient_clip_val, or train with --trainer.precision 32-true"
            )
        if self.skipped == 1:
            log.warning(
                "step %d: a gradient is not finite, the step is left out; this and any further one with its samples "
                "in %s",
                trainer.global_step,
                path,
            )

    def _write(self, trainer: L.Trainer) -> Path:
        path = self.folder / f"rank_{trainer.global_rank}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = data_of(trainer)
        with path.open("a", encoding="utf-8") as file:
            for batch in self._batches:
                ids = _plain(batch["sample_ids"])
                entry = {
                    "step": trainer.global_step,
                    "epoch": trainer.current_epoch,
                    "batch": batch["batch"],
                    "sample_ids": ids,
                    "view_ids": _plain(batch["view_ids"]),
                    "seeds": _plain(batch["seeds"]),
                    "paths": [str(data.index("train")[row].path) for row in ids or ()],
                }
                file.write(json.dumps(entry) + "\n")
        return path


def total_norm(gradients: list[Tensor]) -> Tensor:
    """Euclidean norm of all gradients as a scalar (); of sharded ones, of this process's part and theirs."""
    if not gradients:
        return torch.zeros(())
    norm = torch.nn.utils.get_total_norm(gradients, norm_type=2.0, error_if_nonfinite=False)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def _plain(values: Tensor | None) -> list[int] | None:
    return None if values is None else [int(value) for value in values.tolist()]
