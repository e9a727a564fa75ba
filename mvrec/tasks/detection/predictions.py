"""Scores of images and classes as files that people, spreadsheets and COCO's tools read."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mvrec.files import atomic_path, json_text, write_atomically, write_csv
from mvrec.tasks.detection.coco_figures import AREAS, CocoFigures
from mvrec.tasks.detection.image_regions import ImageRegions
from mvrec.tasks.detection.mistakes import Mistakes
from mvrec.tasks.detection.scores import MASKS, RegionScores

BACKGROUND = "(background)"  # of confusion.csv: the row of detections without a true box, the column of missed ones
WORST = "worst.json"
CURVES = "precision_recall.csv"
KEPT = 24  # images with the most mistakes that are kept for the report
THRESHOLDS: Mapping[str, float | None] = {"": None, "_50": 0.5, "_75": 0.75}


def write_predictions(
    path: Path, scores: RegionScores, *, paths: Sequence[Path], columns: Mapping[str, Sequence[str]]
) -> None:
    """Write one row per image: true objects and detections, and how many of the score at which F1 is best are right.

    Rows have the order of the list. Failed images have the cause in the column `error`.

    Args:
        path: The CSV file.
        scores: The result of an evaluation.
        paths: The file of each sample id.
        columns: Further columns at the end, with a value per sample id.
    """
    header = ["path", "objects", "detections", "right", "wrong", "missed", "error"]
    rows: list[tuple[int, list[Any]]] = []
    for sample, image, entry in zip(scores.sample_ids.tolist(), scores.images, scores.mistakes, strict=False):
        objects = int((~image.truth.crowd).sum())
        counts = [objects, len(image.scores), int((entry.owners >= 0).sum()), wrong(entry), int(entry.missed.sum())]
        rows.append((sample, [paths[sample], *counts, ""]))
    rows += [(bad.index, [bad.path, "", "", "", "", "", bad.cause]) for bad in scores.failed]
    others = list(columns.values())
    named = [f"list_{name}" if name in header else name for name in columns]
    lines = ([*row, *(column[sample] for column in others)] for sample, row in sorted(rows, key=lambda row: row[0]))
    write_csv(path, [[*header, *named], *lines])


def wrong(entry: Mistakes) -> int:
    """Return the number of an image's wrong detections."""
    return sum(map(bool, entry.kinds))


def write_detections(path: Path, scores: RegionScores, *, class_ids: Sequence[int]) -> None:
    """Write all detections as COCO results, one a line: numbers in full, so that COCO's tools give the same figures.

    Args:
        path: The JSON file.
        scores: The result of an evaluation.
        class_ids: The COCO id of each class.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="ascii") as file:
        file.write("[")
        separator = "\n"
        for image in scores.images:
            for row in coco_results(image, class_ids=class_ids):
                file.write(f"{separator}{json.dumps(row, separators=(',', ':'))}")
                separator = ",\n"
        file.write("\n]\n")


def coco_results(image: ImageRegions, *, class_ids: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield the detections of an image as COCO results, with the COCO id of each class."""
    columns = (image.labels.tolist(), image.boxes.tolist(), image.scores.astype(np.float64).tolist())
    for place, (label, box, score) in enumerate(zip(*columns, strict=True)):
        row = {"image_id": image.truth.image_id, "category_id": class_ids[label], "bbox": box, "score": score}
        if image.masks is not None:
            counts = image.masks[place].decode("ascii")
            row["segmentation"] = {"size": [image.height, image.width], "counts": counts}
        yield row


def write_per_class(path: Path, scores: RegionScores, *, class_names: Sequence[str]) -> None:
    """Write one row per class: average precision of boxes and masks, and counts at the score of the best F1.

    Average precision is over thresholds from 0.5 to 0.95, at 0.5, at 0.75, and by the size of objects; undefined values
    are empty.
    """
    columns: dict[str, Sequence[Any]] = {"class": class_names}
    for beginning, figures in _kinds(scores).items():
        columns |= {f"{beginning}{name}": values for name, values in _precisions(figures).items()}
    confusion = scores.confusion()
    right = [
        sum(int((image.labels[entry.owners >= 0] == number).sum()) for image, entry in _entries(scores))
        for number in range(scores.num_classes)
    ]
    true, shown = confusion[:-1].sum(axis=1), confusion[:, :-1].sum(axis=0)
    columns |= {"objects": true.tolist(), "right": right, "wrong": (shown - right).tolist()}
    write_csv(path, [list(columns), *zip(*columns.values(), strict=True)])


def write_confusion(path: Path, scores: RegionScores, *, class_names: Sequence[str]) -> None:
    """Write what true objects are taken for: a row per class, a column per answer, the background last in both."""
    names = [*class_names, BACKGROUND]
    rows = [[name, *row] for name, row in zip(names, scores.confusion().tolist(), strict=True)]
    write_csv(path, [["", *names], *rows])


def write_curves(path: Path, scores: RegionScores) -> None:
    """Write precision over recall, averaged over the classes: the mean over all thresholds, at 0.5 and at 0.75."""
    columns: dict[str, Sequence[Any]] = {"recall": [f"{place / 100:.2f}" for place in range(101)]}
    for beginning, figures in _kinds(scores).items():
        for name, threshold in THRESHOLDS.items():
            columns[f"{beginning}precision{name}"] = list(map(cell, figures.curve(threshold)))
    write_csv(path, [list(columns), *zip(*columns.values(), strict=True)])


def write_worst(path: Path, scores: RegionScores, *, paths: Sequence[Path], class_names: Sequence[str]) -> None:
    """Write the images with the most mistakes, with their true boxes and detections, as JSON.

    Args:
        path: The file.
        scores: The result of an evaluation.
        paths: The file of each sample id.
        class_names: Names of the classes.
    """
    ranked = sorted(
        (-wrong(entry) - int(entry.missed.sum()), place)
        for place, entry in enumerate(scores.mistakes[: len(scores.images)])
    )
    samples = scores.sample_ids.tolist()
    entries = [
        {
            "number": samples[place],
            "path": str(paths[samples[place]]),
            **_boxes(scores.images[place], scores.mistakes[place], class_names),
        }
        for mistakes, place in ranked[:KEPT]
        if mistakes
    ]
    write_atomically(path, json_text(entries, indent=1) + "\n")


def _boxes(image: ImageRegions, entry: Mistakes, class_names: Sequence[str]) -> dict[str, Any]:
    sides = np.array([image.width, image.height] * 2, np.float64)
    true = [
        {
            "corners": _shares(corners / sides),
            "class": class_names[label],
            "fate": "crowd" if crowd else "missed" if missed else "found" if place in entry.owners else "covered",
        }
        for place, (corners, label, crowd, missed) in enumerate(
            zip(image.truth.corners, image.truth.labels, image.truth.crowd, entry.missed, strict=True)
        )
    ]
    detected = [
        {
            "corners": _shares(corners / sides),
            "class": class_names[label],
            "score": round(float(score), 4),
            "mistake": entry.kinds[place],
        }
        for place, (corners, label, score) in enumerate(zip(image.corners, image.labels, image.scores, strict=True))
        if entry.shown[place]
    ]
    return {"true": true, "detected": detected}


def _kinds(scores: RegionScores) -> dict[str, CocoFigures]:
    """Return the figures of boxes, and of masks if these are scored, by the beginning of their columns."""
    return {"": scores.boxes} | ({} if scores.shapes is None else {MASKS: scores.shapes})


def _entries(scores: RegionScores) -> Iterator[tuple[ImageRegions, Mistakes]]:
    return zip(scores.every_image, scores.mistakes, strict=True)


def _precisions(figures: CocoFigures) -> dict[str, list[str]]:
    values = {f"ap{name}": figures.by_class(threshold=threshold) for name, threshold in THRESHOLDS.items()}
    values |= {f"ap_{area}": figures.by_class(area=area) for area in AREAS[1:]}
    return {name: list(map(cell, numbers)) for name, numbers in values.items()}


def _shares(corners: Any) -> list[float]:
    return [round(float(share), 4) for share in corners]


def cell(value: float) -> str:
    """Return a share with six digits; nothing for nan."""
    return "" if value != value else f"{value:.6f}"  # nan is not equal to itself
