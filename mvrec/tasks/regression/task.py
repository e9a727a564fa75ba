"""Regression of clips and images: one number per file, or several with names."""

import logging
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from torch import Tensor

from mvrec.data.loading.batch import ClipBatch
from mvrec.data.views.targets import Values
from mvrec.errors import UserError
from mvrec.models.backbone import Backbone
from mvrec.run_data import RunData
from mvrec.tasks.base import Stage, Task
from mvrec.tasks.regression.predictions import write_predictions
from mvrec.tasks.regression.scale import KEY, ValueScale
from mvrec.tasks.regression.scores import ValueScores, ValueTally, loss_of
from mvrec.training.precision import HALF

log = logging.getLogger(__name__)


class MeasuredData(RunData, Protocol):
    """A data module whose files have values."""

    @property
    def value_names(self) -> list[str]:
        """The names of the values."""


class Regression(Task):
    """Train and score a backbone on lists with numbers: in a column `value`, or in the columns `data.values`.

    The network learns each value in units of its standard deviation from its mean, both taken from the training files
    and recorded in every checkpoint. Predictions and errors are in the units of the list.

    Args:
        backbone: The network.
        loss: Training error, in standard deviations: "l2" is the squared error, "l1" the absolute one, which outliers
            disturb least, "huber" the squared one up to 1 and the absolute one beyond.
        scale: Whether the network learns values in units of their standard deviation. Without it the values should be
            small numbers around 0.
        new_head: Whether the head starts untrained. By default unless `weights` predict the same values.
        settings: See `Task`.

    Raises:
        UserError: A number is out of range, weights do not fit, or a checkpoint's values are not the data's.
    """

    name = "regression"
    outputs = "mvrec.tasks.regression.outputs.RegressionOutputs"
    monitor = "val/r2"
    targets = (Values,)

    def __init__(
        self,
        backbone: Backbone,
        *,
        loss: Literal["l1", "l2", "huber"] = "l2",
        scale: bool = True,
        new_head: bool | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, **settings)
        self.loss_kind, self.scaled, self.new_head = loss, scale, new_head
        self.scale: ValueScale | None = None  # until `build`, or a checkpoint's

    @property
    def data(self) -> MeasuredData:
        """The data module of the running trainer."""
        return cast("MeasuredData", super().data)

    def build(self, data: RunData) -> None:
        """Fit the head to the number of values, and take their scale from the training files or the weights."""
        if self.trainer.precision in HALF:
            raise UserError(f"trainer.precision {self.trainer.precision} rounds the true values: use bf16-mixed")
        names = self.data.value_names
        if self.trainer.state.fn != "fit":
            if self.start.weights is not None:
                self.scale = ValueScale.of_facts(self.start.details, source=self.start.weights)
                _check_names(self.scale, names, source=self.start.weights)
            else:
                self.backbone.reset_head(len(names))
            return
        if self.start.details.get(KEY) and not self.new_head and self.backbone.num_classes == len(names):
            earlier = ValueScale.of_facts(self.start.details, source=str(self.start.weights))
            if earlier.names == tuple(names):
                log.info("%s predicts the same values: its head and their scale are kept", self.start.weights)
                self.scale = earlier
                return
        if self.new_head is False:
            raise UserError("model.new_head false needs model.weights of a network that predicts the same values")
        self.backbone.reset_head(len(names))
        self.scale = self._scale_of_training()
        self._warn_of_equal_values()

    def _scale_of_training(self) -> ValueScale:
        names, values = self.data.value_names, self._values_of("train")
        return ValueScale.of_values(names, values, scaled=self.scaled, place=self._place("train"))

    def _place(self, split: str) -> str:
        return f"{self.data.record()['root']}, {split}"

    def _values_of(self, split: str) -> Tensor:
        """Return the values of a split's files, float64 (N, D)."""
        index: Any = self.data.index(split)
        return Values.batched([index.target(row) for row in range(len(index))])

    def _warn_of_equal_values(self) -> None:
        """Warn of a validation that cannot rank checkpoints."""
        if not self.trainer.limit_val_batches:
            return
        for name, column in zip(self.data.value_names, self._values_of("val").T, strict=True):
            if bool((column == column[0]).all()):
                log.warning(
                    "%s: %s is %g for all %d files: there is no R2, and best.ckpt is not the best by it; give other "
                    "files, or --checkpoint.monitor with an error such as val/rmse",
                    *(self._place("val"), name, column[0], len(column)),
                )

    @property
    def value_scale(self) -> ValueScale:
        """The scale of the values, of the training files or of a checkpoint."""
        if self.scale is None:
            self.scale = self._scale_of_training()  # an untrained network is tested
        return self.scale

    def describe(self) -> str:
        """Return the values, and the loss."""
        return f"values {', '.join(self.value_scale.names)}, {self.loss_kind} loss"

    def on_fit_start(self) -> None:
        """Log the network and the scale of the values."""
        super().on_fit_start()
        scale = self.value_scale
        for name, mean, deviation in zip(scale.names, scale.means, scale.deviations, strict=True):
            log.info("%s: mean %.5g, standard deviation %.5g in the training files", name, mean, deviation)

    def loss(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Return the mean error of the scaled values."""
        targets = self.value_scale.outputs(batch.targets).float()
        return {"loss": loss_of(self(batch.clips).float(), targets, self.loss_kind)}

    def tally(self) -> ValueTally:
        """Return sums of predicted values per sample."""
        return ValueTally(self.value_scale)

    def score_names(self) -> list[str]:
        """Return the logged scores of a validation."""
        return [f"val/{name}" for name in ValueScores.names(self.data.value_names)]

    def write_scores(self, scores: ValueScores, folder: Path, stage: Stage) -> None:
        """Write predictions next to the true values."""
        index = self.data.index("test")
        path = folder / ("predicted.csv" if stage == "predict" else "predictions.csv")
        paths = [index[row].path for row in range(len(index))]
        write_predictions(path, scores, paths=paths, columns=index.columns())
        log.info("predictions in %s", path)

    def facts(self) -> dict[str, Any]:
        """Return names and scales of the values."""
        return self.value_scale.facts()

    def take_over(self, saved: dict[str, Any]) -> None:
        """Make a head for the checkpoint's values, and take their scale."""
        self.scale = ValueScale.of_facts(saved, source="the checkpoint")
        self.backbone.reset_head(len(self.scale.names))

    def compare(self, saved: dict[str, Any], *, training: bool) -> None:
        """Check that the checkpoint predicts the data's values, and take their scale."""
        scale = ValueScale.of_facts(saved, source="the checkpoint")
        _check_names(scale, self.data.value_names, source="the checkpoint")
        self.scale = scale


def _check_names(scale: ValueScale, names: list[str], *, source: str) -> None:
    if list(scale.names) != list(names):
        raise UserError(
            f"{source} predicts {', '.join(scale.names)}, the data give {', '.join(names)}: set data.values to "
            f"[{', '.join(scale.names)}]"
        )
