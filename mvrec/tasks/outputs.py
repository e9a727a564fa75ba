"""What a task does with a network's outputs outside training: predictions of files, cards of weights, reports.

A checkpoint names the task and the class of its outputs, so that `recognize`, `export` and `report` know no task.
Nothing here imports Lightning.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from mvrec.class_paths import check_file_classes, imported
from mvrec.errors import UserError
from mvrec.models.backbone import Backbone
from mvrec.report.sections import RunResults, TaskReport

# The task of checkpoints and runs that name none, as those of earlier versions.
CLASSIFICATION = "classification"
CLASSIFICATION_OUTPUTS = "mvrec.tasks.classification.outputs.ClassificationOutputs"


class Output(ABC):
    """What a task predicts for a file, a part of it, or a part of a stream."""

    @abstractmethod
    def text(self, top: int) -> str:
        """Return the prediction in a line for people; `top` says how much of it, where there is an order."""

    @abstractmethod
    def cells(self, top: int) -> list[str]:
        """Return the prediction as cells of a CSV file, under `TaskOutputs.columns`."""

    @abstractmethod
    def fields(self, top: int) -> dict[str, Any]:
        """Return the prediction as fields of a JSON object."""


class TaskOutputs(ABC):
    """From raw outputs of a trained network to predictions, for one task.

    Attributes:
        task: Its name.
        class_names: Names of the classes in label order; none where the task has no classes.
    """

    task: ClassVar[str]
    class_names: tuple[str, ...] = ()

    @classmethod
    @abstractmethod
    def of_file(cls, details: Mapping[str, Any], network: Backbone, *, source: str, classes: str | None = None) -> Self:
        """Return the outputs of a network whose file says `details`, which are the task's `facts`.

        Args:
            details: What the file says of itself.
            network: The network, as its file describes it; a head for the file's outputs is made here.
            source: The file, for messages.
            classes: What `--classes` says.

        Raises:
            UserError: A file that does not say enough.
        """

    @abstractmethod
    def output(self, raw: Tensor, weights: Tensor) -> Output:
        """Return the prediction of a file.

        Args:
            raw: What the network gives for its views, (V, ...).
            weights: How much each view counts, float64 (V,), adding up to 1.
        """

    @abstractmethod
    def columns(self, top: int) -> list[str]:
        """Return names of the CSV columns that `Output.cells` fills."""

    def no_fields(self) -> dict[str, Any]:
        """Return fields of a JSON object for what could not be read."""
        return {}

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What a file of weights says of the task, as `of_file` reads it."""

    @classmethod
    def facts_in(cls, details: Mapping[str, Any]) -> dict[str, Any]:
        """Return the task's facts among all that a file says; a file of published weights may say none."""
        return {}

    @classmethod
    def rows_of(cls, card: Mapping[str, Any]) -> dict[str, str]:
        """What the README of a network on the Hub says of the task, from the card of the network."""
        return {}

    def describe(self) -> str:
        """What is predicted, in a few words."""
        return self.task

    def activation(self) -> str:
        """What turns the raw outputs into predictions, for users of an exported network."""
        return "none"

    @classmethod
    @abstractmethod
    def report(cls, results: RunResults) -> TaskReport:
        """Return the task's part of a run's report."""


def task_of(details: Mapping[str, Any]) -> str:
    """Return the task that a checkpoint, a card or `metrics.json` names."""
    return str(details.get("task") or CLASSIFICATION)


def identity(kind: "type[TaskOutputs]") -> dict[str, str]:
    """What a file says so that `outputs_of` finds the class again."""
    return {"task": kind.task, "outputs": f"{kind.__module__}.{kind.__qualname__}"}


def outputs_of(details: Mapping[str, Any], *, source: str) -> type[TaskOutputs]:
    """Return the class of outputs that a checkpoint, a card or `metrics.json` names.

    Raises:
        UserError: A class of a module that the file may not name, or none of a task.
    """
    path = details.get("outputs") or CLASSIFICATION_OUTPUTS
    check_file_classes({"_task": path}, source=source)
    found = imported(path)
    if not (isinstance(found, type) and issubclass(found, TaskOutputs)):
        raise UserError(f"{source}: {path} is no TaskOutputs")
    return found


def need_task(outputs: TaskOutputs, task: str, *, command: str, source: object) -> None:
    """Refuse a network of another task than the one that a command is for.

    Raises:
        UserError: It names both tasks.
    """
    if outputs.task != task:
        raise UserError(f"{source}: its task is {outputs.task}, and {command} is for {task}")


def joined(parts: Sequence[Any]) -> Any:
    """Join the outputs of several batches of views: tensors (V, ...), or lists with one entry per view."""
    return torch.cat(list(parts)) if isinstance(parts[0], Tensor) else [view for part in parts for view in part]
