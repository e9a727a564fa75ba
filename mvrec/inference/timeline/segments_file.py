"""The file of segments that `mvrec recognize --timeline` writes, read again."""

import csv
from collections.abc import Sequence
from pathlib import Path

from mvrec.errors import UserError, nearest
from mvrec.inference.timeline.segments import Segment

COLUMNS = ("path", "start_seconds", "end_seconds", "label", "confidence")


def read_segments(path: Path, class_names: Sequence[str]) -> dict[str, list[Segment]]:
    """Return the segments of each video by its whole path; unreadable videos are left out.

    Args:
        path: The CSV file.
        class_names: Names of the network's classes.

    Raises:
        UserError: It is missing or no such file, or a row has no number or another class.
    """
    videos: dict[str, list[Segment]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file, restval=""))
    except (OSError, csv.Error) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    for line, row in enumerate(rows, 2):
        if missing := [name for name in COLUMNS if name not in row]:
            raise UserError(
                f"{path}: no column {missing[0]}: mvrec recognize --timeline -o FILE.csv writes such a file"
            )
        if row.get("error"):
            continue
        if row["label"] not in class_names:
            hint = nearest(row["label"], class_names)
            raise UserError(f"{path}:{line}: {row['label']!r} is no class of the run{hint}")
        try:
            start, end, confidence = (float(row[name]) for name in ("start_seconds", "end_seconds", "confidence"))
        except ValueError as error:
            raise UserError(f"{path}:{line}: {error}") from None
        segment = Segment(start, end, class_names.index(row["label"]), row["label"], confidence)
        videos.setdefault(str(Path(row["path"]).resolve()), []).append(segment)
    return videos
