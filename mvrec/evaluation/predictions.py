"""Predictions as a file that people and spreadsheets read."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from mvrec.evaluation.scores import Scores
from mvrec.files import write_atomically


def write_predictions(
    path: Path, scores: Scores, *, paths: Sequence[Path], class_names: Sequence[str], top: int = 5
) -> None:
    """Write one row per sample: its file, its class, and the most probable classes with their probabilities.

    Samples that could not be read have the cause in the column `error`.

    Args:
        path: The CSV file.
        scores: What an evaluation found.
        paths: The file of each sample id.
        class_names: Names in label order.
        top: How many classes per row, at most.
    """
    top = min(top, len(class_names))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ranks = [name for rank in range(1, top + 1) for name in (f"class_{rank}", f"probability_{rank}")]
    writer.writerow(["path", "label", *ranks, "error"])
    best = scores.probabilities.topk(top, dim=1)
    for row, sample in enumerate(scores.sample_ids.tolist()):
        cells: list[str] = []
        for value, number in zip(best.values[row].tolist(), best.indices[row].tolist(), strict=True):
            cells += [class_names[number], f"{value:.6f}"]
        writer.writerow([paths[sample], class_names[int(scores.labels[row])], *cells, ""])
    for bad in scores.failed:
        writer.writerow([bad.path, "", *[""] * len(ranks), bad.cause])
    write_atomically(path, text.getvalue())
