"""Checks of the machine: cores, memory, shared memory, open files, processes, devices and their precisions."""

import os
import platform
import shutil
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvrec.doctor.checks import Check
from mvrec.fast_forms import FAST, UNCLEAR, kept_here
from mvrec.machine import (
    CGROUPS,
    WAITING,
    WAITING_VARIABLES,
    cores_per_process,
    cpu_quota,
    shared_memory_fault,
    visible_cores,
    waiting_policy,
)
from mvrec.machine.large_pages import use_large_pages
from mvrec.processes import CAN_FORK, ChildError, Limits, apart

# A step of the recipes for MViT-B: 8 clips of 16 frames of 224 x 224 pixels; each loader worker prefetches two.
BATCH_BYTES = 8 * 3 * 16 * 224 * 224
READY_BATCHES = 2
FEW_FILES = 1024  # open files; loaders pass each batch through one


def machine_checks(
    *, cgroup: Path = CGROUPS, shm: Path = Path("/dev/shm"), environ: Mapping[str, str] | None = None
) -> list[Check]:
    """Check cores, waiting threads, memory and its pages, shared memory, open files and processes.

    Args:
        cgroup: The folder of a container's limits.
        shm: The folder of shared memory.
        environ: `os.environ`.
    """
    environ = os.environ if environ is None else environ
    workers = min(cores_per_process(environ=environ), 16)
    return [
        _cores(environ),
        _waiting(environ),
        Check("machine", "memory pages", "ok", use_large_pages(environ)),
        _memory(cgroup),
        _shared_memory(shm, workers),
        _open_files(),
        _fork(),
        _forms(),
    ]


def _cores(environ: Mapping[str, str]) -> Check:
    requested = environ.get("SLURM_CPUS_PER_TASK")
    cores, quota = visible_cores(environ), cpu_quota()
    text = f"{cores} of {os.cpu_count()} cores ({platform.machine()})"
    if quota is not None:
        text += f", a container with the time of {quota:g}"
    if requested and requested.isdigit() and int(requested) > cores:
        text += f", SLURM_CPUS_PER_TASK is {requested}"
        fix = f"srun --cpus-per-task={requested}: since Slurm 22.05 srun does not inherit it from sbatch"
        return Check("machine", "cores", "warning", text, fix)
    if "SLURM_JOB_ID" in environ and not requested and cores == 1:
        return Check("machine", "cores", "warning", f"{text} in a Slurm job", "#SBATCH --cpus-per-task=8")
    return Check("machine", "cores", "ok", text + (f", {requested} per task" if requested else ""))


def _waiting(environ: Mapping[str, str]) -> Check:
    text, spins = waiting_policy(environ)
    if not spins:
        return Check("machine", "waiting threads", "ok", f"sleep: {text}")
    fix = f"unset {' '.join(WAITING_VARIABLES)}; mvrec then sets {' '.join(f'{k}={v}' for k, v in WAITING.items())}"
    return Check("machine", "waiting threads", "warning", f"spin and slow down work next to them: {text}", fix)


def _memory(cgroup: Path) -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    limits = [total] if total > 0 else []
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (cgroup / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < total:
            limits.append(int(text))
    if not limits:
        return Check("machine", "memory", "note", "unknown")
    least = min(limits)
    text = f"{least / 2**30:.1f} GiB" + (
        f" of {total / 2**30:.1f}, the limit of this container" if least < total else ""
    )
    if least < 4 * 2**30:
        fix = "--data.num_workers 1 and a small --data.batch_size, or more memory (docker run --memory, #SBATCH --mem)"
        return Check("machine", "memory", "warning", text, fix)
    return Check("machine", "memory", "ok", text)


def _shared_memory(shm: Path, workers: int) -> Check:
    if not shm.is_dir() and not sys.platform.startswith("linux"):
        return Check("machine", "shared memory", "note", f"there is no {shm}")
    fault = shared_memory_fault(workers, folder=shm)
    if fault is not None:
        text, _, fix = fault.partition(": ")
        return Check("machine", "shared memory", "broken", text, fix)
    free = shutil.disk_usage(shm).free
    text = f"{free / 2**20:,.0f} MiB free in {shm}"
    if hasattr(os, "memfd_create"):
        return Check("machine", "shared memory", "ok", f"{text}, which batches do not need")
    each = READY_BATCHES * BATCH_BYTES
    if free >= workers * each:
        return Check("machine", "shared memory", "ok", text)
    fits = free // each
    need = f"{workers} loader workers with steps of 8 clips need {workers * each / 2**20:,.0f}"
    fix = f"docker run --ipc=host (or --shm-size=8g); mount -o remount,size=8g {shm}; or --data.num_workers {fits}"
    return Check("machine", "shared memory", "warning" if fits else "broken", f"{text}, {need}", fix)


def _open_files() -> Check:
    try:
        import resource
    except ImportError:  # Windows
        return Check("machine", "open files", "note", "the limit is unknown")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FEW_FILES:
        most = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
        fix = f"ulimit -n {most}"
        if most <= soft:
            fix = "raise the hard limit first, in /etc/security/limits.conf or docker run --ulimit nofile=65536"
        return Check("machine", "open files", "warning", f"at most {soft}: loaders pass batches through files", fix)
    return Check("machine", "open files", "ok", f"at most {'any number' if soft == resource.RLIM_INFINITY else soft}")


def _fork() -> Check:
    if not CAN_FORK:
        text = "not on this system: a file that hangs the decoder hangs its loader process"
        return Check("machine", "fork", "warning", text, "use Linux or WSL for data that you do not trust")
    try:
        apart(os.getpid, limits=Limits(seconds=20, memory=None))
    except (ChildError, OSError) as error:
        return Check("machine", "fork", "broken", f"no process can be started: {error}", "ulimit -u unlimited")
    return Check("machine", "fork", "ok", "files are read in processes that can be killed")


def _forms() -> Check:
    """Tell what was measured about the fast forms of operations on this processor."""
    entries = kept_here()
    if not entries:
        return Check(
            "machine", "fast forms", "note", "not measured yet: the first network on the CPU does so, in seconds"
        )
    texts = [
        f"{where['dtype']} on {where['threads']} threads ({where['instructions']}): "
        f"{list(forms.values()).count(FAST)} of {len(forms)} operations"
        for _, where, forms in entries
    ]
    text = f"faster here for {'; '.join(texts)}"
    unclear = {path: [name for name in forms if forms[name] == UNCLEAR] for path, _, forms in entries}
    names = sorted({name for path in unclear for name in unclear[path]})
    if names:
        files = " ".join(str(path) for path in unclear if unclear[path])
        text += f"; load has disturbed the measurement of {', '.join(names)}, so their plain form runs"
        return Check("machine", "fast forms", "warning", text, f"rm {files}: the next network measures again")
    return Check("machine", "fast forms", "ok", text)


# -- devices ----------------------------------------------------------------------------------------------------------


def device_checks() -> list[Check]:
    """Check the CPU and every GPU with a matrix product in each precision."""
    import torch

    checks = [_cpu(torch)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        checks.append(_no_gpu(torch, [str(warning.message) for warning in caught], os.environ))
        return checks
    return checks + [_gpu(torch, number) for number in range(torch.cuda.device_count())]


def _cpu(torch: Any) -> Check:
    works = [name for name in ("fp32", "bf16") if _multiplies(torch, "cpu", name) is None]
    text = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads, works in {', '.join(works)}"
    if "fp32" not in works:
        return Check("devices", "CPU", "broken", text, "pip install --force-reinstall torch torchvision")
    return Check("devices", "CPU", "ok", text)


def _no_gpu(torch: Any, messages: list[str], environ: Mapping[str, str], *, dev: Path = Path("/dev")) -> Check:
    """Explain why torch can use no GPU: none exists, it is hidden, torch lacks CUDA, or the driver is too old."""
    nodes = sorted(dev.glob("nvidia[0-9]*"))
    hidden = environ.get("CUDA_VISIBLE_DEVICES")
    if not nodes:
        mps = getattr(torch.backends, "mps", None)
        return Check(
            "devices", "GPU", "note", "none" + (", Apple's (mps) is there" if mps and mps.is_available() else "")
        )
    if hidden is not None and hidden.strip() in ("", "-1"):
        return Check(
            "devices",
            "GPU",
            "note",
            f"CUDA_VISIBLE_DEVICES={hidden!r} hides {len(nodes)}",
            "unset CUDA_VISIBLE_DEVICES",
        )
    if torch.version.cuda is None:
        fix = "pip install --force-reinstall torch torchvision (https://pytorch.org/get-started/locally has the index)"
        return Check("devices", "GPU", "broken", f"{len(nodes)} are there, but this torch has no CUDA", fix)
    cause = " ".join(" ".join(messages).split())[:200] or "CUDA does not start"
    fix = f"nvidia-smi must work; update the driver to one for CUDA {torch.version.cuda}, or install an older torch"
    return Check("devices", "GPU", "broken", f"{len(nodes)} are there, but torch cannot use them: {cause}", fix)


def _gpu(torch: Any, number: int) -> Check:
    properties = torch.cuda.get_device_properties(number)
    name = f"GPU {number}"
    text = (
        f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, compute {properties.major}.{properties.minor}"
    )
    failed = {kind: error for kind in ("fp32", "fp16", "bf16") if (error := _multiplies(torch, f"cuda:{number}", kind))}
    if "fp32" in failed:
        kernels = ", ".join(torch.cuda.get_arch_list())
        fix = f"a torch with kernels for sm_{properties.major}{properties.minor} (this one: {kernels}), or another GPU"
        return Check("devices", name, "broken", f"{text}: {failed['fp32']}", fix)
    works = [kind for kind in ("fp16", "bf16") if kind not in failed]
    if "bf16" in works and properties.major < 8:
        works[works.index("bf16")] = "bf16 (emulated, slow: --trainer.precision 16-mixed)"
    if properties.major >= 8:
        works.append("tf32")
    return Check("devices", name, "ok", f"{text}, works in fp32, {', '.join(works)}")


def _multiplies(torch: Any, device: str, kind: str) -> str | None:
    """Try a product in a precision; return its fault, or `None`."""
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[kind]
    try:
        ones = torch.ones(32, 32, device=device, dtype=dtype)
        value = float((ones @ ones)[0, 0])
    except (RuntimeError, NotImplementedError) as error:
        return " ".join(str(error).split())[:200]
    return None if value == 32 else f"32 ones add up to {value:g}"
