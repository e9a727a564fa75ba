"""What data sets that are generated on the spot share: whether they are there, and the handwriting in them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mvrec.errors import UserError, install_hint

RECORD = "dataset.json"  # in a data set's folder: the parameters it was generated with


def is_generated(root: Path, parameters: Mapping[str, Any], *, noun: str) -> bool:
    """Return whether the data set of these parameters is at `root`; an empty folder is none.

    Args:
        root: The folder.
        parameters: What it must have been generated with.
        noun: What messages call the data set.

    Raises:
        UserError: `root` holds something else, or the data set with other parameters.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    if not (root / RECORD).is_file():
        own = "ImageFolder" if "image" in noun else "VideoFolder"
        raise UserError(
            f"{root} is there already and holds no {noun}: name a new folder for them, or add --data {own} for files "
            "of your own"
        )
    found = json.loads((root / RECORD).read_text())
    differing = [
        f"{name} is {found.get(name)}, not {value}" for name, value in parameters.items() if found.get(name) != value
    ]
    if differing:
        raise UserError(
            f"{root} holds {noun} with other parameters ({'; '.join(differing)}): "
            "name another folder, or ask for what is there"
        )
    return True


def handwritten_digits(*, noun: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return scikit-learn's handwritten digits: float (n, 8, 8) from 0 to 1, and which digit each is (n,).

    Args:
        noun: What messages call the data set that needs them.

    Raises:
        UserError: Scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(f"{noun} need scikit-learn: {install_hint('demo')}") from error
    digits = load_digits()
    return digits.images.astype(np.float32) / 16, digits.target
