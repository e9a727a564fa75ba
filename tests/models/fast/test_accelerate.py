"""Plain and quick networks are one: what `accelerate` changes, and what it leaves alone."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from zoo_builds import BUILDS, inputs, lively, quick_form

from mvrec.models import Framewise, MViT, accelerate, create_model, mvit_v2_t, shunted_t
from mvrec.models.fast import attention, depthwise, products, recompute
from mvrec.models.fast.accelerate import FAST, PLAIN, SWITCH, as_written
from mvrec.models.layers import DetailConv, GridConv

pytestmark = quick_form
builds = pytest.mark.parametrize("name", BUILDS)


@builds
def test_quick_network_has_the_weights_values_gradients_and_random_draws_of_the_plain_one(name, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv(SWITCH, "1")
        plain = lively(BUILDS[name](drop_path_rate=0.3)).double()
    quick = copy.deepcopy(plain)
    state = {key: tensor.data_ptr() for key, tensor in quick.state_dict().items()}
    assert accelerate(quick) is quick
    assert {key: tensor.data_ptr() for key, tensor in quick.state_dict().items()} == state
    assert isinstance(quick, BUILDS[name].network)
    assert type(quick).__name__ == type(plain).__name__
    assert not {type(module) for module in plain.modules()} & set(PLAIN)
    assert not {type(module) for module in quick.modules()} & set(FAST)
    kinds = [type(module) for module in quick.modules()]
    assert [type(module) for module in accelerate(quick).modules()] == kinds
    for size in (64, 75):
        x = inputs(plain, 3, H=size).double()
        results = []
        for network in (plain, quick):
            network.zero_grad()
            torch.manual_seed(3)
            logits = network(x)
            logits.square().sum().backward()
            grads = {n: p.grad for n, p in network.named_parameters()}
            assert all(grad is not None for grad in grads.values())
            results.append((logits, grads, dict(network.named_buffers()), network.feature_maps(x)))
        torch.testing.assert_close(results[1], results[0], msg=lambda text, size=size: f"{size}: {text}")


def test_as_written_is_plain_for_a_while() -> None:
    network = BUILDS["mvit_v1_video"]()
    network.reset_head(3)  # of torch's own layers
    kinds = [type(module) for module in network.modules()]
    with as_written(network):
        assert not {type(module) for module in network.modules()} & set(PLAIN)
    with pytest.raises(ValueError, match="expected"), as_written(network):
        network(torch.zeros(1))
    assert [type(module) for module in network.modules()] == kinds


def test_create_model_is_quick_unless_the_environment_asks_for_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        assert type(mvit_v2_t()) is MViT
        assert type(create_model("mvit_v2_t")) is FAST[MViT]
        monkeypatch.setenv(SWITCH, "0")
        assert type(create_model("mvit_v2_t")) is FAST[MViT]
        monkeypatch.setenv(SWITCH, "1")
        assert type(create_model("mvit_v2_t")) is MViT


def test_layers_of_others_are_left_alone_and_ours_in_them_are_quick() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)
            with torch.device("meta"):
                self.framewise = Framewise(shunted_t(), num_frames=2)

    network = accelerate(Own())
    assert type(network.linear) is nn.Linear
    assert not {type(module) for module in network.framewise.modules()} & set(FAST)


def test_layers_put_into_a_network_of_ours_are_left_alone() -> None:
    class Adapted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    build = BUILDS["mvit_v2_video"]
    results = []
    for network in (build.network(**build.arguments), build()):
        for module in network.modules():
            if isinstance(module, nn.Linear):
                module.__class__ = Adapted
        accelerate(network)
        assert any(type(module) is Adapted for module in network.modules())
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(0.1)
            results.append(network.eval()(inputs(network)))
    torch.testing.assert_close(results[0], results[1])


def test_mlp_of_others_works_in_a_quick_block() -> None:
    network = BUILDS["mvit_v1_video"]().eval()
    x = inputs(network)
    expected = network(x)
    for block in network.blocks:  # type: ignore[union-attr]
        block.mlp = nn.Sequential(block.mlp.fc1, block.mlp.act, block.mlp.fc2)
    torch.testing.assert_close(network(x), expected)


def test_shortcut_joins_the_kernel_only_where_nothing_is_lost_and_nobody_watches() -> None:
    plain = DetailConv(3)
    fast = copy.deepcopy(plain)
    fast.__class__, fast.dwconv.__class__ = FAST[DetailConv], FAST[GridConv]
    kernels: list[Tensor] = []
    grid = torch.randn(2, 5, 6, 3)

    class Watched(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is F.conv2d:
                kernels.append(args[1].flatten(1))
            return func(*args, **(kwargs or {}))

    kernel = plain.dwconv.weight.flatten(1)
    with Watched():
        torch.testing.assert_close(fast(grid), plain(grid))
        with torch.autocast("cpu", torch.bfloat16):
            fast(grid)
        fast.dwconv.register_forward_hook(lambda *_: None)
        fast(grid)
    assert [(used - kernel)[:, 4].mean().round().item() for used in kernels] == [1, 0, 0, 0]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", ["shunted", "sgformer", "cloformer"])
def test_convolutions_get_channels_last_and_copy_nothing(name: str, bf16: bool) -> None:
    """Neither tokens (B, h, w, C) nor images (B, C, H, W), of which the first alone comes as the caller has it."""
    network = BUILDS[name]()
    convolutions = {path: module for path, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    copied: list[str] = []

    def check(path: str, x: Tensor) -> None:
        last = x if isinstance(convolutions[path], GridConv) else x.permute(0, 2, 3, 1)
        if not last.is_contiguous():
            copied.append(path)

    for path, module in list(convolutions.items())[1:]:
        if ".local_conv" not in path:  # Shunted's values are half of what holds them
            module.register_forward_pre_hook(lambda _, args, path=path: check(path, args[0]))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        network(inputs(network, W=96))
    assert copied == []


# -- private names of torch: when one of these fails, its code takes the slower way, or has to go -------------------


def test_torch_has_the_private_names_that_quick_networks_use() -> None:
    # Without the products of oneDNN, `F.linear` computes; without what it computes, half precision is in float32.
    assert hasattr(torch.ops.mkldnn, "_linear_pointwise")
    assert products._HAS_ONEDNN
    for name in ("_is_mkldnn_bf16_supported", "_is_mkldnn_fp16_supported"):
        assert isinstance(getattr(torch.ops.mkldnn, name)(), bool)
    assert products.HAS_GRADIENTS  # else torch's own layers keep what they keep


@pytest.mark.parametrize("without", [False, True])
def test_softmax_gradient_is_torchs_even_without_its_name(without: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hasattr(torch, "_softmax_backward_data")
    if without:
        monkeypatch.delattr(torch, "_softmax_backward_data")
    scores = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    grad, probabilities = torch.randn(2, 3, dtype=torch.float64), scores.softmax(-1)
    (expected,) = torch.autograd.grad(probabilities, scores, grad)
    torch.testing.assert_close(products.softmax_gradient(grad, probabilities.detach()), expected)


def test_network_has_its_own_backward_passes_and_without_operators_of_torch_the_slower_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: set[str] = set()
    settings = ((depthwise, "DepthwiseConv"), (recompute, "_NormLinear"), (recompute, "_GeluLinear"))
    for module, name in (*settings, (attention, "HeadGroups")):
        apply = getattr(module, name).apply
        call = lambda *args, name=name, apply=apply: used.add(name) or apply(*args)  # noqa: E731
        monkeypatch.setattr(getattr(module, name), "apply", call)
    network = BUILDS["mvit_v1_video"]()
    with torch.autocast("cpu", torch.bfloat16):
        network(inputs(network)).sum().backward()
    assert used == {"DepthwiseConv", "_NormLinear", "_GeluLinear", "HeadGroups"}
    used.clear()
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    assert not products.has_onednn()
    assert products.is_emulated(torch.bfloat16)
    for module, _ in settings:
        monkeypatch.setattr(module, "HAS_GRADIENTS", False)
    network(inputs(network)).sum().backward()
    assert used == {"HeadGroups"}  # of public operators
