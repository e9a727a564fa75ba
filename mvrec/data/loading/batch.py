"""The types that pass from the loader to the model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mvrec.data.views.targets import Batched, NoTarget, Target

PADDING_ID = -1  # sample id of a view that only keeps a rank busy; scores ignore it


class SampleKey(NamedTuple):
    """A sampler's request to a dataset. It and the seed determine everything random about the sample.

    Attributes:
        epoch: The epoch.
        index: Row of the index.
        counted: False for a sample that only keeps a rank busy.
        repeats: The numbers of the requested views; `None` for all of them.
    """

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index
    counted: bool = True
    repeats: tuple[int, ...] | None = None


class BadSample(NamedTuple):
    """A file that cannot be read.

    Attributes:
        index: Row of the index.
        path: The file.
        cause: One line.
        stop: Why the run must end with this file, or "".
        target: In evaluation the file's true target, if available.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index
    path: str
    cause: str
    stop: str = ""
    target: Target = NoTarget()


class Item(NamedTuple):
    """One dataset item: all views or repeats of one video or image; none if the file cannot be read."""

    views: Tensor | None  # uint8 (V, T, C, H, W), images (V, C, H, W)
    targets: tuple[Target, ...]  # one per view; without views at most one, which gives their type
    sample_id: int
    seeds: tuple[int, ...] = ()
    bad: tuple[BadSample, ...] = ()
    view_ids: tuple[int, ...] | None = None  # counted from 0 by default


@dataclass
class ClipBatch:
    """A batch of clips or images.

    Not frozen: in true half precision Lightning sets the fields of a copy.

    Attributes:
        clips: (B, C, T, H, W), images (B, C, H, W): uint8 RGB from the loader, normalised float on the device.
        targets: The true target of each view, batched by its type; see `mvrec.data.views.targets`.
        sample_ids: int64 (B,) on the CPU, the row of the index, `PADDING_ID` for views that do not count.
        view_ids: int64 (B,) on the CPU, the number of the view (or repeat) of the sample.
        seeds: int64 (B,) on the CPU, for augmentation on the device.
        bad: Files that cannot be read. In training others replace them, in evaluation nothing does.
    """

    clips: Tensor
    targets: Batched
    sample_ids: Tensor
    view_ids: Tensor
    seeds: Tensor
    bad: tuple[BadSample, ...] = ()

    def __len__(self) -> int:
        return len(self.sample_ids)

    def parts(self, size: int) -> "Iterator[ClipBatch]":
        """Yield the batch in parts of at most `size` views, without its `bad` files."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            targets = None if self.targets is None else self.targets[part]
            ids = self.sample_ids[part], self.view_ids[part], self.seeds[part]
            yield ClipBatch(self.clips[part], targets, *ids)

    def with_clips(self, clips: Tensor) -> "ClipBatch":
        """Return the same batch with other pixels."""
        return replace(self, clips=clips)

    def _map_tensors(self, change: Any) -> "ClipBatch":
        targets = pytree.tree_map_only(Tensor, change, self.targets)
        return replace(self, clips=change(self.clips), targets=targets)

    def to(self, device: Any, *, non_blocking: bool = False) -> "ClipBatch":
        """Return the batch with pixels and targets on another device.

        Ids and seeds stay on the CPU: reading them from a device would wait for it.
        """
        return self._map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "ClipBatch":
        """Return the batch with pixels and targets in page-locked memory; the loader calls it for a GPU."""
        return self._map_tensors(lambda tensor: tensor.pin_memory())


def collate(items: Sequence[Item]) -> ClipBatch:
    """Concatenate the views of all items; items without views leave only their `bad` entries.

    Views of several sizes are padded with 0 at the bottom and the right, to the largest height and width.
    """
    bad = tuple(entry for item in items for entry in item.bad)
    readable = [item for item in items if item.views is not None]
    if not readable:
        empty = torch.empty(0, dtype=torch.int64)
        targets = _batched([target for item in items for target in item.targets][:1])  # gives the type
        none = targets if targets is None else targets[:0]
        return ClipBatch(torch.empty((0, 3, 0, 0, 0), dtype=torch.uint8), none, empty, empty, empty, bad)
    views = _joined([item.views for item in readable if item.views is not None])
    counts = torch.tensor([len(item.seeds) for item in readable])

    def per_view(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64).repeat_interleave(counts)

    return ClipBatch(
        clips=views.transpose(1, 2) if views.ndim == 5 else views,  # (B, T, C, H, W) -> (B, C, T, H, W)
        targets=_batched([target for item in readable for target in item.targets]),
        sample_ids=per_view([item.sample_id for item in readable]),
        view_ids=torch.tensor([view for item in readable for view in item.view_ids or range(len(item.seeds))]),
        seeds=torch.tensor([seed for item in readable for seed in item.seeds], dtype=torch.int64),
        bad=bad,
    )


def _joined(views: Sequence[Tensor]) -> Tensor:
    """Concatenate views (V, ..., H, W), padded to the largest height and width."""
    if len({single.shape[1:] for single in views}) == 1:
        return torch.cat(list(views))
    height, width = (max(single.shape[axis] for single in views) for axis in (-2, -1))
    joined = views[0].new_zeros((sum(map(len, views)), *views[0].shape[1:-2], height, width))
    for place, single in zip(joined.split([len(single) for single in views]), views, strict=True):
        place[..., : single.shape[-2], : single.shape[-1]] = single
    return joined


def _batched(targets: Sequence[Target]) -> Batched:
    return type(targets[0]).batched(targets) if targets else None
