"""The classes of a checkpoint compared with those of the data: equal, in another order, or different."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from mvrec.data.listing.class_names import comparable
from mvrec.data.loading.batch import BadSample, ClipBatch
from mvrec.data.views.targets import ClassIndex, MultiHot, Target
from mvrec.errors import UserError


class ClassMatch:
    """Maps the data's class numbers to a checkpoint's, by name.

    Names that differ only in blanks, underscores, quotes and case are equal; see `normalised`.

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
        self.names, data_names = tuple(saved), tuple(names)
        saved_plain, data_plain = comparable(self.names, data_names)
        numbers = {name: number for number, name in enumerate(saved_plain)}
        if len(self.names) != len(data_names) or len(numbers) != len(data_names):
            raise UserError(_other_count(self.names, data_names))
        if not numbers.keys() >= set(data_plain):
            raise UserError(_differences(self.names, data_names))
        order = [numbers[name] for name in data_plain]
        self.order = None if order == list(range(len(order))) else torch.tensor(order)

    def labels(self, labels: Tensor) -> Tensor:
        """Convert class indices (B,) or multi-hot labels (B, K) of the data to the checkpoint's order."""
        if self.order is None:
            return labels
        order = self.order.to(labels.device)
        if labels.ndim == 1:
            return order[labels]
        return torch.zeros_like(labels).index_copy_(1, order, labels)

    def renumbered(self, batch: ClipBatch) -> ClipBatch:
        """Return a batch whose targets, also those of unreadable files, have the checkpoint's numbers."""
        return replace(batch, targets=self.labels(batch.targets), bad=self.bad(batch.bad))

    def bad(self, bad: tuple[BadSample, ...]) -> tuple[BadSample, ...]:
        """Return unreadable samples with the checkpoint's numbers."""
        if self.order is None:
            return bad
        return tuple(entry._replace(target=self.target(entry.target)) for entry in bad)

    def target(self, target: Target) -> Target:
        """Return a single target with the checkpoint's numbers."""
        if self.order is None or not isinstance(target, ClassIndex | MultiHot):
            return target
        classes = sorted(int(self.order[number]) for number in target.classes)
        return ClassIndex(classes[0]) if isinstance(target, ClassIndex) else replace(target, classes=tuple(classes))


def compare_classes(saved: Iterable[str], names: Iterable[str]) -> None:
    """Check that a checkpoint and the data have the same classes in the same order, as resuming requires.

    Raises:
        UserError: The counts, or the first names that differ and the number of differences.
    """
    saved_names, data_names = tuple(saved), tuple(names)
    if len(saved_names) != len(data_names):
        raise UserError(_other_count(saved_names, data_names))
    saved_plain, found_plain = comparable(saved_names, data_names)
    if saved_plain != found_plain:
        raise UserError(_differences(saved_names, data_names))


def _other_count(saved: tuple[str, ...], names: tuple[str, ...]) -> str:
    saved_plain, found_plain = comparable(saved, names)
    part = len(names) < len(saved) and set(found_plain) <= set(saved_plain)
    hint = ", which are among them: --data.classes checkpoint scores these" if part else ""
    if not set(found_plain) & set(saved_plain):
        hint = f" and none of these: it knows {_some(saved)}, they have {_some(names)}"
    return f"the checkpoint knows {len(saved)} classes, the data have {len(names)}{hint}"


def _some(names: tuple[str, ...]) -> str:
    """Return the first names."""
    return ", ".join(map(repr, names[:3])) + (" ..." if len(names) > 3 else "")


def _differences(saved: tuple[str, ...], names: tuple[str, ...]) -> str:
    plain = list(zip(*comparable(saved, names), strict=True))
    different = [number for number, (saved_name, data_name) in enumerate(plain) if saved_name != data_name]
    first = "; ".join(
        f"class {number} is {saved[number]!r} in the checkpoint and {names[number]!r} in the data"
        for number in different[:3]
    )
    same = {saved_name for saved_name, _ in plain} == {data_name for _, data_name in plain}
    order = ", the same names in another order: put the checkpoint's into classes.txt" if same else ""
    return f"{len(different)} of {len(saved)} classes differ{order}: {first}"
