"""The results of the files of a run as numbers, small enough for tables over many runs."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mvrec.compare.scored import Key, ScoredRun, below, check_alike, check_files, every_group, root_of
from mvrec.compare.statistics import Floats, Interval, Numbers, difference_interval, mcnemar, percentiles
from mvrec.errors import UserError
from mvrec.tasks.chance import wilson
from mvrec.tasks.classification.report import ClassificationReport
from mvrec.tasks.classification.run_results import read_answers


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
        rows = sorted(_rows(run), key=_place)
        keys = [key for key, _, _ in rows]
        digest = hashlib.sha256()
        for (path, (start, end)), truth, _ in rows:
            digest.update(f"{path}\0{start}\0{end}\0{truth}\n".encode("utf-8", "surrogateescape"))
        values = run.drawn if run.measure == "score" else np.array([value for _, _, value in rows])
        run.forget_files()
        return Outcome(digest.hexdigest(), values, every_group(keys))

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


def _rows(run: ScoredRun) -> Iterable[tuple[Key, Any, float]]:
    """Yield key, truth and value of each file."""
    path, root = run.folder / "predictions.csv", root_of(run)
    if not isinstance(run.report, ClassificationReport) or not path.is_file():
        return [(key, file.truth, file.value) for key, file in run.files.items()]
    leaves_out = not run.score.get("failed_are_wrong", True)
    try:
        return [
            ((below(name, root), span), labels, float(is_right))
            for name, span, labels, is_right, failed in read_answers(path)
            if not (failed and leaves_out)
        ]
    except (OSError, ValueError, KeyError, IndexError, StopIteration) as error:
        raise UserError(f"{path} is damaged ({error or type(error).__name__}): mvrec test {run.folder}") from None


def _place(row: tuple[Key, Any, float]) -> tuple[str, float, float]:
    (path, (start, end)), _, _ = row
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
