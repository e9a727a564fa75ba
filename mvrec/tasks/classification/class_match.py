"""The classes that a network knows beside those of the data: the same, the same in another order, or others."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from mvrec.data.listing.class_names import comparable
from mvrec.data.loading.batch import BadSample, ClipBatch
from mvrec.data.views.targets import ClassIndex, MultiHot, Target
from mvrec.errors import UserError


class ClassMatch:
    """Turns the data's class numbers into those of a checkpoint, by the names.

    Names that differ in blanks, underscores, quotes and case only are the same; see `normalised`.

    Args:
        saved: The checkpoint's names in label order.
        found: The data's.

    Attributes:
        names: The checkpoint's names.
        order: int64 (K,), the checkpoint's number of each of the data's classes; `None` where they are the same.

    Raises:
        UserError: Other names, with the first that differ, or another number of them.
    """

    def __init__(self, saved: Iterable[str], found: Iterable[str]) -> None:
        self.names, theirs = tuple(saved), tuple(found)
        saved_plain, found_plain = comparable(self.names, theirs)
        ours = {name: number for number, name in enumerate(saved_plain)}
        if len(self.names) != len(theirs) or len(ours) != len(theirs):
            raise UserError(_other_count(self.names, theirs))
        if not ours.keys() >= set(found_plain):
            raise UserError(_differences(self.names, theirs))
        order = [ours[name] for name in found_plain]
        self.order = None if order == list(range(len(order))) else torch.tensor(order)

    def labels(self, labels: Tensor) -> Tensor:
        """Return class indices (B,) or multi-hot labels (B, K) of the data as the checkpoint counts them."""
        if self.order is None:
            return labels
        order = self.order.to(labels.device)
        if labels.ndim == 1:
            return order[labels]
        return torch.zeros_like(labels).index_copy_(1, order, labels)

    def renumbered(self, batch: ClipBatch) -> ClipBatch:
        """A batch whose targets, and those of its files that could not be read, have the checkpoint's numbers."""
        return replace(batch, targets=self.labels(batch.targets), bad=self.bad(batch.bad))

    def bad(self, bad: tuple[BadSample, ...]) -> tuple[BadSample, ...]:
        """Return the same for samples that could not be read."""
        if self.order is None:
            return bad
        return tuple(entry._replace(target=self.target(entry.target)) for entry in bad)

    def target(self, target: Target) -> Target:
        """Return the same for a single target."""
        if self.order is None or not isinstance(target, ClassIndex | MultiHot):
            return target
        classes = sorted(int(self.order[number]) for number in target.classes)
        return ClassIndex(classes[0]) if isinstance(target, ClassIndex) else replace(target, classes=tuple(classes))


def compare_classes(saved: Iterable[str], found: Iterable[str]) -> None:
    """Check that a checkpoint and the data speak of the same classes in the same order, as training on needs it.

    Raises:
        UserError: With the counts, or with the first names that differ and how many do.
    """
    ours, theirs = tuple(saved), tuple(found)
    if len(ours) != len(theirs):
        raise UserError(_other_count(ours, theirs))
    saved_plain, found_plain = comparable(ours, theirs)
    if saved_plain != found_plain:
        raise UserError(_differences(ours, theirs))


def _other_count(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    saved_plain, found_plain = comparable(ours, theirs)
    part = len(theirs) < len(ours) and set(found_plain) <= set(saved_plain)
    hint = ", which are among them: --data.classes checkpoint scores these" if part else ""
    return f"the checkpoint knows {len(ours)} classes, the data have {len(theirs)}{hint}"


def _differences(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    plain = list(zip(*comparable(ours, theirs), strict=True))
    different = [number for number, (our, their) in enumerate(plain) if our != their]
    first = "; ".join(
        f"class {number} is {ours[number]!r} in the checkpoint and {theirs[number]!r} in the data"
        for number in different[:3]
    )
    same = {our for our, _ in plain} == {their for _, their in plain}
    order = ", the same names in another order: put the checkpoint's into classes.txt" if same else ""
    return f"{len(different)} of {len(ours)} classes differ{order}: {first}"
