"""Predict training on 1 to 512 GPUs: clips per second, what limits them, and what failures take.

python benchmarks/cluster_sim.py                                # MViT-B 16x4 on nodes of eight H100, mostly estimates
python benchmarks/cluster_sim.py --preset modest --gpus 8 32
python benchmarks/cluster_sim.py --cores_per_node 64 --decode_cpu_seconds 0.011 --json FILE --plot FILE
python benchmarks/cluster_sim.py --calibrate                    # real runs on this machine's CPU beside the model

The formulae are in benchmarks/scaling/; docs/scaling.md explains them and says what was measured. Every lost share is
a closed form; the last column is a simulation of the same failures, with its standard error.
"""

import argparse
import json
import math
import sys
import tempfile
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NoReturn

from scaling.calibration import calibrate, summary
from scaling.failures import daly_interval, lost_share, risk_of, simulate
from scaling.parameters import PRESETS, Cluster, Training, explanations
from scaling.throughput import speed

SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
HEADER = (
    "| GPUs | clips/s | efficiency | bottleneck | clips/step | hours | best save, min | lost at best | "
    "lost at {:g} min | simulated |"
)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"cluster_sim: error: {message} (--help tells more)", file=sys.stderr)
        raise SystemExit(2)


def positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return value


def make_parser() -> Parser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="h100", help="what holds where no flag says otherwise")
    parser.add_argument("--gpus", type=count, nargs="+", default=SIZES, help="sizes of the table")
    parser.add_argument("--save_every_minutes", type=positive, default=30.0, help="as in mvrec fit (30)")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation of failures")
    parser.add_argument("--quick", action="store_true", help="a shorter simulation; one round of --calibrate")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw clips per second and lost share (matplotlib)")
    parser.add_argument("--calibrate", action="store_true", help="train on this machine's CPU instead: minutes")
    for kind in (Cluster, Training):
        group = parser.add_argument_group(kind.__name__.lower())
        helps = explanations(kind)
        for item in fields(kind):
            group.add_argument(f"--{item.name}", type=item.type, metavar="N", help=helps[item.name].replace("%", "%%"))
    return parser


def chosen(options: argparse.Namespace) -> tuple[Cluster, Training]:
    """Return the preset with what the flags change.

    Raises:
        ValueError: A value that cannot be.
    """
    cluster, training = PRESETS[options.preset]
    return replace(cluster, **given(cluster, options)), replace(training, **given(training, options))


def given(thing: Cluster | Training, options: argparse.Namespace) -> dict[str, Any]:
    values = {item.name: getattr(options, item.name) for item in fields(thing)}
    return {name: value for name, value in values.items() if value is not None}


def finite(thing: Any) -> Any:
    """Return the same with null for infinity, which JSON does not have."""
    if isinstance(thing, dict):
        return {key: finite(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [finite(value) for value in thing]
    return None if isinstance(thing, float) and math.isinf(thing) else thing


def predict(gpus: int, cluster: Cluster, training: Training, options: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    row: dict[str, Any] = asdict(speed(gpus, cluster, training))
    risk = risk_of(gpus, cluster, training)
    best, ours = daly_interval(risk), 60 * options.save_every_minutes
    lost = lost_share(risk, ours)
    clips = training.epochs * training.videos * training.views_per_decode
    row["hours"] = (clips / row["clips_per_second"] / (1 - lost) + risk.restart) / 3600 if lost < 1 else math.inf
    row["best_save_minutes"] = best / 60
    row["lost_at_best"] = lost_share(risk, best or 1e-6)  # 0 where checkpoints cost nothing: one after another
    row["lost"] = lost
    row["simulated"] = None
    if risk.mtbf < math.inf or risk.between_preemptions < math.inf:
        row["simulated"] = simulate(risk, ours, events=200 if options.quick else 2000, seed=options.seed)
    return row


def table(rows: list[dict[str, Any]], minutes: float) -> str:
    lines = [HEADER.format(minutes), "|" + "---|" * 10]
    for row in rows:
        simulated = "-" if row["simulated"] is None else "{:.3%} +- {:.3%}".format(*row["simulated"])
        lines.append(
            f"| {row['gpus']} | {row['clips_per_second']:,.0f} | {row['efficiency']:.0%} | {row['bottleneck']} | "
            f"{row['step_clips']:,.0f} | {row['hours']:.1f} | {row['best_save_minutes']:.0f} | "
            f"{row['lost_at_best']:.2%} | {row['lost']:.3%} | {simulated} |"
        )
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], training: Training, minutes: float, path: Path) -> None:
    """Clips per second with what limits them, and the lost share, against GPUs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import PercentFormatter

    gpus = [row["gpus"] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    draw_speed(left, rows, training)
    right.plot(gpus, [row["lost"] for row in rows], "o-", label=f"a checkpoint every {minutes:g} minutes")
    right.plot(gpus, [row["lost_at_best"] for row in rows], "s-", label="at the best interval")
    right.set(xscale="log", xlabel="GPUs", ylabel="share of the time that is lost")
    right.set_ylim(0, 1.15 * max(row["lost"] for row in rows) or 1)
    right.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    right.legend(frameon=False, loc="lower right")
    for axes in (left, right):
        axes.set_xticks(gpus, [str(number) for number in gpus])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


COLOURS = {"compute": "C0", "all-reduce": "C3", "decode cores": "C2", "storage": "C1", "network": "C4"}


def draw_speed(axes: Any, rows: list[dict[str, Any]], training: Training) -> None:
    """What was predicted, coloured by what limits it, below what data supply and GPUs could do for themselves."""
    gpus = [row["gpus"] for row in rows]
    alone = training.batch_per_gpu / training.step_seconds
    axes.plot(gpus, [alone * number for number in gpus], color="0.5", linestyle="--", label="GPUs that never wait")
    for name in ("decode cores", "storage", "network"):
        if all(row["seconds"][name] for row in rows):
            could = [row["step_clips"] / row["seconds"][name] for row in rows]
            axes.plot(gpus, could, color=COLOURS[name], linestyle=":", label=f"{name} alone")
    axes.plot(gpus, [row["clips_per_second"] for row in rows], color="black", linewidth=1, zorder=3)
    for name in dict.fromkeys(row["bottleneck"] for row in rows):
        places = [(row["gpus"], row["clips_per_second"]) for row in rows if row["bottleneck"] == name]
        axes.plot(*zip(*places, strict=True), "o", color=COLOURS[name], zorder=4, label=f"predicted, limit: {name}")
    axes.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="clips per second")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.legend(frameon=False, fontsize="small", loc="lower right")


def run_calibration(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        figures = calibrate(Path(folder), rounds=1 if options.quick else 3)
    print(f"\nmedian (smallest to largest) of the rounds\n\n{summary(figures['rows'])}")
    return figures


def run_table(options: argparse.Namespace) -> dict[str, Any]:
    cluster, training = chosen(options)
    rows = [predict(gpus, cluster, training, options) for gpus in options.gpus]
    print(f"preset {options.preset}: {training.epochs} epochs of {training.videos:,} videos, ", end="")
    print(f"{training.views_per_decode} views of each; GPU figures are estimates unless you gave them\n")
    print(table(rows, options.save_every_minutes))
    if options.plot:
        plot(rows, training, options.save_every_minutes, options.plot)
    return {"cluster": asdict(cluster), "training": asdict(training), "rows": rows}


def main(words: list[str] | None = None) -> None:
    parser = make_parser()
    options = parser.parse_args(words)
    try:
        figures = run_calibration(options) if options.calibrate else run_table(options)
        if options.json:
            options.json.write_text(json.dumps(finite(figures), indent=1, allow_nan=False) + "\n")
    except (ValueError, OSError, RuntimeError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
