"""Makes a file's tensors, already under our names, fit a network of another size, length or number of axes."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mvrec.errors import UserError
from mvrec.models.backbone import Backbone
from mvrec.models.checkpoints.report import Resized
from mvrec.models.layers import Grid, resized_positions
from mvrec.models.mvit.pooling_attention import resized_table

Tensors = dict[str, Tensor]
REL_POS = re.compile(r"\.rel_pos_[thw]$")
POOL = re.compile(r"\.pool_[qkv]\.weight$")
# What an image network of MViT's second version has no counterpart of: a video network starts these anew.
ONLY_VIDEO = re.compile(r"^cls_token$|\.rel_pos_t$")
BOOKKEEPING = re.compile(r"\.num_batches_tracked$")


@dataclass
class Fitted:
    """Tensors in the network's shapes, and what had to be done to them."""

    tensors: Tensors = field(default_factory=dict)
    reshaped: list[Resized] = field(default_factory=list)
    interpolated: list[Resized] = field(default_factory=list)
    inflated: list[Resized] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    excused: list[str] = field(default_factory=list)  # missing, but no file of this kind could have them
    mismatched: list[Resized] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)


def fit(tensors: Tensors, model: Backbone, *, details: Mapping[str, Any], source: str) -> Fitted:
    """Return every tensor of the network's state dict from the file's tensors, as far as they go.

    Args:
        tensors: By our names.
        model: The network; it is not changed.
        details: What the file says of itself.
        source: The file, for messages.

    Raises:
        UserError: A position table whose grid cannot be known.
    """
    wanted = model.state_dict()
    from_image, to_image = _is_image(tensors), _is_image(wanted)
    stored = _with_the_same_tables(tensors, wanted)
    grid = _stored_grid(details)
    fitted = Fitted()
    for name, target in wanted.items():
        tensor = stored.get(name)
        if tensor is None:
            if BOOKKEEPING.search(name):
                fitted.tensors[name] = target
            elif from_image and not to_image and ONLY_VIDEO.search(name):
                fitted.excused.append(name)
            else:
                fitted.missing.append(name)
        elif tensor.shape == target.shape and not _on_another_grid(name, grid, model):
            fitted.tensors[name] = tensor
        else:
            _adapt(name, tensor, target, model=model, grid=grid, source=source, fitted=fitted)
    dropped = ONLY_VIDEO if to_image and not from_image else None
    fitted.unexpected = [n for n in stored if n not in wanted and not (dropped is not None and dropped.search(n))]
    return fitted


def _adapt(
    name: str, tensor: Tensor, target: Tensor, *, model: Backbone, grid: Grid | None, source: str, fitted: Fitted
) -> None:
    """One tensor whose shape is not the network's."""
    change = Resized(name, tuple(tensor.shape), tuple(target.shape))
    if name.startswith("pos_embed") or REL_POS.search(name):
        resized = _resized(name, tensor, target, model=model, grid=grid, source=source)
        kind = fitted.interpolated
    elif name == "patch_embed.proj.weight" or POOL.search(name):
        resized, kind = _inflated(tensor, target), fitted.inflated
    else:
        same = [n for n in tensor.shape if n != 1] == [n for n in target.shape if n != 1]
        resized, kind = tensor.reshape(target.shape) if same else None, fitted.reshaped
    if resized is None or resized.shape != target.shape:
        fitted.mismatched.append(change)
        return
    fitted.tensors[name] = resized
    kind.append(change)


def _is_image(tensors: Mapping[str, Tensor]) -> bool:
    patch = tensors.get("patch_embed.proj.weight")
    return patch is None or patch.ndim == 4


# -- kernels ------------------------------------------------------------------------------------------------------


def _inflated(tensor: Tensor, target: Tensor) -> Tensor | None:
    """A kernel over (H, W) as one over (T, H, W), or back, as SlowFast initialises one from the other.

    To video the kernel is repeated over its frames and not divided by their number; to an image it is their sum.
    """
    if tensor.ndim not in (4, 5):
        return None
    if tensor.ndim == 4:
        tensor = tensor.unsqueeze(2)  # (O, I, kh, kw) to (O, I, 1, kh, kw)
    frames = target.shape[2] if target.ndim == 5 else 1
    if tensor.shape[2] == 1:
        tensor = tensor.expand(-1, -1, frames, -1, -1)
    elif frames == 1:
        tensor = tensor.sum(2, keepdim=True)
    return tensor.squeeze(2) if target.ndim == 4 and tensor.shape[2] == 1 else tensor


# -- position tables ----------------------------------------------------------------------------------------------


def _with_the_same_tables(tensors: Tensors, wanted: Mapping[str, Tensor]) -> Tensors:
    """One joint table of absolute positions as separate ones for space, time and class token, or back."""
    stored = dict(tensors)
    if "pos_embed" in stored and "pos_embed_spatial" in wanted:
        joint = stored.pop("pos_embed")  # (1, 1 + h*w, C)
        frames = wanted["pos_embed_temporal"].shape[1]
        stored["pos_embed_class"], stored["pos_embed_spatial"] = joint[:, :1], joint[:, 1:]
        stored["pos_embed_temporal"] = joint.new_zeros(1, frames, joint.shape[-1])
    elif "pos_embed_spatial" in stored and "pos_embed" in wanted:
        # An image is one frame at no particular time: it takes the mean over them.
        time = stored.pop("pos_embed_temporal").mean(1, keepdim=True)
        parts = [stored.pop("pos_embed_class", None), stored.pop("pos_embed_spatial") + time]
        stored["pos_embed"] = torch.cat([part for part in parts if part is not None], 1)
    return stored


def _stored_grid(details: Mapping[str, Any]) -> Grid | None:
    """Return the token grid that the file's position tables were built for, when it says so."""
    grid = details.get("position_grid")
    return (int(grid[0]), int(grid[1]), int(grid[2])) if grid is not None else None


def _on_another_grid(name: str, grid: Grid | None, model: Backbone) -> bool:
    """Return tables of equal length can lie on different grids, 8x32 and 16x16 for one."""
    wanted = model.position_grid
    return grid is not None and wanted is not None and name in ("pos_embed", "pos_embed_spatial") and grid != wanted


def _resized(
    name: str, table: Tensor, target: Tensor, *, model: Backbone, grid: Grid | None, source: str
) -> Tensor | None:
    if table.ndim != target.ndim or table.shape[-1] != target.shape[-1]:
        return None
    if REL_POS.search(name):
        return resized_table(table, target.shape[0])
    wanted = model.position_grid
    assert wanted is not None, f"{name} without a grid"
    if name == "pos_embed_temporal":
        return resized_positions(table, (table.shape[1], 1, 1), (target.shape[1], 1, 1))
    if name == "pos_embed_class":
        return None
    num_cls = target.shape[1] - math.prod(wanted) if name == "pos_embed" else 0
    space = (1, *wanted[1:]) if name == "pos_embed_spatial" else wanted
    cls, positions = table[:, :num_cls], table[:, num_cls:]
    side = _grid_of(name, positions.shape[1], frames=space[0], grid=grid, source=source)
    return torch.cat([cls, resized_positions(positions, side, space)], 1)


def _grid_of(name: str, length: int, *, frames: int, grid: Grid | None, source: str) -> Grid:
    """Return the grid of a table: as the file says, else a square one."""
    if grid is not None and length in (math.prod(grid), grid[1] * grid[2]):
        return grid if length == math.prod(grid) else (1, *grid[1:])
    side = math.isqrt(length // frames)
    if side * side * frames != length:
        raise UserError(
            f"{source}: {name} holds {length} positions, which are no square grid, and the file does not say of "
            "which image size they are; build the network for the same size as the file"
        )
    return frames, side, side
