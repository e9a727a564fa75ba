"""Predictions of values from a network's outputs, for recognising, exporting and reporting."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from mvrec.errors import UserError
from mvrec.report.sections import RunResults, TaskReport
from mvrec.tasks.outputs import Output, TaskOutputs
from mvrec.tasks.regression.scale import KEY, ValueScale

if TYPE_CHECKING:
    from torch import Tensor

    from mvrec.models.backbone import Backbone


@dataclass(frozen=True)
class PredictedValues(Output):
    """Numbers by their names, in the units of the training list.

    Attributes:
        values: The numbers.
    """

    values: dict[str, float]

    def text(self, top: int) -> str:
        """Return names and values."""
        return ", ".join(f"{name} {value:.5g}" for name, value in self.values.items())

    def cells(self, top: int) -> list[str]:
        """Return the values."""
        return [f"{value:.9g}" for value in self.values.values()]

    def fields(self, top: int) -> dict[str, Any]:
        """Return values in full."""
        return {"values": dict(self.values)}

    def row(self, top: int) -> dict[str, Any]:
        """Return values in full, a column each."""
        return dict(self.values)


class RegressionOutputs(TaskOutputs):
    """Outputs (V, D) of views as values in the units of the training list.

    Args:
        scale: Names and scales of the values.
    """

    task = "regression"

    def __init__(self, scale: ValueScale) -> None:
        self.scale = scale

    @classmethod
    def of_file(
        cls, details: Mapping[str, Any], network: "Backbone", *, source: str, classes: str | None = None
    ) -> Self:
        """Return outputs with the scale of a run."""
        if classes is not None:
            raise UserError(f"--classes={classes}: {source} predicts values, which have no classes")
        scale = ValueScale.of_facts(details, source=source)
        network.reset_head(len(scale.names))
        return cls(scale)

    def output(self, raw: "Tensor", weights: "Tensor") -> PredictedValues:
        """Return the mean values of the views."""
        means = weights @ self.scale.values(raw)
        return PredictedValues(dict(zip(self.scale.names, means.tolist(), strict=True)))

    def columns(self, top: int) -> list[str]:
        """Return the names of the values."""
        return list(self.scale.names)

    def no_fields(self) -> dict[str, Any]:
        """Return no values."""
        return {KEY: {}}

    @classmethod
    def rows_of(cls, card: Mapping[str, Any]) -> dict[str, str]:
        """Return a row with the names of the values."""
        return {"values": ", ".join(ValueScale.of_facts(card, source="the card").names)}

    def facts(self) -> dict[str, Any]:
        """Return names and scales of the values."""
        return self.scale.facts()

    @classmethod
    def facts_in(cls, details: Mapping[str, Any]) -> dict[str, Any]:
        """Return names and scales of the values, if the file has them."""
        return {KEY: details.get(KEY), "scaled": bool(details.get("scaled", True))}

    def describe(self) -> str:
        """Return the names of the values."""
        return f"values {', '.join(self.scale.names)}"

    def activation(self) -> str:
        """Return the function from outputs to values."""
        return "output * deviation + mean" if self.scale.scaled else "none"

    @classmethod
    def report(cls, results: RunResults) -> TaskReport:
        """Return predicted over true values, and the worst files."""
        from mvrec.tasks.regression.report import RegressionReport  # charts, which recognising does not need

        return RegressionReport(results)
