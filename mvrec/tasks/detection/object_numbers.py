"""The classes of objects in a checkpoint's order."""

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from mvrec.data.views.objects import Objects
from mvrec.data.views.targets import Target
from mvrec.tasks.classification.class_match import ClassMatch


class ObjectNumbers(ClassMatch):
    """`ClassMatch` for objects, each with a class."""

    def labels(self, labels: Any) -> Any:
        """Convert the targets of views, as `Objects.batched` gives them, to the checkpoint's order."""
        if self.order is None:
            return labels
        keys = ("labels", "truth_labels")
        return [{**view, **{key: self._moved(view[key]) for key in keys if key in view}} for view in labels]

    def target(self, target: Target) -> Target:
        """Return the objects of an image with the checkpoint's numbers."""
        if self.order is None or not isinstance(target, Objects):
            return target
        labels = self.order.numpy()[target.annotations.labels].astype(np.int32)
        return replace(target, annotations=replace(target.annotations, labels=labels))

    def _moved(self, labels: Tensor) -> Tensor:
        assert self.order is not None
        return self.order.to(labels.device)[labels]
