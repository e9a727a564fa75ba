"""Results of a classification in a run directory, read for its report."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mvrec.data.listing.lists import LABEL_SEPARATOR
from mvrec.report.sections import RunResults, csv_rows

FAILED = "(failed)"  # the column of a confusion matrix for unreadable samples
MOST_BLOCKS = 250  # rows of a matrix image; with more classes a row is several of them


@dataclass(frozen=True)
class Prediction:
    """A row of `predictions.csv`.

    Attributes:
        path: The file, as recorded by the run.
        labels: Its class; in multi-label data all of them, or none.
        ranked: The most probable classes with their probabilities, best first.
        predicted: In multi-label data the predicted classes; else `None`.
        error: Why the file could not be read, or "".
        span: Start and end in seconds of the scored part of the file; `None` for its own.
    """

    path: str
    labels: tuple[str, ...]
    ranked: tuple[tuple[str, float], ...]
    predicted: tuple[str, ...] | None
    error: str
    span: tuple[float | None, float | None] = (None, None)

    @property
    def is_mistake(self) -> bool:
        """Whether the file was scored and its classes differ from the predicted ones."""
        if self.error or not self.ranked:
            return False
        if self.predicted is None:
            return self.ranked[0][0] not in self.labels
        return set(self.predicted) != set(self.labels)

    @property
    def badness(self) -> float:
        """The network's confidence in the mistake, 0..1: the probability of the most probable wrong class.

        In multi-label data a missed class counts too, with its difference to 1.
        """
        wrong = [probability for name, probability in self.ranked if name not in self.labels]
        if self.predicted is None:
            return max(wrong, default=0.0)
        probabilities = dict(self.ranked)
        least = self.ranked[-1][1] if self.ranked else 0.0  # the bound for unlisted classes
        missed = [1 - probabilities.get(name, least) for name in self.labels if name not in self.predicted]
        return max([*wrong, *missed], default=0.0)


@dataclass(frozen=True)
class ClassScore:
    """A row of `per_class.csv`.

    Attributes:
        number: Its number, in label order.
        name: Its name.
        samples: Its number of samples.
        value: Accuracy, or average precision in multi-label data, 0..1; nan for a class without samples.
        others: The other columns.
    """

    number: int
    name: str
    samples: int
    value: float
    others: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Confusion:
    """Counts of true and predicted classes.

    Attributes:
        names: In label order.
        counts: int64 (K, K), true classes down, predicted ones across.
        failed: int64 (K,), unreadable files of each class.
    """

    names: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    failed: npt.NDArray[np.int64]

    def pairs(self, most: int) -> list[tuple[str, str, int, float]]:
        """Return the most frequent confusions: true class, predicted class, count, share of the true class's files."""
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        rows, columns = np.nonzero(wrong)
        totals = self.counts.sum(axis=1) + self.failed
        confusions = [
            (self.names[row], self.names[column], int(wrong[row, column]), float(wrong[row, column] / totals[row]))
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        ]
        return sorted(confusions, key=lambda pair: (-pair[2], -pair[3], pair[0], pair[1]))[:most]


@dataclass
class ClassResults:
    """The result files of a classification.

    Attributes:
        predictions: Rows of `predictions.csv`.
        classes: Scores of the classes.
        confusion: The matrix of data with one class per file.
    """

    predictions: list[Prediction]
    classes: list[ClassScore]
    confusion: Confusion | None


def read_class_results(results: RunResults) -> ClassResults:
    """Read the existing files, and derive the missing ones from the predictions."""
    class_results = ClassResults(
        results.read("predictions.csv", read_predictions) or [],
        results.read("per_class.csv", read_classes) or [],
        results.read("confusion.csv", read_confusion),
    )
    _complete(results, class_results)
    return class_results


def is_multi_label(results: RunResults, predictions: list[Prediction]) -> bool:
    """Return whether a file may have several classes, or none."""
    return bool(results.score.get("multi_label")) or any(row.predicted is not None for row in predictions)


def read_predictions(path: Path) -> list[Prediction]:
    """Return the rows of `predictions.csv`; see `write_predictions`."""
    predictions = []
    for row in csv_rows(path):
        several = "labels" in row
        ranks = (1, 2, 3, 4, 5)
        ranked = [
            (row[f"class_{rank}"], row[f"probability_{rank}"]) for rank in ranks if row.get(f"probability_{rank}")
        ]
        labels = _names(row["labels"]) if several else (row["label"],) if row["label"] else ()
        predictions.append(
            Prediction(
                path=row["path"],
                labels=labels,
                ranked=tuple((name, float(probability)) for name, probability in ranked),
                predicted=_names(row["predicted"]) if several else None,
                error=row["error"],
                span=(_seconds(row, "start_seconds"), _seconds(row, "end_seconds")),
            )
        )
    return predictions


class Answers(NamedTuple):
    """The columns of `predictions.csv` that tables over many runs need, each of N rows.

    Attributes:
        paths: The files, as recorded by the run.
        spans: Start and end in seconds; `None` where no list has any.
        labels: The class or classes, as in the file.
        right: Whether the answer is right.
        failed: Whether the file could not be read.
    """

    paths: list[str]
    spans: list[tuple[float | None, float | None]] | None
    labels: list[str]
    right: list[bool]
    failed: list[bool]


def read_answers(path: Path) -> Answers:
    """Return the columns of `predictions.csv` for tables over many runs, in a fifth of the time of all of it."""
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        rows = csv.reader(file, strict=True)
        header = {name: place for place, name in enumerate(next(rows, []))}
        several = "labels" in header
        names = ["path", *(("labels", "predicted") if several else ("label", "class_1")), "error"]
        ends = [name for name in ("start_seconds", "end_seconds") if name in header]
        # Whole rows are let go at once: 50,000 lists at a time take twice as long.
        cells = list(zip(*map(itemgetter(*(header[name] for name in (*names, *ends))), rows), strict=True))
    paths, labels, answers, errors, *times = cells or [()] * 4
    right = [
        (answer == label and not error) or (several and not error and set(_names(answer)) == set(_names(label)))
        for answer, label, error in zip(answers, labels, errors, strict=True)
    ]
    spans = None
    if len(times) == 2 and any(map(any, times)):
        spans = [(_number(start), _number(end)) for start, end in zip(*times, strict=True)]
    failed = [bool(error) for error in errors]
    return Answers(list(paths), spans, list(labels), right, failed)


def _number(cell: str) -> float | None:
    return float(cell) if cell else None


def _seconds(row: Mapping[str, str], column: str) -> float | None:
    return float(row[column]) if row.get(column) else None


def _names(cell: str) -> tuple[str, ...]:
    return tuple(cell.split(LABEL_SEPARATOR)) if cell else ()


def read_classes(path: Path) -> list[ClassScore]:
    """Return the rows of `per_class.csv`, of either kind."""
    classes = []
    for number, row in enumerate(csv_rows(path)):
        key = "average_precision" if "average_precision" in row else "accuracy"
        value = row.pop(key)
        samples = int(row.pop("samples"))
        classes.append(ClassScore(number, row.pop("class"), samples, float(value) if value else math.nan, row))
    return classes


def read_confusion(path: Path) -> Confusion:
    """Return the matrix of `confusion.csv`, whose last column may count unreadable files."""
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        header, *rows = list(csv.reader(file, strict=True))
    names = header[1:]
    has_failed = bool(names) and names[-1] == FAILED and len(names) == len(rows) + 1
    counts = np.asarray([[int(cell or 0) for cell in row[1:]] for row in rows], dtype=np.int64)
    if counts.shape != (len(rows), len(names)) or len(names) - has_failed != len(rows):
        raise ValueError(f"{len(rows)} true classes and {len(names) - has_failed} predicted ones")
    failed = counts[:, -1] if has_failed else np.zeros(len(rows), np.int64)
    return Confusion(tuple(row[0] for row in rows), counts[:, : len(rows)], failed)


def _complete(results: RunResults, class_results: ClassResults) -> None:
    rows = class_results.predictions
    multi_label = is_multi_label(results, rows)
    is_scored = bool(results.score)
    if not is_scored and rows:
        failed = sum(bool(row.error) for row in rows)
        results.score = {"scored": len(rows) - failed, "expected": len(rows), "failed": failed}
        results.notes.append("the score is computed from predictions.csv, without metrics.json")
    names = results.score.get("class_names") or results.data.get("class_names")
    if multi_label or not rows:
        return
    occurring = {name for row in rows for name in (*row.labels, *(name for name, _ in row.ranked[:1]))}
    names = [str(name) for name in names or sorted(occurring)]
    if not is_scored:
        results.score["metrics"] = _accuracies(rows, num_classes=len(names))
    if class_results.confusion is None:
        class_results.confusion = confusion_of(rows, names)
    if not class_results.classes and class_results.confusion is not None:
        class_results.classes = classes_of(class_results.confusion)


def _accuracies(rows: list[Prediction], *, num_classes: int) -> dict[str, float]:
    top1 = sum(bool(row.ranked) and not row.is_mistake for row in rows)
    most = max(len(row.ranked) for row in rows)
    topk = sum(any(name in row.labels for name, _ in row.ranked) for row in rows)
    return {"top1": top1 / len(rows), **({f"top{most}": topk / len(rows)} if 1 < most < num_classes else {})}


def confusion_of(rows: list[Prediction], names: list[str]) -> Confusion | None:
    """Return the matrix of predictions of one class each; `None` when a class is not among the names."""
    numbers = {name: number for number, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), np.int64)
    failed = np.zeros(len(names), np.int64)
    for row in rows:
        true = numbers.get(row.labels[0]) if row.labels else None
        if true is None and row.labels:
            return None
        if true is not None and not row.ranked:
            failed[true] += 1
        elif true is not None:
            if row.ranked[0][0] not in numbers:
                return None
            counts[true, numbers[row.ranked[0][0]]] += 1
    return Confusion(tuple(names), counts, failed)


def classes_of(confusion: Confusion) -> list[ClassScore]:
    """Return accuracies of the classes; an unreadable file counts as wrong."""
    totals, right = confusion.counts.sum(axis=1) + confusion.failed, confusion.counts.diagonal()
    return [
        ClassScore(number, name, int(total), float(hits / total) if total else math.nan)
        for number, (name, total, hits) in enumerate(zip(confusion.names, totals, right, strict=True))
    ]


def shares_of(counts: npt.NDArray[np.int64], failed: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return counts (K, K) as shares of their rows, with the files that failed."""
    return counts / np.maximum(counts.sum(axis=1) + failed, 1)[:, None]


def blocks(confusion: Confusion, most: int = MOST_BLOCKS) -> tuple[npt.NDArray[np.float64], int]:
    """Return the matrix as shares of its rows, with neighbouring classes merged if there are many.

    Returns:
        (rows, rows) of 0..1, and the number of classes per row.
    """
    count = len(confusion.names)
    width = math.ceil(count / most)
    edges = np.arange(0, count, width)
    counts = np.add.reduceat(np.add.reduceat(confusion.counts, edges, axis=0), edges, axis=1)
    return shares_of(counts, np.add.reduceat(confusion.failed, edges)), width
