"""The scale of the values to predict: networks learn numbers around 0, users get them in their own units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from mvrec.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

KEY = "values"  # of the scale in checkpoints, cards and `metrics.json`


@dataclass(frozen=True)
class ValueScale:
    """Names and scales of D values.

    Attributes:
        names: Their names.
        means: Mean of each over the training files.
        deviations: Standard deviation of each over the training files, above 0.
        scaled: Whether the network's outputs are `(value - mean) / deviation`; else they are the values.
    """

    names: tuple[str, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    scaled: bool = True

    @classmethod
    def of_values(cls, names: Sequence[str], values: "Tensor", *, scaled: bool, place: str) -> Self:
        """Return the scale of the training files.

        Args:
            names: Names of the values.
            values: Values of the files, float64 (N, D).
            scaled: See the class.
            place: The training split, for messages.

        Raises:
            UserError: All files have the same value: there is nothing to learn.
        """
        for name, column in zip(names, values.T, strict=True):
            if bool((column == column[0]).all()):
                raise UserError(
                    f"{place}: {name} is {column[0]:g} for all {len(values)} files: there is nothing to learn"
                )
        return cls(
            tuple(names), tuple(values.mean(dim=0).tolist()), tuple(values.std(dim=0, correction=0).tolist()), scaled
        )

    def outputs(self, values: "Tensor") -> "Tensor":
        """Return what a network has to give for values (..., D)."""
        return (values - values.new_tensor(self.means)) / values.new_tensor(self.deviations) if self.scaled else values

    def values(self, outputs: "Tensor") -> "Tensor":
        """Return the values in the user's units that outputs (..., D) mean: float64 on the CPU."""
        outputs = outputs.detach().cpu().double()
        if not self.scaled:
            return outputs
        return outputs * outputs.new_tensor(self.deviations) + outputs.new_tensor(self.means)

    def facts(self) -> dict[str, Any]:
        """Return plain numbers and texts, which `of_facts` reads."""
        columns = zip(self.names, self.means, self.deviations, strict=True)
        rows = [{"name": name, "mean": mean, "deviation": deviation} for name, mean, deviation in columns]
        return {KEY: rows, "scaled": self.scaled}

    @classmethod
    def of_facts(cls, details: Mapping[str, Any], *, source: str) -> Self:
        """Return the scale that a checkpoint or a card records.

        Raises:
            UserError: It records none.
        """
        try:
            rows = [(str(row["name"]), float(row["mean"]), float(row["deviation"])) for row in details[KEY]]
            names, means, deviations = zip(*rows, strict=True)
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{source} does not name the values that its network predicts") from None
        return cls(names, means, deviations, bool(details.get("scaled", True)))
