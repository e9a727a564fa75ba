"""Every recorded output of the authors' code, through its own layout of names."""

import pytest
from golden_support import (
    CASES,
    GOLDEN,
    build,
    described,
    drop_paths,
    load_recording,
    measure,
    our_names,
    recorded_description,
)

from mvrec.models.mvit.mvit import MViT

pytestmark = pytest.mark.golden
# Of these networks and layouts others are recorded at another size.
REPEATS = (
    "v1_b_16x4_slowfast_16x224",
    "v1_b_16x4_torchvision_8x112",
    "shunted_t_official_224",
    "192x256",
    "xxs_official_224",
)
NOT_LAYERS = ("Dropout", "DropPath", "StochasticDepth", "MaxPool2d", "MaxPool3d")


def test_every_recording_has_a_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(CASES)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name.endswith(REPEATS) else ()) for name in CASES]
)
def test_outputs_match_the_recording(name: str) -> None:
    measured = measure(name)
    assert measured.passes, measured


@pytest.mark.parametrize("name", CASES)
def test_modules_match_the_recording(name: str) -> None:
    """Weights cannot tell an epsilon, a padding or a rate of dropping, and outputs hardly an epsilon."""
    spec = load_recording(name)
    model = build(name)
    assert sum(p.numel() for p in model.parameters()) == spec["params"]
    paths = our_names(spec, spec["modules"])
    recorded = {
        paths[key]: recorded_description(entry, paths[key])
        for key, entry in spec["modules"].items()
        if entry["type"] not in NOT_LAYERS
    }
    if "pytorchvideo" in name:  # the release's pooling norms alone have torch's own epsilon, SlowFast's have not
        for path, entry in recorded.items():
            if ".attn.norm_" in path:
                assert entry["eps"] == 1e-5
                entry["eps"] = 1e-6
    actual = {path: words for path, module in model.named_modules() if (words := described(module)) is not None}
    assert actual == recorded

    rates = drop_paths(model)
    for key, entry in spec["modules"].items():
        if entry["type"] in ("DropPath", "StochasticDepth") and paths[key] in rates:
            assert rates[paths[key]] == pytest.approx(entry["p"], rel=1e-6), key
        elif entry["type"] == "Dropout" and entry["p"]:
            assert model.get_submodule(paths[key]).p == entry["p"], key

    shortcuts = {paths[k]: v for k, v in spec["modules"].items() if v["type"].startswith("MaxPool")}
    blocks = model.blocks if isinstance(model, MViT) else []
    strides = {f"blocks.{i}.pool_skip": b.q_stride for i, b in enumerate(blocks) if b.q_stride > 1}
    assert {k: v["stride"][-2:] for k, v in shortcuts.items()} == {k: [s, s] for k, s in strides.items()}
    assert all(v["kernel"][-2:] == [3, 3] and v["padding"][-2:] == [1, 1] for v in shortcuts.values())
