"""The parts of a report that speak of a test: score, classes, confusions, mistakes."""

import math
import shlex
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from mvrec.errors import DecodeError
from mvrec.report.charts import Panel, bar, jpeg_data, line_chart, png_data
from mvrec.report.markup import Html, facts, folded, join, name_of, table, tag
from mvrec.tasks.classification.run_results import (
    ClassScore,
    Confusion,
    Prediction,
    RunResults,
    chosen_on,
    mapping,
    number,
)
from mvrec.tasks.classification.score_text import split_text

Thumbnails = Callable[[Prediction], Sequence[bytes]]

MOST_CELLS = 26  # classes whose matrix is a table with its counts; more are an image
MOST_BLOCKS = 250  # rows of that image; with more classes a row is several of them
MOST_BARS = 40  # classes that are all shown with their bars; of more the ends
SHOWN_PAIRS = 20
SHOWN_FAILURES = 50

_TITLES = {
    "map": "Mean average precision (mAP)",
    "mean_class": "Mean class accuracy",
    "micro_f1": "Micro F1",
    "macro_f1": "Macro F1",
    "loss": "Loss (nats)",
}


def metric_title(name: str) -> str:
    """What people call a metric."""
    if name.startswith("top") and name[3:].isdigit():
        return f"Top-{name[3:]} accuracy"
    return _TITLES.get(name, name.replace("_", " "))


def metric_text(name: str, value: float) -> str:
    """A metric as people read it: a loss as it is, shares in percent."""
    return f"{value:.4f}" if name == "loss" or not 0 <= value <= 1 else f"{100 * value:.2f} %"


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` independent samples (Wilson 1927)."""
    z = 1.959964
    centre, spread = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + z * z / (4 * count**2))
    return (centre - spread) / (1 + z * z / count), (centre + spread) / (1 + z * z / count)


def score_section(results: RunResults) -> Html:
    """The score with its protocol and counts; of a run without one, how to get it."""
    if not results.was_tested:
        return _not_tested(results)
    score = results.score
    counted = number(score.get("expected" if score.get("failed_are_wrong", True) else "scored"))
    cards = [
        _card(name, float(value), int(counted or 0))
        for name, value in mapping(score.get("metrics")).items()
        if number(value) is not None
    ]
    checkpoint = score.get("checkpoint")
    digest = score.get("checkpoint_sha256")
    return join(
        [
            tag("div", *cards, class_="cards"),
            facts(
                [
                    ("Counts", _counts(results)),
                    ("Split", _split(results)),
                    ("Protocol", score.get("protocol_text")),
                    ("Checkpoint", tag("code", checkpoint) if checkpoint else None),
                    ("SHA-256", tag("code", digest) if digest else None),
                ]
            ),
        ]
    )


def _card(name: str, value: float, counted: int) -> Html:
    details = None
    if name.startswith("top") and 0 <= value <= 1 and counted:
        low, high = wilson(value, counted)
        interval = f"95 % interval {100 * low:.1f} to {100 * high:.1f}\N{NO-BREAK SPACE}%"
        details = f"{round(value * counted)} of {counted}; {interval}"
    return tag(
        "div",
        tag("small", metric_title(name)),
        tag("b", metric_text(name, value)),
        tag("small", details),
        class_="card",
    )


def _counts(results: RunResults) -> str | None:
    scored, expected = number(results.score.get("scored")), number(results.score.get("expected"))
    if scored is None or expected is None:
        return None
    failed = int(number(results.score.get("failed")) or 0)
    wrong = "count as missed" if results.multi_label else "count as wrong"
    if not results.score.get("failed_are_wrong", True):
        wrong = "are left out of the score"
    not_finite = int(number(results.score.get("not_finite")) or 0)
    could_not = f"{failed - not_finite} could not be read" + (f" and {wrong}" if failed - not_finite else "")
    if not_finite:
        could_not += f", {not_finite} gave outputs that are not finite and {wrong}"
    return f"{int(scored)} of {int(expected)} {results.noun} scored, {could_not}"


def _split(results: RunResults) -> str | None:
    split = results.score.get("split")
    return None if split is None else f"{split} {split_text(str(split), chosen_on=chosen_on(results))}".strip()


def _not_tested(results: RunResults) -> Html:
    path = results.checkpoint
    if path is None:
        return tag("p", "This run was not tested, and there is no checkpoint yet that could be.")
    command = f"mvrec test --ckpt_path {_quoted(str(path))}"
    again = f"mvrec report {_quoted(str(results.run_dir))}"
    return join([tag("p", "This run was not tested. To test it and render this report again:"), _code(command, again)])


def _code(*lines: str) -> Html:
    return tag("pre", "\n".join(lines))


def _quoted(text: str) -> str:
    return shlex.quote(text)


# -- classes ----------------------------------------------------------------------------------------------------------


def classes_section(classes: Sequence[ClassScore], *, multi_label: bool) -> Html:
    """Bars of the classes, worst first; of many the two ends, the whole distribution, and all of them folded."""
    measured = sorted((row for row in classes if not math.isnan(row.value)), key=lambda row: (row.value, row.name))
    what = "average precision" if multi_label else "accuracy"
    parts = []
    absent = len(classes) - len(measured)
    if absent:
        parts.append(tag("p", f"{absent} of {len(classes)} classes have no files in the test and are left out."))
    if len(measured) <= MOST_BARS:
        return join([*parts, _bars(measured, what)])
    half = MOST_BARS // 2
    ranks = list(range(1, len(measured) + 1))
    curve = Panel(
        f"{what} of the classes, worst to best", {what: (ranks, [row.value for row in measured])}, False, "rank"
    )
    ends = [
        tag("div", tag("h3", f"{half} worst classes"), _bars(measured[:half], what)),
        tag("div", tag("h3", f"{half} best classes"), _bars(measured[: -half - 1 : -1], what)),
    ]
    whole = folded(f"All {len(measured)} classes", _bars(sorted(measured, key=lambda row: row.number), what))
    return join([*parts, tag("div", line_chart(curve), class_="matrix"), tag("div", *ends, class_="columns"), whole])


def _bars(rows: Sequence[ClassScore], what: str) -> Html:
    others = [key for key in ("precision", "f1", "predicted", "failed") if any(row.others.get(key) for row in rows)]
    others = [key for key in others if key != "failed" or any(row.others.get(key) not in ("", "0") for row in rows)]
    head = [
        tag("th", text, scope="col", class_=style)
        for text, style in [
            ("class", None),
            (what, "num"),
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


def confusion_section(confusion: Confusion) -> Html:
    """The matrix, with its counts or as an image, and the most frequent confusions."""
    pairs = confusion.pairs(SHOWN_PAIRS)
    few = len(confusion.names) <= MOST_CELLS
    parts = [_counted(confusion) if few else _pictured(confusion)]
    if not pairs:
        return join([*parts, tag("p", "No class was taken for another one.")])
    rows = [
        (name_of(true), name_of(predicted), count, f"{100 * share:.1f} %") for true, predicted, count, share in pairs
    ]
    header = ("class", "taken for", "files", "of the class")
    return join(
        [*parts, tag("h3", "Most frequent confusions"), tag("div", table(header, rows, numeric={2, 3}), class_="pairs")]
    )


def _counted(confusion: Confusion) -> Html:
    """A table of counts, whose cells are as strong as their share of the row."""
    shares = _shares(confusion.counts, confusion.failed)
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


def _shares(counts: npt.NDArray[np.int64], failed: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return counts / np.maximum(counts.sum(axis=1) + failed, 1)[:, None]


def blocks(confusion: Confusion, most: int = MOST_BLOCKS) -> tuple[npt.NDArray[np.float64], int]:
    """The matrix as shares of its rows, neighbouring classes taken together where there are many.

    Returns:
        (rows, rows) of 0..1, and how many classes a row stands for.
    """
    count = len(confusion.names)
    width = math.ceil(count / most)
    edges = np.arange(0, count, width)
    counts = np.add.reduceat(np.add.reduceat(confusion.counts, edges, axis=0), edges, axis=1)
    return _shares(counts, np.add.reduceat(confusion.failed, edges)), width


def heat(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Shares (H, W) as colours (H, W, 3), white for 0: blue on the diagonal, red beside it.

    Each is as strong as its square root, red relative to the greatest beside the diagonal, which would be too faint
    else.
    """
    diagonal = np.eye(len(shares), dtype=bool)
    beside = np.where(diagonal, 0.0, shares)
    relative = np.where(diagonal, shares, beside / (beside.max(initial=0.0) or 1.0))
    strength = np.sqrt(np.clip(relative, 0, 1))[..., None]
    full = np.where(diagonal[..., None], np.array([16, 62, 145]), np.array([165, 30, 10]))
    return np.round(255 + strength * (full - 255)).astype(np.uint8)


def _pictured(confusion: Confusion) -> Html:
    """The matrix as an image with the numbers of the classes along its sides."""
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
    spoken = (
        f"Confusion matrix of {count} classes; {100 * right:.1f} % of the files that were scored lie on its diagonal"
    )
    picture = tag(
        "svg",
        pixels,
        frame,
        *marks,
        viewBox=f"0 0 {margin + side + 4} {margin + side + 4}",
        role="img",
        aria_label=spoken,
    )
    blue = "right" if width == 1 else f"on the diagonal (a cell stands for {width} by {width} neighbouring classes)"
    legend = (
        f"Blue: {blue}; red: beside it. A cell is as strong as the square root of its share of its row, red relative "
        "to the greatest red."
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
    """The mistakes of which the network was the surest."""
    wrong = [row for row in predictions if row.is_mistake]
    return sorted(wrong, key=lambda row: (-row.badness, row.path))[:most]


def mistakes_section(rows: Sequence[Prediction], total: int, noun: str, thumbnails: Thumbnails) -> Html:
    """Mistakes with what the network saw of each file."""
    if not rows:
        return tag("p", f"None of the {noun} that were scored is a mistake.")
    intro = f"The {len(rows)} of {total} mistakes of which the network was the surest, with what it saw of the {noun}."
    if len(rows) == total:
        intro = f"All {total} mistakes, the surest first, with what the network saw of the {noun}."
    return join([tag("p", intro), tag("div", *(_mistake(row, thumbnails) for row in rows), class_="mistakes")])


def _mistake(row: Prediction, thumbnails: Thumbnails) -> Html:
    try:
        pictures = thumbnails(row)
    except DecodeError as error:
        film, style = tag("div", f"no picture: {error.cause}", class_="missing"), "mistake"
    else:
        style = "mistake still" if len(pictures) == 1 else "mistake"
        film = tag(
            "div",
            *(
                tag("img", src=jpeg_data(picture), alt=f"{_what(row)}, picture {place} of {len(pictures)}")
                for place, picture in enumerate(pictures, 1)
            ),
            class_="film",
        )
    # A name from right to left would otherwise take the number beside it along.
    ranked = [
        join([", " if place else "", name_of(name), f" {100 * probability:.1f}\N{NO-BREAK SPACE}%"])
        for place, (name, probability) in enumerate(row.ranked)
    ]
    said = [tag("p", tag("b", "true: "), name_of(_names(row.labels)))]
    if row.predicted is None:
        name, probability = row.ranked[0]
        said.append(tag("p", tag("b", "predicted: "), name_of(name), f" ({100 * probability:.1f} %)"))
    else:
        said.append(tag("p", tag("b", "predicted: "), name_of(_names(row.predicted))))
    said += [tag("p", *ranked, class_="path"), tag("p", name_of(row.path), _span(row), class_="path")]
    return tag("div", film, tag("div", *said), class_=style)


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
    """The files that could not be read, with the cause."""
    failed = [row for row in predictions if row.error]
    if not failed:
        return Html("")
    rows = [(name_of(row.path), name_of(_names(row.labels)) if row.labels else "", row.error) for row in failed]
    parts = [table(("file", "class", "cause"), rows[:SHOWN_FAILURES])]
    if len(rows) > SHOWN_FAILURES:
        parts.append(tag("p", f"{len(rows) - SHOWN_FAILURES} more are in predictions.csv."))
    return join(parts)
