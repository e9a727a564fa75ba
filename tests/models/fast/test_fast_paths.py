"""What is computed in another way than it is written in the papers: equal values, equal gradients."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvrec.models import MViT, accelerate
from mvrec.models.fast import attention, depthwise, products
from mvrec.models.fast.accelerate import as_written
from mvrec.models.fast.attention import attention as attend
from mvrec.models.fast.depthwise import depthwise_conv
from mvrec.models.fast.products import Linear
from mvrec.models.fast.recompute import gelu_linear, norm_linear


def reference_conv(
    grid: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: tuple[int, int, int]
) -> Tensor:
    clip = grid.permute(0, 4, 1, 2, 3).contiguous()
    return F.conv3d(clip, weight, bias, (1, stride, stride), padding, groups=len(weight)).permute(0, 2, 3, 4, 1)


# -- depthwise convolution -------------------------------------------------------------------------------------------

OVER_TIME = [(3, 3, 3), (5, 3, 1), (2, 4, 4), (3, 5, 5)]
FLAT = [(1, 3, 3), (1, 5, 5), (1, 7, 7), (1, 9, 9), (1, 4, 6), (1, 5, 2), (1, 1, 7)]


@pytest.mark.parametrize("kernel", OVER_TIME + FLAT)
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("thw", [(4, 6, 7), (1, 5, 5), (2, 4, 9)])
def test_a_convolution_and_its_gradients(kernel, stride, thw):
    padding = tuple(k // 2 for k in kernel)
    grid = torch.randn(2, *thw, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 1, *kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
    ours = depthwise._DepthwiseConv.apply(grid, weight, bias, stride, padding)
    theirs = reference_conv(grid, weight, bias, stride, padding)
    torch.testing.assert_close(depthwise_conv(grid, weight, bias, stride=stride, padding=padding), theirs)
    torch.testing.assert_close(ours, theirs)
    of_output = torch.randn_like(theirs)
    for found, expected in zip(
        torch.autograd.grad(ours, (grid, weight, bias), of_output),
        torch.autograd.grad(theirs, (grid, weight, bias), of_output),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)
        assert found.stride() == expected.stride() or found.is_contiguous()


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_a_large_kernel_with_any_padding(padding):
    grid = torch.randn(3, 1, 9, 11, 4, dtype=torch.float64)
    weight = torch.randn(4, 1, 1, 5, 7, dtype=torch.float64, requires_grad=True)
    for stride in (1, 2):
        ours = depthwise_conv(grid, weight, stride=stride, padding=(0, padding, padding))
        theirs = reference_conv(grid, weight, None, stride, (0, padding, padding))
        found, expected = (torch.autograd.grad(out.square().sum(), weight)[0] for out in (ours, theirs))
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), (1, 5, 3)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "autocast"])
@pytest.mark.parametrize("has_half", [True, False])
def test_which_backward_pass_is_ours(monkeypatch, kernel, stride, dtype, has_half):
    calls: list[int] = []
    monkeypatch.setattr(depthwise, "_sums_in_half", lambda dtype: dtype == torch.bfloat16 and not has_half)
    monkeypatch.setattr(depthwise._DepthwiseConv, "apply", lambda grid, *rest: calls.append(1) or grid)
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    grid, weight = torch.randn(1, 2, 5, 5, 3, dtype=kind), torch.randn(3, 1, *kernel, dtype=kind, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "autocast"):
        depthwise_conv(grid, weight, stride=stride, padding=(kernel[0] // 2, 1, 1))
        depthwise_conv(grid, weight.detach(), stride=stride, padding=(kernel[0] // 2, 1, 1))
    assert len(calls) == int(kernel != (1, 3, 3) or (dtype != "float32" and (stride == 2 or not has_half)))


@pytest.mark.parametrize(("stride", "kernel"), [(1, (3, 3, 3)), (3, (3, 3, 3)), (1, (1, 5, 5)), (2, (1, 5, 4))])
def test_first_and_second_derivatives_of_a_convolution(stride, kernel):
    grid = torch.randn(1, 2, 4, 5, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, *kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)

    def call(grid: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return depthwise_conv(grid, weight, bias, stride=stride, padding=(kernel[0] // 2, 1, 1))

    assert torch.autograd.gradcheck(call, (grid, weight, bias))
    assert torch.autograd.gradgradcheck(call, (grid, weight, bias))


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 5, 5)])
@pytest.mark.parametrize("frozen", ["grid", "weight", "bias"])
def test_what_needs_no_gradient_gets_none(frozen, kernel):
    parts = {"grid": torch.randn(1, 2, 4, 4, 3), "weight": torch.randn(3, 1, *kernel), "bias": torch.randn(3)}
    for name, part in parts.items():
        part.requires_grad_(name != frozen)
    depthwise_conv(**parts, stride=2, padding=(kernel[0] // 2, 1, 1)).sum().backward()
    for name, part in parts.items():
        assert (part.grad is None) == (frozen == name)


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), (1, 5, 5), (1, 9, 9)])
@pytest.mark.parametrize("stride", [1, 2])
def test_half_precision_loses_no_more_than_its_own_rounding(kernel, stride):
    grid = torch.randn(1, 4, 9, 9, 8).bfloat16().requires_grad_()
    weight = torch.randn(8, 1, *kernel).bfloat16().requires_grad_()
    padding = tuple(k // 2 for k in kernel)
    out = depthwise_conv(grid, weight, stride=stride, padding=padding)
    of_output = torch.randn_like(out)
    found = torch.autograd.grad(out, (grid, weight), of_output)
    exact = [part.detach().double().requires_grad_() for part in (grid, weight)]
    expected = torch.autograd.grad(reference_conv(*exact, None, stride, padding), exact, of_output.double())
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.bfloat16
        assert ((ours - theirs).abs() <= theirs.abs() * 2**-8 + 2e-5).all()


# -- attention -------------------------------------------------------------------------------------------------------


@pytest.fixture
def few_rows(monkeypatch):
    """Blocks of 7 queries, so that there are several and the last one is cut, however few scores there are."""
    monkeypatch.setattr(attention, "ROWS", 7)
    monkeypatch.setattr(attention, "FEW_SCORES", 0)
    monkeypatch.setattr(attention, "GROUP_SCORES", 0)


def operands(dtype: torch.dtype, *, narrow: int = 0) -> list[Tensor]:
    widths, counts = (16, 16, 16 - narrow), (40, 11, 11)
    return [torch.randn(2, n, 3, d).to(dtype).requires_grad_() for n, d in zip(counts, widths, strict=True)]


@pytest.mark.parametrize("narrow", [0, 5])
@pytest.mark.parametrize("scale", [0.25, 1.0])
@pytest.mark.parametrize("way", ["rows", "one head", "four heads", "all heads"])
def test_blocks_and_groups_are_the_whole(few_rows, monkeypatch, narrow, scale, way):
    parts = operands(torch.float64, narrow=narrow)  # of 2 x 3 heads
    scores = 40 * 11
    monkeypatch.setattr(attention, "GROUP_SCORES", {"four heads": 4 * scores, "all heads": 10**6}.get(way, 0))
    own = attention._RowBlocks if way == "rows" else attention._HeadGroups
    ours = own.apply(*parts, scale)
    q, k, v = (part.transpose(1, 2) for part in parts)
    theirs = ((scale * q @ k.mT).softmax(-1) @ v).transpose(1, 2)
    torch.testing.assert_close(ours, theirs)
    of_output = torch.randn_like(theirs)
    for found, expected in zip(
        torch.autograd.grad(ours, parts, of_output), torch.autograd.grad(theirs, parts, of_output), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # keys and values add up in float32


@pytest.mark.parametrize("narrow", [0, 5])
def test_fused_kernels_take_narrow_values(narrow):
    q, k, v = operands(torch.float64, narrow=narrow)
    expected = ((0.25 * q.transpose(1, 2) @ k.transpose(1, 2).mT).softmax(-1) @ v.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(attend(q, k, v, scale=0.25), expected)


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("many", [True, False])
def test_which_attention_is_whose(monkeypatch, onednn, many):
    calls: list[str] = []
    for own in (attention._RowBlocks, attention._HeadGroups):
        monkeypatch.setattr(own, "apply", lambda q, *rest, own=own: calls.append(f"{own.__name__} {q.dtype}") or q)
    monkeypatch.setattr(products, "_HAS_ONEDNN", onednn)
    for limit in ("FEW_SCORES", "GROUP_SCORES"):
        monkeypatch.setattr(attention, limit, 440 if many else 441)  # 40 queries x 11 keys
    of_half = f"{'_RowBlocks' if many else '_HeadGroups'} torch.bfloat16"
    of_single = ["_RowBlocks torch.float32"] if many and onednn else []
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        attend(*operands(dtype), scale=1.0)
    assert calls == [*of_single, of_half]
    with torch.autocast("cpu", torch.bfloat16):
        attend(*operands(torch.float32), scale=1.0)
    assert calls == [*of_single, of_half, of_half]


# -- products --------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_product_is_small(monkeypatch):
    monkeypatch.setattr(products, "SMALL", 1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 10), (2, 3, 10), (2, 3, 4, 10), (0, 10)])
@pytest.mark.parametrize("onednn", [True, False])
def test_a_linear_layer_and_its_gradients(monkeypatch, no_product_is_small, bias, shape, onednn):
    """In either library, where this machine has both."""
    monkeypatch.setattr(products, "_HAS_ONEDNN", onednn and products._HAS_ONEDNN)
    ours, theirs = Linear(10, 6, bias=bias), nn.Linear(10, 6, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    wide = torch.randn(*shape[:-1], 20)
    results = []
    for layer in (ours, theirs):
        x = wide[..., ::2].clone().requires_grad_()
        out = layer(x[..., :])
        results.append((out, *torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])))
        with torch.no_grad():
            torch.testing.assert_close(layer(wide[..., ::2]), out)  # not contiguous
    for here, there in zip(*results, strict=True):
        torch.testing.assert_close(here, there)
        assert here.shape == there.shape


@pytest.mark.skipif(not products._HAS_ONEDNN, reason="no oneDNN products on this machine")
def test_where_onednn_computes(monkeypatch, no_product_is_small):
    used: list[torch.Size] = []
    operator = torch.ops.mkldnn._linear_pointwise
    fake = SimpleNamespace(_linear_pointwise=lambda x, *rest: used.append(x.shape) or operator(x, *rest))
    monkeypatch.setattr(torch.ops, "mkldnn", fake)
    layer, x = Linear(10, 6), torch.randn(5, 10)
    layer(x).sum().backward()
    assert used == [(5, 10), (6, 5)]  # forward, and the weight's gradient; x needs none
    with torch.no_grad():
        layer(x)
    assert len(used) == 3
    layer.double()(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        layer.float()(x)
    for small, count in ((301, 3), (300, 4)):  # 5 x 10 x 6 are 300
        monkeypatch.setattr(products, "SMALL", small)
        layer(x)
        assert len(used) == count


@pytest.mark.parametrize("group", [0, 10**6])
def test_bfloat16_is_as_good_as_products_in_bfloat16_are(few_rows, monkeypatch, group):
    monkeypatch.setattr(attention, "GROUP_SCORES", group)
    parts = operands(torch.bfloat16)
    out = attend(*parts, scale=0.25)
    grads = torch.autograd.grad(out.float().square().sum(), parts)
    wide = [part.detach().float().requires_grad_() for part in parts]
    exact = attend(*wide, scale=0.25)
    for ours, theirs in zip((out, *grads), (exact, *torch.autograd.grad(exact.square().sum(), wide)), strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours - theirs).abs().max() < 0.03 * theirs.abs().max()


# -- activations that are computed again -----------------------------------------------------------------------------


def pair(kind: str) -> tuple[nn.Module, Linear]:
    first: nn.Module = nn.LayerNorm(10, eps=1e-6) if kind == "norm" else nn.GELU()
    if isinstance(first, nn.LayerNorm):
        nn.init.normal_(first.weight)
        nn.init.normal_(first.bias)
    return first, Linear(10, 6)


CALLS = {"norm": norm_linear, "gelu": gelu_linear}


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_values_and_gradients_are_the_plain_layers(kind, dtype, autocast):
    first, linear = (module.to(dtype) for module in pair(kind))
    x = torch.randn(2, 5, 10, dtype=dtype, requires_grad=True)
    inputs = [x, *first.parameters(), *linear.parameters()]
    results = []
    for call in (CALLS[kind], lambda x, first, linear: linear(first(x))):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and dtype == torch.float32):
            out = call(x, first, linear)
        results.append((out, *torch.autograd.grad(out.float().square().sum(), inputs)))
    tolerance = 0.02 if torch.bfloat16 in (dtype, results[0][0].dtype) else 1e-6 if dtype == torch.float32 else 1e-12
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", CALLS)
def test_first_and_second_derivatives(kind):
    first, linear = (module.double() for module in pair(kind))
    x = torch.randn(3, 10, dtype=torch.float64, requires_grad=True)
    names = [(module, name) for module in (first, linear) for name, _ in module.named_parameters()]

    def call(x: Tensor, *values: Tensor) -> Tensor:
        for (module, name), value in zip(names, values, strict=True):
            del module._parameters[name]
            setattr(module, name, value)
            module._parameters[name] = value  # type: ignore[assignment]
        return CALLS[kind](x, first, linear)

    values = [getattr(module, name).detach().clone().requires_grad_() for module, name in names]
    assert torch.autograd.gradcheck(call, (x, *values))
    assert torch.autograd.gradgradcheck(call, (x, *values))


@pytest.mark.parametrize("kind", CALLS)
def test_a_layer_used_twice_gets_both_gradients(kind):
    first, linear = pair(kind)
    x = torch.randn(4, 10)
    (CALLS[kind](x, first, linear).sum() + CALLS[kind](2 * x, first, linear).square().sum()).backward()
    ours = linear.weight.grad
    linear.weight.grad = None
    (linear(first(x)).sum() + linear(first(2 * x)).square().sum()).backward()
    torch.testing.assert_close(ours, linear.weight.grad)


@pytest.mark.parametrize("kind", CALLS)
def test_frozen_layers_get_no_gradient(kind):
    first, linear = pair(kind)
    linear.requires_grad_(False)
    x = torch.randn(4, 10, requires_grad=True)
    CALLS[kind](x, first, linear).sum().backward()
    assert linear.weight.grad is None
    assert linear.bias.grad is None
    ours = x.grad
    x.grad = None
    linear(first(x)).sum().backward()
    torch.testing.assert_close(ours, x.grad)


@pytest.mark.parametrize("kind", CALLS)
def test_only_the_input_is_kept(kind):
    first, linear = pair(kind)
    x = torch.randn(100, 10, requires_grad=True)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        CALLS[kind](x, first, linear)
    assert [t.data_ptr() == x.data_ptr() for t in saved if t.numel() == x.numel()] == [True]


@pytest.mark.parametrize("kind", CALLS)
def test_hooks_and_other_layers_are_respected(kind):
    first, linear = pair(kind)
    x = torch.randn(4, 10)
    called: list[str] = []
    for module, name in ((first, "first"), (linear, "linear")):
        handle = module.register_forward_hook(lambda *_, name=name: called.append(name))
        CALLS[kind](x, first, linear)
        assert name in called
        handle.remove()

    class Doubled(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    plain = CALLS[kind](x, first, linear)
    linear.__class__ = Doubled
    torch.testing.assert_close(CALLS[kind](x, first, linear), 2 * plain)


# -- the whole network -----------------------------------------------------------------------------------------------

SMALL = {
    "num_classes": 5,
    "num_frames": 4,
    "image_size": 64,
    "embed_dim": 16,
    "num_heads": 1,
    "depth": 4,
    "dim_mults": {1: 2.0, 3: 2.0},
    "head_mults": {1: 2.0, 3: 2.0},
    "q_strides": {1: 2, 3: 2},
    "kv_stride": 4,
}
V2 = {"pool_every_q": True, "dim_change": "attention", "rel_pos": True, "residual_pooling": True, "pos_embed": "none"}


@pytest.mark.parametrize("more", [{}, V2], ids=["v1", "v2"])
def test_the_last_block_without_the_tokens_that_nobody_reads(more):
    """Gradients of what only other rows would need are zeros there, and not absent."""
    torch.manual_seed(0)
    network = accelerate(MViT(**SMALL, **more)).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0, 0.2)
    clip = torch.randn(2, 3, 4, 64, 64, dtype=torch.float64)
    results = []
    for whole in (False, True):
        network.zero_grad()
        with as_written(network) if whole else torch.enable_grad():
            out = network(clip)
        out.square().sum().backward()
        results.append((out, [parameter.grad for parameter in network.parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0])
    for (name, _), ours, theirs in zip(network.named_parameters(), results[0][1], results[1][1], strict=True):
        assert ours is not None, name
        torch.testing.assert_close(ours, theirs, msg=lambda text, name=name: f"{name}: {text}")


def test_checkpointing_still_spares_the_activations():
    """The functions of our own give what they keep to the hooks that are on."""
    network = accelerate(MViT(**SMALL))
    clip = torch.randn(1, 3, 4, 64, 64)
    kept = []
    for on in (False, True):
        network.set_activation_checkpointing(on)
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t):
            network(clip)
        kept.append(sum(saved))
    assert kept[1] < 0.5 * kept[0]
