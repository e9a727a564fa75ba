"""The table of an MViT's blocks: widths, heads, strides, kernels and windows."""

from collections.abc import Iterable
from typing import Literal

from mvrec.models.layers import Grid
from mvrec.models.mvit.pooling_attention import BlockSpec


def block_plan(
    *,
    depth: int,
    embed_dim: int,
    num_heads: int,
    dim_mults: dict[int, float],
    head_mults: dict[int, float],
    q_strides: dict[int, int],
    kv_stride: int,
    pool_kernel: Grid | None,
    pool_every_q: bool,
    unpooled_kv_blocks: tuple[int, ...],
    dim_change: Literal["mlp", "attention"],
    window: int = 0,
    double_last_kv_stride: bool = False,
) -> list[BlockSpec]:
    """Return the table of blocks for the arguments of `MViT`, which explains them.

    Raises:
        ValueError: A block index lies outside the network, a width is not a multiple of its heads, or a window not one
            of a stride.
    """
    _check_plan_sizes(depth=depth, kv_stride=kv_stride, q_strides=q_strides, pool_kernel=pool_kernel, window=window)
    check_choice("dim_change", dim_change, ("mlp", "attention"))
    _check_block_indices("dim_mults", dim_mults, first=1, depth=depth)  # the first width is embed_dim
    _check_block_indices("head_mults", head_mults, first=0, depth=depth)
    _check_block_indices("q_strides", q_strides, first=0, depth=depth)
    _check_block_indices("unpooled_kv_blocks", unpooled_kv_blocks, first=0, depth=depth)
    plan = []
    dim, heads, side = embed_dim, num_heads, window
    ends = [i for i in range(depth) if i == depth - 1 or q_strides.get(i + 1, 1) > 1]  # the last blocks of the grids
    for i in range(depth):
        heads = _multiple(heads, head_mults.get(i, 1), name=f"the heads of block {i}")
        grows_at = i if dim_change == "attention" else i + 1
        dim_out = _multiple(dim, dim_mults.get(grows_at, 1), name=f"the width after block {i}")
        attn_dim = dim_out if dim_change == "attention" else dim
        if attn_dim % heads:
            raise ValueError(f"block {i}: width {attn_dim} does not split over {heads} heads")
        q_stride = q_strides.get(i, 1)
        kv_stride = max(kv_stride // q_stride, 1)
        own_kv_stride = 2 * kv_stride if double_last_kv_stride and i in ends[1:-1] else kv_stride
        pools_q = pool_every_q or q_stride > 1
        pools_kv = i not in unpooled_kv_blocks
        plan.append(
            BlockSpec(
                dim=dim,
                attn_dim=attn_dim,
                dim_out=dim_out,
                num_heads=heads,
                q_stride=q_stride,
                kv_stride=own_kv_stride if pools_kv else 1,
                q_kernel=_kernel(pool_kernel, q_stride) if pools_q else None,
                kv_kernel=_kernel(pool_kernel, own_kv_stride) if pools_kv else None,
                window=0 if i in ends[1:] else side,
            )
        )
        _check_window(i, plan[-1], window)
        dim, side = dim_out, side // q_stride
    return plan


def _check_plan_sizes(
    *, depth: int, kv_stride: int, q_strides: dict[int, int], pool_kernel: Grid | None, window: int
) -> None:
    if depth < 1:
        raise ValueError(f"depth must be 1 or more, got {depth}")
    if kv_stride < 1:
        raise ValueError(f"kv_stride must be 1 or more, got {kv_stride}")
    if window < 0:
        raise ValueError(f"window must be 0 or more, got {window}")
    # Odd strides would leave the max-pooled shortcut and the pooled queries on grids of different sizes.
    if odd := {i: s for i, s in q_strides.items() if s != 1 and (s < 1 or s % 2)}:
        raise ValueError(f"q_strides must be 1 or even, got {odd}")
    if pool_kernel is not None and (len(pool_kernel) != 3 or any(k < 1 or k % 2 == 0 for k in pool_kernel)):
        raise ValueError(f"pool_kernel must be three odd sizes (T, H, W), got {pool_kernel}")


def _check_block_indices(name: str, blocks: Iterable[int], *, first: int, depth: int) -> None:
    if outside := [i for i in blocks if not first <= i < depth]:
        raise ValueError(f"{name} names {outside}; with depth={depth} its blocks are {first}..{depth - 1}")


def _check_window(block: int, spec: BlockSpec, window: int) -> None:
    if any(spec.window % stride for stride in (spec.q_stride, spec.kv_stride)):
        strides = f"{spec.q_stride} and {spec.kv_stride}"
        raise ValueError(
            f"window={window}: its {spec.window} tokens in block {block} are not a multiple of the strides {strides}"
        )


def _multiple(value: int, factor: float, *, name: str) -> int:
    product = value * factor
    if product != int(product) or product < 1:
        raise ValueError(f"{name} would be {value} * {factor} = {product}, which is not a positive integer")
    return int(product)


def _kernel(pool_kernel: Grid | None, stride: int) -> Grid | None:
    kernel = (1, stride + 1, stride + 1) if pool_kernel is None and stride > 1 else pool_kernel
    return None if kernel == (1, 1, 1) and stride == 1 else kernel


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless a value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")
