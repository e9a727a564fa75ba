"""Predictions of a classifier from its logits, for recognising, exporting and reporting."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from mvrec.data.listing.class_names import known_class_names
from mvrec.errors import UserError
from mvrec.report.sections import RunResults, TaskReport
from mvrec.tasks.outputs import CLASSIFICATION, Output, TaskOutputs

if TYPE_CHECKING:
    from torch import Tensor

    from mvrec.models.backbone import Backbone

# The shipped list of names for published weights, by the number of classes.
SHIPPED_CLASSES = {400: "kinetics400", 1000: "imagenet1k"}
RANKED = ("class", "probability")  # columns of a rank

log = logging.getLogger("mvrec")


@dataclass(frozen=True)
class Classes(Output):
    """The probability of each class.

    Attributes:
        probabilities: float64 (K,).
        class_names: Names in label order.
    """

    probabilities: "Tensor"
    class_names: Sequence[str]

    def best(self, top: int) -> list[tuple[str, float]]:
        """Return the most probable classes with their probabilities."""
        top_classes = self.probabilities.topk(min(top, len(self.class_names)))
        numbers, values = top_classes.indices.tolist(), top_classes.values.tolist()
        return [(self.class_names[number], value) for number, value in zip(numbers, values, strict=True)]

    def text(self, top: int) -> str:
        """Return classes with their probabilities in percent."""
        return ", ".join(f"{name} {100 * value:.1f} %" for name, value in self.best(top))

    def cells(self, top: int) -> list[str]:
        """Return names and probabilities in turn."""
        return [cell if isinstance(cell, str) else f"{cell:.6f}" for cell in self.row(top).values()]

    def row(self, top: int) -> dict[str, Any]:
        """Return names and probabilities in turn, under class_1, probability_1, class_2 and so on."""
        ranks = enumerate(self.best(top), start=1)
        return {f"{key}_{rank}": cell for rank, pair in ranks for key, cell in zip(RANKED, pair, strict=True)}

    def fields(self, top: int) -> dict[str, Any]:
        """Return probabilities in full."""
        return {"classes": [{"class": name, "probability": value} for name, value in self.best(top)]}


class ClassificationOutputs(TaskOutputs):
    """Logits (V, K) of views as probabilities of classes.

    Args:
        class_names: Names in label order.
        multi_label: Whether probabilities are sigmoids, separate for each class.
    """

    task = CLASSIFICATION

    def __init__(self, class_names: Sequence[str], *, multi_label: bool = False) -> None:
        self.class_names, self.multi_label = tuple(class_names), multi_label

    @classmethod
    def of_file(
        cls, details: Mapping[str, Any], network: "Backbone", *, source: str, classes: str | None = None
    ) -> Self:
        """Return outputs with the class names of a run, of `--classes`, or of the shipped list of that length."""
        saved = details.get("class_names")
        if saved:  # the run's head was made for its data
            network.reset_head(len(saved))
        names = _class_names(saved, classes, network.num_classes, source)
        return cls(names, multi_label=bool(details.get("multi_label")))

    def probabilities(self, raw: "Tensor") -> "Tensor":
        """Return softmax, or sigmoid in multi-label data, of logits (V, K): float64 (V, K) on the CPU."""
        from mvrec.tasks.classification.targets import probabilities_of  # torch, which a report does not need

        return probabilities_of(raw, multi_label=self.multi_label)

    def output(self, raw: "Tensor", weights: "Tensor") -> Classes:
        """Return the mean probabilities of the views."""
        return Classes(weights @ self.probabilities(raw), self.class_names)

    def columns(self, top: int) -> list[str]:
        """Return class_1, probability_1, class_2 and so on."""
        top = min(top, len(self.class_names))
        return [f"{key}_{rank}" for rank in range(1, top + 1) for key in RANKED]

    def no_fields(self) -> dict[str, Any]:
        """Return an empty list of classes."""
        return {"classes": []}

    @classmethod
    def rows_of(cls, card: Mapping[str, Any]) -> dict[str, str]:
        """Return a row that says whether a file may have several classes."""
        return {"several classes at once": "yes" if card["multi_label"] else "no"}

    def facts(self) -> dict[str, Any]:
        """Return class names, and whether a file may have several of them."""
        return {"class_names": list(self.class_names), "multi_label": self.multi_label}

    @classmethod
    def facts_in(cls, details: Mapping[str, Any]) -> dict[str, Any]:
        """Return class names, if the file has them, and whether a file may have several."""
        return {"class_names": details.get("class_names"), "multi_label": bool(details.get("multi_label"))}

    def describe(self) -> str:
        """Return the number of classes."""
        return f"{len(self.class_names)} classes"

    def activation(self) -> str:
        """Return the name of the function from logits to probabilities."""
        return "sigmoid" if self.multi_label else "softmax"

    @classmethod
    def report(cls, results: RunResults) -> TaskReport:
        """Return classes, confusions and the worst mistakes."""
        from mvrec.tasks.classification.report import ClassificationReport  # charts, which recognising does not need

        return ClassificationReport(results)


def _class_names(saved: Sequence[str] | None, requested: str | None, count: int, source: str) -> tuple[str, ...]:
    if requested is None and saved:
        return tuple(saved)
    if requested is None and count not in SHIPPED_CLASSES:
        raise UserError(
            f"{source} has {count} classes and does not name them: --classes FILE, with one name per line in label "
            "order"
        )
    names = tuple(known_class_names(SHIPPED_CLASSES[count] if requested is None else requested))
    if len(names) != count:
        raise UserError(f"--classes={requested} has {len(names)} names, {source} has {count} classes")
    if requested is None:
        log.info("%s does not name its classes: assuming those of %s", source, SHIPPED_CLASSES[count])
    return names
