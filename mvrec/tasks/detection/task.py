"""Object detection in images, with instance masks."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor

from mvrec.data.loading.batch import ClipBatch
from mvrec.data.views.objects import Objects
from mvrec.errors import UserError
from mvrec.models.backbone import Backbone
from mvrec.models.heads.detection.head import WITH_MASKS, DetectionHead, DetectorName
from mvrec.models.heads.detection.results import ImageSize, Style
from mvrec.ranges import check_ranges
from mvrec.run_data import RunData
from mvrec.tasks.base import Stage, Task
from mvrec.tasks.detection.detecting import ImageDetections, batch_input, detect
from mvrec.tasks.detection.head import HEADS, HeadParts, fitting_norm, with_weights
from mvrec.tasks.detection.matching import ranked_claims
from mvrec.tasks.detection.object_numbers import ObjectNumbers
from mvrec.tasks.detection.outputs import CLASS_IDS, head_rule
from mvrec.tasks.detection.predictions import (
    CURVES,
    WORST,
    write_confusion,
    write_curves,
    write_detections,
    write_per_class,
    write_predictions,
    write_worst,
)
from mvrec.tasks.detection.scores import RegionScores, RegionTally, in_headline, metric_names
from mvrec.tasks.maps_heads import KEY
from mvrec.tasks.ranked_claims import CLAIMS
from mvrec.training.precision import HALF

_WITHOUT_MASKS = {"mask_rcnn": "faster_rcnn", "cascade_mask_rcnn": "cascade_rcnn"}

log = logging.getLogger(__name__)


class ObjectsData(RunData, Protocol):
    """A data module whose images have objects."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in label order."""

    @property
    def class_ids(self) -> tuple[int, ...]:
        """The COCO id of each class."""

    @property
    def with_masks(self) -> bool:
        """Whether masks are learned and scored where there are outlines."""

    def table(self, split: str) -> Any:
        """Return the packed objects of a split, whose `shapes.present` tells which have an outline."""


class Detection(Task):
    """Train and score a backbone with a detector on its maps.

    The data determine the number of classes. Training pads the images of a batch to a common size; an evaluation takes
    one image at a time, since padding would change the features, and gives boxes and masks in pixels of the file.

    Args:
        backbone: The network; its classifier is replaced.
        weights: File of the initial weights, in any layout: a classifier's, or a detector's with its head.
        detector: "mask_rcnn" (He et al. 2017), "faster_rcnn" (Ren et al. 2015), "retinanet" (Lin et al. 2017), or
            "cascade_mask_rcnn" and "cascade_rcnn" (Cai and Vasconcelos 2018).
        style: Whose form of anchors, assignment, losses and pooling: "mmdetection", "torchvision" or "detectron2".
            Weights give a library's results in its own form only.
        channels: Width of the feature pyramid.
        score_threshold: Least score of a detection. Evaluations need a small one: average precision has all recalls.
        nms_threshold: Overlap of two boxes of a class from which the worse one is dropped.
        max_detections: Most detections of an image; COCO's figures take 100.
        level_norm: Norm of each map before the pyramid; "auto" is the one that the network's maps need, because they
            have none of their own: "group" for CloFormer (as in its author's later FAT), "layer" for MViT. Of weights
            that detect it is theirs.
        head: Sizes of the detector's parts.
        rank_by: Whether the average precision of "boxes" or "masks" ranks checkpoints.
        head_rate_factor: Learning rate of the head over that of the backbone.
        new_head: Whether the head starts untrained. By default unless `weights` detect the same classes.
        settings: See `Task`.

    Raises:
        UserError: A number is out of range, weights do not fit, or a checkpoint's classes are not the data's.
    """

    name = HEADS.task
    outputs = "mvrec.tasks.detection.outputs.DetectionOutputs"
    monitor = "val/map"
    targets = (Objects,)

    def __init__(
        self,
        backbone: Backbone,
        *,
        weights: str | None = None,
        detector: DetectorName = "mask_rcnn",
        style: Style = "mmdetection",
        channels: int = 256,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        max_detections: int = 100,
        level_norm: Literal["auto", "none", "layer", "group"] = "auto",
        head: HeadParts = HeadParts(),  # noqa: B008 - frozen
        rank_by: Literal["boxes", "masks"] = "boxes",
        head_rate_factor: float = 1.0,
        new_head: bool | None = None,
        **settings: Any,
    ) -> None:
        thresholds = {"score_threshold": score_threshold, "nms_threshold": nms_threshold}
        numbers = {"channels": channels, "max_detections": max_detections, "head_rate_factor": head_rate_factor}
        check_ranges("model.", {**thresholds, **numbers})
        if rank_by == "masks" and detector not in WITH_MASKS:
            raise UserError(
                f"model.rank_by masks: {detector} has no masks, only {' and '.join(sorted(WITH_MASKS))} have"
            )
        if weights is not None:
            HEADS.take_from_weights(backbone, weights)
        super().__init__(backbone, weights=weights, **settings)
        self.head_arguments: dict[str, Any] = {
            **asdict(head),
            **{"detector": detector, "style": style, "channels": channels},
            **{**thresholds, "max_detections": max_detections},
            "level_norm": fitting_norm(backbone) if level_norm == "auto" else level_norm,
        }
        self.ranked_by_masks, self.new_head = rank_by == "masks", new_head
        self.rate_factors = {"backbone.head.": head_rate_factor}
        self._numbers: ObjectNumbers | None = None  # in evaluation, from the data's classes to the checkpoint's

    @property
    def data(self) -> ObjectsData:
        """The data module of the running trainer."""
        return cast("ObjectsData", super().data)

    # -- set-up -------------------------------------------------------------------------------------------------

    def build(self, data: RunData) -> None:
        """Give the network a head for the data's classes."""
        if self.trainer.precision in HALF:
            raise UserError(f"trainer.precision {self.trainer.precision} rounds the corners of boxes: use bf16-mixed")
        names = self.data.class_names
        training = self.trainer.state.fn == "fit"
        if training and self.head_arguments["detector"] in WITH_MASKS and not self._data_have_masks:
            detector = self.head_arguments["detector"]
            raise UserError(
                f"model.detector {detector} learns masks, and the data have boxes only: --model.detector "
                f"{_WITHOUT_MASKS[detector]}"
            )
        saved = HEADS.fit(
            self.backbone,
            names,
            self.start,
            arguments=self.head_arguments,
            new_head=self.new_head,
            training=training,
        )
        if saved is not None:
            self._numbers = ObjectNumbers(saved, names)

    def compile_backbone(self) -> None:
        """Compile the maps alone: a head chooses boxes, whose number differs from image to image."""
        self.backbone.feature_maps = torch.compile(self.backbone.feature_maps)  # type: ignore[method-assign]

    @property
    def _data_have_masks(self) -> bool:
        return self.data.with_masks and bool(self.data.table("train").shapes.present.any())

    @property
    def head(self) -> DetectionHead:
        """The network's head."""
        return cast("DetectionHead", self.backbone.head)

    def describe(self) -> str:
        """Return the detector and the number of classes."""
        arguments = self.head.arguments
        return f"{arguments['detector']} in {arguments['style']}'s form, {self.backbone.num_classes} classes"

    def loss(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Return the sum of the losses of all stages, and each of them."""
        targets = batch.targets if self._numbers is None else self._numbers.labels(batch.targets)
        images = [ImageSize(*view["size"].tolist()) for view in targets]
        parts = self(batch_input(batch.clips, images), images, targets)
        return {"loss": sum(parts.values()), **{f"{name}_loss": part.detach() for name, part in parts.items()}}

    # -- scores -------------------------------------------------------------------------------------------------

    def predict(self, batch: ClipBatch) -> list[ImageDetections | None]:
        """Return the objects of each image, on the CPU, or `None` if the outputs are not finite."""
        images = [ImageSize(*view["size"].tolist(), *view["scale"].tolist()) for view in batch.targets]
        return detect(self, batch.clips, images)

    def tally(self) -> RegionTally:
        """Return the objects of no image."""
        return RegionTally(
            self.backbone.num_classes,
            masks=self.head.has_masks,
            ranked_by_masks=self.ranked_by_masks,
            rule=head_rule(self.head.arguments),
        )

    def score_names(self) -> list[str]:
        """Return the logged scores of a validation."""
        masks = self.head_arguments["detector"] in WITH_MASKS  # the head is made later
        names = metric_names(masks=masks, ranked_by_masks=self.ranked_by_masks)
        return [f"val/{name}" for name in names if in_headline(name)]

    def as_scored(self, batch: ClipBatch) -> ClipBatch:
        """Return a batch with the checkpoint's class numbers."""
        return batch if self._numbers is None else self._numbers.renumbered(batch)

    def write_scores(self, scores: RegionScores, folder: Path, stage: Stage) -> None:
        """Write images, detections and, in a test, the scores of classes, curves, confusions and the worst images."""
        index = self.data.index("test")
        names = ("predicted.csv", "predicted.json") if stage == "predict" else ("predictions.csv", "detections.json")
        path, detections = (folder / name for name in names)
        paths = [index[row].path for row in range(len(index))]
        write_predictions(path, scores, paths=paths, columns=index.columns())
        write_detections(detections, scores, class_ids=self.class_ids)
        log.info("images in %s, detections as COCO results in %s", path, detections)
        if not scores.facts()["detections"]:
            threshold = self.head.arguments["score_threshold"]
            log.warning("no detection has a score above %g: train longer, or lower model.score_threshold", threshold)
        if stage == "predict":
            return
        write_per_class(folder / "per_class.csv", scores, class_names=self.class_names)
        write_confusion(folder / "confusion.csv", scores, class_names=self.class_names)
        write_curves(folder / CURVES, scores)
        write_worst(folder / WORST, scores, paths=paths, class_names=self.class_names)
        ranked_claims(scores).write(folder / CLAIMS)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the network's outputs."""
        return self.data.class_names if self._numbers is None else self._numbers.names

    @property
    def class_ids(self) -> list[int]:
        """The number of each of the network's classes in COCO files: that of the data's own files."""
        ids = [int(number) for number in self.data.class_ids]
        order = None if self._numbers is None else self._numbers.order
        return ids if order is None else [ids[number] for number in order.argsort().tolist()]

    # -- checkpoints --------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """Return class names and their COCO ids, and the head's arguments."""
        return {"class_names": list(self.class_names), CLASS_IDS: self.class_ids, KEY: dict(self.head.arguments)}

    def take_over(self, saved: dict[str, Any]) -> None:
        """Make the checkpoint's head."""
        HEADS.restore(self.backbone, saved, source="the checkpoint")

    def compare(self, saved: dict[str, Any], *, training: bool) -> None:
        """Compare the checkpoint's head and classes with this run's; a resumed run keeps the checkpoint's order.

        A test may have other thresholds.
        """
        self._numbers = ObjectNumbers(saved["class_names"], self.data.class_names)
        earlier, arguments = saved.get(KEY) or {}, self.head.arguments
        if with_weights(earlier) != with_weights(arguments) or (training and earlier != arguments):
            raise UserError(f"the checkpoint's head is {saved.get(KEY)}, this run's {arguments}")
