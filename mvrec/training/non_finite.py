"""Skipping steps with non-finite gradients, on all processes together.

Reading from a device whether a gradient is finite waits for all its queued work. So optimisers that can skip a step
themselves, torch's fused ones, get the answer on the device (`found_inf`, as from torch's loss scaler), and it is read
one step later, when it has arrived. Others wait, as everything on a CPU does.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from mvrec.errors import UserError
from mvrec.run_data import data_of

FUSED = (Adam, AdamW, SGD)  # without subclasses, whose steps may differ

log = logging.getLogger(__name__)


class _Step(NamedTuple):
    """A step whose gradients may turn out not to be finite."""

    trainer: L.Trainer
    number: int
    epoch: int
    batches: list[dict[str, Any]]
    broken: Tensor  # float32 () on its way to the CPU
    arrival: torch.cuda.Event | None

    def is_broken(self) -> bool:
        """Wait for the answer, and read it."""
        if self.arrival is not None:
            self.arrival.synchronize()
        return bool(self.broken.numpy())


class NonFiniteGuard(L.Callback):
    """Skips steps whose gradients are NaN or infinite, and stops a run with too many of them in a row.

    Each such step is counted, reported once per run in a warning, and written with the ids, files and seeds of its
    samples to `non_finite/rank_<r>.jsonl`. Epoch, row and seed determine a sample, so the batch can be reproduced. The
    norm of the gradients is logged as `train/grad_norm`.

    Mixed precision with fp16 has infinite gradients while its loss scale settles; they count too.

    On a GPU, torch's optimisers switch to their fused form unless their arguments choose another; see `use_fused`.

    Args:
        folder: The folder of the files.
        max_in_a_row: Steps that may be skipped in a row before training stops.

    Attributes:
        skipped: Steps skipped so far.
    """

    def __init__(self, folder: Path, *, max_in_a_row: int = 10) -> None:
        self.folder, self.max_in_a_row = folder, max_in_a_row
        self.skipped = 0
        self._in_a_row = 0
        self._batches: list[dict[str, Any]] = []
        self._unread: _Step | None = None
        self._seen: set[int] = set()  # parameters with an optimiser state, because they have made a step

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, for checkpoints."""
        self._read()
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts."""
        self.skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make optimisers skip steps on the device where they can; their states are restored by now."""
        for optimizer in trainer.optimizers if not _is_scaled(trainer) else ():
            use_fused(optimizer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Record the batches that the gradients come from; with accumulation a step has several."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._batches = []
        names = ("sample_ids", "view_ids", "seeds")
        self._batches.append({"batch": batch_idx, **{name: getattr(batch, name, None) for name in names}})

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Check the gradients, which data parallel processes have averaged by now.

        Raises:
            UserError: Too many steps in a row were skipped.
        """
        parameters = list(_with_gradients(optimizer))
        norm = total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        broken = (~torch.isfinite(norm)).float()
        if dist.is_available() and dist.is_initialized():  # sharded gradients differ between processes
            dist.all_reduce(broken, op=dist.ReduceOp.MAX)
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (trainer.global_step + 1) % every == 0:
            pl_module.log("train/grad_norm", norm, batch_size=1)
        self._read()
        # A parameter's first step creates the optimiser's state, which the device would not skip.
        late = _decides_on_device(trainer, optimizer) and all(id(p) in self._seen for p in parameters)
        optimizer.found_inf = broken if late else None  # type: ignore[attr-defined]
        self._unread = _Step(trainer, trainer.global_step, trainer.current_epoch, self._batches, *_to_cpu(broken))
        if late:
            return
        if not self._read():
            self._seen.update(map(id, parameters))
            return
        for parameter in parameters:
            parameter.grad = None  # optimisers ignore such a parameter and its state

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the last step."""
        self._read()

    def _read(self) -> bool:
        """Read whether the last step was skipped, and count it.

        Raises:
            UserError: Too many steps in a row were skipped.
        """
        step, self._unread = self._unread, None
        if step is None:
            return False
        if not step.is_broken():
            self._in_a_row = 0
            return False
        self._left_out(step)
        return True

    def _left_out(self, step: _Step) -> None:
        self.skipped += 1
        self._in_a_row += 1
        path = self._write(step)
        if self._in_a_row >= self.max_in_a_row:
            raise UserError(
                f"the gradients of {self._in_a_row} steps in a row are not finite, the last of them step "
                f"{step.number} in epoch {step.epoch}; their samples are in {path}: lower "
                "model.optimizer.lr, set trainer.gradient_clip_val, or train with --trainer.precision 32-true"
            )
        if self.skipped == 1:
            log.warning(
                "step %d: a gradient is not finite, the step is skipped; this and any further one with its samples "
                "in %s",
                step.number,
                path,
            )

    def _write(self, step: _Step) -> Path:
        path = self.folder / f"rank_{step.trainer.global_rank}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = data_of(step.trainer)
        with path.open("a", encoding="utf-8") as file:
            for batch in step.batches:
                ids = _plain(batch["sample_ids"])
                entry = {
                    "step": step.number,
                    "epoch": step.epoch,
                    "batch": batch["batch"],
                    "sample_ids": ids,
                    "view_ids": _plain(batch["view_ids"]),
                    "seeds": _plain(batch["seeds"]),
                    "paths": [str(data.index("train")[row].path) for row in ids or ()],
                }
                file.write(json.dumps(entry) + "\n")
        return path


def _is_scaled(trainer: L.Trainer) -> bool:
    """Return whether a loss scaler checks the gradients, which waits for the device anyway."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def _decides_on_device(trainer: L.Trainer, optimizer: Optimizer) -> bool:
    """Return whether the optimiser acts on `found_inf`."""
    fused = type(optimizer) in FUSED and all(group["fused"] for group in optimizer.param_groups)
    return fused and not _is_scaled(trainer)


def use_fused(optimizer: Optimizer) -> None:
    """Switch one of torch's optimisers to its fused form, which reads `found_inf`; equal up to rounding.

    It stays as it is without a fused form, if its arguments choose another form, and for sharded parameters.
    """
    if type(optimizer) not in FUSED:
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    forms = ("foreach", "capturable", "differentiable")
    has_form = any(group.get(form) for group in optimizer.param_groups for form in forms)
    undecided = all(group["fused"] is None for group in optimizer.param_groups)
    plain = all(p.is_floating_point() and p.device.type == "cuda" and not hasattr(p, "full_tensor") for p in parameters)
    if has_form or not undecided or not plain:
        return
    for group in optimizer.param_groups:
        group["fused"] = True
    for parameter in parameters:
        step = optimizer.state.get(parameter, {}).get("step")
        if isinstance(step, Tensor):  # other forms count steps on the CPU
            optimizer.state[parameter]["step"] = step.to(parameter.device, torch.float32)


def _with_gradients(optimizer: Optimizer) -> Iterator[Tensor]:
    yield from (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None)


def _to_cpu(value: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Start to copy a value to the CPU; the event tells of its arrival, `None` if it is there."""
    copy = value.to("cpu", non_blocking=True)  # into page-locked memory
    return copy, torch.cuda.current_stream(value.device).record_event() if value.is_cuda else None


def total_norm(gradients: list[Tensor]) -> Tensor:
    """Return the Euclidean norm of all gradients as a scalar (); for sharded ones over all processes."""
    if not gradients:
        return torch.zeros(())
    norm = torch.nn.utils.get_total_norm(gradients, norm_type=2.0, error_if_nonfinite=False)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def _plain(values: Tensor | None) -> list[int] | None:
    return None if values is None else [int(value) for value in values.tolist()]
