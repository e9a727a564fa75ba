from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from golden_support import fill, load_recording, run_with_features
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from mvrec.models.backbone import Backbone, FeatureInfo
from mvrec.models.cloformer import Attention, CloFormer, Stage, cloformer_s, cloformer_xs, cloformer_xxs

RECORDINGS = ["cloformer_xxs_official_224", "cloformer_xxs_official_224x320"]
recordings = pytest.mark.parametrize("name", RECORDINGS)
STAGES = (
    Stage(dim=8, depth=2, heads=2, local_heads=1, kernel=3, kv_pool=8),
    Stage(dim=12, depth=1, heads=3, local_heads=1, kernel=5, kv_pool=4),
    Stage(dim=16, depth=2, heads=4, local_heads=3, kernel=7, kv_pool=2),
    Stage(dim=24, depth=2, heads=6, local_heads=2, kernel=9, kv_pool=1),
)
BRANCHES = ["both", "global", "local"]
branches = pytest.mark.parametrize("branches", BRANCHES)


def tiny(**changes: Any) -> CloFormer:
    """A shallow network with livelier weights than it starts with: those hardly tell two images apart."""
    torch.manual_seed(0)
    model = CloFormer(**({"stages": STAGES, "num_classes": 5, "image_size": 64} | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def images(height: int = 64, width: int = 64, *, size: int = 2) -> Tensor:
    return torch.randn(size, 3, height, width, generator=torch.Generator().manual_seed(2))


# The recordings of the authors' network


@pytest.mark.golden
@recordings
def test_outputs_match_the_recording(name: str) -> None:
    spec = load_recording(name)
    model = cloformer_xxs()
    state = fill.make_state_dict(spec)
    assert model.state_dict().keys() == state.keys()
    model.load_state_dict(state)

    recorded = set(spec["output"]["features"])
    stages = {f"layers.{i}" for i in range(4)}
    x = fill.make_input(spec)
    logits, features = run_with_features(model, x, recorded - stages)
    with torch.no_grad():
        for key, output in features.items():
            if isinstance(output, tuple):  # a block leaves its shortcut to the network
                attended, residual = output
                features[key] = model.get_submodule(key).shortcut(attended) + residual
    features |= {f"layers.{i}": features[f"layers.{i}.blocks.{j}"] for i, j in enumerate((1, 1, 5, 1))}
    assert features.keys() == recorded
    fill.check(spec, logits, features)


@pytest.mark.golden
@recordings
def test_modules_match_the_recording(name: str) -> None:
    """Weights cannot tell an epsilon or a padding, and outputs hardly an epsilon."""
    spec = load_recording(name)
    with torch.device("meta"):
        model = cloformer_xxs(drop_path_rate=0.1)

    assert sum(p.numel() for p in model.parameters()) == spec["params"]
    ours = {k: d for k, m in model.named_modules() if (d := described(m)) is not None}
    recorded = {k: v for k, v in spec["modules"].items() if v["type"] != "DropPath"}
    off = {k for k, v in recorded.items() if v["type"] == "Dropout"}
    assert all(recorded[k]["p"] == 0 for k in off)
    assert ours.keys() == recorded.keys() - off
    for key, description in ours.items():
        assert description == {k: v for k, v in recorded[key].items() if k != "type"}, key
        assert described_kind(model.get_submodule(key)) == recorded[key]["type"], key

    rates = {k: v["p"] for k, v in spec["modules"].items() if v["type"] == "DropPath"}
    drops = {k: m.p for k, m in model.named_modules() if isinstance(m, StochasticDepth)}
    assert drops == pytest.approx(rates, rel=1e-6)


def described(module: nn.Module) -> dict[str, Any] | None:
    """A module in the recordings' words, or None for kinds that they do not list."""
    if isinstance(module, nn.Conv2d):
        return {
            "kernel": list(module.kernel_size),
            "stride": list(module.stride),
            "padding": list(module.padding),
            "groups": module.groups,
            "bias": module.bias is not None,
        }
    if isinstance(module, nn.AvgPool2d):
        return {"kernel": module.kernel_size, "stride": module.stride, "padding": module.padding}
    if isinstance(module, nn.GroupNorm | nn.BatchNorm2d):
        return {"eps": module.eps}
    if isinstance(module, nn.GELU):
        assert module.approximate == "none"
    return {} if isinstance(module, nn.GELU | nn.SiLU | nn.ReLU) else None


def described_kind(module: nn.Module) -> str:
    kind = type(module).__name__
    return {"BatchNorm2d": "SyncBatchNorm", "SiLU": "SiLU(Swish)"}.get(kind, kind)


@pytest.mark.parametrize(
    ("variant", "num_parameters", "drop_path_rate", "width"),
    [
        (cloformer_xxs, 4_166_728, 0.0, 256),
        (cloformer_xs, 7_172_216, 0.06, 352),
        (cloformer_s, 12_345_576, 0.06, 448),
    ],
)
def test_variants_are_the_published_networks(
    variant: Callable[..., CloFormer], num_parameters: int, drop_path_rate: float, width: int
) -> None:
    with torch.device("meta"):
        model = variant()
        other = variant(7, image_size=(64, 96), drop_path_rate=0.5, branches="local")
    assert sum(p.numel() for p in model.parameters()) == num_parameters
    assert (model.num_classes, model.num_features, model.input_shape) == (1000, width, (3, 224, 224))
    drops = [m.p for m in model.modules() if isinstance(m, StochasticDepth)]
    assert len(drops) == 12
    assert (drops[0], drops[-1]) == (0.0, pytest.approx(drop_path_rate))
    assert (other.num_classes, other.num_features, other.input_shape) == (7, width, (3, 64, 96))
    assert max(m.p for m in other.modules() if isinstance(m, StochasticDepth)) == pytest.approx(0.5)
    assert not any(".global_" in name for name, _ in other.named_parameters())


# The attention against its definition


@pytest.mark.parametrize("local_heads", [0, 1, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(8, 12), (9, 15)])
def test_attention_is_its_definition(local_heads: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    attention = Attention(Stage(dim=12, depth=1, heads=4, local_heads=local_heads, kernel=5, kv_pool=4)).double()
    x = torch.randn(2, 12, height, width, dtype=torch.float64)
    parts = []
    if local_heads:
        qkv = attention.convs[0](attention.qkvs[0](x))
        n = 3 * local_heads
        q, k, v = qkv[:, :n], qkv[:, n : 2 * n], qkv[:, 2 * n :]
        parts.append(torch.tanh(attention.act_blocks[0](q * k) / 3**0.5) * v)
    h, w = height // 4, width // 4
    cells = x[:, :, : 4 * h, : 4 * w].unflatten(3, (w, 4)).unflatten(2, (h, 4)).mean((3, 5))
    for head in range(4 - local_heads):
        n = 3 * (4 - local_heads)
        q = attention.global_q(x)[:, 3 * head : 3 * head + 3].flatten(2)
        k, v = (attention.global_kv(cells)[:, i : i + 3].flatten(2) for i in (3 * head, n + 3 * head))
        weights = torch.einsum("bcq,bck->bqk", q, k).div(3**0.5).softmax(-1)
        parts.append(torch.einsum("bqk,bck->bcq", weights, v).unflatten(2, (height, width)))
    torch.testing.assert_close(attention(x), attention.proj(torch.cat(parts, 1)))


@branches
def test_branches_are_there_only_when_wanted(branches: str) -> None:
    keys = set(tiny(branches=branches).state_dict())
    attn = "layers.2.blocks.1.attn."
    assert (attn + "global_q.weight" in keys) == (attn + "global_kv.bias" in keys) == (branches != "local")
    local = ("convs.0.weight", "qkvs.0.bias", "act_blocks.0.act_block.0.weight", "act_blocks.0.act_block.2.bias")
    assert [attn + key in keys for key in local] == [branches != "global"] * 4
    assert attn + "proj.weight" in keys


@pytest.mark.parametrize(("branches", "heads"), [("global", 0), ("local", None)])
def test_an_ablation_gives_all_heads_to_one_branch(branches: str, heads: int | None) -> None:
    rows = [replace(s, local_heads=s.heads if heads is None else heads) for s in STAGES]
    ablated, spelled_out = tiny(branches=branches).eval(), tiny(stages=rows).eval()
    torch.testing.assert_close(ablated(images()), spelled_out(images()), rtol=0, atol=0)


# The contract


@branches
def test_honours_the_contract(branches: str) -> None:
    model = tiny(branches=branches).eval()
    assert isinstance(model, Backbone)
    features, logits = model.forward_features(images()), model(images())
    assert features.shape == (2, model.num_features) == (2, 24)
    assert logits.shape == (2, model.num_classes) == (2, 5)
    torch.testing.assert_close(model.head(features), logits)
    assert not logits.sum(1).allclose(torch.ones(2))  # raw, no softmax


@branches
def test_every_parameter_learns(branches: str) -> None:
    model = tiny(branches=branches)
    model(images(size=3)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_samples_do_not_see_each_other() -> None:
    model = tiny().eval()
    x = images(size=3)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]))


def test_reset_head_leaves_the_rest_alone() -> None:
    model = tiny().to(torch.float64).eval()
    x = images().double()
    features = model.forward_features(x)
    model.reset_head(9)
    assert model.num_classes == 9
    assert model.head.weight.dtype == torch.float64
    assert not model.head.training
    assert model(x).shape == (2, 9)
    model.reset_head(0)
    torch.testing.assert_close(model(x), features)
    with pytest.raises(ValueError, match="got -1"):
        model.reset_head(-1)
    assert tiny(num_classes=0)(images()).shape == (2, 24)


@branches
@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 96), (225, 40), (33, 250), (47, 61)])
def test_takes_any_size(branches: str, height: int, width: int) -> None:
    model = tiny(branches=branches)
    x = images(height, width)
    logits = model(x)
    logits.sum().backward()
    assert logits.isfinite().all()
    assert list(model.feature_info) == [FeatureInfo(s.dim, 4 * 2**i) for i, s in enumerate(STAGES)]
    assert [list(m.shape) for m in model.feature_maps(x)] == [
        [2, info.channels, -(-height // info.stride), -(-width // info.stride)] for info in model.feature_info
    ]


def test_released_rows_take_odd_sizes() -> None:
    model = cloformer_xxs(3).eval()
    with torch.no_grad():
        for size in (225, 250):
            assert model(images(size, size, size=1)).isfinite().all()


def test_feature_maps_are_what_their_stages_end_with() -> None:
    model = tiny().eval()
    x = images(64, 96)
    blocks = [f"layers.{i}.blocks.{s.depth - 1}" for i, s in enumerate(STAGES)]
    _, features = run_with_features(model, x, [*blocks, "norm"])
    maps = model.feature_maps(x)
    for i, block in enumerate(blocks[:-1]):
        torch.testing.assert_close(maps[i], features[block][0])
    torch.testing.assert_close(maps[-1], features["norm"])
    torch.testing.assert_close(maps[-1].mean((2, 3)), model.forward_features(x))


def test_checkpointing_changes_neither_gradients_nor_statistics() -> None:
    results = []
    for on in (False, True):
        model = tiny(drop_path_rate=0.3)
        model.set_activation_checkpointing(on)
        torch.manual_seed(3)
        model(images(size=4)).square().sum().backward()
        results.append(([p.grad for p in model.parameters()], list(model.buffers())))
    torch.testing.assert_close(results[0], results[1])


def test_checkpointing_keeps_fewer_activations() -> None:
    model = tiny()
    saved = []
    for on in (False, True):
        model.set_activation_checkpointing(on)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            model(images())
        saved.append(sum(sizes))
    assert saved[1] < saved[0] / 2


@branches
def test_bf16_autocast_is_finite_and_close(branches: str) -> None:
    model = tiny(branches=branches).eval()
    reference = model(images())
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images())
    assert logits.isfinite().all()
    assert (logits - reference).abs().max() < 0.1 * reference.std()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_runs_in_another_precision(dtype: torch.dtype) -> None:
    assert tiny().to(dtype)(images(48).to(dtype)).dtype == dtype


def test_compiles_as_one_graph() -> None:
    torch._dynamo.reset()
    model = tiny(stages=STAGES[:2], drop_path_rate=0.2)
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)
    compiled(images()).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    torch.testing.assert_close(compiled(images(48)), model(images(48)))


def test_forward_keeps_nothing_on_the_module() -> None:
    model = tiny().eval()
    before = {name: set(vars(m)) for name, m in model.named_modules()}
    first = model(images())
    model(images(96, 33))
    assert before == {name: set(vars(m)) for name, m in model.named_modules()}
    torch.testing.assert_close(model(images()), first, rtol=0, atol=0)


def test_layer_groups_walk_from_stem_to_head() -> None:
    model = tiny()
    groups = model.layer_groups()
    assert len(groups) == 1 + 7 + 1
    assert sorted(name for group in groups for name in group) == sorted(name for name, _ in model.named_parameters())
    assert all(name.startswith("patch_embed.") for name in groups[0])
    assert all(name.startswith("layers.0.blocks.1.") for name in groups[2])
    assert "layers.0.blocks.1.downsample.0.weight" in groups[2]
    assert groups[-1] == ["norm.weight", "norm.bias", "head.weight", "head.bias"]


def test_norms_and_biases_are_not_decayed() -> None:
    model = tiny()
    assert model.no_weight_decay() == {name for name, p in model.named_parameters() if p.ndim == 1}


def test_drop_path_rises_linearly_over_the_blocks() -> None:
    model = tiny(drop_path_rate=0.6)
    drops = [m for m in model.modules() if isinstance(m, StochasticDepth)]
    assert [m.p for m in drops] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert {m.mode for m in drops} == {"row"}
    assert tiny(stages=STAGES[:1], drop_path_rate=0.6).layers[0]["blocks"][1].drop_path.p == 0.6
    assert tiny(stages=[replace(STAGES[0], depth=1)], drop_path_rate=0.6).num_features == 8


def test_drop_path_takes_attention_and_mlp_but_no_shortcut() -> None:
    block = tiny(drop_path_rate=0.1).layers[0]["blocks"][1]
    block.drop_path.p = 1.0
    x = torch.randn(3, 8, 16, 16)
    attended, residual = block(x)
    assert attended.equal(x)
    assert not residual.any()
    assert block.shortcut(attended).any(dim=1).all()


def test_smallest_size_is_one_cell_of_every_grid() -> None:
    deeper = (*STAGES[:3], replace(STAGES[3], kv_pool=2))
    assert tiny(stages=deeper)(images()).isfinite().all()
    with pytest.raises(ValueError, match="H, W of 64 or more"):
        tiny(stages=deeper, image_size=63)
    assert tiny(stages=deeper, branches="local").eval()(images(32, 32)).isfinite().all()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 31, 32), r"with C=3 and H, W of 32 or more, got shape \('B', 3, 31, 32\)"),
        ((2, 3, 32, 31), r"got shape \('B', 3, 32, 31\)"),
        ((2, 1, 64, 64), r"got shape \('B', 1, 64, 64\)"),
        ((3, 64, 64), r"expected \(B, C, H, W\) .* got shape \('B', 64, 64\)"),
        ((2, 3, 4, 64, 64), r"got shape \('B', 3, 4, 64, 64\)"),
    ],
)
def test_wrong_input_is_one_clear_error(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 31}, r"got shape \('B', 3, 31, 31\)"),
        ({"in_channels": 0}, r"got shape \('B', 0, 64, 64\)"),
        ({"num_classes": -1}, "num_classes must be 0 or more, got -1"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must lie in \[0, 1\), got 1.0"),
        ({"branches": "no_global"}, "branches must be one of .*'local'.* got 'no_global'"),
        ({"mlp_kernel": 4}, "mlp_kernel must be odd and positive, got 4"),
        ({"mlp_ratio": 0.1}, "stage 0: mlp_ratio 0.1 leaves no hidden channel of dim 8"),
        ({"stages": ()}, "stages must name one stage or more"),
        ({"stages": [replace(STAGES[0], dim=9, heads=3)]}, "must be even, got 9"),
        ({"stages": [STAGES[0], replace(STAGES[1], heads=5)]}, "stage 1: dim 12 does not split over 5 heads"),
        ({"stages": [replace(STAGES[0], local_heads=3)]}, r"stage 0: local_heads must lie in 0\.\.2, got 3"),
        ({"stages": [replace(STAGES[0], kernel=4)]}, "stage 0: kernel must be odd and positive, got 4"),
        ({"stages": [replace(STAGES[0], depth=0)]}, r"stage 0: .* 1 or more, got Stage\(.*depth=0"),
        ({"stages": [replace(STAGES[0], kv_pool=0)]}, r"stage 0: .* 1 or more, got Stage\(.*kv_pool=0"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_every_argument_can_come_from_yaml() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(CloFormer, "model")
    config = parser.parse_string(
        "model: {image_size: [32, 48], branches: global, mlp_ratio: 2, stages:"
        " [{dim: 8, depth: 1, heads: 2, local_heads: 1, kernel: 3, kv_pool: 8},"
        " {dim: 16, depth: 1, heads: 4, local_heads: 2, kernel: 5, kv_pool: 4}]}"
    )
    model = parser.instantiate(config).model
    assert model.input_shape == (3, 32, 48)
    assert model.num_features == 16
    assert model(images(32, 48)).shape == (2, 1000)
