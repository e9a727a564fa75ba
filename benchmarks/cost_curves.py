"""Growth of CPU time and memory of our networks with frames, pixels, batch and views, next to multiply-adds.

python benchmarks/cost_curves.py [--quick] [--only NAME] [--axis AXIS] [--json FILE] [--plot FILE]
python benchmarks/cost_curves.py --stored FILE [FILE ...] [--plot FILE]     # tables and plot of earlier runs

One network of every family on one thread, float32, with one axis changed at a time. Time is CPU time, the median of
repeats after one warm-up; points that take more than 4 seconds are measured once. Memory of a training step is the
part kept for its backward pass. Memory of inference is the peak of torch's CPU allocator above its start, to the byte:
resident memory also holds what glibc has not returned, so it depends on earlier steps.

The slope between two neighbours is the exponent in y ~ x^slope. An interval is marked `unexplained` where the exponent
of time is more than 0.25 above that of the multiply-adds (as papers count them), or that of memory more than 0.25 above
that of the tokens, in which a network that keeps no matrix of scores is linear. docs/cost_curves.md has the reasons.
"""

import argparse
import json
import math
import os
import platform
import resource
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import torch
from networks.comparing import kept_bytes
from torch import Tensor, nn

from mvrec.data.loading.batch import ClipBatch
from mvrec.data.views.normalisation import Normalisation
from mvrec.models import Backbone, count_macs, create_model
from mvrec.tasks import Classification
from mvrec.tasks.classification.scores import ClassTally
from mvrec.tasks.scores import ScoreKeeper

VIDEO = ("mvit_b_16x4", "mvit_v2_s_16x4")
NETWORKS = (*VIDEO, "mvit_v2_t", "shunted_t", "sgformer_s", "cloformer_xxs")
AXES = {"frames": (8, 16, 32, 64), "size": (112, 160, 224, 320, 448), "batch": (1, 2, 4, 8), "views": (1, 3, 10, 30)}
BASE = {"frames": 16, "size": 224, "batch": 1, "views": 1}
QUICK_BASE = {"frames": 8, "size": 112, "batch": 1, "views": 1}
VIEWS_PER_FORWARD = 8  # the default of `mvrec test`: the clips of a training step, which are 8 by default
TOLERANCE = 0.25  # of a slope
SLOW_SECONDS = 4.0  # a step that takes longer is measured once
RUN_SECONDS = 0.3  # shorter steps are repeated within a run
HEADER = (
    "| network | mode | axis | value | GMACs | CPU s | in the kernel | MiB | slope: MACs | time | tokens | memory | "
    "unexplained |"
)


@dataclass
class Point:
    """One measured step.

    Attributes:
        network: Its name.
        mode: "inference", "training", or "evaluation" of one video's views.
        axis: The axis that changes.
        value: The value on the axis.
        macs: Multiply-adds of the forward pass, of the whole batch or all views.
        inputs: Pixels of the whole batch or all views, proportional to tokens.
        memory: Bytes: kept for the backward pass, or the peak of inference.
        runs: CPU seconds of every run, and the kernel's share of them.
        skipped: Why it was not measured, or "".
    """

    network: str
    mode: str
    axis: str
    value: int
    macs: int
    inputs: int
    memory: int = 0
    runs: list[tuple[float, float]] = field(default_factory=list)
    skipped: str = ""

    @property
    def seconds(self) -> float:
        return statistics.median(total for total, _ in self.runs)

    @property
    def kernel_share(self) -> float:
        return statistics.median(kernel / total for total, kernel in self.runs)


@dataclass(frozen=True)
class Slopes:
    """Exponents between two neighbouring points."""

    macs: float
    seconds: float
    inputs: float
    memory: float

    @property
    def unexplained(self) -> str:
        axes = ["time"] if self.seconds > self.macs + TOLERANCE else []
        return ", ".join(axes + (["memory"] if self.memory > self.inputs + TOLERANCE else []))


def slope(x: tuple[float, float], y: tuple[float, float]) -> float:
    return math.log(y[1] / y[0]) / math.log(x[1] / x[0])


def slopes(before: Point, after: Point) -> Slopes:
    names = ("macs", "seconds", "inputs", "memory")
    return Slopes(
        *(slope((before.value, after.value), (getattr(before, name), getattr(after, name))) for name in names)
    )


# -- the steps -------------------------------------------------------------------------------------------------------


def build(name: str, place: dict[str, int]) -> Backbone:
    """Build a network for this size, so that no position table is interpolated, and without stochastic depth."""
    knobs: dict[str, Any] = {"image_size": place["size"], "drop_path_rate": 0.0}
    if name.startswith("mvit"):
        knobs["head_dropout"] = 0.0
    if name in VIDEO:
        knobs["num_frames"] = place["frames"]
    torch.manual_seed(0)
    return create_model(name, **knobs)


def training_step(network: nn.Module, clips: Tensor) -> None:
    network(clips).square().mean().backward()
    network.zero_grad()


def inference(network: nn.Module, clips: Tensor) -> None:
    with torch.inference_mode():
        network(clips)


def evaluation(task: Classification, pixels: Tensor) -> None:
    """Score the views of one video as `mvrec test` does: normalise the pixels together, score a few at a time."""
    views, zeros = torch.arange(len(pixels)), torch.zeros(len(pixels), dtype=torch.int64)
    batch = ClipBatch(pixels, targets=zeros, sample_ids=zeros, view_ids=views, seeds=zeros)
    keeper = ScoreKeeper(ClassTally(task.backbone.num_classes), num_views=len(pixels), expected=1)
    task._keeper = keeper  # on_test_epoch_start does so, but needs a trainer
    with torch.inference_mode():
        task.test_step(batch.with_clips(Normalisation()(batch.clips)), 0)
        keeper.gather()


def prepared(network: Backbone, mode: str, count: int) -> tuple[Callable[[], None], Tensor]:
    """Return a step of the network on `count` inputs, and the inputs."""
    shape, draws = (count, *network.input_shape), torch.Generator().manual_seed(0)
    if mode == "evaluation":
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draws)
        task = Classification(network, views_per_forward=VIEWS_PER_FORWARD).eval()
        return lambda: evaluation(task, pixels), pixels
    clips = torch.randn(shape, generator=draws)
    step = training_step if mode == "training" else inference
    network.train(mode == "training")
    return lambda: step(network, clips), clips


def timed(step: Callable[[], None], count: int = 1) -> tuple[float, float]:
    """Return a step's CPU seconds, and the part of them in the kernel, which zeroes the pages of large tensors."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(count):
        step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    kernel = after.ru_stime - before.ru_stime
    return (after.ru_utime - before.ru_utime + kernel) / count, kernel / count


def peak_bytes(step: Callable[[], None]) -> int:
    """Return the peak of torch's CPU allocator during a step, above its start."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would report that it found no GPU
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    assert profile.profiler is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    allocated = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


# -- measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effort:
    """The extent of the measurement."""

    base: dict[str, int]
    num_values: int | None  # of every axis; None for all
    axes: tuple[str, ...]
    repeats: int
    memory_bytes: float
    seconds: float


def too_much(last: Point | None, point: Point, effort: Effort) -> str:
    """Return why to skip a point: its predecessor's cost, grown like the tokens or the multiply-adds."""
    if last is None:
        return ""
    memory = last.memory * point.inputs / last.inputs
    if memory > effort.memory_bytes:
        return f"skipped: about {memory / 2**30:.1f} GiB, more than {effort.memory_bytes / 2**30:g}"
    seconds = last.seconds * point.macs / last.macs
    return f"skipped: about {seconds:.0f} s, more than {effort.seconds:g}" if seconds > effort.seconds else ""


def measure_series(name: str, mode: str, axis: str, effort: Effort) -> list[Point]:
    """Measure all points of a curve: each with its memory and a warm-up, then the repeats in turns."""
    points: list[Point] = []
    steps: list[tuple[Point, Callable[[], None]]] = []
    for value in AXES[axis][: effort.num_values]:
        place = {**effort.base, axis: value}
        network, count = build(name, place), place["batch"] * place["views"]
        macs, inputs = count * count_macs(network), count * math.prod(network.input_shape)
        point = Point(name, mode, axis, value, macs, inputs)
        point.skipped = too_much(steps[-1][0] if steps else None, point, effort)
        points.append(point)
        if point.skipped:
            continue
        step, clips = prepared(network, mode, count)
        point.runs.append(timed(step))  # the warm-up
        point.memory = kept_bytes(network, clips) if mode == "training" else peak_bytes(step)
        steps.append((point, step))
    warm = [point.runs.pop()[0] for point, _ in steps]
    for repeat in range(effort.repeats):
        for (point, step), seconds in zip(steps, warm, strict=True):
            if not repeat or seconds < SLOW_SECONDS:
                point.runs.append(timed(step, max(1, round(RUN_SECONDS / seconds))))
    return points


def curves(name: str) -> list[tuple[str, str]]:
    """Return modes and axes of a network."""
    axes = ("frames", "size", "batch") if name in VIDEO else ("size", "batch")
    pairs = [(mode, axis) for mode in ("inference", "training") for axis in axes]
    return [*pairs, ("evaluation", "views")] if name in VIDEO else pairs


def measure(names: tuple[str, ...], effort: Effort) -> list[Point]:
    """Measure the networks and print the table row by row."""
    print(f"{HEADER}\n|{'---|' * 13}", flush=True)
    points = []
    for name in names:
        for mode, axis in [(mode, axis) for mode, axis in curves(name) if axis in effort.axes]:
            series = measure_series(name, mode, axis, effort)
            print("\n".join(lines(series)), flush=True)
            points += series
    return points


# -- printing and drawing --------------------------------------------------------------------------------------------


def lines(series: list[Point]) -> list[str]:
    """Return rows of the table of one curve; a slope is in the row that ends its interval."""
    rows, before = [], None
    for point in series:
        head = f"| {point.network} | {point.mode} | {point.axis} | {point.value} | {point.macs / 1e9:.4g} |"
        if point.skipped:
            rows.append(f"{head} {point.skipped} |{' |' * 7}")
            continue
        cells = [f"{point.seconds:.3g}", f"{point.kernel_share:.0%}", f"{point.memory / 2**20:.4g}"]
        if before is None:
            cells += [""] * 5
        else:
            s = slopes(before, point)
            cells += [f"{each:.2f}" for each in (s.macs, s.seconds, s.inputs, s.memory)] + [s.unexplained]
        rows.append(f"{head} {' | '.join(cells)} |")
        before = point
    return rows


def by_curve(points: list[Point]) -> list[list[Point]]:
    return [list(group) for _, group in groupby(points, key=lambda point: (point.network, point.mode, point.axis))]


def summary(points: list[Point]) -> str:
    """Return one line per curve: the range of its slopes, and the marked intervals."""
    rows = ["| network | mode | axis | slope: MACs | time | tokens | memory | unexplained |", f"|{'---|' * 8}"]
    for series in by_curve(points):
        measured = [point for point in series if not point.skipped]
        pairs = [(before.value, after.value, slopes(before, after)) for before, after in pairwise(measured)]
        if not pairs:
            continue
        cells = []
        for name in ("macs", "seconds", "inputs", "memory"):
            values = [getattr(each, name) for _, _, each in pairs]
            low, high = f"{min(values):.2f}", f"{max(values):.2f}"
            cells.append(low if low == high else f"{low} to {high}")
        marks = "; ".join(f"{begin} to {end}: {each.unexplained}" for begin, end, each in pairs if each.unexplained)
        first = series[0]
        rows.append(f"| {first.network} | {first.mode} | {first.axis} | {' | '.join(cells)} | {marks} |")
    return "\n".join(rows)


LABELS = {"frames": "frames", "size": "pixels per side", "batch": "clips or images of a batch", "views": "views"}
STYLES = {"inference": ("o", "white"), "evaluation": ("o", "white"), "training": ("s", None)}


def plot(points: list[Point], path: Path) -> None:
    """Draw a column per axis: seconds above, memory below; dashed lines have the expected slope."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    names = list(dict.fromkeys(point.network for point in points))
    axes_here = [axis for axis in AXES if any(point.axis == axis for point in points)]
    size = (4.3 * len(axes_here), 10)
    figure, panels = plt.subplots(2, len(axes_here), figsize=size, layout="constrained", squeeze=False, sharey="row")
    for column, axis in enumerate(axes_here):
        series = [each for each in by_curve(points) if each[0].axis == axis]
        draw(panels[0, column], series, names, axis, lambda point: point.seconds, lambda point: point.macs)
        draw(panels[1, column], series, names, axis, lambda point: point.memory / 2**20, lambda point: point.inputs)
    panels[0, 0].set_ylabel("CPU seconds of a step, one thread")
    panels[1, 0].set_ylabel("MiB: kept for backward, or peak of inference")
    handles = [Line2D([], [], color=f"C{i}", label=name) for i, name in enumerate(names)]
    for mode, word in (("training", "training step"), ("inference", "inference, evaluation")):
        marker, face = STYLES[mode]
        handles.append(Line2D([], [], color="0.3", marker=marker, markerfacecolor=face, label=word))
    dashed = "slope of multiply-adds (above), of tokens (below), from the first point"
    handles.append(Line2D([], [], color="0.3", linestyle="--", linewidth=1, label=dashed))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def draw(
    axes: Any,
    curves: list[list[Point]],
    names: list[str],
    axis: str,
    measured: Callable[[Point], float],
    reference: Callable[[Point], float],
) -> None:
    """Draw one panel."""
    for series in curves:
        measured_points = [point for point in series if not point.skipped]
        if not measured_points:
            continue
        marker, face = STYLES[measured_points[0].mode]
        colour, values = f"C{names.index(measured_points[0].network)}", [point.value for point in measured_points]
        scale = measured(measured_points[0]) / reference(measured_points[0])
        expected = [scale * reference(point) for point in measured_points]
        axes.plot(values, expected, linestyle="--", linewidth=1, color=colour)
        axes.plot(
            values,
            list(map(measured, measured_points)),
            marker=marker,
            markerfacecolor=face,
            color=colour,
            markersize=5,
        )
    axes.set(xscale="log", yscale="log", xlabel=LABELS[axis])
    axes.set_xticks(AXES[axis], [str(value) for value in AXES[axis]])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.grid(alpha=0.3)


# -- the command -----------------------------------------------------------------------------------------------------


def processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"two small points of a curve, without {VIDEO[0]}")
    parser.add_argument("--only", choices=NETWORKS, help="one network")
    parser.add_argument("--axis", choices=AXES, help="one axis")
    parser.add_argument("--repeats", type=int, default=3, help="of points that are not slow (default: %(default)s)")
    parser.add_argument(
        "--memory_gib", type=float, default=4.0, help="points of more are skipped (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="the same for one step (default: %(default)s)")
    parser.add_argument("--stored", type=Path, nargs="+", metavar="FILE", help="of --json, in place of measuring")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw all curves (matplotlib)")
    return parser


def main(words: list[str] | None = None) -> None:
    options = make_parser().parse_args(words)
    if options.stored:
        stored = [json.loads(path.read_text()) for path in options.stored]
        machine = "; ".join(dict.fromkeys(each["machine"] for each in stored))
        points = [Point(**point) for each in stored for point in each["points"]]
        print(f"{machine}\n\n{HEADER}\n|{'---|' * 13}")
        print("\n".join(line for series in by_curve(points) for line in lines(series)))
    else:
        torch.set_num_threads(1)
        machine = f"{processor()}, Python {platform.python_version()}, torch {torch.__version__}"
        print(f"{machine}; float32, one thread\n")
        base, num_values, repeats = (QUICK_BASE, 2, 1) if options.quick else (BASE, None, options.repeats)
        axes = (options.axis,) if options.axis else tuple(AXES)
        effort = Effort(base, num_values, axes, repeats, options.memory_gib * 2**30, options.seconds)
        names = NETWORKS[1:] if options.quick else NETWORKS
        points = measure((options.only,) if options.only else names, effort)
    print(f"\n{summary(points)}")
    if options.json:
        figures = {"machine": machine, "points": [asdict(point) for point in points]}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.plot:
        plot(points, options.plot)


if __name__ == "__main__":
    main()
