"""Predicted values as a file that people and spreadsheets read."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mvrec.data.views.targets import Values
from mvrec.files import write_csv
from mvrec.tasks.regression.scores import ValueScores

PREDICTED = "predicted_"  # before the name of a value


def write_predictions(
    path: Path, scores: ValueScores, *, paths: Sequence[Path], columns: Mapping[str, Sequence[str]]
) -> None:
    """Write one row per sample: its file, and each value next to the predicted one.

    Rows have the order of the list. The column `views` has the number of views in the mean. Failed samples have the
    cause in the column `error`.

    Args:
        path: The CSV file.
        scores: The result of an evaluation.
        paths: The file of each sample id.
        columns: Further columns at the end, with a value per sample id; those of the values themselves are skipped. A
            name that is one of mvrec's gets the prefix `list_`.
    """
    names = scores.scale.names
    header = ["path", *(column for name in names for column in (name, f"{PREDICTED}{name}")), "views", "error"]
    lower = [name.lower() for name in names]
    others = {name: cells for name, cells in columns.items() if name.lower() not in lower}
    header += [f"list_{name}" if name in header else name for name in others]
    rows: list[tuple[int, list[Any]]] = []
    columns_of_scores = (scores.sample_ids.tolist(), scores.true.tolist(), scores.predicted.tolist())
    for sample, true, predicted in zip(*columns_of_scores, strict=True):
        pairs = [cell for pair in zip(true, predicted, strict=True) for cell in (f"{pair[0]:.9g}", f"{pair[1]:.9g}")]
        rows.append((sample, [paths[sample], *pairs, scores.num_views, "", *_of(others.values(), sample)]))
    for bad in scores.failed:
        true = bad.target.values if isinstance(bad.target, Values) else ()
        pairs = [cell for value in true for cell in (f"{value:.9g}", "")] or [""] * (2 * len(names))
        rows.append((bad.index, [bad.path, *pairs, 0, bad.cause, *_of(others.values(), bad.index)]))
    write_csv(path, [header, *(row for _, row in sorted(rows, key=lambda numbered: numbered[0]))])


def _of(columns: Iterable[Sequence[str]], sample: int) -> list[str]:
    return [cells[sample] for cells in columns]
