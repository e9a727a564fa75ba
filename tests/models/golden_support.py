"""The recorded outputs in tests/golden and how our networks are held against them.

A recording stores no weights. It lists every entry of the authors' state dict with the rule that fills it, and a rule
depends on nothing but the entry's name and shape.

As a script it prints one line per recording: python tests/models/golden_support.py
"""

import json
import math
import re
import sys
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mvrec.models import MViT, create_model, load_weights
from mvrec.models.backbone import Backbone
from mvrec.models.checkpoints.layouts import recognise
from mvrec.models.fast.accelerate import as_written
from mvrec.models.layers import StochasticDepth

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = {"num_frames": 8, "image_size": 112}
# Which of our networks a recording is of.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "shunted_t_official_224": ("shunted_t", {}),
    "shunted_t_official_192x256": ("shunted_t", {"image_size": (192, 256)}),
    "shunted_t_official_225x257": ("shunted_t", {"image_size": (225, 257)}),
    "shunted_s_official_224": ("shunted_s", {}),
    "sgformer_s_official_224": ("sgformer_s", {}),
    "cloformer_xxs_official_224": ("cloformer_xxs", {"drop_path_rate": 0.1}),
    "cloformer_xxs_official_224x320": ("cloformer_xxs", {"image_size": (224, 320), "drop_path_rate": 0.1}),
    "mvit_v1_b_16x4_slowfast_16x224": ("mvit_b_16x4", {}),
    "mvit_v1_b_16x4_slowfast_8x112": ("mvit_b_16x4", SMALL),
    "mvit_v1_b_16x4_pytorchvideo_8x112": ("mvit_b_16x4", SMALL),
    "mvit_v1_b_16x4_torchvision_8x112": ("mvit_b_16x4", SMALL),
    "mvit_v1_b_image_slowfast_224": ("mvit_b_image", {}),
    "mvit_v2_s_16x4_slowfast_8x112": ("mvit_v2_s_16x4", SMALL),
    "mvit_v2_s_16x4_torchvision_8x112": ("mvit_v2_s_16x4", SMALL),
    "mvit_v2_t_image_mvitrepo_224": ("mvit_v2_t", {}),
    "mvit_v2_t_image_timm_224": ("mvit_v2_t", {}),
}


def load_recording(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def build(name: str) -> Backbone:
    """Our network without memory for its weights, as the recording's network was constructed."""
    variant, knobs = CASES[name]
    with torch.device("meta"):
        return create_model(variant, **knobs)


def run_with_features(model: nn.Module, x: Tensor, names: Iterable[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """Output of the model in evaluation, and the outputs of the named modules on the way."""
    features: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _args, output, name=name: features.__setitem__(name, output)
        )
        for name in names
    ]
    model.eval()
    with torch.no_grad():
        if not isinstance(model, MViT):
            output = model(x)
        else:  # a quick one has no other tokens at its end than the class token
            with as_written(model):
                model(x)
        for handle in handles:
            handle.remove()
        return model(x) if isinstance(model, MViT) else output, features


# -- weights and inputs -------------------------------------------------------------------------------------------


def filled(key: str, shape: tuple[int, ...], rule: str, dtype: torch.dtype) -> Tensor:
    """One entry of a state dict: zeros of int64 for counters, else values drawn in float32 by the entry's name."""
    if rule == "int_zero":
        return torch.zeros(shape, dtype=torch.int64)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode()) & 0x7FFFFFFF))
    if rule == "weight_fanin":
        return (noise * (1.0 / math.sqrt(math.prod(shape[1:])))).to(dtype)
    values = {
        "pos_0.02": 0.02 * noise,
        "running_mean_0.1": 0.1 * noise,
        "vec_0.1": 0.1 * noise,
        "running_var_1+0.1abs": 1 + 0.1 * noise.abs(),
        "norm_weight_1+0.1": 1 + 0.1 * noise,
    }
    return values[rule].to(dtype)


def precision(spec: Mapping[str, Any]) -> torch.dtype:
    return getattr(torch, spec["output"].get("dtype", "float32"))


def weights(spec: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a recording, under the authors' names."""
    entries = spec["state_dict"].items()
    return {key: filled(key, tuple(entry["shape"]), entry["rule"], precision(spec)) for key, entry in entries}


def pixels(spec: Mapping[str, Any]) -> Tensor:
    generator = torch.Generator().manual_seed(spec["input"]["seed"])
    return torch.randn(tuple(spec["input"]["shape"]), generator=generator).to(precision(spec))


# -- outputs ------------------------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """Return the distance of our network from a recording, relative to the recorded deviation."""

    logits: float
    features: float
    tolerance: float

    @property
    def passes(self) -> bool:
        return max(self.logits, self.features) <= self.tolerance


def measure(name: str) -> Measured:
    """Load the recording's weights in their own layout, run its input, and compare everything it recorded."""
    spec = load_recording(name)
    model = build(name).to_empty(device="cpu").to(precision(spec))
    assert load_weights(model, weights(spec)).complete
    # A layer of CloFormer is no module of its own here; it ends with its last block.
    paths = {key: _last_block(model, path) for key, path in our_names(spec, list(spec["output"]["features"])).items()}
    logits, features = run_with_features(model, pixels(spec), set(paths.values()))
    outputs = {key: _as_recorded(spec, key, features[path], model.get_submodule(path)) for key, path in paths.items()}
    recorded = spec["output"]["features"]
    errors = [relative_error(outputs[key], recorded[key]) for key in recorded]
    tolerance = float(spec["tolerance"]["suggested_rel"])
    return Measured(relative_error(logits, spec["output"]["logits"]), max(errors), tolerance)


def relative_error(x: Tensor, want: Mapping[str, Any]) -> float:
    """Worst error of the first values, the mean and the deviation, over the recorded deviation."""
    assert list(x.shape) == want["shape"]
    flat = x.detach().double().flatten()
    got = [*flat[: len(want["first"])].tolist(), flat.mean().item(), flat.std(unbiased=False).item()]
    expected = [*want["first"], want["mean"], want["std"]]
    errors = [abs(a - b) / max(want["std"], 1e-6) for a, b in zip(got, expected, strict=True)]
    return math.inf if any(math.isnan(error) for error in errors) else max(errors)


def _last_block(model: nn.Module, path: str) -> str:
    if not re.fullmatch(r"layers\.\d", path):
        return path
    return f"{path}.blocks.{len(model.get_submodule(f'{path}.blocks')) - 1}"  # type: ignore[arg-type]


def _as_recorded(spec: Mapping[str, Any], key: str, output: Any, module: nn.Module) -> Tensor:
    """One of our modules' outputs in the recording's layout."""
    if isinstance(output, tuple):  # CloFormer leaves the shortcut to the network, SG-Former hands on its map
        first, second = output
        if spec["family"].startswith("clo"):
            with torch.no_grad():
                return module.shortcut(first) + second  # type: ignore[operator]
        return first.flatten(1, 2)  # the token grid (B, h, w, C)
    if output.ndim == 5:  # the token grid (B, t, h, w, C)
        shape = spec["output"]["features"][key]["shape"]
        return output.permute(0, 4, 1, 2, 3) if len(shape) == 5 else output.flatten(1, 3)
    return output.flatten(1, 2) if output.ndim == 4 and not spec["family"].startswith("clo") else output


# -- names --------------------------------------------------------------------------------------------------------

# Modules without weights, which no layout's table of names knows.
WITHOUT_WEIGHTS = (
    (r"\.mlp\.1$", ".mlp.act"),
    (r"\.stochastic_depth$", ".drop_path"),
    (r"\.drop_path[12]$", ".drop_path"),
    (r"\.(pool_skip\.pool|shortcut_pool_attn)$", ".pool_skip"),
    (r"^head\.(0|drop)$", "head.dropout"),
    (r"^norm_embed$", "norm"),
    (r"^conv_proj$|^patch_embed\.patch_model$", "patch_embed.proj"),
)


def our_names(spec: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """Module paths of a recording to ours."""
    with torch.device("meta"):
        weights = {key: torch.zeros(entry["shape"]) for key, entry in spec["state_dict"].items()}
        markers = {f"{name}.weight": torch.zeros(1) for name in names}
    renamed = list(recognise({**markers, **weights}, source="recording").tensors)
    mapped = {}
    # Renaming keeps the order and drops or joins only q, k and v, which the recordings' modules are not.
    for name, new in zip(names, renamed, strict=False):
        path = new.removesuffix(".weight")
        for pattern, replacement in WITHOUT_WEIGHTS:
            path = re.sub(pattern, replacement, path)
        mapped[name] = path
    return mapped


# -- modules ------------------------------------------------------------------------------------------------------


def described(module: nn.Module) -> dict[str, Any] | None:
    """A module in the recordings' words, or None for kinds that they do not list."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        sizes = {"kernel": module.kernel_size, "stride": module.stride, "padding": module.padding}
        words = {key: list(size) for key, size in sizes.items()}
        return words | {"groups": module.groups, "bias": module.bias is not None}
    if isinstance(module, nn.AvgPool2d):
        return {"kernel": module.kernel_size, "stride": module.stride, "padding": module.padding}
    kind = {"kind": type(module).__name__}
    if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.BatchNorm2d):
        return kind | {"eps": module.eps}
    assert getattr(module, "approximate", "none") == "none"
    return kind if isinstance(module, nn.GELU | nn.SiLU | nn.ReLU) else None


def recorded_description(entry: Mapping[str, Any], path: str) -> dict[str, Any]:
    """An entry of a recording's module table in the words of `described`."""
    kind = {"SyncBatchNorm": "BatchNorm2d", "SiLU(Swish)": "SiLU"}.get(entry["type"], entry["type"])
    words = {key: value for key, value in entry.items() if key not in ("type", "num_groups", "approximate")}
    if kind.startswith("Conv") and ".pool_" in path:  # images are pooled with 2-D kernels there, with one frame here
        for key, time in (("kernel", 1), ("stride", 1), ("padding", 0)):
            words[key] = [time, *words[key]][-3:]
    return words if kind.startswith(("Conv", "AvgPool")) else {"kind": kind, **words}


def drop_paths(model: nn.Module) -> dict[str, float]:
    return {name: module.p for name, module in model.named_modules() if isinstance(module, StochasticDepth)}


def main() -> int:
    """Print the table of all recordings; the exit status says whether all pass."""
    torch.set_num_threads(1)
    measured = {name: measure(name) for name in CASES}
    print(f"{'recording':<34}  {'variant':<15} {'logits':>8} {'features':>8}  {'tolerance':>9}")  # noqa: T201
    for name, m in measured.items():
        numbers = f"{m.logits:8.1e} {m.features:8.1e}  {m.tolerance:9.1e}"
        print(f"{name:<34}  {CASES[name][0]:<15} {numbers}  {'ok' if m.passes else 'FAILS'}")  # noqa: T201
    passed = sum(m.passes for m in measured.values())
    print(f"{passed} of {len(CASES)} recordings within tolerance; errors relative to the recorded deviation")  # noqa: T201
    return 0 if passed == len(CASES) else 1


if __name__ == "__main__":
    sys.exit(main())
