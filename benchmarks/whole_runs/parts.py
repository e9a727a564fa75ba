"""Time of a run by its parts: loader, network, and everything around them. Used within the measured process.

torch's own functions are timed, so mvrec and a plain loop are measured by the same clocks.
"""

import json
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import dataloader
from whole_runs.processes import Memory, cpu_of_session, memory_of_session

LOADER = "loader"
LEAST_STEPS = 3  # of a window in seconds


class Now(NamedTuple):
    """A moment: CPU seconds of this process, seconds of the clock."""

    cpu: float
    wall: float

    @classmethod
    def read(cls) -> "Now":
        return cls(time.process_time(), time.perf_counter())

    def since(self, before: "Now") -> "Now":
        return Now(self.cpu - before.cpu, self.wall - before.wall)


class Parts:
    """Seconds of each part of a run within a window, which opens after some steps.

    Args:
        report: Where the figures go when the window closes.
        begun: Time of the clock (`time.time`) at which this process was started.
        inputs_per_step: Clips or images of a step.
        warm_up: Steps before the window.
        seconds: Least length of the window, which ends with a step.
        steps: Its length in steps instead, if not 0; memory is then noted after each tenth, and the run goes on.
    """

    def __init__(
        self,
        report: Path,
        *,
        begun: float,
        inputs_per_step: int,
        warm_up: int,
        seconds: float = 0.0,
        steps: int = 0,
    ) -> None:
        self.report, self.begun, self.inputs_per_step = report, begun, inputs_per_step
        self.warm_up, self.seconds, self.steps = warm_up, seconds, steps
        self.done = 0
        self.first: dict[str, float] = {}
        self.memory: list[Memory] = []
        self._sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._opened: Now | None = None
        self._others = 0.0

    def timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """Return a function whose time counts for a part."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            before = Now.read()
            try:
                return function(*args, **kwargs)
            finally:
                self.add(part, Now.read().since(before))

        return call

    def add(self, part: str, took: Now) -> None:
        """Count the time of a part."""
        sums = self._sums[part]
        sums[0] += took.cpu
        sums[1] += took.wall

    def watch_loader(self) -> None:
        """Time what the loop waits for its loader."""
        iterator = dataloader._BaseDataLoaderIter
        iterator.__next__ = self.timed(iterator.__next__, LOADER)  # type: ignore[method-assign]

    def watch_training(self) -> None:
        """Time backward pass and optimiser, whose steps are counted; forward pass and loss are the caller's."""
        torch.Tensor.backward = self.timed(torch.Tensor.backward, "backward")  # type: ignore[method-assign]
        torch.nn.utils.clip_grad_norm_ = self.timed(torch.nn.utils.clip_grad_norm_, "optimiser")
        Optimizer.zero_grad = self.timed(Optimizer.zero_grad, "optimiser")  # type: ignore[method-assign]
        register_optimizer_step_pre_hook(self._before_update)
        register_optimizer_step_post_hook(self._after_update)

    def _before_update(self, optimizer: Optimizer, args: Any, kwargs: dict[str, Any]) -> Any:
        self._update_began = Now.read()
        closure = kwargs.get("closure")
        if closure is None:
            return None

        def step() -> Any:  # Lightning's closure has forward and backward pass
            value = closure()
            self._update_began = Now.read()
            return value

        return args, {**kwargs, "closure": step}

    def _after_update(self, *_: Any) -> None:
        self.add("optimiser", Now.read().since(self._update_began))
        self.step_is_done()

    def step_is_done(self) -> None:
        """Open the window after the warm-up, and close it when it is over."""
        self.done += 1
        if self.done == 1:
            self.first = {"wall": time.time() - self.begun, "cpu": time.process_time() + cpu_of_session()}
        if self.done == self.warm_up:
            self._sums.clear()
            self._others, self._opened = cpu_of_session(), Now.read()
        if self._opened is None or self.done == self.warm_up:
            return
        steps = self.done - self.warm_up
        if self.steps and steps * 10 // self.steps > len(self.memory):
            before = Now.read()
            self.memory.append(memory_of_session())
            self.add("measuring", Now.read().since(before))
        took = Now.read().since(self._opened)
        if steps >= self.steps if self.steps else steps >= LEAST_STEPS and took.wall >= self.seconds:
            self._close(took, steps)

    def _close(self, took: Now, steps: int) -> None:
        measuring = self._sums.pop("measuring", [0.0, 0.0])
        took = took.since(Now(*measuring))
        figures = {
            "steps": steps,
            "inputs": steps * self.inputs_per_step,
            "wall": took.wall,
            "cpu": took.cpu + cpu_of_session() - self._others,
            "cpu_of_main": took.cpu,
            "parts": {part: {"cpu": sums[0], "wall": sums[1]} for part, sums in self._sums.items()},
            "first_step": self.first,
            "memory": [memory._asdict() for memory in self.memory],
        }
        self.report.write_text(json.dumps(figures))
        self._opened = None
        if not self.steps:
            os.kill(os.getpid(), signal.SIGTERM)  # which mvrec obeys after the step
