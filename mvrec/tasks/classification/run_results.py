"""What lies in a run directory, read for its report. Nothing but the directory itself has to be there."""

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mvrec.data.views.protocol import kind_of
from mvrec.errors import UserError
from mvrec.files import sha256
from mvrec.tasks.classification.predictions import LABEL_SEPARATOR
from mvrec.tasks.classification.results import FAILED
from mvrec.tasks.classification.score_text import split_text

KNOWN_FILES = (
    "config.yaml",
    "config_test.yaml",
    "environment.json",
    "data.json",
    "parameter_groups.json",
    "metrics.csv",
    "metrics.json",
    "predictions.csv",
)

Read = TypeVar("Read")


@dataclass(frozen=True)
class Prediction:
    """A row of `predictions.csv`.

    Attributes:
        path: The file, as the run knew it.
        labels: Its class; in multi-label data all of them, or none.
        ranked: The most probable classes with their probabilities, best first.
        predicted: In multi-label data the classes that are predicted; else `None`.
        error: Why the file could not be read, or nothing.
        span: Start and end in seconds of the part of the file that was scored; `None` for its own.
    """

    path: str
    labels: tuple[str, ...]
    ranked: tuple[tuple[str, float], ...]
    predicted: tuple[str, ...] | None
    error: str
    span: tuple[float | None, float | None] = (None, None)

    @property
    def is_mistake(self) -> bool:
        """Whether the file was scored, and its class, or the set of them, is not what is predicted."""
        if self.error or not self.ranked:
            return False
        if self.predicted is None:
            return self.ranked[0][0] not in self.labels
        return set(self.predicted) != set(self.labels)

    @property
    def badness(self) -> float:
        """How sure the network was of what is wrong, 0..1: the probability of the most probable wrong class.

        In multi-label data a class that was missed counts too, with what is lacking to 1.
        """
        wrong = [probability for name, probability in self.ranked if name not in self.labels]
        if self.predicted is None:
            return max(wrong, default=0.0)
        known = dict(self.ranked)
        least = self.ranked[-1][1] if self.ranked else 0.0  # of classes that are not listed no more is known
        missed = [1 - known.get(name, least) for name in self.labels if name not in self.predicted]
        return max([*wrong, *missed], default=0.0)


@dataclass(frozen=True)
class ClassScore:
    """A row of `per_class.csv`.

    Attributes:
        number: Of the class, in label order.
        name: Its name.
        samples: How many there are.
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
    """How often which class was taken for which.

    Attributes:
        names: In label order.
        counts: int64 (K, K), true classes down, predicted ones across.
        failed: int64 (K,), files of each class that could not be read.
    """

    names: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    failed: npt.NDArray[np.int64]

    def pairs(self, most: int) -> list[tuple[str, str, int, float]]:
        """The most frequent confusions: true class, predicted class, how often, share of the true class's files."""
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        rows, columns = np.nonzero(wrong)
        totals = self.counts.sum(axis=1) + self.failed
        found = [
            (self.names[row], self.names[column], int(wrong[row, column]), float(wrong[row, column] / totals[row]))
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        ]
        return sorted(found, key=lambda pair: (-pair[2], -pair[3], pair[0], pair[1]))[:most]


@dataclass
class RunResults:
    """A run directory.

    Attributes:
        run_dir: The directory.
        score: What `mvrec test` wrote to `metrics.json`, or what the other files tell of it; empty when nothing does.
        predictions: Rows of `predictions.csv`.
        classes: Scores of the classes.
        confusion: Of data with one class per file.
        environment: `environment.json`.
        data: `data.json`.
        parameter_groups: `parameter_groups.json`.
        configs: The text of each configuration, by file name.
        notes: What is missing, damaged or out of date, for people.
    """

    run_dir: Path
    score: dict[str, Any] = field(default_factory=dict)
    predictions: list[Prediction] = field(default_factory=list)
    classes: list[ClassScore] = field(default_factory=list)
    confusion: Confusion | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    parameter_groups: list[dict[str, Any]] = field(default_factory=list)
    configs: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def multi_label(self) -> bool:
        """Whether a file may have several classes, or none."""
        return bool(self.score.get("multi_label")) or any(row.predicted is not None for row in self.predictions)

    @property
    def was_tested(self) -> bool:
        """Whether anything is known of a test."""
        return bool(self.score or self.predictions or self.classes)

    @property
    def noun(self) -> str:
        """What is scored: "videos" or "images"."""
        protocol = self.score.get("protocol") or self.data.get("protocol") or {}
        return str(self.score.get("noun") or (f"{kind_of(protocol).noun}s" if protocol else "files"))

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint to test."""
        places = [self.run_dir / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
        return next((place for place in places if place.is_file()), None)


def read_results(run_dir: Path) -> RunResults:
    """Read a run directory; a file in it that is damaged is left out, and a note says so.

    Raises:
        UserError: There is no such directory, or no run in it.
    """
    if not run_dir.is_dir():
        hint = "a run directory, not a file in it" if run_dir.exists() else "there is no such directory"
        raise UserError(f"{run_dir}: {hint}; mvrec report takes the directory that mvrec fit or test wrote to")
    if not any((run_dir / name).is_file() for name in KNOWN_FILES):
        raise UserError(f"{run_dir} is no run directory: it has none of {', '.join(KNOWN_FILES)}")
    results = RunResults(run_dir)
    for name in ("config.yaml", "config_test.yaml"):
        text = _read(results, name, lambda path: path.read_text(encoding="utf-8", errors="replace"))
        if text is not None:
            results.configs[name] = text
    results.environment = _read(results, "environment.json", _dictionary) or {}
    results.data = _read(results, "data.json", _dictionary) or {}
    results.parameter_groups = _read(results, "parameter_groups.json", _groups) or []
    results.predictions = _read(results, "predictions.csv", read_predictions) or []
    results.score = _read(results, "metrics.json", _dictionary) or {}
    results.classes = _read(results, "per_class.csv", read_classes) or []
    results.confusion = _read(results, "confusion.csv", read_confusion)
    _complete(results)
    _check_checkpoint(results)
    _check_extent(results)
    return results


def _read(results: RunResults, name: str, read: Callable[[Path], Read]) -> Read | None:
    path = results.run_dir / name
    if not path.is_file():
        return None
    try:
        return read(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        results.notes.append(f"{name} is damaged and was left out ({error or type(error).__name__})")
        return None


def _dictionary(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it holds no object")
    return content


def _groups(path: Path) -> list[dict[str, Any]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return [{**group, "names": list(group.get("names", ()))} for group in content]


def _rows(path: Path) -> Iterator[dict[str, str]]:
    # Names of files need not be UTF-8; with surrogates in them they can still be opened.
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        for row in csv.DictReader(file, restval="", strict=True):
            yield {str(key): value for key, value in row.items()}


def read_predictions(path: Path) -> list[Prediction]:
    """The rows of `predictions.csv`; see `write_predictions`."""
    found = []
    for row in _rows(path):
        several = "labels" in row
        ranks = (1, 2, 3, 4, 5)
        ranked = [
            (row[f"class_{rank}"], row[f"probability_{rank}"]) for rank in ranks if row.get(f"probability_{rank}")
        ]
        labels = _names(row["labels"]) if several else (row["label"],) if row["label"] else ()
        found.append(
            Prediction(
                path=row["path"],
                labels=labels,
                ranked=tuple((name, float(probability)) for name, probability in ranked),
                predicted=_names(row["predicted"]) if several else None,
                error=row["error"],
                span=(_seconds(row, "start_seconds"), _seconds(row, "end_seconds")),
            )
        )
    return found


def _seconds(row: Mapping[str, str], column: str) -> float | None:
    return float(row[column]) if row.get(column) else None


def _names(cell: str) -> tuple[str, ...]:
    return tuple(cell.split(LABEL_SEPARATOR)) if cell else ()


def read_classes(path: Path) -> list[ClassScore]:
    """The rows of `per_class.csv`, of either kind."""
    found = []
    for number, row in enumerate(_rows(path)):
        key = "average_precision" if "average_precision" in row else "accuracy"
        value = row.pop(key)
        samples = int(row.pop("samples"))
        found.append(ClassScore(number, row.pop("class"), samples, float(value) if value else math.nan, row))
    return found


def read_confusion(path: Path) -> Confusion:
    """The matrix of `confusion.csv`, whose last column may be of files that could not be read."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        header, *rows = list(csv.reader(file, strict=True))
    names = header[1:]
    has_failed = bool(names) and names[-1] == FAILED and len(names) == len(rows) + 1
    counts = np.asarray([[int(cell or 0) for cell in row[1:]] for row in rows], dtype=np.int64)
    if counts.shape != (len(rows), len(names)) or len(names) - has_failed != len(rows):
        raise ValueError(f"{len(rows)} true classes and {len(names) - has_failed} predicted ones")
    failed = counts[:, -1] if has_failed else np.zeros(len(rows), np.int64)
    return Confusion(tuple(row[0] for row in rows), counts[:, : len(rows)], failed)


def _complete(results: RunResults) -> None:
    """Work out from the predictions what other files should have said."""
    rows = results.predictions
    if not results.score and rows:
        failed = sum(bool(row.error) for row in rows)
        results.score = {"scored": len(rows) - failed, "expected": len(rows), "failed": failed}
        results.notes.append("the score is worked out from predictions.csv, without metrics.json")
        if not results.multi_label:
            results.score["metrics"] = _accuracies(rows)
    names = results.score.get("class_names") or results.data.get("class_names")
    if results.multi_label or not rows:
        return
    seen = {name for row in rows for name in (*row.labels, *(name for name, _ in row.ranked[:1]))}
    names = [str(name) for name in names or sorted(seen)]
    if results.confusion is None:
        results.confusion = confusion_of(rows, names)
    if not results.classes and results.confusion is not None:
        results.classes = classes_of(results.confusion)


def _accuracies(rows: list[Prediction]) -> dict[str, float]:
    top1 = sum(bool(row.ranked) and not row.is_mistake for row in rows)
    most = max(len(row.ranked) for row in rows)
    topk = sum(any(name in row.labels for name, _ in row.ranked) for row in rows)
    return {"top1": top1 / len(rows), f"top{most}": topk / len(rows)} if most else {}


def confusion_of(rows: list[Prediction], names: list[str]) -> Confusion | None:
    """The matrix of predictions of one class each; `None` when a class is not among the names."""
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
    """Accuracies of the classes; a file that could not be read counts as wrong."""
    totals, right = confusion.counts.sum(axis=1) + confusion.failed, confusion.counts.diagonal()
    return [
        ClassScore(number, name, int(total), float(hits / total) if total else math.nan)
        for number, (name, total, hits) in enumerate(zip(confusion.names, totals, right, strict=True))
    ]


def _check_checkpoint(results: RunResults) -> None:
    """Notice when the score is of another checkpoint than the one that lies in the run directory now."""
    digest, recorded = results.score.get("checkpoint_sha256"), results.score.get("checkpoint")
    if not digest or not recorded:
        return
    path = results.run_dir / "checkpoints" / Path(str(recorded)).name
    if not path.is_file():
        return
    if sha256(path) != digest:
        results.notes.append(
            f"the score is of another {path.name} than the one in checkpoints/ now: mvrec test --ckpt_path {path}"
        )


def _check_extent(results: RunResults) -> None:
    """Notice when the score is of a part of a split, or of the files on which the checkpoint was chosen."""
    score, noun = results.score, results.noun
    if score.get("partial"):
        results.notes.append(
            f"only a part of the test: {score.get('expected')} of {score.get('of')} {noun}; the whole: mvrec test "
            f"{results.run_dir}"
        )
    text = split_text(str(score.get("split") or "test"), chosen_on=chosen_on(results))
    if text:
        results.notes.append(f"the score is {text}: expect less on new {noun}")


def chosen_on(results: RunResults) -> bool:
    """Whether the score is of the files on which the checkpoint was chosen."""
    return bool(results.score.get("split_chose_checkpoint"))


def number(value: Any) -> float | None:
    """A value of a JSON file as a finite number, or `None`."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def mapping(value: Any) -> Mapping[str, Any]:
    """A value of a JSON file as a mapping; an empty one where it is something else."""
    return value if isinstance(value, Mapping) else {}
