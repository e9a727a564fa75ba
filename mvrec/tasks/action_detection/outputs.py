"""Actions of boxes from a network's outputs, for recognising, exporting and reporting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from mvrec.data.listing.class_names import known_class_names
from mvrec.data.views.protocol import Protocol
from mvrec.errors import UserError
from mvrec.report.sections import RunResults, TaskReport
from mvrec.tasks.action_detection.head import KEY, TASK, restore_head
from mvrec.tasks.outputs import Output, TaskOutputs

if TYPE_CHECKING:
    from torch import Tensor

    from mvrec.models.backbone import Backbone


@dataclass(frozen=True, eq=False)
class BoxActions(Output):
    """The actions of the boxes of a key frame.

    Attributes:
        places: float (N, 4), left, top, right and bottom as shares of the frame, 0..1.
        probabilities: float (N, K), each of its own: a box may show any number of actions.
        class_names: Names in label order.
    """

    places: npt.NDArray[np.floating[Any]]
    probabilities: npt.NDArray[np.floating[Any]]
    class_names: tuple[str, ...]

    def ranked(self, box: int, top: int) -> list[tuple[str, float]]:
        """Return the most probable actions of a box with their probabilities."""
        probabilities = self.probabilities[box]
        return [
            (self.class_names[number], float(probabilities[number]))
            for number in np.argsort(-probabilities, kind="stable")[:top].tolist()
        ]

    def text(self, top: int) -> str:
        """Return the most probable actions of each box."""
        boxes = [
            f"box {box + 1}: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in self.ranked(box, top))
            for box in range(len(self.places))
        ]
        return "; ".join(boxes) or "no box"

    def cells(self, top: int) -> list[str]:
        """Return the number of boxes, and the actions as text."""
        return [str(len(self.places)), self.text(top)]

    def fields(self, top: int) -> dict[str, Any]:
        """Return the corners and actions of each box."""
        return {
            "boxes": [
                {"corners": [round(float(share), 6) for share in corners], "actions": dict(self.ranked(box, top))}
                for box, corners in enumerate(self.places)
            ]
        }


class ActionDetectionOutputs(TaskOutputs):
    """The actions of boxes.

    Args:
        class_names: Names in label order.
        head: The arguments of the network's head.
    """

    task = TASK

    def __init__(self, class_names: Sequence[str], head: Mapping[str, Any]) -> None:
        self.class_names, self.head = tuple(class_names), dict(head)

    @classmethod
    def of_file(
        cls, details: Mapping[str, Any], network: "Backbone", *, source: str, classes: str | None = None
    ) -> Self:
        """Return outputs with the actions and the head of a file."""
        names = restore_head(network, details, source=source)
        if classes is not None:
            given_names = tuple(known_class_names(classes))
            if len(given_names) != len(names):
                raise UserError(f"--classes={classes}: {len(given_names)} names, {source} detects {len(names)} actions")
            names = given_names
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

    def of_boxes(self, places: npt.NDArray[Any], probabilities: "Tensor") -> BoxActions:
        """Return the prediction of a key frame.

        Args:
            places: (N, 4), the boxes as shares of the frame.
            probabilities: (N, K).

        Raises:
            UserError: A probability is not finite.
        """
        if not bool(probabilities.isfinite().all()):
            raise UserError("the network's outputs are not finite: it cannot detect actions in this clip")
        return BoxActions(np.asarray(places), probabilities.numpy(), self.class_names)

    def raw(self, network: "Backbone", clips: "Tensor", protocol: Protocol) -> Any:
        """Refuse clips without boxes.

        Raises:
            UserError: Always.
        """
        raise UserError("an action detector answers for boxes of people, and none are given: --boxes FILE")

    def output(self, raw: "Sequence[tuple[npt.NDArray[Any], Tensor]]", weights: "Tensor") -> BoxActions:
        """Return the prediction of a key frame, which has one view.

        Args:
            raw: For the view the boxes (N, 4) as shares of the frame, and their probabilities (N, K).
            weights: 1 for the view.
        """
        ((places, probabilities),) = raw
        return self.of_boxes(places, probabilities)

    def columns(self, top: int) -> list[str]:
        """Return the columns of `BoxActions.cells`."""
        return ["boxes", "actions"]

    def no_fields(self) -> dict[str, Any]:
        """Return no boxes."""
        return {"boxes": []}

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
