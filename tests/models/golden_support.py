"""The recorded outputs in tests/golden and how our networks are held against them.

As a script it prints one line per recording: python tests/models/golden_support.py
"""

import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mvrec.models import MViT, create_model, load_weights
from mvrec.models.backbone import Backbone
from mvrec.models.checkpoints.layouts import recognise
from mvrec.models.fast.accelerate import as_written
from mvrec.models.layers import StochasticDepth

GOLDEN = Path(__file__).parents[1] / "golden"


def _load_fill() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mvrec_golden_fill", GOLDEN / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fill = _load_fill()


@dataclass(frozen=True)
class Case:
    """Which of our networks a recording is of."""

    variant: str
    knobs: dict[str, Any] = field(default_factory=dict)


SMALL = {"num_frames": 8, "image_size": 112}
CASES = {
    "shunted_t_official_224": Case("shunted_t"),
    "shunted_t_official_192x256": Case("shunted_t", {"image_size": (192, 256)}),
    "shunted_t_official_225x257": Case("shunted_t", {"image_size": (225, 257)}),
    "shunted_s_official_224": Case("shunted_s"),
    "sgformer_s_official_224": Case("sgformer_s"),
    "cloformer_xxs_official_224": Case("cloformer_xxs", {"drop_path_rate": 0.1}),
    "cloformer_xxs_official_224x320": Case("cloformer_xxs", {"image_size": (224, 320), "drop_path_rate": 0.1}),
    "mvit_v1_b_16x4_slowfast_16x224": Case("mvit_b_16x4"),
    "mvit_v1_b_16x4_slowfast_8x112": Case("mvit_b_16x4", SMALL),
    "mvit_v1_b_16x4_pytorchvideo_8x112": Case("mvit_b_16x4", SMALL),
    "mvit_v1_b_16x4_torchvision_8x112": Case("mvit_b_16x4", SMALL),
    "mvit_v1_b_image_slowfast_224": Case("mvit_b_image"),
    "mvit_v2_s_16x4_slowfast_8x112": Case("mvit_v2_s_16x4", SMALL),
    "mvit_v2_s_16x4_torchvision_8x112": Case("mvit_v2_s_16x4", SMALL),
    "mvit_v2_t_image_mvitrepo_224": Case("mvit_v2_t"),
    "mvit_v2_t_image_timm_224": Case("mvit_v2_t"),
}


def load_recording(name: str) -> dict[str, Any]:
    return fill.load_spec(GOLDEN / f"{name}.json")


def build(name: str) -> Backbone:
    """Our network with random weights, as the recording's network was constructed."""
    return create_model(CASES[name].variant, **CASES[name].knobs)


def run_with_features(model: nn.Module, x: Tensor, names: Iterable[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """Output of the model in evaluation, and the outputs of the named modules on the way."""
    features: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _args, output, name=name: features.__setitem__(name, output)
        )
        for name in names
    ]
    # Where a class token is read, quick networks have no other tokens at the end.
    with torch.no_grad(), as_written(model) if isinstance(model, MViT) else nullcontext():
        model.eval()(x)
    for handle in handles:
        handle.remove()
    with torch.no_grad():  # as it is used, without the last tokens that nobody reads
        return model(x), features


# -- outputs ------------------------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """How far our network is from a recording, relative to the recorded deviation."""

    logits: float
    features: float
    num_features: int
    tolerance: float

    @property
    def passes(self) -> bool:
        return max(self.logits, self.features) <= self.tolerance


def measure(name: str) -> Measured:
    """Load the recording's weights in their own layout, run its input, and compare everything it recorded."""
    spec = load_recording(name)
    state = fill.make_state_dict(spec)
    with torch.device("meta"):  # whose weights are loaded next: to draw random ones takes a second
        model = build(name)
    model.to_empty(device="cpu")
    if spec["output"].get("dtype") == "float64":
        model = model.double()
    assert load_weights(model, state).complete
    recorded = list(spec["output"]["features"])
    ours = our_names(spec, recorded)
    # A layer of CloFormer is no module of its own here; it ends with its last block.
    hooked = {key: _last_block(model, path) for key, path in ours.items()}
    logits, features = run_with_features(model, fill.make_input(spec), set(hooked.values()))
    outputs = {key: _as_recorded(spec, key, features[path], model.get_submodule(path)) for key, path in hooked.items()}
    errors = relative_errors(spec, logits, outputs)
    return Measured(errors.pop("logits"), max(errors.values()), len(errors), float(spec["tolerance"]["suggested_rel"]))


def relative_errors(spec: Mapping[str, Any], logits: Tensor, features: Mapping[str, Tensor]) -> dict[str, float]:
    """Worst error of each tensor's recorded values, mean and deviation."""
    recorded = {"logits": spec["output"]["logits"], **spec["output"]["features"]}
    errors = {}
    for name, x in {"logits": logits, **features}.items():
        got = fill.stats(x, num_values=len(recorded[name]["first"]))
        assert got["shape"] == recorded[name]["shape"], (name, got["shape"], recorded[name]["shape"])
        errors[name] = fill.relative_error(got, recorded[name])
    return errors


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
        return {
            "kernel": list(module.kernel_size),
            "stride": list(module.stride),
            "padding": list(module.padding),
            "groups": module.groups,
            "bias": module.bias is not None,
        }
    if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.BatchNorm2d):
        return {"kind": type(module).__name__, "eps": module.eps}
    if isinstance(module, nn.AvgPool2d):
        return {"kernel": module.kernel_size, "stride": module.stride, "padding": module.padding}
    if isinstance(module, nn.GELU):
        assert module.approximate == "none"
    return {"kind": type(module).__name__} if isinstance(module, nn.GELU | nn.SiLU | nn.ReLU) else None


def recorded_description(entry: Mapping[str, Any], path: str) -> dict[str, Any]:
    """An entry of a recording's module table in the words of `described`."""
    kind = {"SyncBatchNorm": "BatchNorm2d", "SiLU(Swish)": "SiLU"}.get(entry["type"], entry["type"])
    want = {key: value for key, value in entry.items() if key not in ("type", "num_groups", "approximate")}
    if kind.startswith("Conv"):
        if ".pool_" in path:  # images are pooled with 2-D kernels there, with one frame here
            for key, time in (("kernel", 1), ("stride", 1), ("padding", 0)):
                want[key] = [time, *want[key]][-3:]
        return want
    return want if kind == "AvgPool2d" else {"kind": kind, **want}


def drop_paths(model: nn.Module) -> dict[str, float]:
    return {name: module.p for name, module in model.named_modules() if isinstance(module, StochasticDepth)}


def main() -> int:
    """Print the table of all recordings; the exit status says whether all pass."""
    torch.set_num_threads(1)
    width = max(map(len, CASES))
    print(f"{'recording':<{width}}  {'variant':<15} {'logits':>8} {'features':>8}  {'of':>3}  {'tolerance':>9}")  # noqa: T201
    passed = 0
    for name, case in CASES.items():
        m = measure(name)
        passed += m.passes
        verdict = "ok" if m.passes else "FAILS"
        print(  # noqa: T201
            f"{name:<{width}}  {case.variant:<15} {m.logits:8.1e} {m.features:8.1e}  {m.num_features:3}  "
            f"{m.tolerance:9.1e}  {verdict}"
        )
    print(f"{passed} of {len(CASES)} recordings within tolerance; errors relative to the recorded deviation")  # noqa: T201
    return 0 if passed == len(CASES) else 1


if __name__ == "__main__":
    sys.exit(main())
