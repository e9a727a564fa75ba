"""The precision that a device computes in."""

import logging

import torch

from mvrec.errors import UserError

log = logging.getLogger(__name__)


def chosen_precision(wanted: str | int | None, *, accelerator: str) -> str | int:
    """What the trainer is to compute in; by default bf16 where a GPU has it, full precision elsewhere.

    Under "bf16-mixed" the weights, the softmax, the norms and the loss stay in float32.

    Args:
        wanted: `trainer.precision`, `None` for the default.
        accelerator: `trainer.accelerator`.

    Raises:
        UserError: The device does not have what is wanted.
    """
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if wanted is None:
        chosen = "bf16-mixed" if on_gpu and _gpu_has_bf16() else "32-true"
        if on_gpu:
            log.info("precision %s, which this GPU has", chosen)
        return chosen
    if on_gpu and str(wanted).startswith("bf16") and not _gpu_has_bf16():
        name = torch.cuda.get_device_name()
        raise UserError(
            f"trainer.precision={wanted}: {name} has no bf16; leave it out, or --trainer.precision 16-mixed"
        )
    if accelerator == "cpu" and str(wanted) in ("16", "16-mixed", "16-true"):
        raise UserError(f"trainer.precision={wanted}: CPUs have no fp16 training; take 32-true, or bf16-mixed")
    return wanted


def _gpu_has_bf16() -> bool:
    return torch.cuda.is_bf16_supported(including_emulation=False)
