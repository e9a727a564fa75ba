"""A training step with memory in large pages, as mvrec's commands have it, and as a process has it by default.

python benchmarks/large_pages.py [--quick] [--only NAME] [--json [PATH]]

Each turn is two processes, in changing order: both train the same accelerated network on one thread, one after
`use_large_pages`. CPU seconds of a step, forward and backward, float32; and the peak of resident memory.
"""

import argparse
import json
import statistics
import subprocess
import sys

from results.figures import Figures, Row, add_option

NETWORKS = {  # by name: the shape of a batch
    "mvit_b_16x4": (1, 3, 16, 224, 224),
    "mvit_v2_s": (4, 3, 224, 224),
    "shunted_t": (4, 3, 224, 224),
    "sgformer_s": (4, 3, 224, 224),
    "cloformer_xxs": (8, 3, 224, 224),
}
DEFAULT = "the default"

STEPS = """
import json, resource, sys, time
large, name, shape, steps = json.loads(sys.argv[1])
if large:
    from mvrec.machine.large_pages import use_large_pages
    assert use_large_pages().startswith("large pages"), use_large_pages()
import torch
from mvrec import models

torch.set_num_threads(1)
network = models.accelerate(models.create_model(name).train())
inputs = torch.randn(shape)
times = []
for _ in range(1 + steps):
    begin = time.process_time()
    network(inputs).square().mean().backward()
    network.zero_grad()
    times.append(time.process_time() - begin)
print(json.dumps([times[1:], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def train(name: str, *, large: bool, steps: int) -> tuple[float, float]:
    """Return the median CPU seconds of a step and the peak of resident memory in MiB, of a process of its own."""
    arguments = json.dumps([large, name, NETWORKS[name], steps])
    done = subprocess.run([sys.executable, "-c", STEPS, arguments], check=True, stdout=subprocess.PIPE, text=True)
    times, peak = json.loads(done.stdout)
    return statistics.median(times), peak


def row(name: str, *, turns: int, steps: int) -> Row:
    """Measure a network in turns."""
    results: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for turn in range(turns):
        for large in (True, False) if turn % 2 else (False, True):
            results[large].append(train(name, large=large, steps=steps))
    ratios = [small[0] / large[0] for small, large in zip(results[False], results[True], strict=True)]
    (seconds, peak), (default, default_peak) = (
        [statistics.median(each) for each in zip(*results[large], strict=True)] for large in (True, False)
    )
    return Row(
        name, "training step, fp32", peer=DEFAULT, mvrec=seconds, other=default, unit="CPU s",
        ratio=statistics.median(ratios), low=min(ratios), high=max(ratios),
        more={"Peak, MiB": peak, "Peak by default, MiB": default_peak},
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one turn of one step")
    parser.add_argument("--only", choices=NETWORKS, help="one network")
    add_option(parser)
    options = parser.parse_args()
    figures = Figures.of(options, "large_pages", packages=("torch",))
    print(f"{figures.title}; one thread\n")
    print("| Network | Step | By default | Ratio | From, to | Peak, MiB | By default |\n|---|---|---|---|---|---|---|")
    for name in [options.only] if options.only else NETWORKS:
        line = row(name, turns=1 if options.quick else 3, steps=1 if options.quick else 3)
        print(
            f"| {name} | {line.mvrec:.3f} | {line.other:.3f} | {line.ratio:.2f} | {line.low:.2f} to {line.high:.2f} | "
            + " | ".join(f"{value:.0f}" for value in line.more.values())
        )
        figures.add(line)


if __name__ == "__main__":
    main()
