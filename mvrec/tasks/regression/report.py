"""The parts of a report about a test of values: predicted over true values, the files farthest off, failures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mvrec.report.charts import scatter_chart
from mvrec.report.markup import Html, join, name_of, tag
from mvrec.report.sections import (
    Section,
    TaskReport,
    Thumbnails,
    csv_rows,
    failures_table,
    film,
    mapping,
    number,
)
from mvrec.tasks.regression.predictions import PREDICTED

_TITLES = {"r2": "R\N{SUPERSCRIPT TWO}", "mae": "Mean absolute error", "rmse": "Root mean squared error"}
_TITLES["spearman"] = "Spearman correlation"


@dataclass(frozen=True)
class Prediction:
    """A row of `predictions.csv`.

    Attributes:
        path: The file, as recorded by the run.
        pairs: True and predicted value by name; empty for an unreadable file.
        error: Why the file could not be read, or "".
        span: Start and end in seconds of the scored part of the file; `None` for its own.
    """

    path: str
    pairs: Mapping[str, tuple[float, float]]
    error: str
    span: tuple[float | None, float | None] = (None, None)

    def distance(self, deviations: Mapping[str, float]) -> float:
        """Return how far the prediction is off: the mean over the values, in standard deviations of each."""
        off = [abs(true - predicted) / deviations[name] for name, (true, predicted) in self.pairs.items()]
        return sum(off) / len(off)


class RegressionReport(TaskReport):
    """Predicted over true values, and the files farthest off with the network's view of them."""

    monitors = ("val/r2",)

    @cached_property
    def predictions(self) -> list[Prediction]:
        """The rows of `predictions.csv`."""
        return self.results.read("predictions.csv", read_predictions) or []

    @property
    def scored(self) -> list[Prediction]:
        """The predictions of readable files."""
        return [row for row in self.predictions if row.pairs]

    @property
    def names(self) -> list[str]:
        """The names of the values."""
        return list(self.scored[0].pairs) if self.scored else []

    def subtitle(self) -> list[str]:
        """Return the names of the values."""
        return [f"values {', '.join(self.names)}" if self.names else ""]

    def sections(self, *, thumbnails: Thumbnails, most_mistakes: int) -> list[Section]:
        """Return predicted over true values, the files farthest off, and unreadable files."""
        return [
            Section("Predicted values", self._charts()),
            Section("Farthest off", self._farthest(most_mistakes, thumbnails)),
            Section("Files that could not be read", self._failures()),
        ]

    def metric_title(self, name: str) -> str:
        """Return a metric's name for readers."""
        metric, _, value = name.partition("_")
        title = _TITLES.get(metric, metric)
        return f"{title}, {value}" if value else title

    def metric_text(self, name: str, value: float) -> str:
        """Return R2 and correlations with three decimals, errors in the values' units."""
        return f"{value:.3f}" if name.partition("_")[0] in ("r2", "spearman") else f"{value:.4g}"

    def metric_note(self, name: str, value: float, counted: int) -> str | None:
        """Return the same metric of predicting the mean of the training files."""
        guess = number(mapping(self.results.score.get("chance")).get(name))
        return None if guess is None else f"training mean for all: {self.metric_text(name, guess)}"

    def failed_samples(self) -> str:
        """Return how unreadable files count in the score."""
        return "count as predicted by the training mean"

    def _charts(self) -> Html:
        if not self.scored:
            return Html("")
        charts = [scatter_chart(name, [row.pairs[name] for row in self.scored]) for name in self.names]
        text = f"A point is one of the {self.results.noun}; on the line, the predicted value is the true one."
        return join([tag("p", text), tag("div", *charts, class_="grid")])

    def _deviations(self) -> dict[str, float]:
        saved = self.results.score.get("values") or []
        deviations = {row.get("name"): number(row.get("deviation")) for row in map(mapping, saved)}
        return {
            name: deviations.get(name) or _deviation([row.pairs[name][0] for row in self.scored]) for name in self.names
        }

    def _farthest(self, most: int, thumbnails: Thumbnails) -> Html:
        deviations = self._deviations()
        rows = sorted(self.scored, key=lambda row: (-row.distance(deviations), row.path))[:most]
        if not rows:
            return Html("")
        text = f"The {len(rows)} {self.results.noun} with the largest errors, in standard deviations of the values."
        shown = [_shown(row, row.distance(deviations), thumbnails) for row in rows]
        return join([tag("p", text), tag("div", *shown, class_="mistakes")])

    def _failures(self) -> Html:
        rows = [(name_of(row.path), row.error) for row in self.predictions if row.error]
        return failures_table(("file", "cause"), rows)


def read_predictions(path: Path) -> list[Prediction]:
    """Return the rows of `predictions.csv`; see `write_predictions`."""
    predictions = []
    for row in csv_rows(path):
        names = [name for name in row if f"{PREDICTED}{name}" in row]
        pairs = {name: (float(row[name]), float(row[f"{PREDICTED}{name}"])) for name in names if not row["error"]}
        span = [float(row[column]) if row.get(column) else None for column in ("start_seconds", "end_seconds")]
        predictions.append(Prediction(row["path"], pairs, row["error"], (span[0], span[1])))
    return predictions


def _deviation(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values)) or 1.0


def _shown(row: Prediction, distance: float, thumbnails: Thumbnails) -> Html:
    texts = [f"{name} {true:.5g}, predicted {predicted:.5g}" for name, (true, predicted) in row.pairs.items()]
    pictures, style = film(row, thumbnails, about="; ".join(texts))
    start, end = row.span
    part = (
        "" if (start, end) == (None, None) else f" from {start or 0:g} s " + ("on" if end is None else f"to {end:g} s")
    )
    lines = [
        *(
            tag("p", tag("b", name_of(name)), f": {true:.5g}, predicted {guess:.5g}")
            for name, (true, guess) in row.pairs.items()
        ),
        tag("p", f"off by {distance:.2g} standard deviations", class_="path"),
        tag("p", name_of(row.path), part, class_="path"),
    ]
    return tag("div", pictures, tag("div", *lines), class_=style)
