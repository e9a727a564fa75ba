from collections.abc import Callable
from typing import Any

import pytest
import torch
from golden_support import fill, load_recording, run_with_features
from torch import nn
from torchvision.ops import StochasticDepth

from mvrec.models import (
    MViT,
    mvit_b_16x4,
    mvit_b_image,
    mvit_v2_s_16x4,
    mvit_v2_t,
)

pytestmark = pytest.mark.golden

BUILDS: dict[str, Callable[[], MViT]] = {
    "mvit_v1_b_16x4_slowfast_8x112": lambda: mvit_b_16x4(num_frames=8, image_size=112),
    "mvit_v1_b_16x4_slowfast_16x224": mvit_b_16x4,
    "mvit_v1_b_image_slowfast_224": mvit_b_image,
    "mvit_v2_s_16x4_slowfast_8x112": lambda: mvit_v2_s_16x4(num_frames=8, image_size=112),
    "mvit_v2_t_image_mvitrepo_224": mvit_v2_t,
}


def as_ours(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The mvit repository pools images with 2-D kernels; ours are 3-D with one frame, as SlowFast's."""
    return {k: v.unsqueeze(2) if ".pool_" in k and v.ndim == 4 else v for k, v in state.items()}


@pytest.mark.parametrize("name", BUILDS)
def test_outputs_match_the_recording(name: str) -> None:
    spec = load_recording(name)
    model = BUILDS[name]()
    state = as_ours(fill.make_state_dict(spec))
    assert model.state_dict().keys() == state.keys()
    model.load_state_dict(state)

    recorded = set(spec["output"]["features"])
    # Ours keeps the grid's axes in there, so it is compared flattened.
    logits, features = run_with_features(model, fill.make_input(spec), recorded)
    features["patch_embed"] = features["patch_embed"].flatten(1, 3)

    assert len(features) == len(model.blocks) + 2
    fill.check(spec, logits, features)


@pytest.mark.parametrize("name", BUILDS)
def test_modules_match_the_recording(name: str) -> None:
    """Weights cannot tell an epsilon or a padding, and outputs hardly an epsilon."""
    spec = load_recording(name)
    with torch.device("meta"):
        model = BUILDS[name]()

    assert sum(p.numel() for p in model.parameters()) == spec["params"]
    recorded = {k: v for k, v in spec["modules"].items() if v["type"] not in ("MaxPool2d", "MaxPool3d", "DropPath")}
    ours = {k: described(m) for k, m in model.named_modules() if described(m) is not None}
    if not model.head.dropout.p:
        ours.pop("head.dropout")
    assert ours.keys() == recorded.keys()
    for key, want in recorded.items():
        assert ours[key] == in_three_axes(want, key), key
    for key, want in spec["modules"].items():
        if want["type"] == "DropPath":
            module = model.get_submodule(key)
            assert isinstance(module, StochasticDepth)
            assert module.p == pytest.approx(want["p"], rel=1e-6)


@pytest.mark.parametrize("name", BUILDS)
def test_shortcuts_are_pooled_where_recorded(name: str) -> None:
    spec = load_recording(name)
    with torch.device("meta"):
        model = BUILDS[name]()
    recorded = {k: v for k, v in spec["modules"].items() if v["type"].startswith("MaxPool")}
    strides = {f"blocks.{i}.pool_skip": b.q_stride for i, b in enumerate(model.blocks) if b.q_stride > 1}

    assert {k: v["stride"][-2:] for k, v in recorded.items()} == {k: [s, s] for k, s in strides.items()}
    assert all(v["kernel"][-2:] == [3, 3] and v["padding"][-2:] == [1, 1] for v in recorded.values())


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
    if isinstance(module, nn.LayerNorm):
        return {"eps": module.eps}
    if isinstance(module, nn.GELU):
        return {"approximate": module.approximate}
    if isinstance(module, nn.Dropout):
        return {"p": module.p}
    return None


def in_three_axes(recorded: dict[str, Any], key: str) -> dict[str, Any]:
    want = {k: v for k, v in recorded.items() if k != "type"}
    if recorded["type"] == "GELU":
        want.setdefault("approximate", "none")
    if ".pool_" in key:
        for field, time in (("kernel", 1), ("stride", 1), ("padding", 0)):
            want[field] = [time, *want[field]][-3:]
    return want
