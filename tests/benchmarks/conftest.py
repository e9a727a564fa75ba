"""Scripts of benchmarks/ as modules."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """Imports a script by name; its folder is on the path only meanwhile, since other scripts lie there."""

    def load(name: str) -> ModuleType:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
            return importlib.import_module(name)

    return load
