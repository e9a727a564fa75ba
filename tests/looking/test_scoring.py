"""Probabilities for an audit: of the files that were asked for, also if one ends the process that reads it."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mvrec.data import ImageFolder
from mvrec.data.loading import images
from mvrec.data.views.protocol import ImageProtocol
from mvrec.looking.audit.scoring import scored


def test_a_file_that_ends_its_process_has_no_probabilities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(6):
            Image.new("RGB", (16, 16), (20 * number, 0, 0)).save(tmp_path / label / f"x{number}y.png")
    data = ImageFolder(str(tmp_path), size=16, num_workers=0)
    data.setup("fit")
    index, read = data.index("train"), images.read_image
    rows = list(range(len(index)))
    deadly, left_out = index[3].path, rows.pop(1)

    def read_image(path: Any, **knobs: Any) -> np.ndarray:
        if path == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(path, **knobs)

    def probabilities(clips: Tensor) -> Tensor:
        red = clips[:, 0].double().mean((1, 2)) / 255
        return torch.stack([red, 1 - red], 1)

    monkeypatch.setattr(images, "read_image", read_image)
    protocol = ImageProtocol(split="val", short_side=16, size=16)
    recogniser: Any = SimpleNamespace(
        class_names=["a", "b"], protocol=protocol, is_video=False, probabilities=probabilities
    )
    result = scored(data, index, recogniser, rows=rows, jobs=1)
    for row, sample in enumerate(index):
        red = 20 * int(Path(str(sample.path)).stem[1]) / 255
        expected = np.full(2, np.nan) if row in (3, left_out) else np.array([red, 1 - red])
        np.testing.assert_allclose(result[row], expected)
