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
from mvrec.models.shunted import GridConv, Shunted, Stage, shunted_b, shunted_s, shunted_t

TINY = (
    Stage(dim=16, depth=1, heads=2, sr_ratio=8, mlp_ratio=2),
    Stage(dim=32, depth=2, heads=4, sr_ratio=4, mlp_ratio=2),
    Stage(dim=48, depth=1, heads=2, sr_ratio=2, mlp_ratio=1.5),
    Stage(dim=64, depth=1, heads=4, sr_ratio=1, mlp_ratio=2),
)
BUILDS: dict[str, Callable[[], Shunted]] = {
    "shunted_t_official_224": shunted_t,
    "shunted_t_official_192x256": lambda: shunted_t(image_size=(192, 256)),
    "shunted_t_official_225x257": lambda: shunted_t(image_size=(225, 257)),
    "shunted_s_official_224": shunted_s,
}


def tiny(**changes: Any) -> Shunted:
    torch.manual_seed(0)
    stages = changes.pop("stages", TINY)
    return Shunted(stages, **({"num_classes": 5, "image_size": 64, "num_stem_convs": 1} | changes))


def lively(model: Shunted) -> Shunted:
    """Weights of ordinary size: at initialisation the attention is almost uniform and hides mistakes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model


def batch(size: int = 2, *, h: int = 64, w: int = 64) -> Tensor:
    return torch.randn(size, 3, h, w, generator=torch.Generator().manual_seed(2))


def described(module: nn.Module) -> dict[str, Any] | None:
    """A module in the recordings' words, or None for kinds that they do not list."""
    if isinstance(module, nn.Conv2d):
        return {
            "type": "Conv2d",
            "kernel": list(module.kernel_size),
            "stride": list(module.stride),
            "padding": list(module.padding),
            "groups": module.groups,
            "bias": module.bias is not None,
        }
    if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
        return {"type": type(module).__name__, "eps": module.eps}
    if isinstance(module, nn.GELU):
        assert module.approximate == "none"
    return {"type": type(module).__name__} if isinstance(module, nn.GELU | nn.ReLU) else None


@pytest.mark.golden
@pytest.mark.parametrize("name", BUILDS)
def test_outputs_match_the_recording(name: str) -> None:
    spec = load_recording(name)
    model = BUILDS[name]()
    state = fill.make_state_dict(spec)
    assert model.state_dict().keys() == state.keys()
    model.load_state_dict(state)

    x = fill.make_input(spec)
    assert model.input_shape == tuple(x.shape[1:])
    logits, features = run_with_features(model, x, set(spec["output"]["features"]))
    assert len(features) == 2 * 4 + len(model.layer_groups()) - 2
    fill.check(spec, logits, {key: grid.flatten(1, 2) for key, grid in features.items()})


@pytest.mark.golden
@pytest.mark.parametrize("name", BUILDS)
def test_modules_match_the_recording(name: str) -> None:
    """Weights cannot tell an epsilon or a padding, and outputs hardly an epsilon."""
    spec = load_recording(name)
    with torch.device("meta"):
        model = BUILDS[name]()
    assert sum(p.numel() for p in model.parameters()) == spec["params"]
    ours = {key: described(module) for key, module in model.named_modules() if described(module)}
    dropouts = {key: module for key, module in spec["modules"].items() if module["type"] == "Dropout"}
    assert not any(module["p"] for module in dropouts.values())
    assert ours == {key: module for key, module in spec["modules"].items() if key not in dropouts}


@pytest.mark.parametrize(
    ("build", "num_parameters", "stem_layers", "drop_path_rate"),
    [
        (shunted_t, 11_553_576, "013", 0.1),
        (shunted_s, 22_401_256, "01346", 0.2),
        (shunted_b, 39_614_376, "0134679", 0.3),
    ],
)
def test_variants_are_the_released_ones(
    build: Callable[..., Shunted], num_parameters: int, stem_layers: str, drop_path_rate: float
) -> None:
    with torch.device("meta"):
        model = build()
        other = build(7, drop_path_rate=0.0, image_size=(96, 64))
    assert sum(p.numel() for p in model.parameters()) == num_parameters
    keys = model.state_dict().keys()
    assert "".join(sorted({key.split(".")[2] for key in keys if key.startswith("patch_embed1.conv")})) == stem_layers
    rates = [module.p for module in model.modules() if isinstance(module, StochasticDepth)]
    steps = len(rates) - 1
    assert rates == pytest.approx([drop_path_rate * i / steps for i in range(steps + 1)])
    assert (model.input_shape, other.input_shape) == ((3, 224, 224), (3, 96, 64))
    assert (model.num_classes, model.num_features, other.head.out_features) == (1000, 512, 7)
    assert not any(module.p for module in other.modules() if isinstance(module, StochasticDepth))
    assert model.min_image_size == 31


def test_honours_the_contract() -> None:
    model = lively(tiny()).eval()
    x = batch()
    assert isinstance(model, Backbone)
    features, logits = model.forward_features(x), model(x)
    assert features.shape == (2, model.num_features) == (2, 64)
    assert logits.shape == (2, model.num_classes) == (2, 5)
    assert (logits < 0).any()
    torch.testing.assert_close(model.head(features), logits)


def test_every_parameter_learns() -> None:
    model = lively(tiny())
    model(batch()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_samples_do_not_see_each_other() -> None:
    model = lively(tiny()).eval()
    x = batch(3)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]))


def test_reset_head_starts_like_a_new_network() -> None:
    model = tiny().to(torch.float64).eval()
    model.reset_head(9)
    assert model.num_classes == 9
    assert model.head.weight.dtype == torch.float64
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert not model.head.bias.any()
    assert not model.head.training
    x = batch().double()
    assert model(x).shape == (2, 9)

    model.reset_head(0)
    torch.testing.assert_close(model(x), model.forward_features(x))
    torch.testing.assert_close(tiny(num_classes=0).double().eval()(x).shape, model(x).shape)
    with pytest.raises(ValueError, match="got -1"):
        model.reset_head(-1)


@pytest.mark.parametrize(
    ("h", "w", "sizes"),
    [
        (64, 64, [(16, 16), (8, 8), (4, 4), (2, 2)]),
        (64, 96, [(16, 24), (8, 12), (4, 6), (2, 3)]),
        (96, 32, [(24, 8), (12, 4), (6, 2), (3, 1)]),
        (31, 45, [(8, 11), (4, 6), (2, 3), (1, 2)]),  # the stem drops a broken cell, the stages round up
    ],
)
def test_feature_maps_follow_feature_info(h: int, w: int, sizes: list[tuple[int, int]]) -> None:
    model = lively(tiny()).eval()
    assert model.feature_info == tuple(FeatureInfo(c, s) for c, s in zip((16, 32, 48, 64), (4, 8, 16, 32), strict=True))
    x = batch(h=h, w=w)
    maps = model.feature_maps(x)
    assert [tuple(m.shape) for m in maps] == [(2, c, *size) for c, size in zip((16, 32, 48, 64), sizes, strict=True)]
    torch.testing.assert_close(maps[-1].mean((2, 3)), model.forward_features(x))
    _, norms = run_with_features(model, x, ["norm1", "norm4"])
    for level, grid in ((0, norms["norm1"]), (-1, norms["norm4"])):
        torch.testing.assert_close(maps[level][1, :, -1, 0], grid[1, -1, 0])


def test_each_half_of_the_heads_sees_its_own_keys() -> None:
    """Pixels beyond the last whole coarse patch reach the fine heads alone."""
    attention = lively(tiny()).block1[0].attn.eval()  # ratio 8: on 12 rows, the last 4 are no coarse patch
    attention.proj = nn.Identity()
    grid = torch.randn(1, 12, 16, 16, generator=torch.Generator().manual_seed(4))
    changed = grid.clone()
    changed[:, 9:] += 1.0
    difference = (attention(changed) - attention(grid))[:, :9].abs().amax((0, 1, 2))  # of untouched queries
    assert not difference[:8].any()
    assert (difference[8:] > 0).all()


def test_convolutions_read_the_tokens_where_they_lie() -> None:
    """A convolution whose input is no channels-last view makes a copy first."""
    model = tiny().eval()
    copied = []

    def check(name: str, grid: Tensor) -> None:
        if not grid.is_contiguous():
            copied.append(name)

    convs = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    for name, module in convs.items():
        if isinstance(module, GridConv):
            if ".local_conv" not in name:  # values are half of what holds them
                module.register_forward_pre_hook(lambda _, args, name=name: check(name, args[0]))
        else:
            module.register_forward_pre_hook(lambda _, args, name=name: check(name, args[0].permute(0, 2, 3, 1)))
    model(batch())
    assert copied == []


def test_gradients_lie_in_memory_as_their_parameters_do() -> None:
    """DDP warns of every gradient that does not, even in the strides of axes of one."""
    model = tiny()
    model(batch()).sum().backward()
    assert {n: p.stride() for n, p in model.named_parameters()} == {
        n: p.grad.stride() for n, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_runs_in_another_precision(dtype: torch.dtype) -> None:
    assert tiny().to(dtype)(batch().to(dtype)).dtype == dtype


def test_bf16_autocast_is_finite_and_close() -> None:
    model = lively(tiny()).eval()
    reference = model(batch())
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(batch())
    assert logits.isfinite().all()
    assert (logits - reference).abs().max() < 0.1 * reference.std()


def test_checkpointing_changes_no_gradient_and_keeps_fewer_activations() -> None:
    deep = (replace(TINY[0], depth=6), *TINY[1:])
    model = lively(tiny(stages=deep, drop_path_rate=0.3))
    gradients, saved = [], []
    for on in (False, True):
        model.set_activation_checkpointing(on)
        model.zero_grad()
        torch.manual_seed(3)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            loss = model(batch(4)).square().sum()
        loss.backward()
        saved.append(sum(sizes))
        gradients.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert saved[1] < saved[0] / 2


def test_compiles_as_one_graph() -> None:
    torch._dynamo.reset()
    model = lively(tiny(drop_path_rate=0.2))
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)
    compiled(batch()).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    x = batch(w=45)
    torch.testing.assert_close(compiled(x), model(x))


def test_forward_keeps_nothing_on_the_module() -> None:
    model = tiny().eval()
    before = {name: set(vars(m)) for name, m in model.named_modules()}
    first = model(batch())
    model(batch(h=96))
    assert before == {name: set(vars(m)) for name, m in model.named_modules()}
    torch.testing.assert_close(model(batch()), first, rtol=0, atol=0)


def test_initialisation_is_the_released_one() -> None:
    with torch.random.fork_rng():
        model = shunted_t()
    deviations = {
        "block3.0.mlp.fc1": 0.02,
        "head": 0.02,
        "patch_embed1.conv.0": (2 / (49 * 64)) ** 0.5,
        "block2.0.attn.sr1": (2 / (16 * 128)) ** 0.5,
        "block4.0.mlp.dwconv.dwconv": (2 / 9) ** 0.5,
    }
    for name, std in deviations.items():
        assert model.get_submodule(name).weight.std().item() == pytest.approx(std, rel=0.05), name
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            assert not parameter.any(), name
        elif parameter.ndim == 1:
            assert (parameter == 1).all(), name


def test_layer_groups_walk_from_stem_to_head() -> None:
    model = tiny()
    groups = model.layer_groups()
    assert len(groups) == 1 + 5 + 1
    assert sorted(name for group in groups for name in group) == sorted(name for name, _ in model.named_parameters())
    tops = [sorted({".".join(name.split(".")[: 1 + name.startswith("block")]) for name in group}) for group in groups]
    assert tops == [
        ["patch_embed1"],
        ["block1.0", "norm1"],
        ["block2.0", "patch_embed2"],
        ["block2.1", "norm2"],
        ["block3.0", "norm3", "patch_embed3"],
        ["block4.0", "patch_embed4"],
        ["head", "norm4"],
    ]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 64), r"expected \(B, C, H, W\) .* got shape \('B', 3, 64\)"),
        ((2, 3, 4, 64, 64), r"got shape \('B', 3, 4, 64, 64\)"),
        ((2, 1, 64, 64), r"with C=3 .* got shape \('B', 1, 64, 64\)"),
        ((2, 3, 30, 64), r"H, W of 31 or more, got shape \('B', 3, 30, 64\)"),
        ((2, 3, 64, 30), r"H, W of 31 or more, got shape \('B', 3, 64, 30\)"),
    ],
)
def test_wrong_input_is_one_clear_error(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("sr_ratios", "least"), [((8, 4, 2, 1), 31), ((1, 1), 3), ((2, 1), 7), ((2, 4), 27), ((4, 4, 1), 27)]
)
def test_smallest_image_is_the_one_that_still_has_keys(sr_ratios: tuple[int, ...], least: int) -> None:
    model = tiny(stages=[Stage(dim=8, depth=1, heads=2, sr_ratio=r, mlp_ratio=1) for r in sr_ratios])
    assert model.min_image_size == least
    assert model.eval()(batch(h=least, w=least)).isfinite().all()
    model.min_image_size = 1
    if max(sr_ratios) > 1:
        with pytest.raises(RuntimeError, match="Kernel size"):
            model(batch(h=least - 1, w=least))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 30}, r"H, W of 31 or more, got shape \('B', 3, 30, 30\)"),
        ({"num_classes": -1}, "num_classes must be 0 or more, got -1"),
        ({"num_stem_convs": -1}, "num_stem_convs must be 0 or more, got -1"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must lie in \[0, 1\), got 1.0"),
        ({"stages": ()}, r"stages must hold one row or more, got \(\)"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 0}, "must be positive, got .*depth=0"),
        ({"sr_ratio": 3}, "sr_ratio must be 1 or even, got .*sr_ratio=3"),
        ({"sr_ratio": 0}, "sr_ratio must be 1 or even, got .*sr_ratio=0"),
        ({"heads": 5}, "width 48 does not split over 5 heads"),
        ({"heads": 3}, "heads must be even, got .*heads=3"),
    ],
)
def test_wrong_rows_are_named(changes: dict[str, Any], message: str) -> None:
    row: dict[str, Any] = {"dim": 48, "depth": 1, "heads": 2, "sr_ratio": 2, "mlp_ratio": 2}
    with pytest.raises(ValueError, match=message):
        Stage(**(row | changes))


def test_every_argument_can_come_from_yaml() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(Shunted, "model")
    fine = "{dim: 8, depth: 1, heads: 2, sr_ratio: 2, mlp_ratio: 4}"
    coarse = "{dim: 16, depth: 2, heads: 2, sr_ratio: 1, mlp_ratio: 2}"
    config = parser.parse_string(
        f"model: {{stages: [{fine}, {coarse}], num_stem_convs: 2, image_size: [32, 48], in_channels: 1}}"
    )
    model = parser.instantiate(config).model
    assert model.input_shape == (1, 32, 48)
    assert len(model.block2) == 2
