"""The runs of a cross-validation, put together: one score in which each file counts once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mvrec.errors import UserError
from mvrec.files import json_text, write_atomically, write_csv
from mvrec.report.reading import read_run
from mvrec.report.sections import csv_rows, mapping, number
from mvrec.tasks.chance import chance, wilson
from mvrec.tasks.classification.report import ClassificationReport

# Entries of `metrics.json` that runs must share, with their names.
ALIKE = {"class_names": "classes", "protocol_text": "protocol", "failed_are_wrong": "count of failed files"}


def pool_runs(runs: Sequence[Path], folder: Path) -> list[str]:
    """Write predictions and scores of all folds of a cross-validation into a folder, which `read_run` reads.

    Args:
        runs: Run directories that `mvrec test` has scored, each on files that no other one was scored on.
        folder: The folder to write to.

    Returns:
        A line with the score of each run, then the score of all files with its interval.

    Raises:
        UserError: A run was not tested, or its score cannot be put together with those of the others.
    """
    if (folder / "environment.json").is_file():
        raise UserError(f"{folder} holds a run: put the report of several runs elsewhere (-o FOLDER/report.html)")
    reports = [_scored(run) for run in runs]
    _check_alike(runs, reports)
    score = _pooled(runs, reports)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "predictions.csv", _joined_rows(runs))
    write_atomically(folder / "metrics.json", json_text(score, indent=2) + "\n")
    return _lines(score)


def _scored(run: Path) -> ClassificationReport:
    report = read_run(run)
    if not isinstance(report, ClassificationReport) or report.multi_label:
        raise UserError(f"{run}: only runs with one class per file can be put together")
    tested = (run / "metrics.json").is_file() and mapping(report.results.score.get("metrics"))
    if not tested or not report.predictions:
        raise UserError(f"{run} was not tested: mvrec test {run / 'checkpoints/last.ckpt'}")
    return report


def _check_alike(runs: Sequence[Path], reports: Sequence[ClassificationReport]) -> None:
    first = reports[0].results.score
    for run, report in zip(runs, reports, strict=True):
        for key, noun in ALIKE.items():
            if report.results.score.get(key) != first.get(key):
                raise UserError(f"{run} and {runs[0]} differ in their {noun}: their scores cannot be put together")
    run_of: dict[tuple[Any, ...], Path] = {}
    for run, report in zip(runs, reports, strict=True):
        for row in report.predictions:
            other = run_of.setdefault((row.path, row.span), run)
            if other is not run:
                raise UserError(
                    f"{row.path} was scored in {other} and in {run}: the runs of a cross-validation (--data.fold 1/5 "
                    "to 5/5) share no file"
                )


def _counted(score: dict[str, Any]) -> int:
    return int(number(score.get("expected" if score.get("failed_are_wrong", True) else "scored")) or 0)


def _pooled(runs: Sequence[Path], reports: Sequence[ClassificationReport]) -> dict[str, Any]:
    scores = [report.results.score for report in reports]
    counts = [_counted(score) for score in scores]
    samples, right = _per_class(reports)
    metrics: dict[str, float] = {}
    for name in mapping(scores[0]["metrics"]):
        values = [number(score["metrics"].get(name)) for score in scores]
        if name == "mean_class":
            shares = [hits / count for hits, count in zip(right, samples, strict=True) if count]
            metrics[name] = sum(shares) / max(len(shares), 1)
        elif None not in values:  # a mean over files
            total = sum(value * count for value, count in zip(values, counts, strict=True) if value)
            metrics[name] = total / sum(counts)
    folds = [
        {
            "run": str(run),
            "fold": mapping(score.get("data")).get("fold"),
            "files": count,
            "top1": score["metrics"]["top1"],
        }
        for run, score, count in zip(runs, scores, counts, strict=True)
    ]
    sums = {key: sum(int(score.get(key) or 0) for score in scores) for key in ("scored", "expected", "of", "failed")}
    same = ("task", "outputs", "noun", "num_views", "protocol", "mvrec", *ALIKE)
    return {
        "stage": "test",
        "metrics": metrics,
        "chance": chance(samples),
        **sums,
        "partial": any(score.get("partial") for score in scores),
        "not_finite": sum(int(score.get("not_finite") or 0) for score in scores),
        "multi_label": False,
        "split": scores[0].get("split"),
        "split_chose_checkpoint": any(score.get("split_chose_checkpoint") for score in scores),
        **{key: scores[0].get(key) for key in same},
        "folds": folds,
        "missing_folds": missing_folds([fold["fold"] for fold in folds]),
    }


def _per_class(reports: Sequence[ClassificationReport]) -> tuple[list[int], list[float]]:
    """Return the number of files and of right ones of each class over all runs."""
    samples, right = [0] * len(reports[0].classes), [0.0] * len(reports[0].classes)
    for report in reports:
        for row in report.classes:
            samples[row.number] += row.samples
            right[row.number] += round(row.value * row.samples) if row.samples else 0
    return samples, right


def missing_folds(folds: Sequence[str | None]) -> list[str]:
    """Return the folds that are not among some of a cross-validation, such as "3/5"."""
    numbers = {tuple(map(int, fold.split("/"))) for fold in folds if fold}
    totals = {total for _, total in numbers}
    if len(totals) != 1:
        return []
    (total,) = totals
    return [f"{number}/{total}" for number in range(1, total + 1) if (number, total) not in numbers]


def _joined_rows(runs: Sequence[Path]) -> list[list[str]]:
    rows = [{**row, "run": str(run)} for run in runs for row in csv_rows(run / "predictions.csv")]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return [columns, *([row.get(column, "") for column in columns] for row in rows)]


def _lines(score: dict[str, Any]) -> list[str]:
    noun, counted = score["noun"], sum(fold["files"] for fold in score["folds"])
    lines = [f"{fold['run']}: top1 {100 * fold['top1']:.2f} % ({fold['files']} {noun})" for fold in score["folds"]]
    top1, guess = score["metrics"]["top1"], score["chance"].get("top1", 0.0)
    low, high = wilson(top1, counted)
    return [
        *lines,
        f"all {len(lines)} runs: top1 {100 * top1:.2f} % (chance {100 * guess:.2f} %), "
        f"95 % interval {100 * low:.0f} to {100 * high:.0f} %, {counted} {noun}, each scored once",
    ]
