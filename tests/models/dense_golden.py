"""The recorded outputs in tests/golden/dense, and how heads are held against them.

A recording stores no weights: it lists every entry of the authors' state dict with the rule that fills it, as those of
`golden_support.py` do. Maps, labels and digests follow rules of their own, which are here.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from golden_support import filled
from torch import Tensor

DENSE = Path(__file__).parents[1] / "golden/dense"
NUM_SAMPLES = 32  # recorded values of a tensor that is not recorded in full


def load_recording(name: str) -> dict[str, Any]:
    return json.loads((DENSE / f"{name}.json").read_text())


def weights(spec: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a recording, under the authors' names."""
    state = {}
    for key, entry in spec["state_dict"].items():
        tensor = filled(key, tuple(entry["shape"]), entry["rule"], torch.float32)
        tensor = tensor * entry.get("scale", 1) + entry.get("shift", 0)
        state[key] = torch.tensor(entry["values"]) if "values" in entry else tensor
    return state


def maps(spec: Mapping[str, Any]) -> list[Tensor]:
    """Maps of the input: the i-th is normal noise of the seed plus i."""
    rule = spec["input"]["maps"]
    generators = [torch.Generator().manual_seed(rule["seed"] + i) for i in range(len(rule["shapes"]))]
    return [
        torch.randn(shape, generator=generator) for shape, generator in zip(rule["shapes"], generators, strict=True)
    ]


def labels(spec: Mapping[str, Any]) -> Tensor:
    """The classes of all pixels `(B, H, W)`: squares of classes, and some pixels without a label, 255."""
    recorded = spec["input"]
    rule, (height, width) = recorded["labels"], recorded["image_size"]
    cell, generator = rule["cell"], torch.Generator().manual_seed(rule["seed"])
    grid = (recorded["batch"], math.ceil(height / cell), math.ceil(width / cell))
    classes = torch.randint(0, recorded["num_classes"], grid, generator=generator)
    classes = classes.repeat_interleave(cell, 1).repeat_interleave(cell, 2)[:, :height, :width].clone()
    classes[torch.rand(classes.shape, generator=generator) < rule["ignore"]] = 255
    counts = [int((classes == number).sum()) for number in range(recorded["num_classes"])]
    assert [*counts, int((classes == 255).sum())] == spec["outputs"]["label_counts"]
    return classes


def digest_error(x: Tensor, recorded: Mapping[str, Any]) -> float:
    """Worst error of the recorded values, the mean and the deviation, in units of the recorded deviation."""
    assert list(x.shape) == recorded["shape"]
    flat = x.detach().double().flatten()
    places = (
        range(len(flat)) if "all" in recorded else [(j * 2654435761 + 12345) % len(flat) for j in range(NUM_SAMPLES)]
    )
    actual = [*(flat[place].item() for place in places), flat.mean().item(), flat.std(unbiased=False).item()]
    expected = [*(recorded.get("all") or recorded["sampled"]), recorded["mean"], recorded["std"]]
    errors = [abs(a - b) / max(recorded["std"], 1e-6) for a, b in zip(actual, expected, strict=True)]
    return math.inf if any(math.isnan(error) for error in errors) else max(errors)


def number_error(number: float, recorded: float) -> float:
    """Error of a number relative to the recorded one, or to 0.01 if that is smaller."""
    return abs(number - recorded) / max(abs(recorded), 0.01)
