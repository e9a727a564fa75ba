"""Deterministic weights for comparing a network with recorded outputs of its authors' code.

A recording stores no weights. It lists every state-dict entry of the authors' network with the rule that
fills it, and the fill depends on nothing but the entry's name and shape:

    spec = load_spec("mvit_v2_s_16x4_slowfast_8x112.json")
    model.load_state_dict(make_state_dict(spec))
    check(spec, model.eval()(make_input(spec)), {"norm": normed_tokens})
"""

import json
import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

POSITIONS = re.compile(
    r"(^|\.)(pos_embed(_spatial|_temporal|_class)?|cls_token|class_token|spatial_pos|"
    r"temporal_pos|class_pos|rel_pos_[hwt])$"
)


def rule_for(key: str, shape: tuple[int, ...], dtype: str) -> str:
    """Name of the rule that fills one state-dict entry; the first match wins."""
    if not dtype.removeprefix("torch.").startswith(("float", "bfloat", "double", "half")):
        return "int_zero"
    if POSITIONS.search(key):
        return "pos_0.02"
    if key.endswith(("running_mean", "running_var")):
        return "running_mean_0.1" if key.endswith("mean") else "running_var_1+0.1abs"
    if len(shape) >= 2:
        return "weight_fanin"
    return "norm_weight_1+0.1" if len(shape) == 1 and key.endswith("weight") else "vec_0.1"


def fill_tensor(key: str, shape: tuple[int, ...], rule: str) -> Tensor:
    """The values of one state-dict entry, float32 on the CPU (int64 zeros for counters)."""
    if rule == "int_zero":
        return torch.zeros(shape, dtype=torch.int64)
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()) & 0x7FFFFFFF)
    noise = torch.randn(shape, generator=generator)
    values = {
        "pos_0.02": lambda: 0.02 * noise,
        "running_mean_0.1": lambda: 0.1 * noise,
        "vec_0.1": lambda: 0.1 * noise,
        "running_var_1+0.1abs": lambda: 1 + 0.1 * noise.abs(),
        "weight_fanin": lambda: noise * (1.0 / math.sqrt(math.prod(shape[1:]))),
        "norm_weight_1+0.1": lambda: 1 + 0.1 * noise,
    }
    return values[rule]()


def load_spec(path: str | Path) -> dict[str, Any]:
    """One recording."""
    return json.loads(Path(path).read_text())


def make_state_dict(spec: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a recording, under the authors' names and in the recording's precision."""
    dtype = getattr(torch, spec["output"].get("dtype", "float32"))
    state = {}
    for key, entry in spec["state_dict"].items():
        shape = tuple(entry["shape"])
        assert rule_for(key, shape, entry["dtype"]) == entry["rule"], key
        values = fill_tensor(key, shape, entry["rule"])
        state[key] = values.to(dtype) if values.is_floating_point() else values
    return state


def make_input(spec: Mapping[str, Any]) -> Tensor:
    """The input of a recording, drawn in float32 and cast to the recording's precision."""
    generator = torch.Generator().manual_seed(spec["input"]["seed"])
    x = torch.randn(tuple(spec["input"]["shape"]), generator=generator)
    return x.to(getattr(torch, spec["output"].get("dtype", "float32")))


def stats(x: Tensor, *, num_values: int) -> dict[str, Any]:
    """What a recording keeps of a tensor."""
    flat = x.detach().double().flatten()
    return {
        "shape": list(x.shape),
        "mean": flat.mean().item(),
        "std": flat.std(unbiased=False).item(),
        "first": flat[:num_values].tolist(),
    }


def relative_error(got: Mapping[str, Any], want: Mapping[str, Any]) -> float:
    """Worst error of the first values, the mean and the deviation, over the recorded deviation."""
    scale = max(want["std"], 1e-6)
    pairs = [*zip(got["first"], want["first"], strict=True), *((got[k], want[k]) for k in ("mean", "std"))]
    errors = [abs(a - b) / scale for a, b in pairs]
    return math.inf if any(math.isnan(e) for e in errors) else max(errors)


def check(spec: Mapping[str, Any], logits: Tensor, features: Mapping[str, Tensor] | None = None) -> dict[str, float]:
    """Compare logits and features with a recording; the relative error of each.

    Raises:
        AssertionError: A shape differs, or an error exceeds the recording's tolerance.
    """
    tolerance = spec["tolerance"]["suggested_rel"]
    recorded = {"logits": spec["output"]["logits"], **spec["output"]["features"]}
    errors = {}
    for name, x in {"logits": logits, **(features or {})}.items():
        want = recorded[name]
        got = stats(x, num_values=len(want["first"]))
        assert got["shape"] == want["shape"], (name, got["shape"], want["shape"])
        errors[name] = relative_error(got, want)
        assert errors[name] <= tolerance, (name, errors[name], tolerance)
    return errors
