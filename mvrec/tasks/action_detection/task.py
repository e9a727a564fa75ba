"""Action detection: which actions each box of a key frame shows."""

import logging
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor

from mvrec.data.loading.batch import ClipBatch
from mvrec.data.views.protocol import KeyFrameProtocol
from mvrec.data.views.targets import ActionBoxes
from mvrec.errors import UserError
from mvrec.models.backbone import Backbone
from mvrec.models.heads.actions import ActionHead
from mvrec.ranges import check_ranges
from mvrec.run_data import RunData
from mvrec.tasks.action_detection.action_numbers import ActionNumbers
from mvrec.tasks.action_detection.frame_claims import ranked_claims
from mvrec.tasks.action_detection.head import HEADS
from mvrec.tasks.action_detection.loss import LossName, action_loss
from mvrec.tasks.action_detection.predictions import (
    WORST,
    frame_names,
    write_confusion,
    write_detections,
    write_per_class,
    write_predictions,
    write_worst,
)
from mvrec.tasks.action_detection.probabilities import box_logits, box_probabilities
from mvrec.tasks.action_detection.scores import METRICS, ActionScores, ActionTally
from mvrec.tasks.base import Stage, Task
from mvrec.tasks.maps_heads import KEY
from mvrec.tasks.ranked_claims import CLAIMS
from mvrec.training.precision import HALF

log = logging.getLogger(__name__)


class BoxedData(RunData, Protocol):
    """A data module whose key frames have boxes with actions."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the actions in label order."""


class ActionDetection(Task):
    """Train and score a video network with a head for the actions of boxes.

    The data determine the number of actions. A box may show any number of them. The head reads the network's last map,
    at the stride that the network has: no setting says it.

    Args:
        backbone: The network; its classifier is replaced.
        weights: File of the initial weights, in any layout: a classifier's, or a detector's with its head.
        pooling: How the map is pooled over time: "mean" as in SlowFast, or "max".
        context: Whether the mean of the whole map is classified together with a box.
        dropout: Share of a box's features that training drops.
        loss: "cross_entropy" of each action as a yes-or-no question, averaged over the boxes of a process and the
            actions; or "focal" (Lin et al. 2017, with mmaction2's figures for AVA), which weighs questions with wrong
            answers more.
        head_rate_factor: Learning rate of the head over that of the backbone.
        new_head: Whether the head starts untrained. By default unless `weights` detect the same actions.
        settings: See `Task`.

    Raises:
        UserError: A number is out of range, weights do not fit, or a checkpoint's actions are not the data's.
    """

    name = HEADS.task
    outputs = "mvrec.tasks.action_detection.outputs.ActionDetectionOutputs"
    monitor = "val/map"
    targets = (ActionBoxes,)

    def __init__(
        self,
        backbone: Backbone,
        *,
        weights: str | None = None,
        pooling: Literal["mean", "max"] = "mean",
        context: bool = False,
        dropout: float = 0.5,
        loss: LossName = "cross_entropy",
        head_rate_factor: float = 1.0,
        new_head: bool | None = None,
        **settings: Any,
    ) -> None:
        check_ranges("model.", {"dropout": dropout, "head_rate_factor": head_rate_factor})
        if weights is not None:
            HEADS.take_from_weights(backbone, weights)
        super().__init__(backbone, weights=weights, **settings)
        self.head_arguments: dict[str, Any] = {"pooling": pooling, "context": context, "dropout": dropout}
        self.loss_name, self.new_head = loss, new_head
        self.rate_factors = {"backbone.head.": head_rate_factor}
        self._numbers: ActionNumbers | None = None  # in evaluation, from the data's actions to the checkpoint's

    @property
    def data(self) -> BoxedData:
        """The data module of the running trainer."""
        return cast("BoxedData", super().data)

    # -- set-up -------------------------------------------------------------------------------------------------

    def build(self, data: RunData) -> None:
        """Give the network a head for the data's actions."""
        if self.trainer.precision in HALF:
            raise UserError(f"trainer.precision {self.trainer.precision} rounds the corners of boxes: use bf16-mixed")
        names = self.data.class_names
        training = self.trainer.state.fn == "fit"
        saved = HEADS.fit(
            self.backbone,
            names,
            self.start,
            arguments=self.head_arguments,
            new_head=self.new_head,
            training=training,
        )
        if saved is not None:
            self._numbers = ActionNumbers(saved, names)

    @property
    def head(self) -> ActionHead:
        """The network's head."""
        return cast("ActionHead", self.backbone.head)

    def describe(self) -> str:
        """Return the number of actions, and how the head pools time."""
        context = ", with context" if self.head.context else ""
        return f"{self.backbone.num_classes} actions per box, {self.head.pooling} over time{context}"

    def loss(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Return the loss of all boxes of a batch."""
        targets = batch.targets if self._numbers is None else self._numbers.labels(batch.targets)
        logits = box_logits(self, batch.clips, [view["corners"] for view in targets])
        actions = torch.cat([view["actions"] for view in targets])
        return {"loss": action_loss(logits, actions, kind=self.loss_name)}

    # -- scores -------------------------------------------------------------------------------------------------

    def predict(self, batch: ClipBatch) -> list[Tensor | None]:
        """Return the probabilities of each view's boxes, float64 (N, K) on the CPU, or `None` if not finite."""
        probabilities = box_probabilities(self, batch.clips, [view["corners"] for view in batch.targets])
        return [each if bool(each.isfinite().all()) else None for each in probabilities]

    def tally(self) -> ActionTally:
        """Return the boxes of no key frame, to be scored as the protocol says."""
        trainer = self.trainer
        protocol = self.data.test_protocol if trainer.testing or trainer.predicting else self.data.val_protocol
        rule = cast("KeyFrameProtocol", protocol).scored_frames
        return ActionTally(self.backbone.num_classes, only_with_truth=rule == "with_truth")

    def score_names(self) -> list[str]:
        """Return the logged scores of a validation."""
        return [f"val/{name}" for name in METRICS]

    def as_scored(self, batch: ClipBatch) -> ClipBatch:
        """Return a batch with the checkpoint's order of actions."""
        return batch if self._numbers is None else self._numbers.renumbered(batch)

    def write_scores(self, scores: ActionScores, folder: Path, stage: Stage) -> None:
        """Write key frames, detections and, in a test, the scores of actions, confusions and the worst key frames."""
        index = self.data.index("test")
        names = (
            ("predicted.csv", "predicted_boxes.csv") if stage == "predict" else ("predictions.csv", "detections.csv")
        )
        path, boxes = (folder / name for name in names)
        samples = [index[row] for row in range(len(index))]
        write_predictions(path, scores, samples=samples, columns=index.columns())
        write_detections(boxes, scores, names=frame_names(samples), action_ids=self._action_ids())
        log.info("key frames in %s, boxes in AVA's form in %s", path, boxes)
        if stage == "predict":
            return
        write_per_class(folder / "per_class.csv", scores, class_names=self.class_names)
        write_confusion(folder / "confusion.csv", scores, class_names=self.class_names)
        offset = getattr(getattr(self.data, "times", None), "offset", 0.0)
        write_worst(folder / WORST, scores, samples=samples, class_names=self.class_names, offset=offset)
        ranked_claims(scores).write(folder / CLAIMS)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the actions in the order of the network's outputs."""
        return self.data.class_names if self._numbers is None else self._numbers.names

    def _action_ids(self) -> list[int]:
        """Return the number of each output in files for other tools: that of the data's own lists, else from 1 on."""
        ids = list(getattr(self.data, "action_ids", range(1, len(self.class_names) + 1)))
        order = None if self._numbers is None else self._numbers.order
        return ids if order is None else [ids[number] for number in order.argsort().tolist()]

    # -- checkpoints --------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """Return class names and the head's arguments."""
        return {"class_names": list(self.class_names), KEY: dict(self.head.arguments)}

    def take_over(self, saved: dict[str, Any]) -> None:
        """Make the checkpoint's head."""
        HEADS.restore(self.backbone, saved, source="the checkpoint")

    def compare(self, saved: dict[str, Any], *, training: bool) -> None:
        """Compare the checkpoint's head and actions with this run's; a resumed run keeps the checkpoint's order."""
        self._numbers = ActionNumbers(saved["class_names"], self.data.class_names)
        if saved.get(KEY) != self.head.arguments:
            raise UserError(f"the checkpoint's head is {saved.get(KEY)}, this run's {self.head.arguments}")
