"""The measured operations: for each a training step or product of its plain and its fast form, of a few milliseconds.

Shapes are those of our networks. The nearest of these decides about other shapes.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mvrec.models.fast import attention, depthwise, gelu, products
from mvrec.models.fast.choice import Step, Table

Pair = tuple[Step, Step]


def operations(dtype: torch.dtype) -> Table:
    """Return what is measured in a precision, by name; nothing in precisions that nobody trains in on CPUs."""
    exact = dtype == torch.float32
    if not exact and dtype != torch.bfloat16:
        return {}
    pairs: Table = {}
    if exact and products.has_onednn():
        pairs[products.FEW] = partial(_product, 6272, 64, 256)
        pairs[products.MANY] = partial(_product, 784, 256, 1024)
        pairs[products.INPUT_OF_FEW] = partial(_product, 6272, 64, 256, bias=False, turned=True)
        pairs[products.INPUT_OF_MANY] = partial(_product, 784, 256, 1024, bias=False, turned=True)
        pairs[products.WEIGHTS] = partial(_weight_gradient, 1568, 128, 512)
    if exact and gelu.has_fused_gelu():
        pairs[gelu.AFTER_PRODUCT[0]] = partial(_product_gelu, 6272, 64, 256)
        pairs[gelu.AFTER_PRODUCT[1]] = partial(_product_gelu, 784, 256, 1024)
        pairs[gelu.AFTER_CONVOLUTION] = partial(_convolution_gelu, 4, 28, 512)
    pairs[attention.FEW] = partial(_attention, dtype, attention.HeadGroups, 8, 196, 98, 4, 32)
    pairs[attention.NARROW] = partial(_attention, dtype, attention.RowBlocks, 1, 3136, 147, 1, 32)
    pairs[attention.WIDE] = partial(_attention, dtype, attention.RowBlocks, 1, 3136, 393, 1, 96)
    if depthwise.HAS_GRADIENTS:
        pairs[depthwise.TIME] = partial(_depthwise, dtype, (1, 4, 28, 28, 192), (3, 3, 3), 2)
        pairs[depthwise.LARGE] = partial(_depthwise, dtype, (4, 1, 28, 28, 128), (1, 5, 5), 1)
        pairs[depthwise.LARGER] = partial(_depthwise, dtype, (8, 1, 14, 14, 128), (1, 7, 7), 1)
        pairs[depthwise.WIDE] = partial(_depthwise, dtype, (1, 1, 7, 7, 1408), (1, 5, 5), 1)
        if not exact:
            pairs[depthwise.STRIDED] = partial(_depthwise, dtype, (4, 1, 28, 28, 128), (1, 3, 3), 2)
    pairs[products.POINTWISE] = partial(_pointwise, dtype, 8, 28, 64, 256)
    return pairs


def _randn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw from a generator of its own, because nobody else's numbers may depend on a measurement."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), device="cpu").to(dtype)


def _product(rows: int, channels: int, outputs: int, *, bias: bool = True, turned: bool = False) -> Pair:
    weight = _randn(channels, outputs).T if turned else _randn(outputs, channels)
    parts = _randn(rows, channels), weight, _randn(outputs) if bias else None
    return _without_gradients(F.linear, products.by_onednn, parts)


def _weight_gradient(rows: int, channels: int, outputs: int) -> Pair:
    parts = _randn(rows, outputs).T, _randn(rows, channels).T, None
    return _without_gradients(F.linear, products.by_onednn, parts)


def _product_gelu(rows: int, channels: int, outputs: int) -> Pair:
    def apart(*parts: Tensor) -> Tensor:
        return F.gelu(products.product(*parts))

    parts = _randn(rows, channels), _randn(outputs, channels), _randn(outputs)
    return _without_gradients(apart, partial(gelu.product_gelu, approximate="none"), parts)


def _convolution_gelu(batch: int, size: int, channels: int) -> Pair:
    def apart(grid: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.gelu(F.conv2d(grid, weight, bias, 1, 1, 1, channels))

    grid = _randn(batch, size, size, channels).permute(0, 3, 1, 2)
    fused = partial(gelu.convolution_gelu, padding=(1, 1), approximate="none")
    return _without_gradients(apart, fused, (grid, _randn(channels, 1, 3, 3), _randn(channels)))


def _without_gradients(plain: Callable[..., Tensor], fast: Callable[..., Tensor], parts: tuple[object, ...]) -> Pair:
    def run(form: Callable[..., Tensor]) -> None:
        with torch.no_grad():
            form(*parts)

    return partial(run, plain), partial(run, fast)


def _step(form: Callable[..., Tensor], parts: list[Tensor], *others: object) -> None:
    """Compute a form and its gradients."""
    out = form(*parts, *others)
    torch.autograd.grad(out, parts, torch.ones_like(out))


def _pair(plain: Callable[..., Tensor], fast: Callable[..., Tensor], parts: list[Tensor], *others: object) -> Pair:
    parts = [part.requires_grad_() for part in parts]
    return partial(_step, plain, parts, *others), partial(_step, fast, parts, *others)


def _attention(
    dtype: torch.dtype, form: type[torch.autograd.Function], batch: int, queries: int, keys: int, heads: int, width: int
) -> Pair:
    parts = [_randn(batch, count, heads, width, dtype=dtype) for count in (queries, keys, keys)]
    return _pair(attention.fused, form.apply, parts, width**-0.5)


def _depthwise(dtype: torch.dtype, grid: tuple[int, ...], kernel: tuple[int, int, int], stride: int) -> Pair:
    channels, padding = grid[-1], tuple(size // 2 for size in kernel)
    parts = [_randn(*grid, dtype=dtype), _randn(channels, 1, *kernel, dtype=dtype), _randn(channels, dtype=dtype)]
    return _pair(depthwise.convolve, depthwise.DepthwiseConv.apply, parts, stride, padding)


def _pointwise(dtype: torch.dtype, batch: int, size: int, channels: int, outputs: int) -> Pair:
    def convolution(grid: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(grid.permute(0, 3, 1, 2), weight[:, :, None, None], bias).permute(0, 2, 3, 1)

    parts = [_randn(batch, size, size, channels, dtype=dtype), _randn(outputs, channels, dtype=dtype)]
    return _pair(convolution, products.linear, [*parts, _randn(outputs, dtype=dtype)])
