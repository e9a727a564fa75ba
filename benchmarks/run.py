"""Whole training runs: `mvrec fit` next to a loop as people write it, in turns, each in processes of its own.

python benchmarks/run.py [--quick] [--only NAME] [--json [PATH]]

The plain loop reads images as torchvision's reference script does (ImageFolder, its transforms, a DataLoader) and clips
as pytorchvideo's tutorial does (LabeledVideoDataset, float transforms), and trains the plain form of the same network,
or torchvision's MViT. Files, batch, workers, optimiser, clipping and loss are the same; both read on one worker process
and compute on one thread in float32. Augmentation is what both have: random crop and flip. A turn is measured for some
seconds after a warm-up. Figures:

- inputs per CPU second, over all processes of a run, and per second of the clock, which depends on what else runs;
- the share of the main process's CPU time that is neither in the loader nor in the network's step (pixels on the
  device, forward, backward, clipping, optimiser): callbacks, logging, progress lines, metrics;
- peak memory of all processes: PSS counts shared pages once (RSS, which counts them in each process, is in the file);
- CPU seconds of all processes from the start to the end of the first step.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from page import by_row
from results.figures import Figures, Row, add_option
from whole_runs.files import image_folder, video_folder
from whole_runs.processes import measured

GOAL, AROUND_GOAL = 1.3, 2.0  # times as fast; % of the main process's time
TURNS, SECONDS, QUICK_SECONDS = 2, 30, 20  # 60 seconds per side in the full form
WORKERS = 1
IMAGES, CLIPS, VIDEO_SECONDS = 4000, 800, 10
SMALL_CLIPS: dict[str, Any] = {
    **{"embed_dim": 32, "num_heads": 1, "depth": 4, "kv_stride": 4},
    **{"dim_mults": {1: 2, 2: 2}, "head_mults": {1: 2, 2: 2}, "q_strides": {1: 2, 2: 2}},
}
SMALL_IMAGES = {**SMALL_CLIPS, "num_frames": None, "pool_kernel": [1, 3, 3]}
OUR_MVIT_B = ("mvrec.models.mvit_b_16x4", {"drop_path_rate": 0.2, "head_dropout": 0.5})
TORCHVISION_MVIT_B = ("torchvision.models.video.mvit_v1_b", {"stochastic_depth_prob": 0.2, "dropout": 0.5})


class Run(NamedTuple):
    """A network and its data; both sides get the same.

    Attributes:
        name: In tables and for `--only`.
        kind: "images" or "clips".
        batch: Inputs per step.
        size: Pixels of a side.
        network: Class path and arguments of ours.
        peer: Class path and arguments of the plain form.
        is_real: Whether it has a size at which people train, for which the goals are.
        frames: Frames of a clip.
        warm_up: Steps before the measurement.
    """

    name: str
    kind: str
    batch: int
    size: int
    network: tuple[str, dict[str, Any]]
    peer: tuple[str, dict[str, Any]]
    is_real: bool = False
    frames: int = 0
    warm_up: int = 10

    def spec(self, root: Path, seconds: float) -> dict[str, Any]:
        """Return what both sides are told."""
        return {
            **{"kind": self.kind, "batch": self.batch, "size": self.size, "frames": self.frames, "root": str(root)},
            **{"class_path": self.network[0], "arguments": self.network[1]},
            **{"peer_class_path": self.peer[0], "peer_arguments": self.peer[1]},
            **{"workers": WORKERS, "warm_up": self.warm_up, "seconds": seconds},
        }


def of_ours(name: str, kind: str, batch: int, size: int, **knobs: Any) -> Run:
    """Return a run whose peer is the plain form of our network."""
    arguments = knobs.pop("arguments", {})
    built_for = {"image_size": size} | ({"num_frames": knobs["frames"]} if kind == "clips" else {})
    path = f"mvrec.models.{knobs.pop('network')}"
    return Run(name, kind, batch, size, (path, arguments), (path, {**arguments, **built_for}), **knobs)


RUNS = (
    of_ours("Shunted-T", "images", 16, 224, network="shunted_t", is_real=True, warm_up=2),
    of_ours("small MViT, 64 pixels", "images", 16, 64, network="MViT", arguments=SMALL_IMAGES, warm_up=20),
    Run("MViT-B 16x4", "clips", 2, 224, OUR_MVIT_B, TORCHVISION_MVIT_B, is_real=True, frames=16, warm_up=1),
    of_ours("small MViT, 8 frames of 64 pixels", "clips", 4, 64, network="MViT", arguments=SMALL_CLIPS, frames=8),
)


class Turn(NamedTuple):
    """One report of a side, in the table's units."""

    per_cpu: float
    per_second: float
    around: float
    around_ms: float
    loader: float
    step: float
    first_step: float
    pss: float
    rss: float

    @classmethod
    def of(cls, report: dict[str, Any]) -> "Turn":
        """Reduce a report of `Parts`: shares in % of the main process's CPU time, but the loader's of the clock's."""
        parts, main = report["parts"], report["cpu_of_main"]
        in_loader = parts["loader"]
        in_step = sum(part["cpu"] for name, part in parts.items() if name != "loader")
        around = main - in_step - in_loader["cpu"]
        return cls(
            per_cpu=report["inputs"] / report["cpu"],
            per_second=report["inputs"] / report["wall"],
            around=100 * around / main,
            around_ms=1000 * around / report["steps"],
            loader=100 * in_loader["wall"] / report["wall"],
            step=100 * in_step / main,
            first_step=report["first_step"]["cpu"],
            pss=report["peak"]["pss"],
            rss=report["peak"]["rss"],
        )


def compare(run: Run, root: Path, folder: Path, *, seconds: float, turns: int) -> dict[str, list[Turn]]:
    """Let both sides take turns."""
    sides: dict[str, list[Turn]] = {"mvrec": [], "plain": []}
    for turn in range(turns):
        for side, results in sides.items():
            spec = {**run.spec(root, seconds), "who": side}
            results.append(Turn.of(measured("training", spec, folder / f"{run.name}-{turn}-{side}")))
    return sides


def rows_of(run: Run, sides: dict[str, list[Turn]]) -> list[Row]:
    """Return the lines of a comparison: medians of the turns."""
    means = {side: Turn(*map(statistics.median, zip(*turns, strict=True))) for side, turns in sides.items()}
    mvrec, plain, noun = means["mvrec"], means["plain"], run.kind
    ratios = [a.per_cpu / b.per_cpu for a, b in zip(*sides.values(), strict=True)]
    peer = "pytorchvideo's loop" if run.kind == "clips" else "torchvision's loop"
    goal = GOAL if run.is_real else None

    def row(measure: str, name: str, unit: str, *, ratio: float | None = None, **knobs: Any) -> Row:
        figures = (getattr(mvrec, name), getattr(plain, name))
        return Row(run.name, measure, peer, *figures, unit=unit, ratio=ratio, **knobs)

    return [
        row(f"{noun} per CPU second", "per_cpu", f"{noun}/CPU s", ratio=mvrec.per_cpu / plain.per_cpu,
            low=min(ratios), high=max(ratios), goal=goal),
        row(f"{noun} per second of the clock", "per_second", f"{noun}/s", ratio=mvrec.per_second / plain.per_second),
        row("around step and loader", "around", "%", goal=AROUND_GOAL if run.is_real else None),
        row("the same per step", "around_ms", "CPU ms"),
        row("waiting for the loader", "loader", "% of the clock"),
        row("peak memory, PSS", "pss", "MiB", ratio=plain.pss / mvrec.pss,
            more={"RSS": f"{mvrec.rss:.0f}, {plain.rss:.0f}"}),
        row("start to the end of the first step", "first_step", "CPU s", ratio=plain.first_step / mvrec.first_step),
    ]  # fmt: skip


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"one turn of {QUICK_SECONDS} s each")
    parser.add_argument("--only", metavar="NAME", help="runs whose name has this part")
    add_option(parser)
    options = parser.parse_args(words)
    figures = Figures.of(options, "run", packages=("torch", "lightning", "torchvision", "pytorchvideo", "av"))
    print(f"{figures.title}; one thread and {WORKERS} loader process; medians of the turns\n")
    runs = [run for run in RUNS if (options.only or "") in run.name]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        roots: dict[str, Path] = {}
        for run in runs:
            if run.kind not in roots:
                make = image_files if run.kind == "images" else video_files
                roots[run.kind] = make(folder / run.kind)
            seconds, turns = (QUICK_SECONDS, 1) if options.quick else (SECONDS, TURNS)
            rows = rows_of(run, compare(run, roots[run.kind], folder, seconds=seconds, turns=turns))
            print(f"{by_row(rows)}\n", flush=True)
            figures.add(*rows)


def image_files(root: Path) -> Path:
    return image_folder(root, files=IMAGES)


def video_files(root: Path) -> Path:
    return video_folder(root, files=CLIPS, seconds=VIDEO_SECONDS)


if __name__ == "__main__":
    main()
