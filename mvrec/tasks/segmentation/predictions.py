"""Scores of images and classes as files that people and spreadsheets read, and the maps of the worst images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mvrec.files import atomic_path, write_csv
from mvrec.tasks.segmentation.scores import MaskScores, ious, mean_of, pixel_accuracy

FAILED = "(failed)"  # the column of confusion.csv for pixels of unreadable images
WORST = "worst.npz"


def write_predictions(
    path: Path, scores: MaskScores, *, paths: Sequence[Path], columns: Mapping[str, Sequence[str]]
) -> None:
    """Write one row per image: its pixel accuracy, its mean IoU over the classes in it, and its labelled pixels.

    Rows have the order of the list. Failed images have the cause in the column `error`.

    Args:
        path: The CSV file.
        scores: The result of an evaluation.
        paths: The file of each sample id.
        columns: Further columns at the end, with a value per sample id.
    """
    header = ["path", "pixel_accuracy", "miou", "labelled_pixels", "error"]
    missed = np.zeros(scores.num_classes, np.int64)
    rows: list[tuple[int, list[Any]]] = []
    for place, sample in enumerate(scores.sample_ids.tolist()):
        counts = scores.counts_of(place)
        values = [cell(pixel_accuracy(counts)), cell(mean_of(ious(counts, missed)))]
        rows.append((sample, [paths[sample], *values, int(counts.sum()), ""]))
    rows += [(bad.index, [bad.path, "", "", "", bad.cause]) for bad in scores.failed]
    others = list(columns.values())
    named = [f"list_{name}" if name in header else name for name in columns]
    lines = ([*row, *(column[sample] for column in others)] for sample, row in sorted(rows, key=lambda row: row[0]))
    write_csv(path, [[*header, *named], *lines])


def write_per_class(path: Path, scores: MaskScores, *, class_names: Sequence[str]) -> None:
    """Write one row per class: IoU, accuracy, and its true and predicted pixels; undefined values are empty."""
    confusion = scores.confusion()
    columns = (
        class_names,
        map(cell, scores.ious()),
        map(cell, scores.accuracies()),
        (confusion.sum(axis=1) + scores.missed()).tolist(),
        confusion.sum(axis=0).tolist(),
    )
    write_csv(path, [["class", "iou", "accuracy", "pixels", "predicted_pixels"], *zip(*columns, strict=True)])


def write_confusion(path: Path, scores: MaskScores, *, class_names: Sequence[str]) -> None:
    """Write pixels: a row per class, a column per predicted class, and one for unreadable images."""
    counts = np.concatenate([scores.confusion(), scores.missed()[:, None]], axis=1)
    rows = [[name, *row] for name, row in zip(class_names, counts.tolist(), strict=True)]
    write_csv(path, [["", *class_names, FAILED], *rows])


def write_worst(path: Path, scores: MaskScores) -> None:
    """Write the predicted over the true classes of the worst images, uint8 (2, H, W) by sample id, as one file."""
    arrays = {str(sample): maps.maps() for sample, maps in scores.worst.items()}
    with atomic_path(path) as temporary, temporary.open("wb") as file:  # savez adds an ending to a name
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def cell(value: float) -> str:
    """Return a share with six digits; missed for nan."""
    return "" if value != value else f"{value:.6f}"  # nan is not equal to itself
