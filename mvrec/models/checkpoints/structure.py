"""Building the network of a file: the shapes of the weights decide what a variant's name leaves open."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from mvrec.errors import UserError
from mvrec.models.backbone import Backbone
from mvrec.models.checkpoints.segmenters import num_classes
from mvrec.models.layers import Grid
from mvrec.models.mvit.mvit import PATCH_STRIDE, PATCH_STRIDE_FRAMES, MViT
from mvrec.models.mvit.pooling_attention import Block
from mvrec.models.mvit.variants import DETECTION

Tensors = Mapping[str, Tensor]
Knobs = dict[str, Any]
# Open within a variant: the head, norms of maps, tables of positions, and the input channels of the first convolution.
OPEN = re.compile(r"^head\.|^level_norms\.|^pos_embed|\.rel_pos_[thw]$|\.num_batches_tracked$")
STEM = re.compile(r"^patch_embed1?\.(proj|conv1\.conv\.0|conv\.0(\.c)?)\.weight$")
POOLING = re.compile(r"\.attn\.(pool|norm)_[qkv]\.")


class WrongArchitectureError(UserError):
    """The weights belong to another variant than requested."""


def build_as_stored(
    build: Callable[..., Backbone],
    tensors: Tensors,
    knobs: Knobs,
    *,
    family: type[Backbone],
    details: Mapping[str, Any],
) -> Backbone:
    """Return the network of a variant with the class count, size, depth and pooling that the weights have.

    Raises:
        WrongArchitectureError: The weights belong to another network.
    """
    target, arguments = as_stored(build, tensors, knobs, family=family, details=details)
    return target(**arguments)


def as_stored(
    build: Callable[..., Backbone],
    tensors: Tensors,
    knobs: Knobs,
    *,
    family: type[Backbone],
    details: Mapping[str, Any],
) -> tuple[Callable[..., Backbone], Knobs]:
    """Return the function and arguments of the network that some weights belong to.

    Args:
        build: The variant's function.
        tensors: Its weights by our names.
        knobs: The caller's knobs; they win over the file.
        family: The class of networks of the weights' layout.
        details: The file's own facts.

    Raises:
        WrongArchitectureError: The weights belong to another network.
    """
    with torch.device("meta"):
        base = build()
    if not isinstance(base, family):
        raise WrongArchitectureError(f"a {family.__name__}")
    stored: Knobs = {"num_classes": _num_classes(tensors, base)}
    if "image_size" not in knobs:
        stored["image_size"] = _image_size(tensors, base, details)
    if isinstance(base, MViT) and _is_video(tensors) == (len(base.input_shape) == 4):
        plan = mvit_arguments(tensors, base)
        return MViT, {**plan, **stored, **knobs}
    if isinstance(base, MViT):  # image weights for clips, or back: the variant's plan decides
        return build, {**stored, **knobs}
    stored |= _branches(build, tensors)
    with torch.device("meta"):
        same = same_network(build(**{name: value for name, value in stored.items() if name == "branches"}), tensors)
    if not same:
        raise WrongArchitectureError("other widths or depths")
    return build, {**stored, **_channels(tensors, base), **knobs}


def same_network(model: Backbone, tensors: Tensors, *, but_for_pooling: bool = False) -> bool:
    """Return whether weights fit a network except for classes, sizes and input channels (and pooling)."""

    def telling(state: Tensors) -> dict[str, tuple[int, ...]]:
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if not OPEN.search(name)}
        if but_for_pooling:
            shapes = {name: shape for name, shape in shapes.items() if not POOLING.search(name)}
        return {name: (shape[0], *shape[2:]) if STEM.search(name) else shape for name, shape in shapes.items()}

    return telling(model.state_dict()) == telling(tensors)


def _num_classes(tensors: Tensors, base: Backbone) -> int:
    return num_classes(tensors) or base.num_classes


def _channels(tensors: Tensors, base: Backbone) -> Knobs:
    name, stem = next((name, weight) for name, weight in base.state_dict().items() if STEM.search(name))
    channels = tensors[name].shape[1] if name in tensors else stem.shape[1]
    return {} if channels == stem.shape[1] else {"in_channels": channels}


def _branches(build: Callable[..., Backbone], tensors: Tensors) -> Knobs:
    """Return the branches: CloFormer's ablations lack the layers of one branch."""
    if not any(name.startswith("layers.0.blocks.") for name in tensors):
        return {}
    if not any(".attn.global_q." in name for name in tensors):
        return {"branches": "local"}
    return {} if any(".attn.qkvs." in name for name in tensors) else {"branches": "global"}


# -- MViT ---------------------------------------------------------------------------------------------------------


def is_for_detection(tensors: Tensors) -> bool:
    """Return whether an MViT's weights are of its form for detection, whose windows leave no other trace."""
    return "level_norms.0.weight" in tensors


def mvit_arguments(tensors: Tensors, base: MViT) -> Knobs:
    """Return the arguments of `MViT` that give the network of some weights.

    Strides leave no trace in the weights: they are where the heads multiply, or where v1 pools its queries.
    """
    depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    patch = tensors["patch_embed.proj.weight"]
    first = cast("Block", base.blocks[0])
    rel_pos = "blocks.0.attn.rel_pos_h" in tensors
    if rel_pos != first.attn.has_rel_pos or patch.shape[0] != first.norm1.weight.shape[0]:
        version = "v2 (relative positions)" if rel_pos else "v1 (absolute positions)"
        raise WrongArchitectureError(f"an MViT {version} of width {patch.shape[0]}")
    rows = [_Row(tensors, i) for i in range(depth)]
    head_dim = next((row.head_dim for row in rows if row.head_dim), first.attn.head_dim)
    heads = [row.attn_dim // head_dim for row in rows]
    in_attention = any(row.dim != row.attn_dim for row in rows)
    head_mults = {i: heads[i] / heads[i - 1] for i in range(1, depth) if heads[i] != heads[i - 1]}
    every_q = all(row.kernel("q") for row in rows)
    q_starts = head_mults if every_q else {i: 2 for i, row in enumerate(rows) if row.kernel("q")}
    kernel, unpooled = _pooling(rows)
    frames = _frames(tensors, base)
    return {
        "num_frames": frames,
        "in_channels": patch.shape[1],
        "embed_dim": patch.shape[0],
        "num_heads": heads[0],
        "depth": depth,
        "dim_mults": _dim_mults(rows, in_attention=in_attention),
        "head_mults": head_mults,
        "q_strides": dict.fromkeys(q_starts, 2),
        "kv_stride": first.attn.kv_stride,
        "pool_kernel": kernel,
        "pool_every_q": every_q,
        "unpooled_kv_blocks": unpooled,
        "dim_change": "attention" if in_attention else "mlp",
        "cls_token": "cls_token" in tensors,
        "pos_embed": _pos_embed(tensors),
        "rel_pos": rel_pos,
        "residual_pooling": first.attn.residual_pooling,
        "mlp_ratio": rows[0].hidden_dim / rows[0].attn_dim,
        "drop_path_rate": cast("Block", base.blocks[-1]).drop_path.p,
        "head_dropout": base.head_dropout,
        **(DETECTION if is_for_detection(tensors) else {}),
    }


class _Row:
    """The widths of one block, from its weights."""

    def __init__(self, tensors: Tensors, block: int) -> None:
        def shape(name: str) -> tuple[int, ...] | None:
            tensor = tensors.get(f"blocks.{block}.{name}")
            return None if tensor is None else tuple(tensor.shape)

        needed = [shape(name) for name in ("norm1.weight", "attn.proj.weight", "mlp.fc2.weight")]
        if any(shape_found is None for shape_found in needed):
            raise WrongArchitectureError(f"block {block} of {block + 1} or more lacks its norm, attention or MLP")
        (self.dim,), (self.attn_dim, _), (self.dim_out, self.hidden_dim) = cast("list[tuple[int, ...]]", needed)
        self._kernels = {part: shape(f"attn.pool_{part}.weight") for part in "qkv"}
        sized = [s for s in (*self._kernels.values(), shape("attn.norm_k.weight")) if s is not None]
        table = shape("attn.rel_pos_h")
        self.head_dim = sized[0][0] if sized else table[1] if table else 0

    def kernel(self, part: str) -> Grid | None:
        """Return the pooling kernel over (T, H, W) of queries "q", keys "k" or values "v"."""
        shape = self._kernels[part]
        return None if shape is None else (shape[2], shape[3], shape[4])


def _dim_mults(rows: list[_Row], *, in_attention: bool) -> dict[int, float]:
    if in_attention:
        return {i: row.attn_dim / row.dim for i, row in enumerate(rows) if row.attn_dim != row.dim}
    return {i + 1: row.dim_out / row.dim for i, row in enumerate(rows) if row.dim_out != row.dim}


def _pooling(rows: list[_Row]) -> tuple[Grid | None, tuple[int, ...]]:
    """Return `pool_kernel` and `unpooled_kv_blocks`: one kernel everywhere, or kernels that follow their strides."""
    kernels = {kernel for row in rows for part in "qkv" if (kernel := row.kernel(part))}
    if len(kernels) == 1:
        return kernels.pop(), tuple(i for i, row in enumerate(rows) if row.kernel("k") is None)
    if kernels and all(t == 1 and h == w for t, h, w in kernels):
        return None, ()
    raise WrongArchitectureError(f"pooling kernels {sorted(kernels) or 'none'}")


def _pos_embed(tensors: Tensors) -> str:
    if "pos_embed" in tensors:
        return "joint"
    if "pos_embed_spatial" in tensors:  # an image has no table of times
        return "separate" if _is_video(tensors) else "joint"
    return "none"


def _is_video(tensors: Tensors) -> bool:
    patch = tensors.get("patch_embed.proj.weight")
    return patch is not None and patch.ndim == 5


def _frames(tensors: Tensors, base: MViT) -> int | None:
    if not _is_video(tensors):
        return None
    if "pos_embed_temporal" in tensors:
        return PATCH_STRIDE_FRAMES * tensors["pos_embed_temporal"].shape[1]
    if "blocks.0.attn.rel_pos_t" in tensors:
        return PATCH_STRIDE_FRAMES * (tensors["blocks.0.attn.rel_pos_t"].shape[0] + 1) // 2
    return base.input_shape[1]


def _image_size(tensors: Tensors, base: Backbone, details: Mapping[str, Any]) -> tuple[int, int]:
    """Return pixels (H, W) of the file's position tables: by its facts, its tables, or else the variant's."""
    if details.get("image_size"):
        height, width = details["image_size"]
        return int(height), int(width)
    tables = [tensors.get(f"blocks.0.attn.rel_pos_{axis}") for axis in "hw"]
    if all(table is not None for table in tables):  # of length 2 * cells - 1
        height, width = (PATCH_STRIDE * (cast("Tensor", table).shape[0] + 1) // 2 for table in tables)
        return height, width
    table = tensors.get("pos_embed_spatial", tensors.get("pos_embed"))
    if table is None:
        height, width = base.input_shape[-2:]
        return height, width
    length = table.shape[1] - int("pos_embed" in tensors and "cls_token" in tensors)
    side = math.isqrt(length)
    if side * side != length:
        raise UserError(
            f"{length} positions are not a square grid, and the file does not say for which image size: pass it "
            "(image_size=(H, W); mvrec convert --image_size H W)"
        )
    return PATCH_STRIDE * side, PATCH_STRIDE * side
