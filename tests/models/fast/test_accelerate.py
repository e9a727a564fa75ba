"""Plain and quick networks are one: what `accelerate` changes, and what it leaves alone."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from zoo_builds import BUILDS, inputs, lively, quick_form

from mvrec.models import Framewise, MViT, accelerate, create_model, mvit_v2_t, shunted_t
from mvrec.models.backbone import Backbone
from mvrec.models.fast import depthwise, products, recompute
from mvrec.models.fast.accelerate import FAST, NETWORKS, PLAIN, SWITCH, as_written

pytestmark = quick_form
builds = pytest.mark.parametrize("name", BUILDS)


def plain(name: str, monkeypatch: pytest.MonkeyPatch, **changes: object) -> Backbone:
    with monkeypatch.context() as patch:
        patch.setenv(SWITCH, "1")
        return lively(BUILDS[name](**changes))


@builds
@pytest.mark.parametrize("size", [64, 75])
def test_values_gradients_and_random_draws_are_those_of_the_plain_network(
    name: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = plain(name, monkeypatch, drop_path_rate=0.3).double()
    quick = accelerate(copy.deepcopy(written))
    assert not {type(module) for module in written.modules()} & set(PLAIN)
    assert not {type(module) for module in quick.modules()} & set(FAST)
    x = inputs(written, 4, H=size).double()
    results = []
    for network in (written, quick):
        torch.manual_seed(3)
        logits = network(x)
        logits.square().sum().backward()
        grads = {n: p.grad for n, p in network.named_parameters()}
        assert all(grad is not None for grad in grads.values())
        results.append((logits, grads, dict(network.named_buffers()), network.feature_maps(x)))
    torch.testing.assert_close(results[1], results[0])


@builds
def test_names_and_weights_stay(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = plain(name, monkeypatch)
    state = {key: tensor.data_ptr() for key, tensor in network.state_dict().items()}
    assert accelerate(network) is network
    assert {key: tensor.data_ptr() for key, tensor in network.state_dict().items()} == state
    assert type(network).__name__ == BUILDS[name].network.__name__  # type: ignore[attr-defined]
    assert isinstance(network, BUILDS[name].network)  # type: ignore[arg-type]
    kinds = [type(module) for module in network.modules()]
    assert [type(module) for module in accelerate(network).modules()] == kinds


@builds
def test_for_a_while_as_written(name: str) -> None:
    network = BUILDS[name]()
    network.reset_head(3)  # of torch's own layers
    kinds = [type(module) for module in network.modules()]
    with as_written(network):
        assert not {type(module) for module in network.modules()} & set(PLAIN)
    with pytest.raises(ValueError, match="expected"), as_written(network):
        network(torch.zeros(1))
    assert [type(module) for module in network.modules()] == kinds


def test_plain_is_what_a_function_gives_and_what_the_environment_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        assert type(mvit_v2_t()) is MViT
        assert type(create_model("mvit_v2_t")) is FAST[MViT]
        monkeypatch.setenv(SWITCH, "0")
        assert type(create_model("mvit_v2_t")) is FAST[MViT]
        monkeypatch.setenv(SWITCH, "1")
        assert type(create_model("mvit_v2_t")) is MViT


def test_networks_of_others_are_left_alone() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)
            with torch.device("meta"):
                self.ours = Framewise(shunted_t(), num_frames=2)

    network = accelerate(Own())
    assert type(network.linear) is nn.Linear
    assert not {type(module) for module in network.ours.modules()} & set(FAST)


def test_layers_that_somebody_put_in_are_left_alone() -> None:
    class Adapted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    build = BUILDS["mvit_v2_video"]
    results = []
    for before in (True, False):
        network = build.network(**build.arguments) if before else build()
        torch.manual_seed(0)
        lively(network)
        for module in network.modules():
            if isinstance(module, nn.Linear):
                module.__class__ = Adapted
        accelerate(network)
        assert any(type(module) is Adapted for module in network.modules())
        results.append(network.state_dict())
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(0.1)
            results[-1] = network.eval()(inputs(network))
    torch.testing.assert_close(results[0], results[1])


def test_parts_of_others_work_in_a_quick_block() -> None:
    network = BUILDS["mvit_v1_video"]().eval()
    x = inputs(network)
    expected = network(x)
    for block in network.blocks:  # type: ignore[union-attr]
        block.mlp = nn.Sequential(block.mlp.fc1, block.mlp.act, block.mlp.fc2)
    torch.testing.assert_close(network(x), expected)


def test_every_network_has_its_table() -> None:
    assert {build.network for build in BUILDS.values()} == set(NETWORKS)


# -- private names of torch: when one of these fails, the code beside it takes the slower way, or has to go ------------


def test_torch_has_the_products_of_onednn() -> None:
    """Products fall back to `F.linear` without it."""
    assert hasattr(torch.ops.mkldnn, "_linear_pointwise")
    assert (torch.backends.cpu.get_cpu_capability() == "AVX512") == products._HAS_ONEDNN


@pytest.mark.parametrize("name", ["_is_mkldnn_bf16_supported", "_is_mkldnn_fp16_supported"])
def test_torch_says_what_onednn_computes(name: str) -> None:
    """Without it gradients of half precision are computed in float32."""
    assert isinstance(getattr(torch.ops.mkldnn, name)(), bool)


@pytest.mark.parametrize("without", [False, True])
def test_torch_has_the_backward_pass_of_a_softmax(without: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the formula is written out."""
    assert hasattr(torch, "_softmax_backward_data")
    if without:
        monkeypatch.delattr(torch, "_softmax_backward_data")
    scores = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    grad, probabilities = torch.randn(2, 3, dtype=torch.float64), scores.softmax(-1)
    (expected,) = torch.autograd.grad(probabilities, scores, grad)
    torch.testing.assert_close(products.softmax_gradient(grad, probabilities.detach()), expected)


def test_torch_has_the_operators_of_its_own_gradients() -> None:
    """Without them torch's own layers keep what they keep."""
    assert products.HAS_GRADIENTS


def test_without_an_operator_the_slower_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    assert not products._has_onednn()
    assert depthwise._sums_in_half(torch.bfloat16)
    used: list[str] = []
    for module, name in ((depthwise, "_DepthwiseConv"), (recompute, "_NormLinear"), (recompute, "_GeluLinear")):
        monkeypatch.setattr(getattr(module, name), "apply", lambda *_, name=name: used.append(name))
        monkeypatch.setattr(module, "HAS_GRADIENTS", False)
    network = BUILDS["mvit_v1_video"]()
    network(inputs(network)).sum().backward()
    assert used == []
