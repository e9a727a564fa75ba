"""Scored runs, file by file, and whether two of them can be compared."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from mvrec.compare.statistics import Floats, Numbers, drawn_scores
from mvrec.errors import UserError
from mvrec.messages import counted
from mvrec.report.file_results import FileResults
from mvrec.report.reading import read_run
from mvrec.report.sections import RunResults, TaskReport, mapping, number
from mvrec.runs.curves import read_columns
from mvrec.runs.monitors import mode_of
from mvrec.tasks.action_detection.report import ActionReport, FrameScore
from mvrec.tasks.classification.report import ClassificationReport
from mvrec.tasks.detection.report import DetectionReport, ImageRow
from mvrec.tasks.regression.report import RegressionReport
from mvrec.tasks.segmentation.report import ImageScore, SegmentationReport

# Keys of a configuration that name a run and do not shape it.
NAMES_OF_RUNS = ("run_dir", "trainer.logger", "trainer.default_root_dir", "ckpt_path", "resume")
SEED = "seed_everything"
CANNOT = "cannot be compared: "
Key = tuple[str, tuple[float | None, float | None]]  # a file, relative to the data's folder, and its part
MEASURES = {
    "right": "share of files that are right",
    "error": "mean error, in standard deviations of the values",
}  # of the values of files


@dataclass(frozen=True)
class File:
    """One file's result in a run.

    Attributes:
        row: Its prediction, with `path` and `span`.
        truth: Its class, classes or values.
        answer: What the run predicts, as text.
        value: 1 for right and 0 for wrong, the error of predicted values, or a score of this file alone.
        number: Its row in `predictions.csv`, from 0.
    """

    row: Any
    truth: Any
    answer: str
    value: float
    number: int = 0


class ScoredRun:
    """A run directory and its scores.

    Args:
        folder: The run directory.
        name: Its name in tables.
        stage: "test" or "validation".

    Raises:
        UserError: The directory is no run, or has no such score.
    """

    def __init__(self, folder: Path, name: str, stage: str) -> None:
        self.folder, self.name, self.stage = folder, name, stage
        self.report: TaskReport = read_run(folder, is_whole=False)
        results = self.report.results
        tested = (folder / "metrics.json").is_file() and bool(mapping(results.score.get("metrics")))
        self.score: Mapping[str, Any] = results.score if self.stage == "test" and tested else {}
        if self.stage == "validation":
            self.score = results.validation or _last_validation(results)
        if not mapping(self.score.get("metrics")):
            checkpoint = results.checkpoint
            hint = f"mvrec test {checkpoint}" if checkpoint else "it has no checkpoint yet"
            raise UserError(f"{folder}: this run has no {self.stage} score ({hint})")
        if self.stage == "test":
            self._check_files(results)

    def _check_files(self, results: RunResults) -> None:
        """Check that the test's files are there and whole; a report can do without them."""
        damaged = [note for note in results.notes if note.startswith("metrics.json is damaged")]
        has_rows = isinstance(self.report, ClassificationReport | RegressionReport)
        if damaged or (has_rows and not (self.folder / "predictions.csv").is_file()):
            fault = "metrics.json is damaged" if damaged else "predictions.csv is missing"
            raise UserError(f"{self.folder}: {fault}: mvrec test {self.folder}")

    @property
    def metrics(self) -> dict[str, float]:
        """The scores by name, the most telling one first."""
        values = {name: number(value) for name, value in mapping(self.score["metrics"]).items()}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def metric(self) -> str:
        """The score that ranks runs of this task."""
        names = [name.removeprefix("val/") for name in self.report.monitors]
        return next((name for name in self.metrics if name in names), next(iter(self.metrics)))

    @property
    def is_error(self) -> bool:
        """Whether a lower score is better."""
        return mode_of(self.metric) == "min"

    @property
    def counted(self) -> int:
        """The number of files in the score."""
        return int(number(self.score.get("expected" if self.score.get("failed_are_wrong", True) else "scored")) or 0)

    @property
    def noun(self) -> str:
        """The files of the score, in the plural."""
        return str(self.score.get("noun") or self.report.results.noun)

    @property
    def scored_on(self) -> str:
        """The stage and the protocol of the scores, as text."""
        protocol = str(self.score.get("protocol_text") or "")
        if self.stage == "test":
            return protocol or self.stage
        return f"last validation{', ' if protocol else ''}{protocol}"

    @property
    def hint(self) -> str:
        """The way to get results per file, behind what is missing without them; "" if there is none."""
        if self.stage != "test":
            return ": validations have no results per file, tests have (mvrec test RUN)"
        has_them = isinstance(self.report, SegmentationReport | DetectionReport | ActionReport)
        return f": test again with this version of mvrec (mvrec test {self.folder})" if has_them else ""

    @cached_property
    def measure(self) -> str | None:
        """The kind of a file's value: "right", "error", "score" of draws; `None` if the task has none per file."""
        if self.stage != "test":
            return None
        if isinstance(self.report, ClassificationReport):
            return "right"
        if isinstance(self.report, RegressionReport):
            return "error"
        return "score" if self.drawable is not None else None

    @cached_property
    def drawable(self) -> FileResults | None:
        """The results of files from which the score of any draw is computed; `None` if the run has none.

        Raises:
            UserError: They are not those of the recorded score.
        """
        results = self.report.file_results()
        if results is None:
            return None
        score = float(results.scores(np.ones((1, results.num_files)))[0])
        if math.isnan(score):  # no file has a class
            return None
        if not math.isclose(score, self.metrics[self.metric], abs_tol=1e-6):
            raise UserError(
                f"{self.folder}: its files give a {self.metric} of {score:.6f}, metrics.json has "
                f"{self.metrics[self.metric]:.6f}: test the run again (mvrec test {self.folder})"
            )
        return results

    @cached_property
    def drawn(self) -> Floats:
        """The score of each draw of files, (R,): the same draws in all runs on the same files."""
        assert self.drawable is not None, "only such runs are drawn"
        keys = sorted_keys(self)
        return drawn_scores(self.drawable, self.rows_of(keys), every_group([path for path, _ in keys]))

    def rows_of(self, keys: Sequence[Key]) -> Numbers:
        """Return the row of each file in `predictions.csv`, (N,)."""
        rows = np.array([self.files[key].number for key in keys])
        assert self.drawable is not None, "only such runs are drawn"
        if rows.max() >= self.drawable.num_files:
            raise UserError(
                f"{self.folder}: predictions.csv has more rows than the {self.drawable.num_files} files of the score: "
                f"test the run again (mvrec test {self.folder})"
            )
        return rows

    @cached_property
    def files(self) -> dict[Key, File]:
        """The result of each file; none if the task has none per file."""
        if self.measure is None:
            return {}
        root = root_of(self)
        return {(below(file.row.path, root), file.row.span): file for file in self._found()}

    @cached_property
    def settings(self) -> dict[str, str]:
        """The keys of its configuration that shape it, with their values as text."""
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        text = self.report.results.configs.get("config.yaml", "")
        try:
            content = yaml.load(text, Loader=loader)
        except yaml.YAMLError as error:
            self.report.results.notes.append(f"config.yaml is damaged and was left out ({type(error).__name__})")
            return {}
        return {key: value for key, value in _flat(content or {}).items() if not key.startswith(NAMES_OF_RUNS)}

    def forget_files(self) -> None:
        """Free the memory of results of files; they are read again when they are needed."""
        assert self.measure is not None, "it is kept"
        for name in ("files", "drawable", "drawn"):
            vars(self).pop(name, None)
        self.report.forget_files()

    def _found(self) -> Iterator[File]:
        report = self.report
        leaves_out = not self.score.get("failed_are_wrong", True)
        if isinstance(report, ClassificationReport):
            for row in report.predictions:
                if not (row.error and leaves_out):
                    answers = row.ranked[:1] if row.predicted is None else [(name, 1.0) for name in row.predicted]
                    answer = row.error or ", ".join(name for name, _ in answers) or "no class"
                    yield File(row, row.labels, answer, float(not row.error and not row.is_mistake))
        elif isinstance(report, RegressionReport):
            deviations = {name: _deviation([row.pairs[name][0] for row in report.scored]) for name in report.names}
            for values in report.scored:
                truth = tuple((name, true) for name, (true, _) in values.pairs.items())
                answer = ", ".join(f"{name} {predicted:.4g}" for name, (_, predicted) in values.pairs.items())
                yield File(values, truth, answer, values.distance(deviations))
        else:
            rows = getattr(report, "frames" if isinstance(report, ActionReport) else "images", [])
            yield from (_of_image(number, row) for number, row in enumerate(rows) if not (row.error and leaves_out))


def _of_image(number: int, row: ImageScore | ImageRow | FrameScore) -> File:
    """Return the result of an image with masks or objects, or of a key frame."""
    if isinstance(row, FrameScore):
        value = row.answered / row.actions if row.actions else float(not row.error)
        truth, answer = "" if row.error else counted(row.actions, "actions"), f"{row.answered} found"
    elif isinstance(row, ImageScore):
        value = 0.0 if math.isnan(row.miou) else row.miou
        truth, answer = "" if row.error else counted(row.pixels, "pixels with a class"), f"mIoU {100 * value:.1f} %"
    else:
        value = row.balance
        truth, answer = "" if row.error else counted(row.objects, "objects"), f"{row.right} right, {row.wrong} wrong"
    return File(row, (truth,), row.error or answer, value, number)


def _last_validation(results: RunResults) -> dict[str, Any]:
    """Return the last validation of a run whose task writes no `validation.json`, from `metrics.csv`."""
    path = results.run_dir / "metrics.csv"
    columns = results.read(path.name, read_columns) or {}
    metrics = {
        name.removeprefix("val/"): values[-1] for name, (_, values) in columns.items() if name.startswith("val/")
    }
    files = mapping(mapping(results.data.get("splits")).get("val")).get("files")
    facts = {name: results.environment.get(name) for name in ("task", "outputs")}
    return {**facts, "metrics": metrics, "protocol": results.data.get("protocol"), "expected": files}


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values)) or 1.0


def _flat(content: Any, at: str = "") -> dict[str, str]:
    if isinstance(content, dict) and content:
        parts = [_flat(value, f"{at}.{key}" if at else str(key)) for key, value in content.items()]
        return {key: value for part in parts for key, value in part.items()}
    return {at: "" if content is None else str(content)}


def root_of(run: ScoredRun) -> Any:
    """Return the data's folder when a run was scored."""
    return mapping(run.score.get("data")).get("root") or run.report.results.data.get("root")


def below(path: str, root: Any) -> str:
    """Return a recorded path without the data's folder, which may have moved between two runs."""
    prefix = f"{root}/" if root else ""
    return path.removeprefix(prefix) if prefix else path


def check_alike(first: ScoredRun, second: ScoredRun) -> None:
    """Check that two runs were scored alike, as far as their records say; `check_files` compares results of files.

    Raises:
        UserError: What differs.
    """
    where = _where(first, second)
    if first.stage != second.stage:
        raise UserError(f"{where}: one has a {first.stage} score, the other a {second.stage} score")
    for key, noun in (("task", "task"), ("split", "split"), ("failed_are_wrong", "count of unreadable files")):
        if first.score.get(key) != second.score.get(key):
            raise UserError(f"{where}: {noun} {first.score.get(key)} and {second.score.get(key)}")
    if difference := first_difference(first.score.get("protocol"), second.score.get("protocol")):
        raise UserError(f"{where}: their protocols differ in {difference}")
    _check_classes(where, *(run.score.get("class_names") or run.report.results.data.get("class_names") or []
                            for run in (first, second)))  # fmt: skip
    if first.counted != second.counted:
        raise UserError(f"{where}: scores of {first.counted} and of {second.counted} files")
    if first.measure == second.measure is not None:
        return
    if (base := _digest(first)) != (other := _digest(second)):
        raise UserError(f"{where}: their lists of files differ (SHA-256 {str(base)[:12]} and {str(other)[:12]})")


def first_difference(base: Any, other: Any, at: str = "") -> str:
    """Return the first place where two contents of JSON files differ, with both values; "" if they are equal."""
    if isinstance(base, Mapping) and isinstance(other, Mapping):
        for key in [*base, *(key for key in other if key not in base)]:
            if text := first_difference(base.get(key), other.get(key), f"{at}.{key}" if at else str(key)):
                return text
        return ""
    return "" if base == other else f"{at or 'their kind'}: {base} and {other}"


def _check_classes(where: str, base: Sequence[str], other: Sequence[str]) -> None:
    if list(base) == list(other):
        return
    if sorted(base) == sorted(other):
        raise UserError(f"{where}: their classes have another order")
    alone = [name for name in base if name not in other] or [name for name in other if name not in base]
    raise UserError(f"{where}: {len(base)} and {len(other)} classes, {alone[0]!r} in one of them only")


def _digest(run: ScoredRun) -> Any:
    split = run.score.get("split") or "val"
    data = {**run.report.results.data, **mapping(run.score.get("data"))}
    return mapping(mapping(data.get("splits")).get(str(split))).get("sha256")


def _where(first: ScoredRun, second: ScoredRun) -> str:
    return f"{first.folder} and {second.folder} {CANNOT.removesuffix(': ')}"


def check_files(first: ScoredRun, second: ScoredRun) -> None:
    """Check that two runs have results of the same files with the same truth, if they have results of files.

    Raises:
        UserError: What differs.
    """
    where = _where(first, second)
    if first.measure != second.measure:
        return
    for base, other in ((first, second), (second, first)):
        if alone := [path for path, span in base.files if (path, span) not in other.files]:
            raise UserError(f"{where}: {len(alone)} files are in {base.folder} only, such as {alone[0]}")
    for key, file in first.files.items():
        if file.truth != second.files[key].truth:
            raise UserError(f"{where}: {key[0]} has another label in each, {file.truth} and {second.files[key].truth}")


def paired(first: ScoredRun, second: ScoredRun) -> tuple[list[Key], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the files of two runs, and each run's value of each file, (N,)."""
    keys = list(first.files)
    base, other = (np.array([run.files[key].value for key in keys]) for run in (first, second))
    return keys, base, other


def sorted_keys(run: ScoredRun) -> list[Key]:
    """Return the files of a run in an order that runs on the same files share."""
    return sorted(run.files, key=lambda key: (key[0], *(-1.0 if second is None else second for second in key[1])))


def every_group(paths: Sequence[str]) -> Numbers:
    """Return the number of each row's video, (N,), also where each is of another file."""
    numbers = {path: number for number, path in enumerate(dict.fromkeys(paths))}
    return np.arange(len(paths)) if len(numbers) == len(paths) else np.array([numbers[path] for path in paths])


def groups_of(keys: Sequence[Key]) -> Numbers | None:
    """Return the number of each row's video, (N,); `None` if each is of another file."""
    groups = every_group([path for path, _ in keys])
    return None if groups[-1] == len(keys) - 1 else groups
