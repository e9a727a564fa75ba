"""The class numbers of masks in a checkpoint's order."""

from typing import Any

import torch
from torch import Tensor

from mvrec.data.views.targets import NOT_LABELLED, MaskMap, Target
from mvrec.tasks.classification.class_match import ClassMatch


class ClassNumbers(ClassMatch):
    """`ClassMatch` for masks: a class per pixel, and pixels without one."""

    def labels(self, labels: Any) -> Any:
        """Convert masks int64 (B, H, W), or a list of (H, W), of the data to the checkpoint's order."""
        if self.order is None:
            return labels
        return [self._mapped(mask) for mask in labels] if isinstance(labels, list) else self._mapped(labels)

    def target(self, target: Target) -> Target:
        """Return a mask with the checkpoint's numbers."""
        if self.order is None or not isinstance(target, MaskMap):
            return target
        return MaskMap(self._mapped(torch.from_numpy(target.classes.astype("int64"))).numpy().astype("uint8"))

    def _mapped(self, mask: Tensor) -> Tensor:
        assert self.order is not None
        numbers = torch.full((NOT_LABELLED + 1,), NOT_LABELLED)
        numbers[: len(self.order)] = self.order
        return numbers.to(mask.device)[mask.long()]
