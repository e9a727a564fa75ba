"""Plots of the training curves from a run's metrics."""

import csv
import importlib.util
import json
import logging
import math
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from mvrec.errors import install_hint
from mvrec.files import atomic_path


class Curves(NamedTuple):
    """One panel.

    Attributes:
        title: The title.
        names: Columns of `metrics.csv`.
        logarithmic: Whether the value axis is logarithmic.
        levels: Values to draw across the panel, by name.
        caption: A remark.
    """

    title: str
    names: tuple[str, ...]
    logarithmic: bool = False
    levels: Mapping[str, float] = MappingProxyType({})
    caption: str = ""


# The panels after those of losses and scores.
PANELS = (
    ("learning rate", ("train/lr", "train/lr_first_layer"), False),
    ("gradient norm", ("train/grad_norm",), True),
    ("throughput per second", ("train/clips_per_second", "train/images_per_second"), False),
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


def read_validation(metrics: Path) -> dict[str, Any]:
    """Return the `validation.json` next to a `metrics.csv`; empty if it is missing or damaged."""
    try:
        content = json.loads(metrics.with_name("validation.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def panels_of(columns: Columns, validation: Mapping[str, Any]) -> list[Curves]:
    """Return the panels with data, with chance as a level.

    A training loss with label smoothing, mixing or class weights is higher than a validation loss of the same network,
    so it gets a panel of its own.

    Args:
        columns: See `read_columns`.
        validation: The run's `validation.json`.
    """
    scores = tuple(name for name in columns if name.startswith("val/") and name != "val/loss")
    chance = {str(name): float(value) for name, value in (validation.get("chance") or {}).items()}
    loss = {"chance": chance["loss"]} if "loss" in chance else {}
    added = [str(part) for part in validation.get("training_loss_with") or ()]
    if added:
        caption = f"With {' and '.join(added)}: not comparable with the validation loss."
        losses = [Curves("training loss", ("train/loss",), caption=caption)]
        losses.append(Curves("validation loss", ("val/loss",), levels=loss))
    else:
        losses = [Curves("loss", ("train/loss", "val/loss"), levels=loss)]
    panels = [*losses, Curves("score", scores, levels=_levels(scores, chance)), *(Curves(*panel) for panel in PANELS)]
    panels = [panel._replace(names=tuple(name for name in panel.names if name in columns)) for panel in panels]
    return [panel for panel in panels if panel.names]


def _levels(scores: tuple[str, ...], chance: Mapping[str, float]) -> dict[str, float]:
    """Return the chance of scores; scores of the same chance share a level."""
    by_value: dict[float, list[str]] = {}
    for name in scores:
        value = chance.get(name.removeprefix("val/"), 1.0)
        if value != 1:
            by_value.setdefault(round(value, 6), []).append(name.removeprefix("val/"))
    return {f"chance of {', '.join(names)}": value for value, names in by_value.items()}


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
    panels = panels_of(columns, read_validation(metrics))
    if not panels:
        return False
    rows = math.ceil(len(panels) / 2)
    figure = Figure(figsize=(11, 2.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, 2, squeeze=False).flat
    for axes, panel in zip(grid, panels, strict=False):
        for name in panel.names:
            steps, values = columns[name]
            axes.plot(steps, values, label=name, marker="." if len(steps) < 30 else None, linewidth=1)
        for (name, value), style in zip(panel.levels.items(), cycle(("--", ":", "-.")), strict=False):
            axes.axhline(value, label=name, color="0.5", linestyle=style, linewidth=1)
        axes.set_title(panel.title, fontsize=10)
        axes.set_xlabel(panel.caption or "optimiser step", fontsize=8)
        axes.grid(alpha=0.3)
        if panel.logarithmic:
            axes.set_yscale("log")
        axes.legend(fontsize=8, loc="upper right")  # loc="best" takes seconds on a long run
    for axes in list(figure.axes)[len(panels) :]:
        axes.set_visible(False)
    with atomic_path(output) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return True
