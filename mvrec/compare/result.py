"""The comparison of runs: which is better by how much, and what changed."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mvrec.compare.scored import (
    File,
    Key,
    ScoredRun,
    check_alike,
    check_files,
    every_group,
    groups_of,
    paired,
    sorted_keys,
)
from mvrec.compare.statistics import Interval, McNemar, difference_interval, mcnemar, percentiles, swap_test
from mvrec.tasks.action_detection.report import ActionReport
from mvrec.tasks.classification.report import ClassificationReport
from mvrec.tasks.detection.report import DetectionReport
from mvrec.tasks.detection.scores import MASKS
from mvrec.tasks.segmentation.report import SegmentationReport

SURE = 0.05  # a smaller p counts as a difference


@dataclass(frozen=True)
class ClassChange:
    """A class in two runs: its files that each has right, or its own score in each.

    Attributes:
        name: The class.
        files: Its files; `None` where the class has a score of its own.
        first: Files that the first run has right, or its score, 0..1.
        second: The same of the second run.
    """

    name: str
    files: int | None
    first: float
    second: float

    @property
    def change(self) -> float:
        """The second run's share minus the first's, -1..1."""
        return (self.second - self.first) / (self.files or 1)


@dataclass(frozen=True)
class Change:
    """A file that one run has right and the other wrong; of values, one whose error changed most."""

    path: str
    truth: str
    first: File
    second: File
    is_gain: bool  # whether the second run is the better one


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same files; differences are the second minus the first.

    Attributes:
        first: The run that is compared with.
        second: The run that is compared.
        values: The mean value of each over files, or the score where files have no value of their own.
        interval: The 95 % interval of the difference; `None` where files have no value of their own.
        test: McNemar's test; `None` where files are not right or wrong.
        p: The probability of so great a difference between equally good runs, of that test or another.
        num_groups: The number of videos that rows are parts of; `None` if each file is one row.
    """

    first: ScoredRun
    second: ScoredRun
    values: tuple[float, float]
    interval: Interval | None
    test: McNemar | None
    num_groups: int | None
    p: float | None = None

    @property
    def difference(self) -> float:
        """The second run's value minus the first's."""
        return self.values[1] - self.values[0]

    @property
    def verdict(self) -> str:
        """One sentence on whether the difference is one."""
        name, other = self.second.name, self.first.name
        if self.interval is None:
            hint = self.first.hint if self.first.measure is None else self.second.hint
            return f"without results per file nothing says how sure the difference of {name} and {other} is{hint}"
        low, high = self.interval
        is_sure = not low <= 0 <= high and (self.p is None or self.p < SURE)
        if not is_sure:
            return f"{name} and {other} do not differ by more than chance on these files"
        lower = self.first.measure == "error"
        better = name if (self.difference < 0) == lower else other
        return f"{better} is better"


def compare(first: ScoredRun, second: ScoredRun) -> Comparison:
    """Compare two runs.

    Raises:
        UserError: They were not scored on the same files under the same protocol.
    """
    check_alike(first, second)
    check_files(first, second)
    metric = first.metric
    if first.measure in (None, "score"):
        scores = first.metrics[metric], second.metrics.get(metric, math.nan)
        if first.measure is None or second.measure is None:
            return Comparison(first, second, scores, None, None, None)
        keys = sorted_keys(first)
        groups = groups_of(keys)
        interval = percentiles(second.drawn - first.drawn)
        num_groups = None if groups is None else int(groups.max()) + 1
        return Comparison(first, second, scores, interval, None, num_groups)
    keys, base, other = paired(first, second)
    groups = groups_of(keys)
    test = mcnemar(base > 0, other > 0) if first.measure == "right" else None
    interval = difference_interval(other - base, groups)
    num_groups = None if groups is None else int(groups.max()) + 1
    p = test.p if test is not None and groups is None else None
    return Comparison(first, second, (float(base.mean()), float(other.mean())), interval, test, num_groups, p)


def tested(result: Comparison) -> Comparison:
    """Return a comparison with the test that takes as long as the interval: swaps of results where a score is drawn."""
    first, second = result.first, result.second
    if result.interval is None or first.measure != "score":
        return result
    assert first.drawable is not None, "the measure says so"
    assert second.drawable is not None, "the measure says so"
    keys = sorted_keys(first)
    sides = (first.drawable, first.rows_of(keys)), (second.drawable, second.rows_of(keys))
    return replace(result, p=swap_test(*sides, every_group([path for path, _ in keys])))


def ranked(runs: Sequence[ScoredRun]) -> list[ScoredRun]:
    """Return runs with the best first; equal ones keep their order."""
    sign = 1 if runs[0].is_error else -1
    return sorted(runs, key=lambda run: sign * run.metrics.get(run.metric, math.inf * sign))


def class_changes(first: ScoredRun, second: ScoredRun) -> list[ClassChange]:
    """Return the classes of files with one class each, or those with scores of their own, the largest change first."""
    if first.measure == "score":
        return _scored_classes(first, second)
    counts: dict[str, list[int]] = {}
    if not isinstance(first.report, ClassificationReport) or first.report.multi_label:
        return []
    for key, file in first.files.items():
        count = counts.setdefault(", ".join(file.truth), [0, 0, 0])
        for place, value in enumerate((1, file.value, second.files[key].value)):
            count[place] += int(value)
    return _largest_first(ClassChange(name, *count) for name, count in counts.items())


def _scored_classes(first: ScoredRun, second: ScoredRun) -> list[ClassChange]:
    """Return the classes that have a score in both runs, such as intersection over union."""
    base, other = (class_scores(run) for run in (first, second))
    return _largest_first(ClassChange(name, None, base[name], other[name]) for name in base if name in other)


def _largest_first(changes: Iterable[ClassChange]) -> list[ClassChange]:
    return sorted(changes, key=lambda change: (-abs(change.change), change.name))


def class_scores(run: ScoredRun) -> dict[str, float]:
    """Return the score of each class in a run whose score is a mean of those; undefined ones are left out."""
    report = run.report
    scores: dict[str, float] = {}
    if isinstance(report, SegmentationReport):
        scores = {row.name: row.iou for row in report.classes}
    elif isinstance(report, DetectionReport):
        scores = {row.name: row.masks if run.metric.startswith(MASKS) else row.boxes for row in report.classes}
    elif isinstance(report, ActionReport):
        scores = {row.name: row.value for row in report.classes}
    return {name: score for name, score in scores.items() if not math.isnan(score)}


def changes(first: ScoredRun, second: ScoredRun) -> list[Change]:
    """Return the files whose value changed, the largest change first."""
    changed = [
        (abs(file.value - second.files[key].value), key, file)
        for key, file in first.files.items()
        if file.value != second.files[key].value
    ]
    changed.sort(key=lambda item: (-item[0], item[1][0]))
    sign = -1 if first.measure == "error" else 1
    return [
        Change(shown_name(key), truth_text(file.truth), file, other, sign * (other.value - file.value) > 0)
        for _, key, file in changed
        for other in (second.files[key],)
    ]


def shown_name(key: Key) -> str:
    """Return a file's name, with its span if it is a part."""
    path, (start, end) = key
    return (
        path if start is None and end is None else f"{path} {start or 0:g} to {'end' if end is None else f'{end:g}'} s"
    )


def truth_text(truth: Any) -> str:
    """Return a file's classes or values as text."""
    parts = [part if isinstance(part, str) else f"{part[0]} {part[1]:.4g}" for part in truth]
    return ", ".join(parts) or "no class"


def configuration_changes(runs: Sequence[ScoredRun]) -> list[tuple[str, list[str]]]:
    """Return the keys in which the runs' config.yaml differ, each with its value in every run."""
    keys = sorted({key for run in runs for key in run.settings})
    rows = [(key, [run.settings.get(key, "-") for run in runs]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]
