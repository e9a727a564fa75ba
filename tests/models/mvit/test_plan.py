from typing import Any

import pytest

from mvrec.models.mvit.mvit import block_plan
from mvrec.models.mvit.pooling_attention import BlockSpec

FULL = (3, 3, 3)


def plan_of(**changes: Any) -> list[BlockSpec]:
    starts = changes.pop("starts", (1, 3, 14))
    arguments: dict[str, Any] = {
        "depth": 16,
        "embed_dim": 96,
        "num_heads": 1,
        "dim_mults": dict.fromkeys(starts, 2),
        "head_mults": dict.fromkeys(starts, 2),
        "q_strides": dict.fromkeys(starts, 2),
        "kv_stride": 8,
        "pool_kernel": FULL,
        "pool_every_q": False,
        "unpooled_kv_blocks": (),
        "dim_change": "mlp",
    }
    return block_plan(**(arguments | changes))


def rows(plan: list[BlockSpec]) -> list[tuple[Any, ...]]:
    return [(s.dim, s.attn_dim, s.dim_out, s.num_heads, s.q_stride, s.kv_stride) for s in plan]


def test_v1_b_widens_in_the_mlp_before_a_stage() -> None:
    plan = plan_of()
    assert rows(plan) == [
        (96, 96, 192, 1, 1, 8),
        (192, 192, 192, 2, 2, 4),
        (192, 192, 384, 2, 1, 4),
        (384, 384, 384, 4, 2, 2),
        *[(384, 384, 384, 4, 1, 2)] * 9,
        (384, 384, 768, 4, 1, 2),
        (768, 768, 768, 8, 2, 1),
        (768, 768, 768, 8, 1, 1),
    ]
    assert [i for i, s in enumerate(plan) if s.q_kernel] == [1, 3, 14]
    assert all(s.kv_kernel == FULL for s in plan)


def test_v2_s_widens_in_the_attention_and_pools_every_query() -> None:
    plan = plan_of(dim_change="attention", pool_every_q=True)
    assert rows(plan) == [
        (96, 96, 96, 1, 1, 8),
        (96, 192, 192, 2, 2, 4),
        (192, 192, 192, 2, 1, 4),
        (192, 384, 384, 4, 2, 2),
        *[(384, 384, 384, 4, 1, 2)] * 10,
        (384, 768, 768, 8, 2, 1),
        (768, 768, 768, 8, 1, 1),
    ]
    assert all(s.q_kernel == FULL and s.kv_kernel == FULL for s in plan)


def test_plan_without_a_kernel_pools_by_one_more_than_the_stride_in_space() -> None:
    plan = plan_of(depth=24, starts=(2, 5, 21), pool_kernel=None)
    kernels = [s.kv_kernel for s in plan]
    assert kernels == [(1, 9, 9)] * 2 + [(1, 5, 5)] * 3 + [(1, 3, 3)] * 16 + [None] * 3
    assert {i: s.q_kernel for i, s in enumerate(plan) if s.q_kernel} == dict.fromkeys((2, 5, 21), (1, 3, 3))


def test_plan_with_unpooled_blocks_keeps_all_their_keys() -> None:
    plan = plan_of(unpooled_kv_blocks=(3, 15))
    assert [i for i, s in enumerate(plan) if s.kv_kernel is None] == [3, 15]
    assert [s.kv_stride for s in plan][2:5] == [4, 1, 2]


def test_plan_with_a_kernel_of_one_pixel_pools_nothing() -> None:
    plan = plan_of(pool_kernel=(1, 1, 1), kv_stride=1, pool_every_q=True)
    assert [i for i, s in enumerate(plan) if s.q_kernel] == [1, 3, 14]
    assert all(s.kv_kernel is None for s in plan)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 0}, "depth must be 1 or more, got 0"),
        ({"kv_stride": 0}, "kv_stride must be 1 or more, got 0"),
        ({"depth": 10}, r"dim_mults names \[14\]; with depth=10 its blocks are 1..9"),
        ({"dim_mults": {0: 2}}, r"dim_mults names \[0\]"),
        ({"head_mults": {16: 2}}, r"head_mults names \[16\]"),
        ({"q_strides": {-1: 2}}, r"q_strides names \[-1\]"),
        ({"unpooled_kv_blocks": (16,)}, r"unpooled_kv_blocks names \[16\]"),
        ({"q_strides": {1: 3}}, r"q_strides must be 1 or even, got \{1: 3\}"),
        ({"pool_kernel": (3, 2, 3)}, r"pool_kernel must be three odd sizes .* got \(3, 2, 3\)"),
        ({"dim_mults": {1: 1.01}}, r"width after block 0 would be 96 \* 1.01"),
        ({"num_heads": 5}, "width 96 does not split over 5 heads"),
        ({"dim_change": "both"}, "dim_change must be one of .* got 'both'"),
    ],
)
def test_contradiction_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(**changes)
