"""Pickles of proposals."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mvrec.array_pickles import read_pickle
from mvrec.data.listing.boxes.rows import BoxRow, Unit
from mvrec.errors import UserError


def read_proposals(path: Path) -> Iterator[BoxRow]:
    """Yield the boxes of a detector in mmaction2's form: `{"video,0902": array (N, 5)}`, corners and score.

    Raises:
        UserError: The file cannot be read, or holds something else.
    """
    content, unit = read_pickle(path, noun="proposals"), Unit()
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a pickle of proposals: expected arrays by 'video,second'")
    for key, boxes in content.items():
        video, comma, second = str(key).rpartition(",")
        try:
            seconds, rows = float(second), np.asarray(boxes, np.float64).reshape(-1, 5)
        except (TypeError, ValueError):
            seconds, rows = -1.0, np.zeros((0, 5))
        if not (comma and video and 0 <= seconds < np.inf and np.isfinite(rows).all()):
            raise UserError(
                f"{path}: not a pickle of proposals: {str(key)[:80]!r} is no 'video,second' with boxes (N, 5)"
            )
        for x1, y1, x2, y2, score in rows.tolist():
            corners = (x1, y1, x2, y2)
            relative = unit.of(corners, f"{path}: {key}")
            yield BoxRow(video, seconds, corners, relative, "", "", score, str(path))
