"""Pickles of arrays, read without running code in them."""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

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
