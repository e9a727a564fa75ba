import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvrec.models import layers
from mvrec.models.fast import bricks, mvit
from mvrec.models.fast.products import Linear
from mvrec.models.mvit.pooling_attention import AvgPool3d, PoolingAttention


def attention(*, quick: bool = False, **changes: object) -> PoolingAttention:
    """The plain form, or that of `accelerate`."""
    arguments = {
        "num_heads": 2,
        "q_kernel": (3, 3, 3),
        "kv_kernel": (3, 3, 3),
        "q_stride": 1,
        "kv_stride": 2,
        "pooling": "conv",
        "has_cls": True,
        "residual_pooling": True,
        "rel_pos_sizes": (3, 7, 11),
    }
    torch.manual_seed(0)
    module = PoolingAttention(12, 20, **(arguments | changes))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.5)
    if quick:
        swaps = {PoolingAttention: mvit.PoolingAttention, nn.Linear: Linear}
        for part in module.modules():
            part.__class__ = (swaps | {layers.SoftmaxAttention: bricks.SoftmaxAttention}).get(type(part), type(part))
    return module.double()


def written_out(module: PoolingAttention, x: Tensor, thw: tuple[int, int, int]) -> Tensor:
    """The same attention one head, one query and one key at a time, straight from the papers' definition."""
    n, heads, d = module.num_cls, module.num_heads, module.head_dim
    qkv = module.qkv(x).unflatten(-1, (3, heads, d))
    outputs = []
    for head in range(heads):
        pooled = []
        for part, name in enumerate("qkv"):
            tokens = qkv[:, :, part, head]  # (B, N, d)
            conv, norm = getattr(module, f"pool_{name}"), getattr(module, f"norm_{name}")
            grid, size = tokens[:, n:], thw
            if conv is not None:
                clip = grid.unflatten(1, thw).permute(0, 4, 1, 2, 3).contiguous()
                clip = F.conv3d(clip, conv.weight, None, conv.stride, conv.padding, groups=d)
                size = clip.shape[2:]
                grid = clip.flatten(2).mT
            tokens = torch.cat([tokens[:, :n], grid], 1)
            pooled.append((tokens if norm is None else norm(tokens), size))
        (q, q_size), (k, k_size), (v, _) = pooled
        scores = q @ k.mT * d**-0.5
        if module.has_rel_pos:
            scores = scores + torch.stack([position_bias(module, q[b], q_size, k_size) for b in range(len(q))])
        out = scores.softmax(-1) @ v
        if module.residual_pooling:
            out[:, n:] += q[:, n:]
        outputs.append(out)
    return module.proj(torch.cat(outputs, -1))


def position_bias(module: PoolingAttention, q: Tensor, q_size: tuple[int, ...], k_size: tuple[int, ...]) -> Tensor:
    n = module.num_cls
    places_q = [(t, h, w) for t in range(q_size[0]) for h in range(q_size[1]) for w in range(q_size[2])]
    places_k = [(t, h, w) for t in range(k_size[0]) for h in range(k_size[1]) for w in range(k_size[2])]
    bias = torch.zeros(n + len(places_q), n + len(places_k), dtype=q.dtype)
    for axis, name in enumerate("thw"):
        table = getattr(module, f"rel_pos_{name}")
        if table is None:
            continue
        length = 2 * max(q_size[axis], k_size[axis]) - 1
        if len(table) != length:
            table = F.interpolate(table.T[None], size=length, mode="linear")[0].T
        up, down = max(k_size[axis] / q_size[axis], 1), max(q_size[axis] / k_size[axis], 1)
        for i, place_q in enumerate(places_q):
            for j, place_k in enumerate(places_k):
                row = int(place_q[axis] * up - place_k[axis] * down + (k_size[axis] - 1) * down)
                bias[n + i, n + j] += q[n + i] @ table[row]
    return bias


CASES = {
    "v2": {},
    "v2, query stride": {"q_stride": 2, "kv_stride": 1},
    "v2, queries left alone": {"q_kernel": None},
    "v2, no class token": {"has_cls": False},
    "v2, tables of another size": {"rel_pos_sizes": (5, 3, 9)},
    "image": {"rel_pos_sizes": (0, 7, 11), "q_kernel": (1, 3, 3), "kv_kernel": (1, 3, 3)},
    "v1": {"rel_pos_sizes": None, "residual_pooling": False},
    "v1, nothing pooled": {"rel_pos_sizes": None, "residual_pooling": False, "q_kernel": None, "kv_kernel": None},
}


@pytest.mark.parametrize("case", CASES)
def test_attention_equals_its_definition_written_out(case: str) -> None:
    for thw in ((2, 4, 6), (1, 5, 3)):
        module = attention(**CASES[case])
        x = torch.randn(2, math.prod(thw) + module.num_cls, 12, dtype=torch.float64)
        expected = written_out(module, x, thw)
        assert expected.shape == (2, math.prod(module.grids(thw)[0]) + module.num_cls, 20)
        for quick in (False, True):
            out = attention(quick=quick, **CASES[case])(x, thw)
            torch.testing.assert_close(out, expected, msg=lambda m, at=(thw, quick): f"{at}: {m}")


def gradients(output: Tensor, module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return gradients of a weighted sum for the input and all parameters; zeros where there is none."""
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    inputs = {"x": x, **dict(module.named_parameters())}
    gradients = torch.autograd.grad((output * weights).sum(), list(inputs.values()), allow_unused=True)
    pairs = zip(inputs.items(), gradients, strict=True)
    return {name: torch.zeros_like(value) if g is None else g for (name, value), g in pairs}


def check_both(actual: Tensor, expected: Tensor, modules: tuple[nn.Module, nn.Module], x: Tensor, case: object) -> None:
    torch.testing.assert_close(actual, expected, msg=lambda text: f"{case}: {text}")
    torch.testing.assert_close(
        gradients(actual, modules[0], x), gradients(expected, modules[1], x), msg=lambda text: f"{case}: {text}"
    )


@pytest.mark.parametrize("case", ["v2", "v2, query stride", "v2, no class token", "image", "v1"])
def test_keys_that_nobody_reads_leave_no_trace_in_values_and_gradients(case: str) -> None:
    norm = nn.LayerNorm(12).double()
    for kv_stride, thw in ((4, (2, 8, 8)), (5, (1, 5, 7)), (8, (3, 1, 2)), (8, (2, 9, 12))):
        module, plain = (attention(quick=quick, **CASES[case] | {"kv_stride": kv_stride}) for quick in (True, False))
        x = torch.randn(2, math.prod(thw) + module.num_cls, 12, dtype=torch.float64, requires_grad=True)
        check_both(module(x, thw, norm=norm), plain(norm(x), thw), (module, plain), x, (kv_stride, thw))


@pytest.mark.parametrize("case", ["v2, query stride", "v2, queries left alone", "image", "v1", "v1, nothing pooled"])
def test_class_token_alone_is_the_first_row_of_values_and_gradients(case: str) -> None:
    """Gradients are zeros, and not absent, for what only the other rows would need."""
    for kv_stride in (1, 8):
        module = attention(quick=True, **CASES[case] | {"kv_stride": kv_stride})
        thw, norm = (2, 8, 9), nn.LayerNorm(12).double()
        x = torch.randn(2, 2 * 8 * 9 + 1, 12, dtype=torch.float64, requires_grad=True)
        whole = module(x, thw, norm=norm)[:, :1]
        check_both(module(x, thw, norm=norm, cls_only=True), whole, (module, module), x, kv_stride)
        module(x, thw, norm=norm, cls_only=True).sum().backward()
        assert all(parameter.grad is not None for parameter in module.parameters())
        with torch.no_grad():
            torch.testing.assert_close(module(x, thw, norm=norm, cls_only=True), whole)


def test_adapter_in_place_of_the_projection_is_used() -> None:
    """Adapters of low rank are put there so."""

    class Adapted(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).flip(-1)  # norms behind it would hide another scale

    plain, thw = attention(quick=True, kv_stride=8, rel_pos_sizes=None), (2, 8, 8)
    x, norm = torch.randn(2, 129, 12, dtype=torch.float64), nn.LayerNorm(12).double()
    with torch.no_grad():
        plain.qkv.weight.copy_(plain.qkv.weight.flip(0))
        plain.qkv.bias.copy_(plain.qkv.bias.flip(0))
    for cls_only in (False, True):
        expected = plain(x, thw, norm=norm, cls_only=cls_only)
        adapted = attention(quick=True, kv_stride=8, rel_pos_sizes=None)
        adapted.qkv.__class__ = Adapted
        torch.testing.assert_close(adapted(x, thw, norm=norm, cls_only=cls_only), expected)


def test_backward_pass_keeps_no_score_matrix() -> None:
    """Positions live inside the dot product, so the backward pass keeps nothing of queries times keys."""
    module = attention(quick=True, has_cls=False, rel_pos_sizes=(7, 31, 31)).float()
    thw = (4, 16, 16)
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        module(torch.randn(1, 4 * 16 * 16, 12), thw)
    scores = (4 * 16 * 16) * (4 * 8 * 8)
    assert max(saved) < scores / 2


def test_average_pooling_counts_the_zeros_of_the_padding() -> None:
    pooled = AvgPool3d((1, 3, 3), 1, (0, 1, 1))(torch.ones(1, 1, 1, 3, 3))
    torch.testing.assert_close(pooled[0, 0, 0] * 9, torch.tensor([[4.0, 6, 4], [6, 9, 6], [4, 6, 4]]))
