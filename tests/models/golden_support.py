"""Access to the recorded outputs in tests/golden, for the parity tests of all architectures."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

GOLDEN = Path(__file__).parents[1] / "golden"


def _load_fill() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mvrec_golden_fill", GOLDEN / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fill = _load_fill()


def load_recording(name: str) -> dict[str, Any]:
    return fill.load_spec(GOLDEN / f"{name}.json")


def run_with_features(model: nn.Module, x: Tensor, names: Iterable[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """Output of the model in evaluation, and the outputs of the named modules on the way."""
    features: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _args, output, name=name: features.__setitem__(name, output)
        )
        for name in names
    ]
    with torch.no_grad():
        output = model.eval()(x)
    for handle in handles:
        handle.remove()
    return output, features
