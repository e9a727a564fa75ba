"""Fitting a file's tensors, under our names, to a network of another size, length or number of axes."""

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
# Parts of a video network that an image network of MViT's second version lacks: they start untrained.
ONLY_VIDEO = re.compile(r"^cls_token$|\.rel_pos_t$")
# Norms of maps, which only networks for detection have.
LEVEL_NORMS = re.compile(r"^level_norms\.")
BOOKKEEPING = re.compile(r"\.(num_batches_tracked|normalizer)$")


@dataclass
class Fitted:
    """Tensors in the network's shapes, and the changes made to them."""

    tensors: Tensors = field(default_factory=dict)
    reshaped: list[Resized] = field(default_factory=list)
    interpolated: list[Resized] = field(default_factory=list)
    inflated: list[Resized] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    excused: list[str] = field(default_factory=list)  # missing, but no file of this kind has them
    mismatched: list[Resized] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)


def fit(tensors: Tensors, model: Backbone, *, details: Mapping[str, Any], source: str) -> Fitted:
    """Return the network's tensors from the file's tensors, as far as they go.

    Args:
        tensors: Tensors by our names.
        model: The network; it is not changed.
        details: The file's own facts.
        source: The file, for messages.

    Raises:
        UserError: The grid of a position table is unknown.
    """
    targets = model.state_dict()
    from_image, to_image = _is_image(tensors), _is_image(targets)
    excuses = [ONLY_VIDEO] if from_image and not to_image else []
    excuses += [] if any(LEVEL_NORMS.search(name) for name in tensors) else [LEVEL_NORMS]
    stored = _with_the_same_tables(tensors, targets)
    grid = _stored_grid(details)
    fitted = Fitted()
    for name, target in targets.items():
        tensor = stored.get(name)
        if tensor is None:
            if BOOKKEEPING.search(name):
                fitted.tensors[name] = target
            elif any(excuse.search(name) for excuse in excuses):
                fitted.excused.append(name)
            else:
                fitted.missing.append(name)
        elif tensor.shape == target.shape and not _on_another_grid(name, grid, model):
            fitted.tensors[name] = tensor
        else:
            _adapt(name, tensor, target, model=model, grid=grid, source=source, fitted=fitted)
    dropped = ONLY_VIDEO if to_image and not from_image else None
    fitted.unexpected = [n for n in stored if n not in targets and not (dropped is not None and dropped.search(n))]
    return fitted


def _adapt(
    name: str, tensor: Tensor, target: Tensor, *, model: Backbone, grid: Grid | None, source: str, fitted: Fitted
) -> None:
    """Convert one tensor to the network's shape."""
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
    """Convert a kernel over (H, W) to one over (T, H, W), or back, as SlowFast does.

    For video the kernel is repeated over its frames and not divided by their number; for an image it is summed.
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


def _with_the_same_tables(tensors: Tensors, targets: Mapping[str, Tensor]) -> Tensors:
    """Split a joint table of absolute positions into space, time and class token, or join them."""
    stored = dict(tensors)
    if "pos_embed" in stored and "pos_embed_spatial" in targets:
        joint = stored.pop("pos_embed")  # (1, 1 + h*w, C)
        frames = targets["pos_embed_temporal"].shape[1]
        stored["pos_embed_class"], stored["pos_embed_spatial"] = joint[:, :1], joint[:, 1:]
        stored["pos_embed_temporal"] = joint.new_zeros(1, frames, joint.shape[-1])
    elif "pos_embed_spatial" in stored and "pos_embed" in targets:
        # An image is one frame without a time: it takes the mean over the frames.
        time = stored.pop("pos_embed_temporal").mean(1, keepdim=True)
        parts = [stored.pop("pos_embed_class", None), stored.pop("pos_embed_spatial") + time]
        stored["pos_embed"] = torch.cat([part for part in parts if part is not None], 1)
    return stored


def _stored_grid(details: Mapping[str, Any]) -> Grid | None:
    """Return the token grid of the file's position tables, if it says so."""
    grid = details.get("position_grid")
    return (int(grid[0]), int(grid[1]), int(grid[2])) if grid is not None else None


def _on_another_grid(name: str, grid: Grid | None, model: Backbone) -> bool:
    """Return whether tables of equal length lie on different grids, such as 8x32 and 16x16."""
    network_grid = model.position_grid
    return (
        grid is not None
        and network_grid is not None
        and name in ("pos_embed", "pos_embed_spatial")
        and grid != network_grid
    )


def _resized(
    name: str, table: Tensor, target: Tensor, *, model: Backbone, grid: Grid | None, source: str
) -> Tensor | None:
    if table.ndim != target.ndim or table.shape[-1] != target.shape[-1]:
        return None
    if REL_POS.search(name):
        return resized_table(table, target.shape[0])
    network_grid = model.position_grid
    assert network_grid is not None, f"{name} without a grid"
    if name == "pos_embed_temporal":
        return resized_positions(table, (table.shape[1], 1, 1), (target.shape[1], 1, 1))
    if name == "pos_embed_class":
        return None
    num_cls = target.shape[1] - math.prod(network_grid) if name == "pos_embed" else 0
    space = (1, *network_grid[1:]) if name == "pos_embed_spatial" else network_grid
    cls, positions = table[:, :num_cls], table[:, num_cls:]
    side = _grid_of(name, positions.shape[1], frames=space[0], grid=grid, source=source)
    return torch.cat([cls, resized_positions(positions, side, space)], 1)


def _grid_of(name: str, length: int, *, frames: int, grid: Grid | None, source: str) -> Grid:
    """Return the grid of a table: the file's, else a square one."""
    if grid is not None and length in (math.prod(grid), grid[1] * grid[2]):
        return grid if length == math.prod(grid) else (1, *grid[1:])
    side = math.isqrt(length // frames)
    if side * side * frames != length:
        raise UserError(
            f"{source}: {name} holds {length} positions, which are not a square grid, and the file does not say "
            "for which image size; build the network for the same size as the file"
        )
    return frames, side, side
