"""The class numbers of masks in a checkpoint's order."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from mvrec.data.loading.batch import BadSample, ClipBatch
from mvrec.data.views.targets import NOT_LABELLED, MaskMap
from mvrec.tasks.classification.class_match import ClassMatch


class ClassNumbers:
    """Maps the data's class numbers to a checkpoint's, by name.

    Args:
        saved: The checkpoint's names in label order.
        names: The data's names in label order.

    Attributes:
        names: The checkpoint's names.
        order: int64 (K,), the checkpoint's number of each of the data's classes; `None` if they are equal.

    Raises:
        UserError: The names differ, with the first difference, or their number does.
    """

    def __init__(self, saved: Iterable[str], names: Iterable[str]) -> None:
        match = ClassMatch(saved, names)
        self.names, self.order = match.names, match.order
        table = torch.full((NOT_LABELLED + 1,), NOT_LABELLED)
        count = len(self.names)
        table[:count] = torch.arange(count) if self.order is None else self.order
        self._table = table

    def renumbered(self, batch: ClipBatch) -> ClipBatch:
        """Return a batch whose masks, also those of unreadable images, have the checkpoint's numbers."""
        if self.order is None:
            return batch
        masks = batch.targets
        targets = [self._map(mask) for mask in masks] if isinstance(masks, list) else self._map(masks)
        return replace(batch, targets=targets, bad=tuple(map(self._bad, batch.bad)))

    def _map(self, mask: Tensor) -> Tensor:
        return self._table.to(mask.device)[mask.long()]

    def _bad(self, entry: BadSample) -> BadSample:
        if not isinstance(entry.target, MaskMap):
            return entry
        mapped = self._map(torch.from_numpy(entry.target.classes.copy())).numpy().astype("uint8")
        return entry._replace(target=MaskMap(mapped))
