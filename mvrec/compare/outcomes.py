"""The results of the files of a run as numbers, small enough for tables over many runs."""

import csv
import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mvrec.compare.scored import ScoredRun, below, check_alike, check_files, every_group, root_of
from mvrec.compare.statistics import Floats, Interval, Numbers, difference_interval, mcnemar, percentiles
from mvrec.errors import UserError
from mvrec.tasks.chance import wilson
from mvrec.tasks.classification.report import ClassificationReport
from mvrec.tasks.classification.run_results import read_answers

Span = tuple[float | None, float | None]
NO_SPAN: Span = (None, None)
ANY_NAME = ("utf-8", "surrogateescape")  # names of files need not be UTF-8


@dataclass(frozen=True, eq=False)
class Outcome:
    """The results of files in the order of their names.

    Attributes:
        digest: A hash of files, parts and truth.
        values: The value of each file, (N,), or the score of each draw of files, (R,).
        groups: The number of the video that each file is a part of, (N,).
    """

    digest: str
    values: Floats
    groups: Numbers


class TableRun:
    """A run as a row of a table; its files are read once and forgotten.

    Args:
        run: The run.
    """

    def __init__(self, run: ScoredRun) -> None:
        self.run = run

    @cached_property
    def outcome(self) -> Outcome | None:
        """The results of its files; `None` if it has none.

        Raises:
            UserError: Files of the run are damaged.
        """
        run = self.run
        if run.measure is None:
            return None
        paths, spans, truths, values = _columns(run)
        order = sorted(
            range(len(paths)),
            key=paths.__getitem__ if spans is None else lambda place: _place(paths[place], spans[place]),
        )
        digest = hashlib.sha256()
        for column in (paths, spans or [], truths):
            digest.update("\n".join(str(column[place]) for place in order[: len(column)]).encode(*ANY_NAME))
            digest.update(b"\0")
        numbers = run.drawn if run.measure == "score" else values[order]
        outcome = Outcome(digest.hexdigest(), numbers, every_group([paths[place] for place in order]))
        run.forget_files()
        return outcome

    @cached_property
    def interval(self) -> Interval | None:
        """The 95 % interval of its score, if that is a share of files or can be drawn."""
        run = self.run
        if run.measure == "score" and self.outcome is not None:
            return percentiles(self.outcome.values)
        return interval_of(run)

    def difference(self, best: "TableRun") -> tuple[float, Interval | None, float | None]:
        """Return the difference to another run, its 95 % interval, and p of McNemar's test, as far as they exist."""
        base, other, run = best.outcome, self.outcome, self.run
        scores = [each.metrics.get(run.metric, float("nan")) for each in (best.run, run)]
        if base is None or other is None:
            return scores[1] - scores[0], None, None
        if run.measure == "score":
            return scores[1] - scores[0], percentiles(other.values - base.values), None
        differences = other.values - base.values
        is_single = len(base.groups) == base.groups[-1] + 1
        interval = difference_interval(differences, None if is_single else base.groups)
        is_test = run.measure == "right" and is_single
        return float(differences.mean()), interval, mcnemar(base.values > 0, other.values > 0).p if is_test else None


def interval_of(run: ScoredRun) -> Interval | None:
    """Return the 95 % interval of a run's own score, if it is a share of files or can be drawn."""
    if run.measure == "score":
        return percentiles(run.drawn)
    return wilson(run.metrics[run.metric], run.counted) if run.metric == "top1" and run.counted else None


def _columns(run: ScoredRun) -> tuple[list[str], list[Span] | None, list[Any], Floats]:
    """Return names, parts (`None` where no file has any), truth and value of all files."""
    path = run.folder / "predictions.csv"
    if not isinstance(run.report, ClassificationReport) or not path.is_file():
        keys, files = list(run.files), run.files.values()
        spans = [span for _, span in keys] if any(span != NO_SPAN for _, span in keys) else None
        return [name for name, _ in keys], spans, [file.truth for file in files], np.array([f.value for f in files])
    try:
        answers = read_answers(path)
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise UserError(f"{path} is damaged ({error}): mvrec test {run.folder}") from None
    root, right = root_of(run), np.array(answers.right, np.float64)
    paths = [below(name, root) for name in answers.paths]
    if run.score.get("failed_are_wrong", True) or not any(answers.failed):
        return paths, answers.spans, list(answers.labels), right
    readable = [place for place, failed in enumerate(answers.failed) if not failed]
    spans = answers.spans and [answers.spans[place] for place in readable]
    return [paths[place] for place in readable], spans, [answers.labels[place] for place in readable], right[readable]


def _place(path: str, span: Span) -> tuple[str, float, float]:
    start, end = span
    return path, -1.0 if start is None else start, -1.0 if end is None else end


def check_comparable(first: TableRun, second: TableRun) -> None:
    """Check that two runs were scored on the same files under the same protocol.

    Raises:
        UserError: What differs.
    """
    check_alike(first.run, second.run)
    base, other = first.outcome, second.outcome
    if base is not None and other is not None and base.digest != other.digest:
        check_files(first.run, second.run)
        for run in (first.run, second.run):
            run.forget_files()
