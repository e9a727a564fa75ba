"""Both kinds of SG-Former's attention against their definitions, written out token by token."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvrec.models.sgformer import GuidedAttention, HybridAttention, Stage

CHUNKS = {8: (196, 56, 28), 4: (49, 14, 7), 2: (2, 1)}  # of the released networks, by sr_ratio


def attention(kind: type[nn.Module], sr_ratio: int, *, heads: int = 4, **changes: Any) -> Any:
    """A released kind of attention on 16 channels, with weights of ordinary size."""
    torch.manual_seed(0)
    row = {"dim": 16, "depth": 2, "heads": heads, "sr_ratio": sr_ratio, "mlp_ratio": 1, "chunks": CHUNKS[sr_ratio]}
    module = kind(Stage(**(row | changes))).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def tokens(h: int, w: int, *, size: int = 2) -> Tensor:
    """A token grid of 16 channels."""
    return torch.randn(size, h, w, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def random_importance(h: int, w: int) -> Tensor:
    return torch.rand(2, h, w, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def heads_of(x: Tensor, head_dim: int) -> list[Tensor]:
    """`(n, heads * d)` to each head's `(n, d)`."""
    return list(x.split(head_dim, -1))


def hybrid_reference(module: Any, grid: Tensor) -> tuple[Tensor, Tensor]:
    """One sample `(h, w, C)`, patch by patch and window by window; borders cut both and nothing is padded."""
    h, w, dim = grid.shape
    sr, half, d = module.sr_ratio, dim // 2, module.head_dim
    attended = torch.zeros_like(grid)
    importance = torch.zeros(h, w, dtype=grid.dtype)

    places = [(i, j) for i in range(0, h, sr) for j in range(0, w, sr)]
    keys = []
    for i, j in places:
        patch = grid[i : i + sr, j : j + sr]
        weight = module.sr.weight[:, :, : patch.shape[0], : patch.shape[1]]
        merged = torch.einsum("ocij,ijc->o", weight, patch) + module.sr.bias
        keys.append(module.kv1(F.gelu(F.layer_norm(merged, (dim,), module.norm.weight, module.norm.bias, 1e-5))))
    k, v = torch.stack(keys).chunk(2, -1)
    q = module.q1(grid.reshape(-1, dim))
    received = torch.zeros(len(places), dtype=grid.dtype)
    for head, (q_, k_, v_) in enumerate(zip(*(heads_of(x, d) for x in (q, k, v)), strict=True)):
        p = torch.softmax(q_ @ k_.T / math.sqrt(d), -1)
        attended[..., head * d : (head + 1) * d] = (p @ v_).reshape(h, w, d)
        received += p.mean(0) / (half // d)
    for (i, j), value in zip(places, received, strict=True):
        importance[i : i + sr, j : j + sr] += value

    for i in range(0, h, 7):
        for j in range(0, w, 7):
            window = grid[i : i + 7, j : j + 7]
            size, flat = window.shape[:2], window.reshape(-1, dim)
            k, v = module.kv2(flat).chunk(2, -1)
            q = module.q2(flat)
            for head, (q_, k_, v_) in enumerate(zip(*(heads_of(x, d) for x in (q, k, v)), strict=True)):
                p = torch.softmax(q_ @ k_.T / math.sqrt(d), -1)
                left = half + head * d
                attended[i : i + 7, j : j + 7, left : left + d] = (p @ v_).reshape(*size, d)
                importance[i : i + 7, j : j + 7] += p.sum(0).reshape(size) / 49 / (half // d)
    return projected_reference(module, attended, grid), importance


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


AUTHORS = [(2, 14, 14), (4, 28, 28), (8, 56, 56)]  # ratio, height and width that the authors' code runs
# Windows are cut, and with odd sizes patches too.
CUT = [(2, 14, 28), (2, 9, 12), (2, 2, 15), (4, 22, 7), (8, 5, 5), (8, 20, 33)]


@torch.no_grad()
@pytest.mark.parametrize(("sr_ratio", "h", "w"), AUTHORS + CUT)
def test_hybrid_attention_equals_its_definition_token_by_token(sr_ratio: int, h: int, w: int) -> None:
    module, grid = attention(HybridAttention, sr_ratio), tokens(h, w)
    out, importance = module(grid)
    for b in range(2):
        expected = hybrid_reference(module, grid[b])
        torch.testing.assert_close((out[b], importance[b]), expected, rtol=1e-9, atol=1e-9)


def test_tokens_without_preferences_are_equally_important() -> None:
    """Neither a cut window nor a cut patch makes its tokens more or less important."""
    module = attention(HybridAttention, 2)
    for q in (module.q1, module.q2):
        nn.init.zeros_(q.weight)
        nn.init.zeros_(q.bias)
    for h, w in ((14, 14), (9, 12), (2, 15)):
        _, importance = module(tokens(h, w))
        keys = math.ceil(h / 2) * math.ceil(w / 2)
        torch.testing.assert_close(importance, torch.full_like(importance, 1 / keys + 1 / 49))


@pytest.mark.parametrize("autocast", [False, True], ids=["model", "autocast"])
def test_importance_in_bfloat16_is_computed_in_float32(autocast: bool) -> None:
    """It sorts tokens, so nothing after the queries and keys may be rounded to bfloat16."""
    module = attention(HybridAttention, 2).to(torch.float32 if autocast else torch.bfloat16)
    grid = tokens(9, 12).to(torch.float32 if autocast else torch.bfloat16)
    made: dict[str, Tensor] = {}
    for name in ("q1", "kv1", "q2", "kv2"):
        getattr(module, name).register_forward_hook(lambda _m, _a, out, name=name: made.update({name: out}))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out, importance = module(grid)
    assert {x.dtype for x in (out, *made.values())} == {torch.bfloat16}
    assert importance.dtype == torch.float32
    assert not importance.requires_grad

    q1, kv1, q2, kv2 = (made[name].double() for name in ("q1", "kv1", "q2", "kv2"))
    want = torch.zeros(2, 9, 12, dtype=torch.float64)
    for head in (slice(0, 4), slice(4, 8)):
        p = torch.softmax(q1[..., head].flatten(1, 2) @ kv1[..., head].flatten(1, 2).mT / 2, -1)
        patches = p.mean(1).unflatten(1, (5, 6))
        want += patches.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :9] / 2
        for i in range(0, 9, 7):
            for j in range(0, 12, 7):
                q, k = (x[:, i : i + 7, j : j + 7, head] for x in (q2, kv2))
                p = torch.softmax(q.flatten(1, 2) @ k.flatten(1, 2).mT / 2, -1)
                want[:, i : i + 7, j : j + 7] += p.sum(1).unflatten(1, q.shape[1:3]) / 49 / 2
    torch.testing.assert_close(importance.double(), want, rtol=1e-5, atol=0)


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
        for q_, k_, v_ in zip(*(heads_of(x, d) for x in (q, k, v)), strict=True)
    ]
    return projected_reference(module, torch.cat(parts, -1).reshape(h, w, dim), grid)


# Halves and quarters that are not whole, chunks that are not full.
UNEVEN = [(2, 3, 3), (2, 5, 7), (2, 2, 2), (4, 13, 9), (4, 3, 3), (8, 10, 14), (8, 29, 17)]


@torch.no_grad()
@pytest.mark.parametrize(("sr_ratio", "h", "w"), [*AUTHORS, (4, 28, 56), *UNEVEN])
def test_guided_attention_equals_its_definition_token_by_token(sr_ratio: int, h: int, w: int) -> None:
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


@torch.no_grad()
def test_number_of_keys_grows_with_the_image() -> None:
    for sr_ratio, h, w, counts in (
        *((8, 56, 56, (4, 28, 28)), (4, 28, 28, (4, 28, 28)), (2, 14, 14, (49, 98))),  # the paper's 60 keys at 224
        *((8, 112, 112, (16, 112, 112)), (2, 28, 28, (196, 392))),  # four times as many at 448
        *((8, 57, 64, (5, 33, 33)), (2, 3, 3, (2, 5))),
    ):
        merged = attention(GuidedAttention, sr_ratio)._merged(tokens(h, w), random_importance(h, w))
        assert merged.shape == (2, sum(counts), 16), (sr_ratio, h, w)


@pytest.mark.parametrize(("sr_ratio", "h", "w"), [(2, 3, 3), (2, 14, 14), (4, 13, 9), (8, 10, 14), (8, 29, 17)])
def test_every_token_counts_in_the_keys_about_equally_often(sr_ratio: int, h: int, w: int) -> None:
    """At least once each, and where chunks are not full no token much more often than another."""
    module = attention(GuidedAttention, sr_ratio)
    for i in range(len(module.chunks)):
        nn.init.ones_(getattr(module, f"f{i + 1}").weight)
    grid = tokens(h, w).requires_grad_()
    importance = random_importance(h, w)
    module._merged(grid, importance).sum().backward()
    assert grid.grad is not None
    times = grid.grad[..., 0].flatten(1).gather(1, importance.flatten(1).argsort())
    n = h * w
    bounds = [0, n // 2, n] if sr_ratio == 2 else [0, n // 4, n - n // 4, n]
    for chunk, start, end in zip(module.chunks, bounds, bounds[1:], strict=False):
        filled = -(-(end - start) // chunk) * chunk
        assert (times[:, start:end].sum(1) == filled).all()
        assert times[:, start:end].min() == filled // (end - start) >= 1
        assert times[:, start:end].max() <= filled // (end - start) + 1
