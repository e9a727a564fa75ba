"""Results of a classification besides predictions: scores of the classes, confusions."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from mvrec.files import write_csv
from mvrec.tasks.classification.run_results import FAILED
from mvrec.tasks.classification.scores import THRESHOLD, ClassScores, MultiLabelScores, SingleLabelScores


def write_per_class(
    path: Path, scores: ClassScores, *, class_names: Sequence[str], in_split: Sequence[int] | None = None
) -> None:
    """Write one row per class.

    `samples` counts all that should have been scored, `failed` those that could not be. With one class per sample:
    `correct`, `accuracy` (recall), `precision` and `f1`. With several: `average_precision`, and `predicted`, the
    samples for which the class is above `THRESHOLD`. Undefined values, such as the accuracy of a class without samples,
    are empty. If only a part of a split was scored, `in_split` is the class's number in the whole split.

    Args:
        path: The CSV file.
        scores: The result of an evaluation.
        class_names: Names in label order.
        in_split: Samples of each class in the whole split: int64 (K,).
    """
    failed = scores.failed_per_class()
    if isinstance(scores, MultiLabelScores):
        header = ["average_precision", "predicted"]
        samples = scores.labels.sum(dim=0) + failed
        predicted = (scores.probabilities > THRESHOLD).sum(dim=0)
        columns = [scores.average_precisions().tolist(), predicted.tolist()]
    else:
        assert isinstance(scores, SingleLabelScores)
        header = ["correct", "accuracy", "precision", "f1"]
        confusion = scores.confusion()
        samples, correct = confusion.sum(dim=1) + failed, confusion.diag()
        precision = correct.double() / confusion.sum(dim=0)
        values = (scores.class_accuracies(), precision, scores.f1_per_class())
        columns = [correct.tolist(), *(value.tolist() for value in values)]
    columns.append(failed.tolist())
    header.append("failed")
    if in_split is not None:
        columns.append(list(in_split))
        header.append("in_split")
    _write(path, ["class", "samples", *header], zip(class_names, samples.tolist(), *columns, strict=True))


def write_confusion(path: Path, scores: SingleLabelScores, *, class_names: Sequence[str]) -> None:
    """Write counts: a row per class, a column per predicted class, and one for failed samples."""
    counts = torch.cat([scores.confusion(), scores.failed_per_class()[:, None]], dim=1)
    rows = ([name, *row] for name, row in zip(class_names, counts.tolist(), strict=True))
    _write(path, ["", *class_names, FAILED], rows)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    write_csv(path, [header, *([_cell(value) for value in row] for row in rows)])


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if value != value else f"{value:.6f}"  # nan is not equal to itself
    return value
