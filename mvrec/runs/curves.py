"""Plots of the training curves from a run's metrics."""

import csv
import importlib.util
import logging
import math
from pathlib import Path

from mvrec.errors import install_hint
from mvrec.files import atomic_path

# One panel each: title, columns of metrics.csv, logarithmic axis. "val/*" are all remaining scores of a validation.
PANELS = (
    ("loss", ("train/loss", "val/loss"), False),
    ("score", ("val/*",), False),
    ("learning rate", ("train/lr", "train/lr_first_layer"), False),
    ("gradient norm", ("train/grad_norm",), True),
    ("throughput per second", ("train/clips_per_second",), False),
    ("share of time waiting for data", ("train/data_wait",), False),
)
Columns = dict[str, tuple[list[int], list[float]]]

log = logging.getLogger(__name__)


def read_columns(path: Path) -> Columns:
    """Return the steps and finite values of each column of `metrics.csv`."""
    columns: Columns = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name, text in row.items():
                if name == "step" or not text or not math.isfinite(value := float(text)):
                    continue
                steps, values = columns.setdefault(name, ([], []))
                steps.append(int(row["step"]))
                values.append(value)
    return columns


def panels_of(columns: Columns) -> list[tuple[str, list[str], bool]]:
    """Return the panels with data: title, columns, logarithmic axis."""
    scores = [name for name in columns if name.startswith("val/") and name != "val/loss"]
    panels = [
        (title, scores if names == ("val/*",) else [name for name in names if name in columns], logarithmic)
        for title, names, logarithmic in PANELS
    ]
    return [panel for panel in panels if panel[1]]


def draw_curves(metrics: Path, output: Path) -> bool:
    """Draw the curves of `metrics.csv` into a PNG.

    Args:
        metrics: The file.
        output: The picture.

    Returns:
        Whether the picture was drawn: without matplotlib, the extra "plot", a log line says so.
    """
    if importlib.util.find_spec("matplotlib") is None:
        log.info("no %s: %s for the curves of a run", output.name, install_hint("plot"))
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = read_columns(metrics)
    panels = panels_of(columns)
    if not panels:
        return False
    rows = math.ceil(len(panels) / 2)
    figure = Figure(figsize=(11, 2.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, 2, squeeze=False).flat
    for axes, (title, names, logarithmic) in zip(grid, panels, strict=False):
        for name in names:
            steps, values = columns[name]
            axes.plot(steps, values, label=name, marker="." if len(steps) < 30 else None, linewidth=1)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("optimiser step", fontsize=8)
        axes.grid(alpha=0.3)
        if logarithmic:
            axes.set_yscale("log")
        axes.legend(fontsize=8, loc="upper right")  # loc="best" takes seconds on a long run
    for axes in list(figure.axes)[len(panels) :]:
        axes.set_visible(False)
    with atomic_path(output) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return True
