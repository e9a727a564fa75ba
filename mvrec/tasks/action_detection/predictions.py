"""Scores of key frames and actions as files that people, spreadsheets and AVA's tools read."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mvrec.data.listing.index import Sample
from mvrec.files import atomic_path, json_text, write_atomically, write_csv
from mvrec.tasks.action_detection.average_precision import FrameBoxes
from mvrec.tasks.action_detection.scores import ActionScores, found, frame_labels

FAILED = "(failed)"  # the column of confusion.csv for true boxes without an answer
WORST = "worst.json"
KEPT = 24  # key frames with the fewest found actions that are kept for the report
SHOWN = 5  # of a box's most probable actions


def write_predictions(
    path: Path, scores: ActionScores, *, samples: Sequence[Sample], columns: Mapping[str, Sequence[str]]
) -> None:
    """Write one row per key frame: its boxes, its true boxes, their actions, and how many of these are found.

    An action is found if it is among the answers for its box; see `frame_labels`. Rows have the order of the list.
    Failed key frames have the cause in the column `error`.

    Args:
        path: The CSV file.
        scores: The result of an evaluation.
        samples: The key frame of each sample id.
        columns: Further columns at the end, with a value per sample id.
    """
    header = ["path", "boxes", "true_boxes", "actions", "found", "error"]
    rows: list[tuple[int, list[Any]]] = []
    for sample, frame in zip(scores.sample_ids.tolist(), scores.frames, strict=True):
        right, actions = found(frame)
        rows.append((sample, [samples[sample].path, len(frame.places), len(frame.truth), actions, right, ""]))
    rows += [(bad.index, [bad.path, "", "", "", "", bad.cause]) for bad in scores.failed]
    others = list(columns.values())
    named = [f"list_{name}" if name in header else name for name in columns]
    lines = ([*row, *(column[sample] for column in others)] for sample, row in sorted(rows, key=lambda row: row[0]))
    write_csv(path, [[*header, *named], *lines])


def write_detections(
    path: Path,
    scores: ActionScores,
    *,
    names: Sequence[tuple[str, str]],
    action_ids: Sequence[int],
) -> None:
    """Write a row per box and action in AVA's form: video, second, corners as shares, action id, score; no header.

    ActivityNet's tool reads the file (get_ava_performance.py -d).

    Args:
        path: The CSV file.
        scores: The result of an evaluation.
        names: Video and second of each sample id.
        action_ids: The id of each action.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for sample, frame in zip(scores.sample_ids.tolist(), scores.frames, strict=True):
            video, second = names[sample]
            for corners, probabilities in zip(frame.places.tolist(), frame.scores.tolist(), strict=True):
                box = f"{video},{second}," + ",".join(f"{share:.6g}" for share in corners)
                file.writelines(
                    f"{box},{number},{probability:.9g}\n"
                    for number, probability in zip(action_ids, probabilities, strict=True)
                )


def frame_names(samples: Sequence[Sample]) -> list[tuple[str, str]]:
    """Return video and second of key frames: the file's name without ending, in full where two videos share it."""
    places: dict[str, set[str]] = {}
    for sample in samples:
        places.setdefault(_stem(sample), set()).add(str(sample.path))
    return [
        (_stem(sample) if len(places[_stem(sample)]) == 1 else str(sample.path), second_text(sample.start_seconds))
        for sample in samples
    ]


def second_text(seconds: float | None) -> str:
    """Return a time as AVA writes it, in four digits; other than whole seconds with their fraction."""
    seconds = seconds or 0.0
    return f"{int(seconds):04d}" if seconds == int(seconds) else f"{seconds:.6g}"


def _stem(sample: Sample) -> str:
    return Path(str(sample.path)).stem


def write_per_class(path: Path, scores: ActionScores, *, class_names: Sequence[str]) -> None:
    """Write one row per action: its average precision (empty without true boxes), true boxes and those found."""
    claims = scores.claims
    columns = (
        class_names,
        ["" if np.isnan(value) else f"{value:.6f}" for value in scores.average_precisions],
        claims.num_true.tolist(),
        claims.right.sum(axis=0).tolist(),
    )
    write_csv(path, [["class", "average_precision", "true_boxes", "covered"], *zip(*columns, strict=True)])


def write_confusion(path: Path, scores: ActionScores, *, class_names: Sequence[str]) -> None:
    """Write what actions are taken for: a row per action, a column per answer, and one for boxes without an answer."""
    counts, unanswered = scores.confusion()
    table = np.concatenate([counts, unanswered[:, None]], axis=1)
    rows = [[name, *row] for name, row in zip(class_names, table.tolist(), strict=True)]
    write_csv(path, [["", *class_names, FAILED], *rows])


def write_worst(
    path: Path,
    scores: ActionScores,
    *,
    samples: Sequence[Sample],
    class_names: Sequence[str],
    offset: float = 0.0,
) -> None:
    """Write the key frames with the fewest found actions, with their boxes and the answers for these, as JSON.

    Args:
        path: The file.
        scores: The result of an evaluation.
        samples: The key frame of each sample id.
        class_names: Names of the actions.
        offset: Seconds that the list's times are ahead of the videos'.
    """
    entries = [
        {
            "number": sample,
            "path": str(samples[sample].path),
            "seconds": samples[sample].start_seconds,
            "seconds_in_file": (samples[sample].start_seconds or 0.0) - offset,
            **_boxes(scores.frames[place], class_names),
        }
        for place, sample in _worst(scores)
    ]
    write_atomically(path, json_text(entries, indent=1) + "\n")


def _worst(scores: ActionScores) -> list[tuple[int, int]]:
    """Return place and sample id of the key frames with the smallest share of found actions."""
    shares = []
    for place, (sample, frame) in enumerate(zip(scores.sample_ids.tolist(), scores.frames, strict=True)):
        right, actions = found(frame)
        if right < actions:
            shares.append((right / actions, -actions, place, sample))
    return [(place, sample) for _, _, place, sample in sorted(shares)[:KEPT]]


def _boxes(frame: FrameBoxes, class_names: Sequence[str]) -> dict[str, Any]:
    right, actions = found(frame)
    true = [
        {
            "corners": _shares(corners),
            "actions": [class_names[number] for number in np.flatnonzero(hot).tolist()],
            "answers": None if answers is None else [class_names[number] for number in answers],
        }
        for corners, hot, answers in zip(frame.truth, frame.actions, frame_labels(frame), strict=True)
    ]
    boxes = [{"corners": _shares(corners), "best": list(_best(row, class_names))} for corners, row in _rows(frame)]
    return {"found": right, "actions": actions, "true": true, "boxes": boxes}


def _rows(frame: FrameBoxes) -> Iterator[tuple[Any, Any]]:
    return zip(frame.places, frame.scores, strict=True)


def _best(probabilities: Any, class_names: Sequence[str]) -> Iterator[tuple[str, float]]:
    for number in np.argsort(-probabilities, kind="stable")[:SHOWN].tolist():
        yield class_names[number], round(float(probabilities[number]), 4)


def _shares(corners: Any) -> list[float]:
    return [round(float(share), 5) for share in corners]


def read_worst(path: Path) -> list[dict[str, Any]]:
    """Return the key frames of `worst.json`."""
    entries = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(entries, list):
        raise ValueError("it holds no list")
    return entries
