"""Softmax attention by the fastest exact way of the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mvrec.models.products import goes_by_onednn, product

ROWS = 1024  # queries at a time per thread: their scores stay in the cache
FEW_SCORES = 2**16  # per head; below, the calls of a block cost more than they save


class Attended(NamedTuple):
    """What went into an attention and came out of it: `(B, N, heads, d)` each."""

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    out: Tensor


_records: list[list[Attended]] = []


@contextmanager
def recorded_attention() -> Iterator[list[Attended]]:
    """Note every attention in the list that this gives, in the order of the calls.

    No probabilities are formed here. Queries and keys are enough to form them afterwards, as exactly as the network's
    own, relative positions included.
    """
    _records.append([])
    try:
        yield _records[-1]
    finally:
        _records.pop()


def attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """`softmax(scale * q k^T) v` of every head.

    Args:
        q: `(B, N, heads, d)`.
        k: `(B, M, heads, d)`.
        v: `(B, M, heads, d_v)`, at most as wide as `q`.
        scale: Of the scores.

    Returns:
        `(B, N, heads, d_v)`.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else q.dtype
    if _goes_by_rows(q, k, dtype):
        out = _RowBlocks.apply(q.to(dtype), k.to(dtype), v.to(dtype), scale)
    else:
        out = _fused(q, k, v, scale)
    for calls in _records:
        calls.append(Attended(q, k, v, scale, out))
    return out


def _goes_by_rows(q: Tensor, k: Tensor, dtype: torch.dtype) -> bool:
    """Whether plain products of a block of rows at a time beat torch's fused kernel.

    Zen 5, one core, 393 to 25,089 queries, 393 keys, with and without gradients: in bfloat16 the fused kernel takes 1.6
    to 2.5 times as long; in float32 1.4 to 1.8 times where products go by oneDNN, and the same elsewhere.
    """
    if torch.compiler.is_compiling() or q.device.type != "cpu" or q.shape[1] * k.shape[1] < FEW_SCORES:
        return False
    return dtype == torch.bfloat16 or goes_by_onednn(q)


def _fused(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    width = v.shape[-1]
    # Flash kernels take one width for q, k and v.
    v = F.pad(v, (0, q.shape[-1] - width)) if q.shape[-1] != width else v
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, heads, N, d)
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)[..., :width]


class _RowBlocks(torch.autograd.Function):
    """Attention of a head and `ROWS` queries at a time, whose probabilities are computed again in the backward pass."""

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
            for kept, found in zip(grads, _head_gradients(of_q, of_k, of_v, of_out, ctx.scale), strict=True):
                kept[sample, :, head] = found
        return *grads, None


def _head_gradients(q: Tensor, k: Tensor, v: Tensor, grad: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of one head: `(N, d)`, `(M, d)`, `(M, d_v)`. Keys' and values' add up in float32."""
    exact = torch.promote_types(q.dtype, torch.float32)
    k, v, k_turned = k.contiguous(), v.contiguous(), k.T.contiguous()
    grad_q = torch.empty_like(q, memory_format=torch.contiguous_format)
    grad_k, grad_v = (torch.zeros(part.shape, dtype=exact) for part in (k, v))
    for rows in _blocks(len(q)):
        queries, of_out = q[rows] * scale, grad[rows].contiguous()
        probabilities = product(queries, k).softmax(-1)
        grad_v += product(probabilities.T, of_out.T)
        of_scores = torch._softmax_backward_data(product(of_out, v), probabilities, -1, probabilities.dtype)
        grad_q[rows] = product(of_scores, k_turned)
        grad_k += product(of_scores.T, queries.T)
    return grad_q.mul_(scale), grad_k, grad_v


def _heads(q: Tensor) -> list[tuple[int, int]]:
    return [(sample, head) for sample in range(q.shape[0]) for head in range(q.shape[2])]


def _blocks(count: int) -> list[slice]:
    rows = ROWS * torch.get_num_threads()
    return [slice(begin, begin + rows) for begin in range(0, count, rows)]
