"""The time that a run will take: a step of its network, measured on this machine."""

import copy
import time

import torch

from mvrec.models import Backbone
from mvrec.models.macs import count_macs

MOST_MACS = 2e9  # of the input that is timed on a processor: a second at most
BATCH = 2
LEAST_SIDE = 64
FORWARD = 1 / 3  # share of a forward pass in the time of a step


def seconds_per_view(backbone: Backbone, view_shape: tuple[int, ...], *, on_gpu: bool) -> float | None:
    """Measure the time that a network needs to learn from one view: forward and backward.

    On a processor a large network is timed on a smaller input, and the time grows with the multiply-adds.

    Args:
        backbone: The network; a copy of it is timed.
        view_shape: `(C, T, H, W)` of clips, `(C, H, W)` of images.
        on_gpu: Whether it trains on a GPU.

    Returns:
        Seconds; `None` for a network that cannot be timed so.
    """
    try:
        shape, share = view_shape, 1.0
        if not on_gpu:
            macs = count_macs(backbone, view_shape)
            while macs * share > MOST_MACS and min(shape[-2:]) >= 2 * LEAST_SIDE:
                shape = (*shape[:-2], shape[-2] // 2, shape[-1] // 2)
                share = count_macs(backbone, shape) / macs
        return _measured(backbone, shape, torch.device("cuda" if on_gpu else "cpu")) / share
    except (NotImplementedError, RuntimeError, TypeError, ValueError):  # a user's network may refuse any of this
        return None


def _measured(backbone: Backbone, shape: tuple[int, ...], device: torch.device) -> float:
    with torch.random.fork_rng(), torch.enable_grad(), torch.autocast("cuda", enabled=device.type == "cuda"):
        network = copy.deepcopy(backbone).to(device).train()
        views = torch.rand(BATCH, *shape, device=device)
        best = float("inf")
        for _ in range(2):  # the first prepares
            begin = time.perf_counter()
            outputs = network(views)
            parts = outputs if isinstance(outputs, tuple) else (outputs,)  # a segmenter may have an auxiliary head
            torch.stack([part.float().square().mean() for part in parts]).sum().backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - begin)
    return best / BATCH


def in_words(seconds: float) -> str:
    """Return a time as people say it: "about 40 seconds", "about 3 minutes"."""
    if seconds < 90:
        return f"about {max(10, round(seconds, -1)):.0f} seconds"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} minutes"
    return f"about {seconds / 3600:.0f} hours" if seconds < 48 * 3600 else f"about {seconds / 86400:.0f} days"
