"""Figures of a test as PNGs, for papers and slides. They need matplotlib, the extra "plot"."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mvrec.files import atomic_path
from mvrec.tasks.classification.run_results import ClassScore, Confusion, blocks

MOST_NAMED = 60  # classes whose names fit next to an axis


def draw_classes(classes: Sequence[ClassScore], output: Path, *, label: str) -> bool:
    """Draw the accuracy, or average precision, of each class.

    Args:
        classes: The classes.
        output: The PNG.
        label: What the values are.

    Returns:
        Whether there was data to draw.
    """
    rows = sorted((row for row in classes if not math.isnan(row.value)), key=lambda row: row.value)
    if not rows:
        return False
    named = len(rows) <= MOST_NAMED
    with _figure(output, size=(7, max(2.0, 0.22 * len(rows) + 0.9)) if named else (8, 4)) as figure:
        axes = figure.subplots()
        values = [row.value for row in rows]
        if named:
            axes.barh(range(len(rows)), values, color="#1f5fbf")
            axes.set_yticks(range(len(rows)), [_plain(row.name) for row in rows], fontsize=8)
            axes.set(xlim=(0, 1), xlabel=label, ylim=(-0.6, len(rows) - 0.4))
        else:
            axes.plot(range(1, len(rows) + 1), values, color="#1f5fbf")
            axes.set(ylim=(0, 1.02), ylabel=label, xlabel="classes, worst to best")
        axes.grid(alpha=0.3, axis="x" if named else "both")
    return True


def draw_confusion(confusion: Confusion, output: Path) -> bool:
    """Draw a confusion matrix, each row as shares of its class.

    Args:
        confusion: The matrix.
        output: The PNG.

    Returns:
        Whether there was data to draw.
    """
    count = len(confusion.names)
    if not confusion.counts.any():
        return False
    shares, width = blocks(confusion, most=500)
    named = count <= MOST_NAMED
    side = max(4.0, 0.24 * count + 2.5) if named else 8.0
    with _figure(output, size=(side, side)) as figure:
        axes = figure.subplots()
        extent = (-0.5, len(shares) * width - 0.5, len(shares) * width - 0.5, -0.5)
        image = axes.imshow(shares, cmap="Blues", norm=_square_root(), extent=extent, interpolation="nearest")
        if named:
            names = [_plain(name) for name in confusion.names]
            axes.set_xticks(range(count), names, rotation=90, fontsize=7)
            axes.set_yticks(range(count), names, fontsize=7)
        axes.set(xlabel="predicted class", ylabel="true class")
        figure.colorbar(image, ax=axes, fraction=0.04, label="share of the true class (square-root scale)")
    return True


def _square_root() -> Any:
    from matplotlib.colors import PowerNorm

    return PowerNorm(0.5, vmin=0, vmax=1)


@contextmanager
def _figure(output: Path, *, size: tuple[float, float]) -> Iterator[Any]:
    """Yield a figure, and write it after a successful block."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    with warnings.catch_warnings(), atomic_path(output) as temporary:
        # The font lacks some scripts; in the HTML report the browser draws them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(temporary, format="png", dpi=120)


def _plain(name: str) -> str:
    """Return a name for an axis: short, with dollars that are not mathematics."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return (text if len(text) <= 28 else f"{text[:27]}\N{HORIZONTAL ELLIPSIS}").replace("$", r"\$")
