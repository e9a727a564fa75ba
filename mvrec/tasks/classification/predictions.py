"""Predictions as a file that people and spreadsheets read."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mvrec.data.listing.lists import LABEL_SEPARATOR
from mvrec.data.views.targets import classes_of
from mvrec.files import write_csv
from mvrec.tasks.classification.scores import THRESHOLD, ClassScores, MultiLabelScores


def write_predictions(
    path: Path,
    scores: ClassScores,
    *,
    paths: Sequence[Path],
    class_names: Sequence[str],
    top: int = 5,
    columns: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write one row per sample: its file, its class, and the most probable classes with their probabilities.

    Rows have the order of the list or of the folders. The column `views` has the number of views in the mean. Failed
    samples have the cause in the column `error`. Equally probable classes have the order of `Scores.ranked`.

    In multi-label data the column `label` is `labels`, with semicolons between the names, and `predicted` lists in the
    same way all classes with a probability above `THRESHOLD`, the most probable first. The probabilities of a row are
    independent and do not sum to 1.

    Args:
        path: The CSV file.
        scores: The result of an evaluation.
        paths: The file of each sample id.
        class_names: Names in label order.
        top: Most classes per row.
        columns: Further columns at the end, with a value per sample id. A name that is one of mvrec's gets the prefix
            `list_`.
    """
    top = min(top, len(class_names))
    ranks = [name for rank in range(1, top + 1) for name in (f"class_{rank}", f"probability_{rank}")]
    several = isinstance(scores, MultiLabelScores)
    header = ["path", *(["labels", "predicted"] if several else ["label"]), *ranks, "views", "error"]
    others = columns or {}
    header += [f"list_{name}" if name in header else name for name in others]
    rows: list[tuple[int, list[Any]]] = []
    best = scores.ranked(top)
    values = scores.probabilities.gather(1, best).tolist()
    for row, sample in enumerate(scores.sample_ids.tolist()):
        cells: list[str] = []
        for value, number in zip(values[row], best[row].tolist(), strict=True):
            cells += [class_names[number], f"{value:.6f}"]
        classes = _classes(scores, row, class_names)
        rows.append((sample, [paths[sample], *classes, *cells, scores.num_views, "", *_of(others, sample)]))
    for bad in scores.failed:
        labels = [_joined(classes_of(bad.target), class_names), *([""] if several else [])]
        cells = [""] * len(ranks)
        rows.append((bad.index, [bad.path, *labels, *cells, 0, bad.cause, *_of(others, bad.index)]))
    write_csv(path, [header, *(row for _, row in sorted(rows, key=lambda numbered: numbered[0]))])


def _of(columns: Mapping[str, Sequence[str]], sample: int) -> list[str]:
    return [values[sample] for values in columns.values()]


def _classes(scores: ClassScores, row: int, class_names: Sequence[str]) -> list[str]:
    """Return a sample's classes; in multi-label data also the predicted ones."""
    if not isinstance(scores, MultiLabelScores):
        return [class_names[int(scores.labels[row])]]
    order = scores.probabilities[row].argsort(descending=True, stable=True)
    predicted = order[scores.probabilities[row][order] > THRESHOLD]
    true = torch.nonzero(scores.labels[row]).flatten()
    return [_joined(true.tolist(), class_names), _joined(predicted.tolist(), class_names)]


def _joined(numbers: Iterable[int], class_names: Sequence[str]) -> str:
    return LABEL_SEPARATOR.join(class_names[number] for number in numbers)
