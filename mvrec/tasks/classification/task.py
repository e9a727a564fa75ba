"""Classification of clips and images with one class, or with any number of classes."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from mvrec.data.loading.batch import ClipBatch
from mvrec.data.views.targets import ClassIndex, MultiHot
from mvrec.models.backbone import Backbone
from mvrec.ranges import check_ranges
from mvrec.run_data import RunData
from mvrec.runs.curves import read_columns
from mvrec.seeds import derive_seed
from mvrec.tasks.base import Stage, Task
from mvrec.tasks.classification.class_match import ClassMatch, compare_classes
from mvrec.tasks.classification.head import classes_of_weights, fit_head
from mvrec.tasks.classification.mixing import Mixing
from mvrec.tasks.classification.own_parts import Metrics, check_own, own_loss, own_scores
from mvrec.tasks.classification.predictions import write_predictions
from mvrec.tasks.classification.results import write_confusion, write_per_class
from mvrec.tasks.classification.scores import ClassScores, ClassTally, MultiLabelScores, SingleLabelScores
from mvrec.tasks.classification.targets import (
    ClassWeights,
    class_weight_tensor,
    classification_loss,
    compare_kinds,
    make_targets,
)
from mvrec.tasks.classification.verdict import Training, few_files_note, verdict
from mvrec.tasks.outputs import CLASSIFICATION
from mvrec.tasks.score_text import write_metrics

log = logging.getLogger(__name__)


class LabelledData(RunData, Protocol):
    """A data module whose files have classes."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in label order."""

    @property
    def class_counts(self) -> list[int]:
        """Return the number of training files of each class."""


class Classification(Task):
    """Train and score a backbone on files with classes.

    The data determine the number of classes: the head is replaced if it differs, and the class names and the
    protocol are recorded in every checkpoint.

    Args:
        backbone: The network.
        new_head: Whether the head starts untrained. By default if the classes of `weights` are not the data's.
        mixing: Mixup and CutMix, or `None`.
        label_smoothing: Share of the target to spread over all classes; in multi-label data over yes and no of each
            class.
        class_weights: Weight of each class in the training loss, or "balanced" for the inverse of its size.
        loss: Class path of a module of one's own or of torch.nn in place of the cross-entropy in training: it maps
            logits (B, K) and classes int64 (B,) to a scalar. With `mixing` or `label_smoothing`, and if a file may
            have several classes, the targets are probabilities, float (B, K).
        metrics: Further scores by name: class paths of a `torchmetrics.Metric`, or of a function of probabilities
            (N, K) and classes (N,) of all files.
        settings: See `Task`.

    Raises:
        UserError: A number is out of range, weights do not fit, or a checkpoint's classes are not the data's.
    """

    name = CLASSIFICATION
    outputs = "mvrec.tasks.classification.outputs.ClassificationOutputs"
    monitor = "val/top1"
    targets = (ClassIndex, MultiHot)

    def __init__(
        self,
        backbone: Backbone,
        *,
        new_head: bool | None = None,
        mixing: Mixing | None = None,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights | None = None,
        loss: nn.Module | None = None,
        metrics: Metrics | None = None,
        **settings: Any,
    ) -> None:
        check_ranges("model.", {"label_smoothing": label_smoothing})
        check_own(loss, metrics, class_weights=class_weights)
        super().__init__(backbone, **settings)
        self.new_head, self.mixing = new_head, mixing
        self.label_smoothing, self.class_weights = label_smoothing, class_weights
        self.own_loss, self.metrics = loss, dict(metrics or {})
        self._match: ClassMatch | None = None  # in evaluation, from the data's classes to the checkpoint's

    @property
    def data(self) -> LabelledData:
        """The data module of the running trainer."""
        return cast("LabelledData", super().data)

    @property
    def multi_label(self) -> bool:
        """Whether a file may have several classes, or none."""
        return self.data.target_type is MultiHot

    def build(self, data: RunData) -> None:
        """Fit the head to the data's classes."""
        names = self.data.class_names
        if self.trainer.state.fn == "fit" or self.start.weights is None:
            fit_head(self.backbone, names, self.start, new_head=self.new_head)
        else:
            self._match = ClassMatch(classes_of_weights(self.backbone, names, self.start), names)
        if self.class_weights is not None:
            files = len(data.index("train")) if self.multi_label else None
            weights = class_weight_tensor(self.class_weights, self.data.class_counts, multi_label_files=files)
            self.register_buffer("class_weight", weights, persistent=False)

    def describe(self) -> str:
        """Return the number of classes."""
        return f"{self.backbone.num_classes} classes"

    def loss(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Return the cross-entropy with soft targets; of sigmoids if a clip may have several classes."""
        targets = make_targets(batch.targets, self.backbone.num_classes, smoothing=self.label_smoothing)
        clips = batch.clips
        if self.own_loss is not None and self.mixing is None and not self.label_smoothing and not self.multi_label:
            targets = batch.targets
        if self.mixing is not None:
            clips, targets = self.mixing(clips, targets, seed=derive_seed("mix", int(batch.seeds[0])))
        weights = getattr(self, "class_weight", None)
        logits = self(clips).float()
        if self.own_loss is not None:
            return {"loss": own_loss(self.own_loss, logits, targets)}
        loss = classification_loss(logits, targets, multi_label=self.multi_label, class_weights=weights)
        return {"loss": loss}

    # -- what validations tell ----------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Log the trained network, and whether the validation files are few."""
        super().on_fit_start()
        if self.multi_label or self.trainer.limit_val_batches == 0 or not self.trainer.is_global_zero:
            return
        count = len(self.data.index("val"))
        total = count + len(self.data.index("train"))
        fold, most_folds = getattr(self.data, "fold", None), getattr(self.data, "most_folds", 0)
        if note := few_files_note(count, noun=self.noun, fold=fold, most_folds=most_folds, total=total):
            log.warning("%s", note)

    def on_validation_epoch_end(self) -> None:
        """Merge the scores of all processes, and write those of a validation of training to `validation.json`."""
        super().on_validation_epoch_end()
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self._write_validation([])

    def on_train_end(self) -> None:
        """Say so if the run is not above chance."""
        trainer = self.trainer
        metrics = Path(trainer.loggers[0].save_dir or ".") / "metrics.csv" if trainer.loggers else Path()
        if not trainer.is_global_zero or not metrics.is_file() or not isinstance(self.scores, SingleLabelScores):
            return
        columns, chance = read_columns(metrics), self.scores.chance()
        remarks = verdict(
            columns.get("val/top1", ([], []))[1],
            self._training(columns.get("train/loss", ([], []))[1]),
            count=self.scores.expected,
            guess=chance.get("top1", 1.0),
            loss=chance.get("loss", 0.0),
            noun=self.noun,
        )
        for remark in remarks:
            log.warning("%s", remark)
        if remarks:
            self._write_validation(remarks)

    def _training(self, losses: list[float]) -> Training:
        return Training(
            steps=self.trainer.global_step,
            num_files=len(self.data.index("train")),
            has_weights=self.start.weights is not None,
            freeze=self.start.freeze,
            layer_decay=self.layer_decay,
            peak_rate=max((group["lr"] for group in self.parameter_groups), default=0.0),
            label_smoothing=self.label_smoothing,
            mixes=self.mixing is not None,
            flip_probability=getattr(getattr(self.data, "augment", None), "flip_probability", 0.0),
            class_names=self.data.class_names,
            losses=losses,
        )

    def _write_validation(self, remarks: list[str]) -> None:
        """Write the last validation like a test, with what makes its loss differ from the training loss."""
        trainer = self.trainer
        if not trainer.is_global_zero or trainer.fast_dev_run or not trainer.loggers or self.scores is None:  # type: ignore[attr-defined]
            return
        harder = {
            "label smoothing": self.label_smoothing > 0,
            "mixing": self.mixing is not None,
            "class weights": self.class_weights is not None,
        }
        facts = {"training_loss_with": [name for name, used in harder.items() if used], "remarks": remarks}
        path = Path(trainer.loggers[0].save_dir or ".") / "validation.json"
        protocol = self.data.val_protocol
        write_metrics(path, self.scores, stage="val", protocol=protocol, noun=self.noun, facts=facts)

    # -- scores -------------------------------------------------------------------------------------------------

    def tally(self) -> ClassTally:
        """Return sums of probabilities per sample."""
        return ClassTally(self.backbone.num_classes, multi_label=self.multi_label)

    def score_names(self) -> list[str]:
        """Return the logged scores of a validation."""
        kind: type[ClassScores] = MultiLabelScores if self.multi_label else SingleLabelScores
        return [f"val/{name}" for name in (*kind.names(self.backbone.num_classes), *self.metrics)]

    def complete(self, scores: ClassScores) -> ClassScores:
        """Return scores with those of the user's metrics."""
        return replace(scores, own_metrics=own_scores(self.metrics, scores)) if self.metrics else scores

    def as_scored(self, batch: ClipBatch) -> ClipBatch:
        """Return a batch with the checkpoint's class numbers."""
        return batch if self._match is None else self._match.renumbered(batch)

    def write_scores(self, scores: ClassScores, folder: Path, stage: Stage) -> None:
        """Write predictions, and in a test the scores of the classes and the confusions."""
        names, index = self.class_names, self.data.index("test")
        predictions = folder / ("predicted.csv" if stage == "predict" else "predictions.csv")
        paths = [index[row].path for row in range(len(index))]
        write_predictions(predictions, scores, paths=paths, class_names=names, columns=index.columns())
        log.info("predictions in %s", predictions)
        if stage == "predict":
            return
        in_split = torch.as_tensor(index.class_counts())
        if self._match is not None and self._match.order is not None:
            in_split = torch.zeros_like(in_split).index_copy_(0, self._match.order, in_split)
        whole = in_split.tolist() if scores.partial else None
        write_per_class(folder / "per_class.csv", scores, class_names=names, in_split=whole)
        if isinstance(scores, SingleLabelScores):
            write_confusion(folder / "confusion.csv", scores, class_names=names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the network's outputs."""
        return self.data.class_names if self._match is None else self._match.names

    def facts(self) -> dict[str, Any]:
        """Return class names, and whether a file may have several of them."""
        return {"class_names": list(self.class_names), "multi_label": self.multi_label}

    def take_over(self, saved: dict[str, Any]) -> None:
        """Make a head for the checkpoint's classes."""
        self.backbone.reset_head(len(saved["class_names"]))

    def compare(self, saved: dict[str, Any], *, training: bool) -> None:
        """Compare the checkpoint's classes with the data's; training requires the same order."""
        names = saved["class_names"]
        compare_kinds(saved.get("multi_label", False), self.multi_label)
        if training:
            compare_classes(names, self.data.class_names)
            return
        self._match = ClassMatch(names, self.data.class_names)
        if self._match.order is not None:
            log.info("the data's classes come in another order than the checkpoint's: matched by their names")
