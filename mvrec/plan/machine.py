"""The processors and GPUs of this machine that a run can use."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mvrec.machine import cores_per_process

LAUNCHED = ("WORLD_SIZE", "SLURM_NTASKS")  # variables of whoever starts one process per GPU


@dataclass(frozen=True)
class Machine:
    """The part of a machine that a run can use.

    Attributes:
        cores: Processor cores.
        gpu: The name of its GPU; "" without one.
        gpu_memory: GiB of one GPU.
        gpus: The number of GPUs.
        is_launched: Whether the user starts the processes of the run, as with torchrun or srun.
    """

    cores: int
    gpu: str = ""
    gpu_memory: float = 0.0
    gpus: int = 0
    is_launched: bool = False

    def describe(self) -> str:
        """Describe the machine in a few words."""
        cores = f"{self.cores} processor core{'s' if self.cores > 1 else ''}"
        if not self.gpu:
            return f"{cores}, no GPU"
        count = f"{self.gpus} x " if self.gpus > 1 else ""
        return f"{count}{self.gpu} with {self.gpu_memory:.0f} GiB, {cores}"


def this_machine(*, accelerator: str = "auto", environ: Mapping[str, str] = os.environ) -> Machine:
    """Return what a run can use here.

    Args:
        accelerator: `trainer.accelerator`; "cpu" leaves the GPUs alone.
        environ: The environment.
    """
    launched, cores = any(name in environ for name in LAUNCHED), cores_per_process(environ=environ)
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return Machine(cores, is_launched=launched)
    gpus = torch.cuda.device_count()
    memory = min(torch.cuda.get_device_properties(number).total_memory for number in range(gpus))
    return Machine(cores, torch.cuda.get_device_name(0), memory / 2**30, gpus, launched)
