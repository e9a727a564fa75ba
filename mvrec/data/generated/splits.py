"""The common part of generated data sets: whether they exist, and their handwriting."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mvrec.errors import UserError, install_hint

RECORD = "dataset.json"  # the parameters of a generated data set, in its folder


def is_generated(root: Path, parameters: Mapping[str, Any], *, noun: str) -> bool:
    """Return whether `root` holds the data set with these parameters; an empty folder does not.

    Args:
        root: The folder.
        parameters: The parameters of its generation.
        noun: The name of the data set in messages.

    Raises:
        UserError: `root` holds something else, or the data set with other parameters.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    if not (root / RECORD).is_file():
        readers = {"objects": "ObjectFolder", "scenes": "MaskFolder", "image": "ImageFolder", "several": "VideoBoxes"}
        data_module = next((reader for word, reader in readers.items() if word in noun), "VideoFolder")
        raise UserError(
            f"{root} exists and holds no {noun}: choose a new folder for them, or add --data {data_module} to read "
            "files of your own"
        )
    record = json.loads((root / RECORD).read_text())
    differing = [
        f"{name} is {record.get(name)}, not {value}" for name, value in parameters.items() if record.get(name) != value
    ]
    if differing:
        raise UserError(
            f"{root} holds {noun} with other parameters ({'; '.join(differing)}): "
            "choose another folder, or use these parameters"
        )
    return True


def handwritten_digits(*, noun: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Load scikit-learn's handwritten digits: float (n, 8, 8) from 0 to 1, and the digit of each (n,).

    Args:
        noun: The name of the data set in messages.

    Raises:
        UserError: Scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(f"{noun} need scikit-learn: {install_hint('demo')}") from error
    digits = load_digits()
    return digits.images.astype(np.float32) / 16, digits.target
