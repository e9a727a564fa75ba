"""The model's prediction for local processes beside `mvrec fit` runs of the demo's network on this CPU."""

import csv
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scaling.parameters import Cluster, Training
from scaling.throughput import ring_all_reduce, slowest_of, speed

from mvrec.machine import visible_cores

ROOT = Path(__file__).resolve().parents[2]
BATCH = 8  # clips of a process, as in configs/demo.yaml
CLIPS_PER_CLASS = 40  # 480 files: 60 batches, divided by 1, 2 and 4 processes
PARAMETERS = 523_852  # of the demo's network, in two DDP buckets: the first holds 1 MiB
WARM_UP = 10  # steps
COUNTS = (1, 2, 4)  # processes
SIZES = [2**power for power in range(12, 24)]  # bytes of an all-reduce
DEMO = Training(  # reading is a part of the step
    batch_per_gpu=BATCH, gradient_bytes=4 * PARAMETERS, gradient_buckets=2, overlap_share=0, step_spread=0,
    decode_cpu_seconds=0, read_bytes=0,
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What one `mvrec fit` run did after its warm-up.

    Attributes:
        processes: Processes of the run.
        clips_per_second: Of all of them: clips of the steps over the sum of their times.
        step_seconds: Mean of a step.
        read_seconds: The first process's wait for its batch, a part of `step_seconds`: it reads its clips itself.
        spread: Standard deviation of a step as a share of its mean.
        other_cores: Cores that other programs kept busy meanwhile, on average.
    """

    processes: int
    clips_per_second: float
    step_seconds: float
    read_seconds: float
    spread: float
    other_cores: float


@dataclass(frozen=True)
class Link:
    """Gloo's all-reduce over loopback among some processes, fitted by the ring formula.

    Attributes:
        latency: Seconds of a message.
        bandwidth: Bytes per second.
        worst_error: The largest difference of the fit from a measured time, as a share of it.
    """

    latency: float
    bandwidth: float
    worst_error: float


def busy_seconds() -> float:
    """Return CPU seconds of all programs since the machine started; 0 where nobody says."""
    try:
        first = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return 0.0
    user, nice, system, _idle, _iowait, irq, soft = (int(text) for text in first[1:8])
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


def session_seconds(session: int) -> dict[int, float]:
    """Return CPU seconds of every living process of a session, by process id; nothing where there is no /proc."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(words[3]) == session:
            found[int(path.parent.name)] = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    return found


def other_cores(process: subprocess.Popen[str], metrics: Path) -> float:
    """Measure the cores that others use while a process, first of its session, logs its steps; return when it ends."""
    begin, busy = 0.0, 0.0
    own: dict[int, float] = {}
    now = busy_now = 0.0
    while process.poll() is None:
        if metrics.exists():
            now, busy_now = time.monotonic(), busy_seconds()
            own |= session_seconds(process.pid)
            if not begin:
                begin, busy = now, busy_now - sum(own.values())
        time.sleep(0.2)
    return max((busy_now - busy - sum(own.values())) / (now - begin), 0.0) if now > begin else 0.0


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def make_data(root: Path) -> None:
    """The demo's videos, fewer of them."""
    from mvrec.data.generated.moving_digits_video import generate_moving_digits

    if not root.exists():
        generate_moving_digits(root, clips_per_class={"train": CLIPS_PER_CLASS, "val": 1, "test": 1})


def read_steps(metrics: Path) -> tuple[list[float], list[float]]:
    """Return clips per second and share of waiting of every step that a run logged."""
    with metrics.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/clips_per_second"]]
    return [float(row["train/clips_per_second"]) for row in rows], [float(row["train/data_wait"]) for row in rows]


def measure_run(processes: int, data: Path, folder: Path) -> Run:
    """Train 60 steps of 8 clips per process, one thread each, and read the time of every step from metrics.csv.

    Raises:
        RuntimeError: The run failed; with the end of what it printed.
    """
    flags = {
        "config": ROOT / "configs/demo.yaml",
        "data.root": data,
        "data.clips_per_class": CLIPS_PER_CLASS,
        "data.eval_clips_per_class": 1,
        "data.batch_size": BATCH,
        "data.num_workers": 0,
        "trainer.max_epochs": processes,  # 60 steps, whatever the number of processes
        "trainer.log_every_n_steps": 1,
        "trainer.limit_val_batches": 0,
        "trainer.accelerator": "cpu",
        "trainer.devices": processes,
        "trainer.strategy": "ddp",
        "run_dir": folder,
    }
    words = [f"--{name}={value}" for name, value in flags.items()]
    # `mvrec` is a file, since Lightning starts it again for every process; others come first, so that what they leave
    # is what the model counts on.
    command = ["nice", "-n", "10", str(Path(sys.executable).with_name("mvrec")), "fit", *words]
    with (folder.parent / f"{folder.name}.txt").open("w+") as output:
        process = subprocess.Popen(
            command, env=environment(), stdout=output, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        others = other_cores(process, folder / "metrics.csv")
        output.seek(0)
        if process.returncode:
            last = " ".join(output.read().split())[-300:]
            raise RuntimeError(f"mvrec fit with {processes} processes failed: {last}")
    return run_of(processes, *read_steps(folder / "metrics.csv"), others=others)


def run_of(processes: int, rates: list[float], waits: list[float], *, others: float) -> Run:
    """A run from the clips per second and the share of waiting of its steps."""
    times = [processes * BATCH / rate for rate in rates[WARM_UP:]]
    mean = statistics.mean(times)
    return Run(
        processes=processes,
        clips_per_second=processes * BATCH / mean,
        step_seconds=mean,
        read_seconds=statistics.mean(time * wait for time, wait in zip(times, waits[WARM_UP:], strict=True)),
        spread=statistics.stdev(times) / mean,
        other_cores=others,
    )


ALL_REDUCE = """
import json, statistics, sys, time
import torch, torch.distributed as dist
rank, processes, rendezvous, sizes = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=processes)
found = []
for size in sizes:
    numbers, times = torch.ones(size // 4), []
    for _ in range(23):
        dist.barrier()
        begin = time.perf_counter()
        dist.all_reduce(numbers)
        times.append(time.perf_counter() - begin)
        numbers.fill_(1)
    found.append(statistics.median(times[3:]))
dist.destroy_process_group()
if rank == 0:
    print(json.dumps(found))
"""


def measure_all_reduce(processes: int, folder: Path) -> list[float]:
    """Return seconds of an all-reduce of each of `SIZES`, medians of 20, in processes that meet through a file.

    Raises:
        RuntimeError: One of the processes failed.
    """
    meeting = folder / f"meeting-{processes}-{time.monotonic_ns()}"
    commands = [
        [sys.executable, "-c", ALL_REDUCE, str(rank), str(processes), meeting.as_uri(), json.dumps(SIZES)]
        for rank in range(processes)
    ]
    env = {**environment(), "GLOO_SOCKET_IFNAME": "lo"}
    started = [subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) for words in commands]
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"an all-reduce among {processes} processes failed; its message stands above")
    return json.loads(outputs[0])


def fit_link(processes: int, sizes: list[int], times: list[float]) -> Link:
    """Return least squares of relative errors of the ring formula, which is a straight line in the size."""
    columns = np.array([[2 * (processes - 1), 2 * (processes - 1) / processes * size] for size in sizes], float)
    measured = np.array(times)
    latency, per_byte = np.linalg.lstsq(columns / measured[:, None], np.ones(len(sizes)), rcond=None)[0]
    if latency < 0 or per_byte <= 0:
        raise RuntimeError("all-reduce times do not grow with their size: measure again on a quieter machine")
    errors = columns @ np.array([latency, per_byte]) / measured - 1
    return Link(float(latency), float(1 / per_byte), float(np.abs(errors).max()))


def predict(one: Run, processes: int, link: Link | None, *, cores: int, others: float) -> float:
    """Return clips per second of local processes, from the run of one process and the all-reduce's fit.

    p processes on c cores, o of which are taken by others, who come first, take `max(1, p / (c - o))` times as long as
    alone. The slowest is that of min(p, c), since a process that waits leaves its core to the rest. Nothing is hidden
    behind backward, which leaves no core idle. The rest is the cluster's model with one node.

    Args:
        one: The run of one process, whose crowding is taken out.
        processes: p.
        link: Of p processes; `None` for one.
        cores: c.
        others: o during the run that is predicted.
    """

    def crowding(running: int, taken: float) -> float:
        return max(1.0, running / max(cores - taken, 0.1))

    times = crowding(processes, others) / crowding(1, one.other_cores)
    waiting = 1 + one.spread * slowest_of(min(processes, cores))
    training = replace(DEMO, step_seconds=one.step_seconds * times * waiting)
    cluster = Cluster(gpus_per_node=processes)
    if link is not None:
        cluster = replace(cluster, intra_latency_us=1e6 * link.latency, intra_gb_per_s=1e-9 * link.bandwidth)
    return speed(processes, cluster, training).clips_per_second


def calibrate(folder: Path, rounds: int) -> dict[str, Any]:
    """Measure rounds of runs with 1, 2 and 4 processes, each round predicted from its own run of one process.

    Prints a line per run, and returns all figures.
    """
    cores = visible_cores()
    print(f"{cores} CPU cores, one thread and {BATCH} clips a step per process, 50 steps after {WARM_UP}", flush=True)
    make_data(folder / "data")
    rows = []
    for number in range(rounds):
        print(f"round {number + 1}, load {os.getloadavg()[0]:.1f}", flush=True)
        one = None
        for processes in COUNTS:
            link = None
            if processes > 1:
                link = fit_link(processes, SIZES, measure_all_reduce(processes, folder))
            run = measure_run(processes, folder / "data", folder / f"run-{number}-{processes}")
            one = one or run
            ahead, after = (predict(one, processes, link, cores=cores, others=r.other_cores) for r in (one, run))
            rows.append(
                {
                    "predicted": ahead,
                    "predicted_with_its_load": after,
                    "run": asdict(run),
                    "link": link and asdict(link),
                }
            )
            print(describe(run, link, ahead, after), flush=True)
    return {"cores": cores, "rows": rows}


def describe(run: Run, link: Link | None, ahead: float, after: float) -> str:
    """What one run gave, and what was predicted with the load of before and of the run itself."""
    text = (
        f"  {run.processes} processes: {run.clips_per_second:.1f} clips/s, step {1000 * run.step_seconds:.0f} ms "
        f"(reading {1000 * run.read_seconds:.0f}, spread {100 * run.spread:.0f} %), others {run.other_cores:.2f} cores"
    )
    if link is None:
        return text
    seconds = ring_all_reduce(
        run.processes,
        DEMO.gradient_bytes,
        latency=link.latency,
        bandwidth=link.bandwidth,
        messages=DEMO.gradient_buckets,
    )
    return (
        f"{text}\n    all-reduce: alpha {1e6 * link.latency:.0f} us, {1e-9 * link.bandwidth:.2f} GB/s (fit within "
        f"{100 * link.worst_error:.0f} %), {1000 * seconds:.1f} ms a step\n"
        f"    predicted {ahead:.1f} clips/s, {100 * (ahead / run.clips_per_second - 1):+.0f} %; "
        f"with the load of this run {after:.1f}, {100 * (after / run.clips_per_second - 1):+.0f} %"
    )


def summary(rows: list[dict[str, Any]]) -> str:
    """A table of medians over the rounds, with the smallest and the largest."""
    lines = [
        "| processes | measured clips/s | predicted | error | with the load of the run | error |",
        "|" + "---|" * 6,
    ]
    for processes in sorted({row["run"]["processes"] for row in rows}):
        kept = [row for row in rows if row["run"]["processes"] == processes]
        measured = [row["run"]["clips_per_second"] for row in kept]
        cells = [span(measured, ".1f")]
        for key in ("predicted", "predicted_with_its_load"):
            predicted = [row[key] for row in kept]
            errors = [100 * (p / m - 1) for p, m in zip(predicted, measured, strict=True)]
            cells += [span(predicted, ".1f"), f"{span(errors, '+.0f')} %"]
        lines.append(f"| {processes} | {' | '.join(cells)} |")
    return "\n".join(lines)


def span(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"
