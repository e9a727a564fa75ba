"""The parts of a report about a test: score, classes, confusions, mistakes."""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mvrec.report.charts import Panel, bar, line_chart, png_data
from mvrec.report.markup import Html, folded, join, name_of, table, tag
from mvrec.report.sections import RunResults, Section, TaskReport, Thumbnails, failures_table, film
from mvrec.tasks.chance import wilson
from mvrec.tasks.classification.run_results import (
    ClassResults,
    ClassScore,
    Confusion,
    Prediction,
    blocks,
    is_multi_label,
    read_class_results,
    shares_of,
)

MOST_CELLS = 26  # classes in a table of counts; a larger matrix is an image
MOST_BARS = 40  # classes with a bar each; of more, only the best and worst
SHOWN_PAIRS = 20

_TITLES = {
    "map": "Mean average precision (mAP)",
    "mean_class": "Mean class accuracy",
    "micro_f1": "Micro F1",
    "macro_f1": "Macro F1",
    "loss": "Loss (nats)",
}


class ClassificationReport(TaskReport):
    """Classes, confusions, and the worst mistakes with the network's view of them."""

    monitors = ("val/top1", "val/map")

    def __init__(self, results: RunResults) -> None:
        super().__init__(results)
        if not results.score:
            self.read_files()  # the score is computed from them

    @cached_property
    def class_results(self) -> ClassResults:
        """The files of predictions, classes and confusions."""
        return read_class_results(self.results)

    @property
    def predictions(self) -> list[Prediction]:
        """The rows of `predictions.csv`."""
        return self.class_results.predictions

    @property
    def classes(self) -> list[ClassScore]:
        """The scores of the classes."""
        return self.class_results.classes

    @property
    def confusion(self) -> Confusion | None:
        """The matrix of data with one class per file."""
        return self.class_results.confusion

    @property
    def multi_label(self) -> bool:
        """Whether a file may have several classes, or none."""
        return bool(self.results.score.get("multi_label")) or is_multi_label(self.results, self.predictions)

    @property
    def was_tested(self) -> bool:
        """Whether there are results of a test."""
        return super().was_tested or bool(self.predictions or self.classes)

    def subtitle(self) -> list[str]:
        """Return the number of classes, and the score of chance."""
        results = self.results
        count = len(results.score.get("class_names") or results.data.get("class_names") or self.classes)
        chance = results.score.get("chance") or results.validation.get("chance") or {}
        guess = chance.get("top1", 1 / max(count, 1))
        return [
            f"{count} classes" if count else "",
            f"chance {100 * guess:.1f} %" if count and not self.multi_label else "",
            "several classes per file" if self.multi_label else "",
        ]

    def sections(self, *, thumbnails: Thumbnails, most_mistakes: int) -> list[Section]:
        """Return classes, confusions, mistakes, and unreadable files."""
        empty, mistakes = Html(""), Html("")
        if self.predictions:
            total = sum(row.is_mistake for row in self.predictions)
            mistaken = worst(self.predictions, most_mistakes)
            if mistaken or not total:
                mistakes = mistakes_section(mistaken, total, self.results.noun, thumbnails)
        classes = classes_section(self.classes, multi_label=self.multi_label) if self.classes else empty
        return [
            Section("Classes", classes),
            Section("Confusions", empty if self.confusion is None else confusion_section(self.confusion)),
            Section("Worst mistakes", mistakes),
            Section("Files that could not be read", failures_section(self.predictions)),
        ]

    def metric_title(self, name: str) -> str:
        """Return a metric's name for readers."""
        if name.startswith("top") and name[3:].isdigit():
            return f"Top-{name[3:]} accuracy"
        return _TITLES.get(name, name.replace("_", " "))

    def metric_text(self, name: str, value: float) -> str:
        """Return a metric's value for readers: a loss as it is, shares in percent."""
        return f"{value:.4f}" if name == "loss" or not 0 <= value <= 1 else f"{100 * value:.2f} %"

    def metric_note(self, name: str, value: float, counted: int) -> str | None:
        """Return counts and interval of an accuracy."""
        if not (name.startswith("top") and 0 <= value <= 1 and counted):
            return None
        low, high = wilson(value, counted)
        interval = f"95 % interval {100 * low:.1f} to {100 * high:.1f}\N{NO-BREAK SPACE}%"
        return f"{round(value * counted)} of {counted}; {interval}"

    def failed_samples(self) -> str:
        """Return how unreadable files count in the score."""
        return "count as missed" if self.multi_label else "count as wrong"

    def figures(self, folder: Path) -> list[str]:
        """Draw the classes and the confusions."""
        from mvrec.tasks.classification.figures import draw_classes, draw_confusion

        drawn = []
        label = "average precision" if self.multi_label else "accuracy"
        if draw_classes(self.classes, folder / "classes.png", label=label):
            drawn.append("classes.png")
        if self.confusion is not None and draw_confusion(self.confusion, folder / "confusion.png"):
            drawn.append("confusion.png")
        return drawn


# -- classes ----------------------------------------------------------------------------------------------------------


def classes_section(classes: Sequence[ClassScore], *, multi_label: bool) -> Html:
    """Return bars of the classes, worst first; of many the two ends, the distribution, and all of them folded."""
    measured = sorted((row for row in classes if not math.isnan(row.value)), key=lambda row: (row.value, row.name))
    score_name = "average precision" if multi_label else "accuracy"
    parts = []
    absent = len(classes) - len(measured)
    if absent:
        parts.append(tag("p", f"{absent} of {len(classes)} classes have no files in the test and are left out."))
    if len(measured) <= MOST_BARS:
        return join([*parts, _bars(measured, score_name)])
    half = MOST_BARS // 2
    ranks = list(range(1, len(measured) + 1))
    curve = Panel(
        f"{score_name} of the classes, worst to best",
        {score_name: (ranks, [row.value for row in measured])},
        False,
        "rank",
    )
    ends = [
        tag("div", tag("h3", f"{half} worst classes"), _bars(measured[:half], score_name)),
        tag("div", tag("h3", f"{half} best classes"), _bars(measured[: -half - 1 : -1], score_name)),
    ]
    whole = folded(f"All {len(measured)} classes", _bars(sorted(measured, key=lambda row: row.number), score_name))
    return join([*parts, tag("div", line_chart(curve), class_="matrix"), tag("div", *ends, class_="columns"), whole])


def _bars(rows: Sequence[ClassScore], score_name: str) -> Html:
    others = [key for key in ("precision", "f1", "predicted", "failed") if any(row.others.get(key) for row in rows)]
    others = [key for key in others if key != "failed" or any(row.others.get(key) not in ("", "0") for row in rows)]
    head = [
        tag("th", text, scope="col", class_=style)
        for text, style in [
            ("class", None),
            (score_name, "num"),
            ("", "barcell"),
            ("files", "num"),
            *((o, "num") for o in others),
        ]
    ]
    body = [
        tag(
            "tr",
            tag("td", name_of(row.name)),
            tag("td", f"{100 * row.value:.1f} %", class_="num"),
            tag("td", bar(row.value), class_="barcell"),
            tag("td", row.samples, class_="num"),
            *(tag("td", _other(key, row.others.get(key, "")), class_="num") for key in others),
        )
        for row in rows
    ]
    whole = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="classes")
    return tag("div", whole, class_="scroll", tabindex="0")


def _other(key: str, cell: str) -> str:
    try:
        return f"{100 * float(cell):.1f} %" if key in ("precision", "f1") and not math.isnan(float(cell)) else cell
    except ValueError:
        return cell


# -- confusions -------------------------------------------------------------------------------------------------------


def confusion_section(confusion: Confusion, *, counted: str = "files") -> Html:
    """Return the matrix, with its counts or as an image, and the most frequent confusions, of `counted` things."""
    pairs = confusion.pairs(SHOWN_PAIRS)
    few = len(confusion.names) <= MOST_CELLS
    parts = [_counted(confusion) if few else _pictured(confusion)]
    if not pairs:
        return join([*parts, tag("p", "No class was taken for another one.")])
    rows = [
        (name_of(true), name_of(predicted), count, f"{100 * share:.1f} %") for true, predicted, count, share in pairs
    ]
    header = ("class", "taken for", counted, "of the class")
    return join(
        [*parts, tag("h3", "Most frequent confusions"), tag("div", table(header, rows, numeric={2, 3}), class_="pairs")]
    )


def _counted(confusion: Confusion) -> Html:
    """Return a table of counts; a cell's strength is its share of the row."""
    shares = shares_of(confusion.counts, confusion.failed)
    with_failed = bool(confusion.failed.any())
    heads = [tag("th", tag("span", name_of(name), title=name), scope="col") for name in confusion.names]
    if with_failed:
        heads.append(tag("th", tag("span", "could not be read"), scope="col"))
    body = []
    for row, name in enumerate(confusion.names):
        cells = [
            _cell(int(confusion.counts[row, c]), float(shares[row, c]), right=row == c)
            for c in range(len(heads) - with_failed)
        ]
        if with_failed:
            cells.append(_cell(int(confusion.failed[row]), 0.0, right=False))
        body.append(tag("tr", tag("th", name_of(name), scope="row", title=name), *cells))
    whole = tag(
        "table",
        tag("thead", tag("tr", tag("th", "true \N{DOWNWARDS ARROW}  predicted \N{RIGHTWARDS ARROW}"), *heads)),
        tag("tbody", *body),
        class_="confusion",
    )
    return tag("div", whole, class_="scroll", tabindex="0")


def _cell(count: int, share: float, *, right: bool) -> Html:
    if not count:
        return tag("td", "\N{MIDDLE DOT}", class_="faint")
    colour = "--heat" if right else "--bad"
    strength = 0.12 + 0.88 * share
    return tag(
        "td",
        count,
        class_="strong" if strength > 0.72 else None,
        style=f"background:rgba(var({colour}),{strength:.2f})",
    )


def heat(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Return shares (H, W) as colours (H, W, 3), white for 0: blue on the diagonal, red elsewhere.

    The strength is the square root of the share. Red is relative to its greatest share, because it would be too
    faint otherwise.
    """
    diagonal = np.eye(len(shares), dtype=bool)
    off_diagonal = np.where(diagonal, 0.0, shares)
    relative = np.where(diagonal, shares, off_diagonal / (off_diagonal.max(initial=0.0) or 1.0))
    strength = np.sqrt(np.clip(relative, 0, 1))[..., None]
    full = np.where(diagonal[..., None], np.array([16, 62, 145]), np.array([165, 30, 10]))
    return np.round(255 + strength * (full - 255)).astype(np.uint8)


def _pictured(confusion: Confusion) -> Html:
    """Return the matrix as an image with the numbers of the classes along its sides."""
    shares, width = blocks(confusion)
    count, side, margin = len(confusion.names), 600, 46
    step = _tick_step(count)
    marks = []
    for label in range(0, count, step):
        place = margin + side * (label + 0.5) / count
        marks.append(tag("text", label, x=f"{place:.1f}", y=margin - 8, text_anchor="middle"))
        marks.append(tag("text", label, x=margin - 6, y=f"{place:.1f}", dy="0.35em", text_anchor="end"))
    middle = margin + side / 2
    marks.append(tag("text", "predicted class, by its number", x=middle, y=14, text_anchor="middle"))
    marks.append(tag("text", "true class", transform=f"translate(12 {middle}) rotate(-90)", text_anchor="middle"))
    pixels = tag(
        "image", href=png_data(heat(shares)), x=margin, y=margin, width=side, height=side, preserveAspectRatio="none"
    )
    frame = tag("rect", x=margin, y=margin, width=side, height=side, fill="none", class_="grid")
    right = float(np.trace(confusion.counts)) / max(int(confusion.counts.sum()), 1)
    description = (
        f"Confusion matrix of {count} classes; {100 * right:.1f} % of the files that were scored lie on its diagonal"
    )
    picture = tag(
        "svg",
        pixels,
        frame,
        *marks,
        viewBox=f"0 0 {margin + side + 4} {margin + side + 4}",
        role="img",
        aria_label=description,
    )
    blue = "right" if width == 1 else f"on the diagonal (a cell stands for {width} by {width} neighbouring classes)"
    legend = (
        f"Blue: {blue}; red: off the diagonal. A cell's strength is the square root of its share of its row, red "
        "relative to the greatest red."
    )
    names = [(number, name_of(name)) for number, name in enumerate(confusion.names)]
    listing = folded("The classes by their numbers", table(("number", "class"), names, numeric={0}))
    return join([tag("figure", picture, tag("p", legend, class_="faint"), class_="matrix"), listing])


def _tick_step(count: int) -> int:
    raw = count / 10
    power = 10 ** math.floor(math.log10(raw))
    return next(int(factor * power) for factor in (1, 2, 5, 10) if factor * power >= raw)


# -- mistakes ---------------------------------------------------------------------------------------------------------


def worst(predictions: Sequence[Prediction], most: int) -> list[Prediction]:
    """Return the mistakes with the network's highest confidence."""
    wrong = [row for row in predictions if row.is_mistake]
    return sorted(wrong, key=lambda row: (-row.badness, row.path))[:most]


def mistakes_section(rows: Sequence[Prediction], total: int, noun: str, thumbnails: Thumbnails) -> Html:
    """Return mistakes with the network's view of each file."""
    if not rows:
        return tag("p", f"None of the {noun} that were scored is a mistake.")
    intro = f"The {len(rows)} of {total} mistakes of which the network was the surest, with what it saw of the {noun}."
    if len(rows) == total:
        intro = f"All {total} mistakes, the surest first, with what the network saw of the {noun}."
    return join([tag("p", intro), tag("div", *(_mistake(row, thumbnails) for row in rows), class_="mistakes")])


def _mistake(row: Prediction, thumbnails: Thumbnails) -> Html:
    pictures, style = film(row, thumbnails, about=_what(row))
    # Next to a name from right to left, the number would change sides.
    ranked = [
        join([", " if place else "", name_of(name), f" {100 * probability:.1f}\N{NO-BREAK SPACE}%"])
        for place, (name, probability) in enumerate(row.ranked)
    ]
    lines = [tag("p", tag("b", "true: "), name_of(_names(row.labels)))]
    if row.predicted is None:
        name, probability = row.ranked[0]
        lines.append(tag("p", tag("b", "predicted: "), name_of(name), f" ({100 * probability:.1f} %)"))
    else:
        lines.append(tag("p", tag("b", "predicted: "), name_of(_names(row.predicted))))
    lines += [tag("p", *ranked, class_="path"), tag("p", name_of(row.path), _span(row), class_="path")]
    return tag("div", pictures, tag("div", *lines), class_=style)


def _span(row: Prediction) -> str:
    start, end = row.span
    if start is None and end is None:
        return ""
    return f" from {start or 0:g} s " + ("on" if end is None else f"to {end:g} s")


def _what(row: Prediction) -> str:
    predicted = (row.ranked[0][0],) if row.predicted is None else row.predicted
    return f"{_names(row.labels)}, predicted to be {_names(predicted)}"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"


def failures_section(predictions: Sequence[Prediction]) -> Html:
    """Return the files that could not be read, with the cause."""
    failed = [row for row in predictions if row.error]
    rows = [(name_of(row.path), name_of(_names(row.labels)) if row.labels else "", row.error) for row in failed]
    return failures_table(("file", "class", "cause"), rows)
