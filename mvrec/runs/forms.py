"""The forms of operations that a run on CPUs computes with: equal on all processes, and recorded."""

import logging
from typing import Any

import lightning as L
import torch
from torch import nn

from mvrec.models.fast.accelerate import is_accelerated
from mvrec.models.fast.choice import adopt, settle
from mvrec.models.fast.products import is_emulated

log = logging.getLogger(__name__)


def agreed_forms(trainer: L.Trainer, network: nn.Module) -> dict[str, Any] | None:
    """Take rank 0's forms on every process and return them; all processes must call it.

    Returns:
        Precision, threads and the form of each measured operation; `None` on GPUs and for networks without fast forms.
    """
    if trainer.strategy.root_device.type != "cpu" or not is_accelerated(network):
        return None
    dtype = torch.bfloat16 if str(trainer.precision).startswith("bf16") else torch.float32
    if is_emulated(dtype) and trainer.is_global_zero:
        text = "this processor has no bf16: a step takes about 9 times as long as with --trainer.precision 32-true; %s"
        log.warning(text, "depthwise gradients are computed in float32")
    forms = trainer.strategy.broadcast(settle(dtype) if trainer.is_global_zero else None)
    adopt(dtype, forms or {})
    return {"dtype": str(dtype).removeprefix("torch."), "threads": torch.get_num_threads(), "forms": forms}


def changed_forms(before: dict[str, Any] | None, now: dict[str, Any] | None) -> list[tuple[str, Any, Any]]:
    """Return name and both values of what differs between the records of two runs on CPUs."""
    if not before or not now:
        return []
    earlier, later = (
        {"threads": record["threads"], **{f"form of {name}": form for name, form in record["forms"].items()}}
        for record in (before, now)
    )
    return [(name, earlier[name], later[name]) for name in earlier if later.get(name, earlier[name]) != earlier[name]]
