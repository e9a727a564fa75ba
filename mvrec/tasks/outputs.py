"""The use of a network's outputs outside training: predictions of files, cards of weights, reports.

A checkpoint names the task and the class of its outputs, so that `recognize`, `export` and `report` know no task.
Nothing here imports Lightning.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from mvrec.class_paths import check_file_classes, imported
from mvrec.data.views.protocol import Protocol
from mvrec.errors import UserError
from mvrec.report.sections import RunResults, TaskReport

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from mvrec.models.backbone import Backbone

# The task of checkpoints and runs of earlier versions, which name none.
CLASSIFICATION = "classification"
CLASSIFICATION_OUTPUTS = "mvrec.tasks.classification.outputs.ClassificationOutputs"


class Output(ABC):
    """A task's prediction for a file, a part of it, or a part of a stream."""

    @abstractmethod
    def text(self, top: int) -> str:
        """Return the prediction as a line of text; `top` limits its length if it is ranked."""

    @abstractmethod
    def cells(self, top: int) -> list[str]:
        """Return the prediction as cells of a CSV file, under `TaskOutputs.columns`."""

    @abstractmethod
    def fields(self, top: int) -> dict[str, Any]:
        """Return the prediction as fields of a JSON object."""

    def row(self, top: int) -> dict[str, Any]:
        """Return the prediction as cells of a table by their column, with numbers in full."""
        return self.fields(top)

    def best(self, top: int) -> list[tuple[str, float]]:
        """Return the most probable classes with their probabilities.

        Raises:
            UserError: The task does not rank classes.
        """
        raise UserError(f"{type(self).__name__} ranks no classes: `as_dict()` and `output` have the prediction")


class PixelOutput(Output):
    """A prediction for each pixel of an image, which can be drawn and written as a mask.

    Attributes:
        classes: uint8 (H, W), class numbers.
        class_names: Names in label order.
    """

    classes: "npt.NDArray[np.uint8]"
    class_names: tuple[str, ...]

    @property
    @abstractmethod
    def colours(self) -> "npt.NDArray[np.uint8]":
        """The colour of each class, RGB uint8 (K, 3)."""

    @property
    @abstractmethod
    def shares(self) -> dict[str, float]:
        """The share of the image of each class, 0..1, in label order."""


class TaskOutputs(ABC):
    """From raw outputs of a trained network to predictions, for one task.

    Attributes:
        task: Its name.
        class_names: Names of the classes in label order; none if the task has no classes.
    """

    task: ClassVar[str]
    class_names: tuple[str, ...] = ()

    @classmethod
    @abstractmethod
    def of_file(
        cls, details: Mapping[str, Any], network: "Backbone", *, source: str, classes: str | None = None
    ) -> Self:
        """Return the outputs of a network whose file has these `details`, the task's `facts`.

        Args:
            details: The file's facts.
            network: The network by its file; its head may be replaced here to fit the file's outputs.
            source: The file, for messages.
            classes: The value of `--classes`.

        Raises:
            UserError: The file's facts do not suffice.
        """

    def raw(self, network: "Backbone", clips: "Tensor", protocol: Protocol) -> Any:
        """Return the network's outputs for normalised views (V, C, [T,] H, W); a task may compute them in parts."""
        return network(clips)

    @abstractmethod
    def output(self, raw: Any, weights: "Tensor") -> Output:
        """Return the prediction of a file.

        Args:
            raw: The result of `raw` for its views, such as a tensor (V, ...).
            weights: Weight of each view, float64 (V,), summing to 1.
        """

    @abstractmethod
    def columns(self, top: int) -> list[str]:
        """Return names of the CSV columns that `Output.cells` fills."""

    def no_fields(self) -> dict[str, Any]:
        """Return the fields of a JSON object for an unreadable file."""
        return {}

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return the task's facts for a file of weights, which `of_file` reads."""

    @classmethod
    def facts_in(cls, details: Mapping[str, Any]) -> dict[str, Any]:
        """Return the task's facts among all of a file; a file of published weights may have none."""
        return {}

    @classmethod
    def rows_of(cls, card: Mapping[str, Any]) -> dict[str, str]:
        """Return the task's rows in the README of a network on the Hub, from the network's card."""
        return {}

    def describe(self) -> str:
        """Describe the prediction in a few words."""
        return self.task

    def activation(self) -> str:
        """Return the function from raw outputs to predictions, for users of an exported network."""
        return "none"

    @classmethod
    @abstractmethod
    def report(cls, results: RunResults) -> TaskReport:
        """Return the task's part of a run's report."""


def task_of(details: Mapping[str, Any]) -> str:
    """Return the task that a checkpoint, a card or `metrics.json` names."""
    return str(details.get("task") or CLASSIFICATION)


def identity(kind: "type[TaskOutputs]") -> dict[str, str]:
    """Return the facts by which `outputs_of` finds the class again."""
    return {"task": kind.task, "outputs": f"{kind.__module__}.{kind.__qualname__}"}


def outputs_of(details: Mapping[str, Any], *, source: str) -> type[TaskOutputs]:
    """Return the class of outputs that a checkpoint, a card or `metrics.json` names.

    Raises:
        UserError: The class is in a module that the file may not name, or is not of a task.
    """
    path = details.get("outputs") or CLASSIFICATION_OUTPUTS
    check_file_classes({"_task": path}, source=source)
    kind = imported(path)
    if not (isinstance(kind, type) and issubclass(kind, TaskOutputs)):
        raise UserError(f"{source}: {path} is not a TaskOutputs")
    return kind


def need_task(outputs: TaskOutputs, task: str, *, command: str, source: object) -> None:
    """Refuse a network of another task than the command's.

    Raises:
        UserError: The tasks differ.
    """
    if outputs.task != task:
        raise UserError(f"{source}: its task is {outputs.task}, and {command} is for {task}")


def joined(parts: Sequence[Any]) -> Any:
    """Join the outputs of several batches of views: tensors (V, ...), or lists with one entry per view."""
    import torch  # here, since a report needs no torch

    return torch.cat(list(parts)) if isinstance(parts[0], torch.Tensor) else [view for part in parts for view in part]
