"""Steps of networks on a GPU, or on a CPU for trying a benchmark: time, memory, kernels and waits.

A GPU works through a queue. So times are taken around several steps between two synchronisations, after a warm-up. A
wait is a call in which the host stops until the queue is empty: reading a value (`item`), or copying from or to memory
that is not page-locked. Each wait costs the time in which the queue could have been filled.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

Step = Callable[[], Any]

# Peak TFLOP/s of dense products in bfloat16 and TF32, by the makers' data sheets (the figures "with sparsity" halved).
PEAKS = {
    "NVIDIA B200": (2250.0, 1125.0),  # HGX B200: 36 and 18 PFLOP/s of eight, with sparsity
    "NVIDIA H200": (989.4, 494.7),
    "NVIDIA H200 NVL": (835.5, 417.5),
    "NVIDIA H100 80GB HBM3": (989.4, 494.7),  # SXM
    "NVIDIA H100 PCIe": (756.0, 378.0),
    "NVIDIA H100 NVL": (835.5, 417.5),
    "NVIDIA H20": (148.0, 74.0),
    "NVIDIA A100-SXM4-40GB": (312.0, 156.0),
    "NVIDIA A100-SXM4-80GB": (312.0, 156.0),
    "NVIDIA A100-PCIE-40GB": (312.0, 156.0),
    "NVIDIA A100 80GB PCIe": (312.0, 156.0),
    "NVIDIA L40S": (362.1, 183.2),
    "NVIDIA L4": (121.0, 60.0),
}
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
LABEL = "measured step"


class Profile(NamedTuple):
    """The profiler's figures of one step.

    Attributes:
        kernels: Kernels started, without copies.
        busy: Seconds of these kernels.
        waits: Calls in which the host waited for the device.
        largest: Names of the five kernels with most time, and their share of `busy`.
    """

    kernels: int
    busy: float
    waits: int
    largest: tuple[tuple[str, float], ...] = ()


def device_name(device: str) -> str:
    """Return the GPU's name; "" for a CPU."""
    return torch.cuda.get_device_name() if device == "cuda" else ""


def peak_flops(name: str, *, bf16: bool) -> float | None:
    """Return the peak of a GPU in FLOP/s, or None for one that the table lacks."""
    peaks = PEAKS.get(name)
    return None if peaks is None else peaks[0 if bf16 else 1] * 1e12


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def timed(step: Step, count: int, device: str) -> float:
    """Return seconds per step."""
    synchronise(device)
    begin = time.perf_counter()
    for _ in range(count):
        step()
    synchronise(device)
    return (time.perf_counter() - begin) / count


def times_in_turns(steps: dict[str, Step], device: str, *, repeats: int, seconds: float) -> dict[str, list[float]]:
    """Return seconds per step of each of several steps that take turns, each turn of about so many seconds."""
    counts = {name: max(1, round(seconds / timed(step, 2, device))) if seconds else 1 for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            times[name].append(timed(step, counts[name], device))
    return times


def peak_gib(step: Step, device: str) -> float | None:
    """Return how much a step raises the memory of the GPU at its peak, above weights and the optimiser's state."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def profiled(step: Step, device: str) -> Profile:
    """Measure one step with torch's profiler."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    if device == "cuda":
        step()  # refills the pool of memory, which `peak_gib` empties
    synchronise(device)
    with profile(activities=activities) as recorder:
        with record_function(LABEL):
            step()
        synchronise(device)  # the profiler would lose what is still in the queue
    return summary(recorder.events())


def summary(events: Iterable[Any]) -> Profile:
    """Summarise the profiler's events of a step under `LABEL`, in whose time on the CPU the waits count."""
    events = list(events)
    span = next(event.time_range for event in events if event.name == LABEL and event.device_type == DeviceType.CPU)
    kernels = [event for event in events if is_kernel(event)]
    waits = [event for event in events if event.name in WAITS and span.start <= event.time_range.start < span.end]
    times: Counter[str] = Counter()
    for event in kernels:
        times[event.name] += event.time_range.elapsed_us()
    busy = times.total()
    largest = tuple((name, time / busy) for name, time in times.most_common(5))
    return Profile(len(kernels), busy / 1e6, len(waits), largest)


def is_kernel(event: Any) -> bool:
    """Return whether an event of the profiler is a kernel on a GPU: no copy, and no name given to a span of time."""
    if event.device_type != DeviceType.CUDA or event.name == LABEL or getattr(event, "is_user_annotation", False):
        return False
    return not event.name.startswith(("Memcpy", "Memset", "Optimizer.", "ProfilerStep"))
