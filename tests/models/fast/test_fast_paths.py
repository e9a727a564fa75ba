"""Computations that differ from their form in the papers: equal values, equal gradients."""

import itertools
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mvrec.models.fast import attention, depthwise, gelu, products
from mvrec.models.fast.attention import attention as attend
from mvrec.models.fast.depthwise import depthwise_conv
from mvrec.models.fast.products import Linear
from mvrec.models.fast.recompute import gelu_linear, norm_linear


def reference_conv(
    grid: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: tuple[int, int, int]
) -> Tensor:
    clip = grid.permute(0, 4, 1, 2, 3).contiguous()
    return F.conv3d(clip, weight, bias, (1, stride, stride), padding, groups=len(weight)).permute(0, 2, 3, 4, 1)


def check_close(result: Sequence[Tensor], reference: Sequence[Tensor], case: object, **tolerance: float) -> None:
    for left, right in zip(result, reference, strict=True):
        torch.testing.assert_close(left, right, msg=lambda text: f"{case}: {text}", **tolerance)


GRIDS = [(4, 6, 7), (1, 5, 5)]
KERNELS = [(3, 3, 3), (5, 3, 1), (2, 4, 4), (1, 3, 3), (1, 5, 5), (1, 9, 9), (1, 4, 6), (1, 1, 7)]
CONVOLUTIONS = [
    *((k, stride, thw, tuple(n // 2 for n in k)) for k in KERNELS for stride in (1, 2, 3, 4) for thw in GRIDS),
    *(((1, 5, 7), stride, (1, 9, 11), (0, padding, padding)) for stride in (1, 2) for padding in (0, 1, 4)),
]


def test_convolution_and_its_gradients_are_torchs():
    for case in CONVOLUTIONS:
        kernel, stride, thw, padding = case
        grid = torch.randn(2, *thw, 6, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(6, 1, *kernel, dtype=torch.float64, requires_grad=True)
        parts = grid, weight, torch.randn(6, dtype=torch.float64, requires_grad=True)
        result = depthwise.DepthwiseConv.apply(*parts, stride, padding)
        reference = reference_conv(*parts, stride, padding)
        check_close([depthwise_conv(*parts, stride=stride, padding=padding), result], [reference, reference], case)
        of_output = torch.randn_like(reference)
        grads, expected = (torch.autograd.grad(out, parts, of_output) for out in (result, reference))
        check_close(grads, expected, case)
        for result, reference in zip(grads, expected, strict=True):
            assert result.stride() == reference.stride() or result.is_contiguous(), case


@pytest.mark.parametrize(("stride", "kernel"), [(3, (3, 3, 3)), (2, (1, 5, 4))])
def test_convolution_has_correct_second_derivatives(stride, kernel):
    shapes = (1, 2, 3, 4, 2), (2, 1, *kernel), (2,)
    parts = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    padding = (kernel[0] // 2, 1, 1)
    assert torch.autograd.gradgradcheck(lambda *parts: depthwise_conv(*parts, stride=stride, padding=padding), parts)


def test_frozen_part_of_a_convolution_gets_no_gradient():
    for kernel, frozen in itertools.product(((3, 3, 3), (1, 5, 5)), ("grid", "weight", "bias")):
        parts = {"grid": torch.randn(1, 2, 4, 4, 3), "weight": torch.randn(3, 1, *kernel), "bias": torch.randn(3)}
        for name, part in parts.items():
            part.requires_grad_(name != frozen)
        depthwise_conv(**parts, stride=2, padding=(kernel[0] // 2, 1, 1)).sum().backward()
        assert [name for name, part in parts.items() if part.grad is None] == [frozen], kernel


def test_convolution_in_half_precision_loses_no_more_than_its_rounding():
    for case in itertools.product(((3, 3, 3), (1, 3, 3), (1, 9, 9)), (1, 2)):
        kernel, stride = case
        grid = torch.randn(1, 4, 9, 9, 8).bfloat16().requires_grad_()
        weight = torch.randn(8, 1, *kernel).bfloat16().requires_grad_()
        padding = tuple(k // 2 for k in kernel)
        out = depthwise_conv(grid, weight, stride=stride, padding=padding)
        of_output = torch.randn_like(out)
        grads = torch.autograd.grad(out, (grid, weight), of_output)
        exact = [part.detach().double().requires_grad_() for part in (grid, weight)]
        expected = torch.autograd.grad(reference_conv(*exact, None, stride, padding), exact, of_output.double())
        for result, reference in zip(grads, expected, strict=True):
            assert result.dtype == torch.bfloat16
            assert ((result - reference).abs() <= reference.abs() * 2**-8 + 2e-5).all(), case


@pytest.fixture
def few_rows(monkeypatch):
    """Blocks of 7 queries, so that there are several and the last one is cut, however few scores there are."""
    monkeypatch.setattr(attention, "ROWS", 7)
    monkeypatch.setattr(attention, "FEW_SCORES", 0)
    monkeypatch.setattr(attention, "GROUP_SCORES", 0)


def operands(dtype: torch.dtype, *, narrow: int = 0) -> list[Tensor]:
    widths, counts = (16, 16, 16 - narrow), (40, 11, 11)
    return [torch.randn(2, n, 3, d).to(dtype).requires_grad_() for n, d in zip(counts, widths, strict=True)]


def written_out(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    return ((scale * q @ k.mT).softmax(-1) @ v).transpose(1, 2)


def test_attention_by_blocks_and_groups_is_the_whole(few_rows, monkeypatch):
    ways = {"rows": 0, "one head": 0, "four heads": 4 * 40 * 11, "all heads": 10**6}  # of 2 x 3
    for case in itertools.product((0, 5), ways):
        narrow, way = case
        parts = operands(torch.float64, narrow=narrow)
        monkeypatch.setattr(attention, "GROUP_SCORES", ways[way])
        result = (attention.RowBlocks if way == "rows" else attention.HeadGroups).apply(*parts, 0.25)
        reference = written_out(*parts, 0.25)
        check_close([result, attend(*parts, scale=0.25)], [reference, reference], case)
        of_output = torch.randn_like(reference)
        grads = [torch.autograd.grad(out, parts, of_output) for out in (result, reference)]
        check_close(*grads, case, rtol=1e-5, atol=1e-6)  # keys and values add up in float32


@pytest.mark.parametrize("onednn", [True, False])
def test_linear_layer_and_its_gradients_are_torchs(monkeypatch, onednn):
    """In either library, where this machine has both; tokens need not be contiguous."""
    monkeypatch.setattr(products, "SMALL", 1)
    monkeypatch.setattr(products, "_HAS_ONEDNN", onednn and products._HAS_ONEDNN)
    for case in itertools.product((True, False), ((5, 10), (2, 3, 4, 10), (0, 10))):
        bias, shape = case
        result, reference = Linear(10, 6, bias=bias), nn.Linear(10, 6, bias=bias)
        reference.load_state_dict(result.state_dict())
        x = torch.randn(*shape[:-1], 20).requires_grad_()
        results = []
        for layer in (result, reference):
            out = layer(x[..., ::2])
            results.append((out, *torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])))
        check_close(*results, case)
        assert [left.shape for left in results[0]] == [right.shape for right in results[1]], case


@pytest.mark.parametrize("group", [0, 10**6])
def test_attention_in_bfloat16_loses_no_more_than_its_products(few_rows, monkeypatch, group):
    monkeypatch.setattr(attention, "GROUP_SCORES", group)
    parts = operands(torch.bfloat16)
    out = attend(*parts, scale=0.25)
    grads = torch.autograd.grad(out.float().square().sum(), parts)
    wide = [part.detach().float().requires_grad_() for part in parts]
    exact = attend(*wide, scale=0.25)
    for result, reference in zip((out, *grads), (exact, *torch.autograd.grad(exact.square().sum(), wide)), strict=True):
        assert result.dtype == torch.bfloat16
        assert (result - reference).abs().max() < 0.03 * reference.abs().max()


def pair(kind: str) -> tuple[nn.Module, Linear]:
    first: nn.Module = nn.LayerNorm(10, eps=1e-6) if kind == "norm" else nn.GELU()
    if isinstance(first, nn.LayerNorm):
        nn.init.normal_(first.weight)
        nn.init.normal_(first.bias)
    return first, Linear(10, 6)


CALLS = {"norm": norm_linear, "gelu": gelu_linear}
kinds = pytest.mark.parametrize("kind", CALLS)


@kinds
def test_values_and_gradients_of_a_pair_are_those_of_the_plain_layers(kind):
    for case in ((torch.float64, False), (torch.float32, False), (torch.float32, True), (torch.bfloat16, False)):
        dtype, autocast = case
        first, linear = (module.to(dtype) for module in pair(kind))
        x = torch.randn(2, 5, 10, dtype=dtype, requires_grad=True)
        inputs = [x, *first.parameters(), *linear.parameters()]
        results = []
        for call in (CALLS[kind], lambda x, first, linear: linear(first(x))):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                out = call(x, first, linear)
            results.append((out, *torch.autograd.grad(out.float().square().sum(), inputs)))
        low = torch.bfloat16 in (dtype, results[0][0].dtype)
        tolerance = 0.02 if low else 1e-6 if dtype == torch.float32 else 1e-12
        assert [result.dtype for result in results[0]] == [reference.dtype for reference in results[1]], case
        check_close(*results, case, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_with_its_layer_is_torchs(monkeypatch, approximate):
    monkeypatch.setattr(gelu, "SMALL", 1)
    act, linear, conv = nn.GELU(approximate), Linear(10, 6), nn.Conv2d(10, 10, 3, padding=1, groups=10)
    grid = torch.randn(2, 5, 7, 10)
    pointwise = nn.Conv2d(10, 6, 1)
    used: list[str] = []
    for name in ("product_gelu", "convolution_gelu"):
        form = getattr(gelu, name)
        monkeypatch.setattr(gelu, name, lambda *args, name=name, form=form: used.append(name) or form(*args))
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            result = gelu.linear_gelu(grid, linear, act), gelu.linear_gelu(grid, pointwise, act)
            result += (gelu.conv_gelu(grid, conv.weight, conv.bias, (1, 1), act),)
            reference = act(linear(grid)), act(pointwise(grid.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
            reference += (act(conv(grid.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)),)
            check_close(result, reference, grad)
    assert used == ["product_gelu", "product_gelu", "convolution_gelu"]  # without gradients
    called: list[Tensor] = []
    linear.register_forward_hook(lambda *_: called.append(grid))
    with torch.no_grad():
        check_close([gelu.linear_gelu(grid, linear, act)], [act(linear(grid))], "hook")
        assert gelu.linear_gelu(grid, nn.Sequential(nn.Linear(10, 6)), act).shape == (2, 5, 7, 6)  # another's layer
    assert len(called) == 2


@kinds
def test_pair_has_correct_second_derivatives(kind):
    layers = nn.ModuleList(pair(kind)).double()
    layers.forward = lambda x: CALLS[kind](x, *layers)
    names = [name for name, _ in layers.named_parameters()]
    parts = [torch.randn(3, 10, dtype=torch.float64, requires_grad=True), *layers.parameters()]

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return functional_call(layers, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradgradcheck(call, parts)


@kinds
def test_pair_used_twice_gets_both_gradients_a_frozen_one_none_and_keeps_only_its_input(kind):
    first, linear = pair(kind)
    x = torch.randn(40, 10, requires_grad=True)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        CALLS[kind](x, first, linear)
    assert [t.data_ptr() == x.data_ptr() for t in saved if t.numel() == x.numel()] == [True]
    grads = []
    for call in (CALLS[kind], lambda x, first, linear: linear(first(x))):
        total = call(x, first, linear).sum() + call(2 * x, first, linear).square().sum()
        grads.append(torch.autograd.grad(total, (linear.weight, x)))
    check_close(*grads, kind)
    linear.requires_grad_(False)
    CALLS[kind](x, first, linear).sum().backward()
    assert linear.weight.grad is linear.bias.grad is None
    check_close([x.grad], torch.autograd.grad(linear(first(x)).sum(), x), kind)


@kinds
def test_pair_calls_hooks_and_layers_of_others(kind):
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
