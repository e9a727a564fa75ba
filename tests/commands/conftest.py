"""Runs that the commands read."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
from exported_runs import network_node, save_run


@pytest.fixture(scope="session")
def run_dir(digits_run: SimpleNamespace) -> Path:
    """A run of a tiny video network on moving digits, to be read."""
    return digits_run.folder


@pytest.fixture(scope="session")
def image_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of the smallest image network with its five classes, to be read."""
    folder = tmp_path_factory.mktemp("ein lauf")
    save_run(folder / "checkpoints/best.ckpt", network_node("smallest"))
    return folder
