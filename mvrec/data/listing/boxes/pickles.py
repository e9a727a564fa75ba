"""Pickles of arrays, read without running code: of proposals, and of tubes."""

import pickle
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mvrec.data.listing.boxes.rows import BoxRow, Unit
from mvrec.errors import UserError

ENDINGS = (".pkl", ".pickle")


class _ArraysOnly(pickle.Unpickler):
    """Reads containers and arrays, and refuses everything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a class that holds data only, or the function that makes an array.

        Raises:
            UnpicklingError: Anything else.
        """
        place = module.replace("numpy.core", "numpy._core"), name
        if place not in _CLASSES:
            raise pickle.UnpicklingError(f"it names {module}.{name}, only arrays are read")
        return _CLASSES[place]


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """Return the bytes of a text in which older pickles hold them."""
    return text.encode("latin1")


_CLASSES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy._core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("numpy._core.numeric", "_frombuffer"): np.zeros(0).__reduce_ex__(5)[0],
    ("numpy._core.multiarray", "scalar"): np.float64(0).__reduce__()[0],
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _latin1,
}


def read_pickle(path: Path, *, noun: str) -> Any:
    """Return the content of a pickle, of which only containers and arrays are made: no code of it runs.

    Args:
        path: The file.
        noun: What it should hold, for messages.

    Raises:
        UserError: The file cannot be read, is damaged, or names other things than arrays.
    """
    try:
        with path.open("rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # damaged pickles raise errors of any kind
        raise UserError(f"{path}: not a pickle of {noun}: {error or type(error).__name__}") from None


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
