"""Both kinds of SG-Former's attention against their definitions, written out token by token."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvrec.models.sgformer import GuidedAttention, HybridAttention, Stage

CHUNKS = {8: (196, 56, 28), 4: (49, 14, 7), 2: (2, 1)}  # of the released networks, by sr_ratio


def attention(kind: type[nn.Module], sr_ratio: int) -> Any:
    """A released kind of attention on 16 channels, with weights of ordinary size."""
    torch.manual_seed(0)
    stage = Stage(dim=16, depth=2, heads=4, sr_ratio=sr_ratio, mlp_ratio=1, chunks=CHUNKS[sr_ratio])
    module = kind(stage).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def tokens(h: int, w: int) -> Tensor:
    return torch.randn(2, h, w, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def random_importance(h: int, w: int) -> Tensor:
    return torch.rand(2, h, w, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def projections(module: Any, grid: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values of one sample `(h, w, C)` for patches and windows, each as a grid."""
    h, w, dim = grid.shape
    sr = module.sr_ratio
    rows = []
    for i in range(0, h, sr):
        merged = []
        for j in range(0, w, sr):
            patch = grid[i : i + sr, j : j + sr]
            weight = module.sr.weight[:, :, : patch.shape[0], : patch.shape[1]]
            cell = torch.einsum("ocij,ijc->o", weight, patch) + module.sr.bias
            merged.append(module.kv1(F.gelu(F.layer_norm(cell, (dim,), module.norm.weight, module.norm.bias, 1e-5))))
        rows.append(torch.stack(merged))
    return module.q1(grid), torch.stack(rows), module.q2(grid), module.kv2(grid)


def attended_reference(module: Any, q1: Tensor, kv1: Tensor, q2: Tensor, kv2: Tensor) -> tuple[Tensor, Tensor]:
    """Patch by patch and window by window: all heads' values, and the importance. Nothing is padded."""
    h, w, half = q1.shape
    sr, d = module.sr_ratio, module.head_dim
    attended, importance = q1.new_zeros(h, w, 2 * half), q1.new_zeros(h, w)

    q, (k, v) = q1.reshape(-1, half), kv1.reshape(-1, 2 * half).chunk(2, -1)
    for head, (q_, k_, v_) in enumerate(zip(*(x.split(d, -1) for x in (q, k, v)), strict=True)):
        p = torch.softmax(q_ @ k_.T / math.sqrt(d), -1)
        attended[..., head * d : (head + 1) * d] = (p @ v_).reshape(h, w, d)
        received = p.mean(0).reshape(kv1.shape[:2]) / (half // d)
        importance += received.repeat_interleave(sr, 0).repeat_interleave(sr, 1)[:h, :w]

    for i in range(0, h, 7):
        for j in range(0, w, 7):
            window = slice(i, i + 7), slice(j, j + 7)
            size = q2[window].shape[:2]
            q, (k, v) = q2[window].reshape(-1, half), kv2[window].reshape(-1, 2 * half).chunk(2, -1)
            for head, (q_, k_, v_) in enumerate(zip(*(x.split(d, -1) for x in (q, k, v)), strict=True)):
                p = torch.softmax(q_ @ k_.T / math.sqrt(d), -1)
                attended[(*window, slice(half + head * d, half + (head + 1) * d))] = (p @ v_).reshape(*size, d)
                importance[window] += p.sum(0).reshape(size) / 49 / (half // d)
    return attended, importance


def projected_reference(module: Any, attended: Tensor, grid: Tensor) -> Tensor:
    """Adds to every token its 3x3 neighbours, channel by channel, and projects."""
    h, w, _ = grid.shape
    linear = module.lepe_linear(grid)
    out = attended + module.lepe_conv.bias
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            to = (slice(max(-di, 0), h - max(di, 0)), slice(max(-dj, 0), w - max(dj, 0)))
            of = (slice(max(di, 0), h - max(-di, 0)), slice(max(dj, 0), w - max(-dj, 0)))
            out[to] = out[to] + linear[of] * module.lepe_conv.weight[:, 0, di + 1, dj + 1]
    return module.proj(out)


@torch.no_grad()
@pytest.mark.parametrize(("sr_ratio", "h", "w"), [(2, 9, 12), (2, 2, 15), (4, 22, 7), (8, 5, 5), (8, 20, 33)])
def test_hybrid_attention_equals_its_definition_token_by_token(sr_ratio: int, h: int, w: int) -> None:
    """The borders of the grid cut windows and patches; the recording has whole ones."""
    module, grid = attention(HybridAttention, sr_ratio), tokens(h, w)
    out, importance = module(grid)
    for b in range(2):
        attended, expected = attended_reference(module, *projections(module, grid[b]))
        expected = projected_reference(module, attended, grid[b]), expected
        torch.testing.assert_close((out[b], importance[b]), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("autocast", [False, True], ids=["model", "autocast"])
def test_importance_in_bfloat16_is_computed_in_float32(autocast: bool) -> None:
    """Tokens are sorted, so nothing after the queries and keys may be rounded to bfloat16."""
    module = attention(HybridAttention, 2).to(torch.float32 if autocast else torch.bfloat16)
    grid = tokens(9, 12).to(torch.float32 if autocast else torch.bfloat16)
    outputs: dict[str, Tensor] = {}
    for name in ("q1", "kv1", "q2", "kv2"):
        getattr(module, name).register_forward_hook(lambda _m, _a, out, name=name: outputs.update({name: out}))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out, importance = module(grid)
    assert {x.dtype for x in (out, *outputs.values())} == {torch.bfloat16}
    assert importance.dtype == torch.float32
    assert not importance.requires_grad
    for b in range(2):
        parts = (outputs[name][b].detach().double() for name in ("q1", "kv1", "q2", "kv2"))
        expected = attended_reference(module, *parts)[1]
        torch.testing.assert_close(importance[b].double(), expected, rtol=1e-5, atol=0)


def merged_reference(module: Any, sequence: list[Tensor], values: list[float]) -> Tensor:
    """The tokens of one sample, sorted, cut into parts and chunks, and each chunk a weighted sum: `(M, C)`."""
    ordered = [sequence[i] for i in sorted(range(len(sequence)), key=lambda i: values[i])]
    n = len(ordered)
    bounds = [0, n // 2, n] if len(module.chunks) == 2 else [0, n // 4, n - n // 4, n]
    keys = []
    for i, chunk in enumerate(module.chunks):
        part, f = ordered[bounds[i] : bounds[i + 1]], getattr(module, f"f{i + 1}")
        count = -(-len(part) // chunk)
        filled = [part[place * len(part) // (count * chunk)] for place in range(count * chunk)]
        for start in range(0, len(filled), chunk):
            keys.append(sum(f.weight[0, j] * filled[start + j] for j in range(chunk)) + f.bias)
    return torch.stack(keys)


def guided_reference(module: Any, grid: Tensor, importance: Tensor) -> Tensor:
    """One sample `(h, w, C)`; the second half of the heads reads the grid column by column, as the authors' does."""
    h, w, dim = grid.shape
    d = module.head_dim
    halves = []
    for kv, tokens_, values in ((module.kv1, grid, importance), (module.kv2, grid.transpose(0, 1), importance.T)):
        merged = merged_reference(module, list(tokens_.reshape(-1, dim)), values.reshape(-1).tolist())
        halves.append(kv(merged).chunk(2, -1))
    k, v = (torch.cat(pair, -1) for pair in zip(*halves, strict=True))
    q = module.q(grid.reshape(-1, dim))
    parts = [
        torch.softmax(q_ @ k_.T / math.sqrt(d), -1) @ v_
        for q_, k_, v_ in zip(*(x.split(d, -1) for x in (q, k, v)), strict=True)
    ]
    return projected_reference(module, torch.cat(parts, -1).reshape(h, w, dim), grid)


@torch.no_grad()
@pytest.mark.parametrize(("sr_ratio", "h", "w"), [(2, 3, 3), (2, 2, 2), (4, 13, 9), (8, 10, 14), (8, 29, 17)])
def test_guided_attention_equals_its_definition_token_by_token(sr_ratio: int, h: int, w: int) -> None:
    """Halves and quarters of the tokens are not whole, or chunks not full."""
    module, grid, importance = attention(GuidedAttention, sr_ratio), tokens(h, w), random_importance(h, w)
    out, rest = module(grid, importance)
    assert rest is None
    for b in range(2):
        expected = guided_reference(module, grid[b], importance[b])
        torch.testing.assert_close(out[b], expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_tokens_of_equal_importance_keep_their_order() -> None:
    module, grid = attention(GuidedAttention, 4), tokens(29, 31)
    importance = (random_importance(29, 31) * 3).round()
    merged = module._merged(grid, importance)
    for b in range(2):
        want = merged_reference(module, list(grid[b].reshape(-1, 16)), importance[b].reshape(-1).tolist())
        torch.testing.assert_close(merged[b], want)
