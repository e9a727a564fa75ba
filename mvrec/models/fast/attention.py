"""Softmax attention by the fastest exact method of the device."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mvrec.models.fast.choice import is_faster
from mvrec.models.fast.products import precision, product, softmax_gradient

ROWS = 1024  # queries at a time per thread: their scores stay in the cache
FEW_SCORES = 2**16  # per head; below, the calls of a block cost more than they save
GROUP_SCORES = 2**20  # of all heads that are computed at a time
NARROW_HEAD = 64  # channels

# The measured operations.
FEW = "attention with few scores, by groups of heads"
NARROW = "attention with many scores and narrow heads, by rows"
WIDE = "attention with many scores and wide heads, by rows"


def attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """Compute `softmax(scale * q k^T) v` for every head.

    Args:
        q: `(B, N, heads, d)`.
        k: `(B, M, heads, d)`.
        v: `(B, M, heads, d_v)`, at most as wide as `q`.
        scale: Scale of the scores.

    Returns:
        `(B, N, heads, d_v)`.
    """
    dtype = precision(q)
    method = _faster_than_fused(q, k, dtype)
    return fused(q, k, v, scale) if method is None else method.apply(q.to(dtype), k.to(dtype), v.to(dtype), scale)


def _faster_than_fused(q: Tensor, k: Tensor, dtype: torch.dtype) -> type[torch.autograd.Function] | None:
    """Return a method that is faster than torch's fused kernel, if there is one.

    On a Zen 5 that kernel takes 1.2 to 6 times as long as groups of heads in bfloat16, and 1.4 to 2.5 times as long as
    blocks of rows where there are many scores. On an Intel Xeon it is two to three times as fast in float32.
    """
    if torch.compiler.is_compiling() or q.device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return None
    if q.shape[1] * k.shape[1] < (GROUP_SCORES if dtype == torch.bfloat16 else FEW_SCORES):
        return HeadGroups if is_faster(FEW, dtype) else None
    return RowBlocks if is_faster(NARROW if q.shape[-1] <= NARROW_HEAD else WIDE, dtype) else None


def fused(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Compute `attention` with torch's fused kernel."""
    width = v.shape[-1]
    # Flash kernels require one width for q, k and v.
    v = F.pad(v, (0, q.shape[-1] - width)) if q.shape[-1] != width else v
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, heads, N, d)
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)[..., :width]


class HeadGroups(torch.autograd.Function):
    """Attention of as many heads at a time as fit in the cache; the backward pass recomputes probabilities."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.scale = scale
        out = q.new_empty(q.shape[0] * q.shape[2], q.shape[1], v.shape[-1])
        for queries, keys, values, into in _groups(q, k, v, out):
            torch.bmm((queries * scale @ keys.mT).softmax(-1), values, out=into)
        return _tokens_first(out, q)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v = ctx.saved_tensors
        grads = [part.new_empty(part.shape[0] * part.shape[2], *part.shape[1::2]) for part in (q, k, v)]
        for queries, keys, values, of_out, of_q, of_k, of_v in _groups(q, k, v, grad, *grads):
            queries = queries * ctx.scale
            probabilities = (queries @ keys.mT).softmax(-1)
            torch.bmm(probabilities.mT, of_out, out=of_v)
            of_scores = softmax_gradient(of_out @ values.mT, probabilities)
            torch.bmm(of_scores, keys, out=of_q)
            torch.bmm(of_scores.mT, queries, out=of_k)
        grads[0].mul_(ctx.scale)
        return *(_tokens_first(part, q) for part in grads), None


def _groups(q: Tensor, k: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield parts of tensors `(B, N, heads, d)` or `(B * heads, N, d)`, all in the latter form."""
    heads = max(1, GROUP_SCORES // (q.shape[1] * k.shape[1]))
    flat = [part.transpose(1, 2).flatten(0, 1) if part.ndim == 4 else part for part in (q, k, *others)]
    return zip(*(part.split(heads) for part in flat), strict=True)


def _tokens_first(x: Tensor, q: Tensor) -> Tensor:
    """`(B * heads, N, d)` to `(B, N, heads, d)`."""
    return x.unflatten(0, (q.shape[0], q.shape[2])).transpose(1, 2)


class RowBlocks(torch.autograd.Function):
    """Attention of a head and `ROWS` queries at a time; the backward pass recomputes probabilities."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.scale = scale
        out = q.new_empty(*q.shape[:3], v.shape[-1])
        for sample, head in _heads(q):
            keys, values = k[sample, :, head].contiguous(), v[sample, :, head].T.contiguous()
            for rows in _blocks(q.shape[1]):
                probabilities = product(q[sample, rows, head] * scale, keys).softmax(-1)
                out[sample, rows, head] = product(probabilities, values)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v = ctx.saved_tensors
        grads = [torch.empty_like(part, memory_format=torch.contiguous_format) for part in (q, k, v)]
        for sample, head in _heads(q):
            of_q, of_k, of_v, of_out = (part[sample, :, head] for part in (q, k, v, grad))
            for total, part in zip(grads, _head_gradients(of_q, of_k, of_v, of_out, ctx.scale), strict=True):
                total[sample, :, head] = part
        return *grads, None


def _head_gradients(q: Tensor, k: Tensor, v: Tensor, grad: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradients of one head: `(N, d)`, `(M, d)`, `(M, d_v)`; those of keys and values sum in float32."""
    exact = torch.promote_types(q.dtype, torch.float32)
    k, v, k_turned = k.contiguous(), v.contiguous(), k.T.contiguous()
    grad_q = torch.empty_like(q, memory_format=torch.contiguous_format)
    grad_k, grad_v = (torch.zeros(part.shape, dtype=exact) for part in (k, v))
    for rows in _blocks(len(q)):
        queries, of_out = q[rows] * scale, grad[rows].contiguous()
        probabilities = product(queries, k).softmax(-1)
        grad_v += product(probabilities.T, of_out.T)
        of_scores = softmax_gradient(product(of_out, v), probabilities)
        grad_q[rows] = product(of_scores, k_turned)
        grad_k += product(of_scores.T, queries.T)
    return grad_q.mul_(scale), grad_k, grad_v


def _heads(q: Tensor) -> list[tuple[int, int]]:
    return [(sample, head) for sample in range(q.shape[0]) for head in range(q.shape[2])]


def _blocks(count: int) -> list[slice]:
    rows = ROWS * torch.get_num_threads()
    return [slice(begin, begin + rows) for begin in range(0, count, rows)]
