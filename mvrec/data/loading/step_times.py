"""CPU time of the steps between a file and a batch, for `mvrec benchmark data`."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stages:
    """CPU seconds of this process per named step, counted while `counting` is set.

    Attributes:
        counting: Off by default, so that nothing is measured in ordinary runs.
        seconds: Step -> CPU seconds since `start`.
    """

    def __init__(self) -> None:
        self.counting = False
        self.seconds: dict[str, float] = defaultdict(float)

    def start(self) -> None:
        """Count from zero."""
        self.seconds.clear()
        self.counting = True

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the block for a step."""
        if not self.counting:
            yield
            return
        begin = time.process_time()
        try:
            yield
        finally:
            self.seconds[name] += time.process_time() - begin


stage = Stages()
