"""The precision of a device's computations."""

import logging

import torch

from mvrec.errors import UserError

HALF = ("bf16-true", "16-true")  # which round true values and corners of boxes to two or three digits

log = logging.getLogger(__name__)


def chosen_precision(setting: str | int | None, *, accelerator: str) -> str | int:
    """Return the trainer's precision; by default bf16 on a GPU that has it, else full precision.

    Under "bf16-mixed" the weights, the softmax, the norms and the loss stay in float32.

    Args:
        setting: `trainer.precision`, `None` for the default.
        accelerator: `trainer.accelerator`.

    Raises:
        UserError: The device lacks the precision.
    """
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if setting is None:
        precision = "bf16-mixed" if on_gpu and _gpu_has_bf16() else "32-true"
        if on_gpu:
            log.info("precision %s, which this GPU has", precision)
        return precision
    if on_gpu and str(setting).startswith("bf16") and not _gpu_has_bf16():
        name = torch.cuda.get_device_name()
        raise UserError(
            f"trainer.precision={setting}: {name} has no bf16; leave it unset, or set --trainer.precision 16-mixed"
        )
    if accelerator == "cpu" and str(setting) in ("16", "16-mixed", "16-true"):
        raise UserError(f"trainer.precision={setting}: CPUs have no fp16 training; use 32-true or bf16-mixed")
    return setting


def _gpu_has_bf16() -> bool:
    return torch.cuda.is_bf16_supported(including_emulation=False)
