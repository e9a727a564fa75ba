"""Actions of boxes from a network's outputs, for recognising, exporting and reporting."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from mvrec.data.views.protocol import Protocol
from mvrec.errors import UserError
from mvrec.report.sections import RunResults, TaskReport
from mvrec.tasks.action_detection.head import HEADS
from mvrec.tasks.maps_heads import KEY
from mvrec.tasks.outputs import Output, TaskOutputs

if TYPE_CHECKING:
    from torch import Tensor

    from mvrec.models.backbone import Backbone


class ActionDetectionOutputs(TaskOutputs):
    """The actions of boxes.

    Args:
        class_names: Names in label order.
        head: The arguments of the network's head.
    """

    task = HEADS.task

    def __init__(self, class_names: Sequence[str], head: Mapping[str, Any]) -> None:
        self.class_names, self.head = tuple(class_names), dict(head)

    @classmethod
    def of_file(
        cls, details: Mapping[str, Any], network: "Backbone", *, source: str, classes: str | None = None
    ) -> Self:
        """Return outputs with the actions and the head of a file."""
        names = HEADS.restore(network, details, source=source, classes=classes)
        return cls(names, details[KEY])

    def probabilities(self, network: "Backbone", clips: "Tensor", corners: "Sequence[Tensor]") -> "list[Tensor]":
        """Return the probability of each action for the boxes of clips.

        Args:
            network: The network with its head.
            clips: (V, C, T, H, W), normalised.
            corners: The boxes of each clip, (N, 4) in pixels of the clip.

        Returns:
            For each clip float64 (N, K) on the CPU.
        """
        from mvrec.tasks.action_detection.probabilities import box_probabilities  # torch, which reports need not

        return box_probabilities(network, clips, corners)

    def raw(self, network: "Backbone", clips: "Tensor", protocol: Protocol) -> Any:
        """Refuse clips without boxes.

        Raises:
            UserError: Always; `probabilities` takes boxes.
        """
        raise UserError("an action detector answers for boxes of people, and none are given: --boxes FILE")

    def output(self, raw: Any, weights: "Tensor") -> Output:
        """Refuse clips without boxes, as `raw`."""
        raise UserError("an action detector answers for boxes of people, and none are given: --boxes FILE")

    def columns(self, top: int) -> list[str]:
        """Return no columns: results of key frames have their own."""
        return []

    def facts(self) -> dict[str, Any]:
        """Return class names and the head's arguments."""
        return {"class_names": list(self.class_names), KEY: self.head}

    @classmethod
    def facts_in(cls, details: Mapping[str, Any]) -> dict[str, Any]:
        """Return class names and the head's arguments, if the file has them."""
        return {"class_names": details.get("class_names"), KEY: details.get(KEY)}

    @classmethod
    def rows_of(cls, card: Mapping[str, Any]) -> dict[str, str]:
        """Return rows with the number of actions and how the head pools time."""
        head = card.get(KEY) or {}
        pooling = f"{head.get('pooling')}{' with context' if head.get('context') else ''}"
        return {"actions": str(len(card.get("class_names") or ())), "pooling over time": pooling}

    def describe(self) -> str:
        """Return the number of actions."""
        return f"{len(self.class_names)} actions per box"

    def activation(self) -> str:
        """Return the function from outputs to probabilities."""
        return "sigmoid"

    @classmethod
    def report(cls, results: RunResults) -> TaskReport:
        """Return actions, confusions and the worst key frames."""
        from mvrec.tasks.action_detection.report import ActionReport  # charts, which recognising does not need

        return ActionReport(results)
