"""The actions of boxes in a checkpoint's order."""

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from mvrec.data.views.targets import ActionBoxes, Target
from mvrec.tasks.classification.class_match import ClassMatch


class ActionNumbers(ClassMatch):
    """`ClassMatch` for boxes: rows of actions, a column per class."""

    def labels(self, labels: Any) -> Any:
        """Convert the targets of views, as `ActionBoxes.batched` gives them, to the checkpoint's order."""
        if self.order is None:
            return labels
        return [{**view, **{key: self._moved(view[key]) for key in ("actions", "true_actions")}} for view in labels]

    def target(self, target: Target) -> Target:
        """Return the boxes of a key frame with the checkpoint's order of actions."""
        if self.order is None or not isinstance(target, ActionBoxes):
            return target
        place = np.argsort(self.order.numpy())
        return replace(target, actions=target.actions[:, place], true_actions=target.true_actions[:, place])

    def _moved(self, actions: Tensor) -> Tensor:
        assert self.order is not None
        return actions[:, self.order.argsort().to(actions.device)]
