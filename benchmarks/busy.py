"""Training next to busy processes: steps per second of a small MViT next to 0, 1, 2 and 4 of them, by waiting policy.

python benchmarks/busy.py [--quick] [--busy N ...] [--spins N ...] [--first] [--json [PATH]]

Each policy is the environment of one process, which trains a small network on torch's default number of threads. The
policies take turns of a few seconds each next to the same busy processes. Steps are counted per second of the wall
clock, because a thread that sleeps takes no CPU time. Each busy process has a session of its own, as another user's
has, and Linux shares the cores out by session (`sched_autogroup_enabled`).

Other work on the machine counts as further busy processes; the load averages tell how much there was. `--first` (as
root) gives the sessions of this benchmark the highest priority and starves all others for minutes. Without busy
processes it is no idle machine, because others compute while threads sleep.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from results.figures import Figures, Row, add_option

from mvrec.machine import WAITING, WAITING_VARIABLES

DEFAULT, OURS = "torch's default", "mvrec"
GOALS = {0: 0.97, 2: 10.0}  # ratio of the steps per second to those of the default, by busy processes
NICE = "/proc/{}/autogroup"

TRAINING = """
import sys, time
import torch
from torch.nn.functional import cross_entropy
from mvrec import models

network = models.accelerate(models.MViT(
    num_classes=12, embed_dim=32, num_heads=1, depth=4, dim_mults={1: 2, 2: 2}, head_mults={1: 2, 2: 2},
    q_strides={1: 2, 2: 2}, kv_stride=4, num_frames=8, image_size=64,
))
optimizer = torch.optim.AdamW(network.parameters())
clips, labels = torch.randn(8, 3, 8, 64, 64), torch.randint(12, (8,))

def step():
    optimizer.zero_grad()
    cross_entropy(network(clips), labels).backward()
    optimizer.step()

for _ in range(3):
    step()
print(torch.get_num_threads(), flush=True)
for line in sys.stdin:
    end, steps, begin = float(line), 0, time.perf_counter()
    while time.perf_counter() - begin < end:
        step()
        steps += 1
    print(steps / (time.perf_counter() - begin), flush=True)
"""


class Training:
    """A process that trains for as long as it is told."""

    def __init__(self, variables: dict[str, str]) -> None:
        hidden = (*WAITING_VARIABLES, "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        environment = {name: value for name, value in os.environ.items() if name not in hidden} | variables
        command = [sys.executable, "-c", TRAINING]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process: subprocess.Popen[str] = subprocess.Popen(command, env=environment, **pipes)
        self.threads = int(self._answer())

    def steps_per_second(self, seconds: float) -> float:
        """Train for so many seconds, at least one step."""
        stdin: IO[str] = self.process.stdin
        stdin.write(f"{seconds}\n")
        stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@contextmanager
def priority(process: int | str) -> Iterator[None]:
    """Give the session of a process the highest priority."""
    path = Path(NICE.format(process))
    path.write_text("-19")
    try:
        yield
    finally:
        if path.exists():
            path.write_text("0")


@contextmanager
def busy_processes(count: int, *, first: bool) -> Iterator[None]:
    """Run so many processes that compute without end, each in a session of its own."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command, start_new_session=True) for _ in range(count)]
    try:
        for process in processes if first else ():
            Path(NICE.format(process.pid)).write_text("-19")
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(
    policies: Mapping[str, dict[str, str]], counts: Sequence[int], *, turns: int, seconds: float, first: bool = False
) -> tuple[dict[int, dict[str, list[float]]], int]:
    """Measure every policy in turns.

    Returns:
        Steps per second by number of busy processes and policy, a figure per turn; the number of threads.
    """
    speeds: dict[int, dict[str, list[float]]] = {busy: {name: [] for name in policies} for busy in counts}
    trainings = {name: Training(variables) for name, variables in policies.items()}
    names = list(policies)
    with ExitStack() as stack:
        for training in trainings.values():
            stack.callback(training.process.wait)
            stack.callback(training.process.kill)
        if first:
            stack.enter_context(priority("self"))
        for turn in range(turns):
            for busy in counts:
                with busy_processes(busy, first=first):
                    for name in names if turn % 2 else names[::-1]:
                        speeds[busy][name].append(trainings[name].steps_per_second(seconds))
    return speeds, trainings[OURS].threads


def rows(speeds: Mapping[int, Mapping[str, Sequence[float]]], idle: float | None, *, first: bool) -> Iterator[Row]:
    """Yield a row per number of busy processes and policy, medians, with the share of mvrec's speed without them."""
    for busy, by_policy in speeds.items():
        other, gaps = statistics.median(by_policy[DEFAULT]), first and not busy
        for name, values in by_policy.items():
            if name == DEFAULT:
                continue
            ratios = [value / default for value, default in zip(values, by_policy[DEFAULT], strict=True)]
            speed = statistics.median(values)
            yield Row(
                f"next to {busy}", name, peer=DEFAULT, mvrec=speed, other=other, unit="steps/s",
                ratio=statistics.median(ratios), low=min(ratios), high=max(ratios),
                goal=GOALS.get(busy) if name == OURS and not gaps else None,
                note="not idle: others compute while threads sleep" if gaps else "",
                more={"Of the speed next to none": speed / idle if idle else None},
            )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two short turns")
    parser.add_argument("--busy", type=int, nargs="+", default=(0, 1, 2, 4), metavar="N", help="numbers of processes")
    parser.add_argument(
        "--spins", type=int, nargs="+", default=[], metavar="N", help="further policies: GOMP_SPINCOUNT"
    )
    parser.add_argument("--first", action="store_true", help="starve all other sessions")
    add_option(parser)
    options = parser.parse_args()
    policies = {DEFAULT: {}, OURS: WAITING}
    policies |= {f"{spins:,} spins": {"GOMP_SPINCOUNT": str(spins)} for spins in options.spins}
    figures = Figures.of(options, "busy", packages=("torch",))
    turns, seconds = (2, 2.0) if options.quick else (4, 3.0)
    speeds, threads = measure(policies, options.busy, turns=turns, seconds=seconds, first=options.first)
    print(f"{figures.title}; {threads} threads, load average {os.getloadavg()[0]:.1f}; steps/s, medians\n")
    print("| Busy | Policy | Steps/s | The default's | Ratio | From, to |\n|---|---|---|---|---|---|")
    for row in rows(speeds, statistics.median(speeds[0][OURS]) if 0 in speeds else None, first=options.first):
        print(
            f"| {row.subject} | {row.measure} | {row.mvrec:.2f} | {row.other:.2f} | {row.ratio:.2f} "
            f"| {row.low:.2f} to {row.high:.2f} |"
        )
        figures.add(row)


if __name__ == "__main__":
    main()
