"""Scores of detection: the objects of each image, from which COCO's figures are computed once at the end.

Images are ordered by their COCO ids, so a score depends neither on the number of processes nor on the batch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from torch import int64, tensor

from mvrec.data.loading.batch import BadSample
from mvrec.data.views.objects import Objects
from mvrec.errors import UserError
from mvrec.tasks.detection.coco_figures import FIGURES, CocoFigures, coco_figures
from mvrec.tasks.detection.detecting import ImageDetections
from mvrec.tasks.detection.image_regions import ImageRegions, Truth
from mvrec.tasks.detection.mistakes import (
    Claims,
    Counts,
    Mistakes,
    best_score,
    claims_of,
    confusion,
    counted,
    mistakes_of,
)
from mvrec.tasks.scores import Scores, Tally

METRICS = tuple(name for name, *_ in FIGURES)
MASKS = "mask_"  # the beginning of names of the figures of masks


def metric_names(*, masks: bool, ranked_by_masks: bool = False) -> list[str]:
    """Return the names of the figures, the one that ranks checkpoints first."""
    of_masks = [f"{MASKS}{name}" for name in METRICS] if masks else []
    return [*of_masks, *METRICS] if ranked_by_masks else [*METRICS, *of_masks]


def in_headline(name: str) -> bool:
    """Return whether a figure is one of the first that papers print."""
    return name.removeprefix(MASKS) in METRICS[:3]


class RegionTally(Tally):
    """The objects of each image.

    Args:
        num_classes: K.
        masks: Whether masks are scored too, if the data have them.
        ranked_by_masks: Whether the figure of masks ranks checkpoints.
        rule: How outputs become objects, as text.
    """

    def __init__(self, num_classes: int, *, masks: bool = False, ranked_by_masks: bool = False, rule: str = "") -> None:
        self.num_classes, self.masks, self.ranked_by_masks, self.rule = num_classes, masks, ranked_by_masks, rule
        self._images: dict[int, ImageRegions] = {}
        self._not_finite: dict[int, ImageRegions] = {}

    def usable(self, outputs: Sequence[ImageDetections | None]) -> list[bool]:
        """Return whether the detections of each image are finite."""
        return [output is not None for output in outputs]

    def add(
        self,
        outputs: Sequence[ImageDetections | None],
        targets: Sequence[Mapping[str, Any]],
        sample_ids: Sequence[int],
        places: Sequence[int],
    ) -> None:
        """Keep the objects of images."""
        for place in places:
            sample, output, view = sample_ids[place], outputs[place], targets[place]
            if output is None:
                self._not_finite[sample] = ImageRegions.nothing_in(view)
                continue
            height, width = view["frame"].tolist()
            self._images[sample] = ImageRegions(
                height=height,
                width=width,
                corners=output.boxes.numpy(),
                scores=output.scores.numpy(),
                labels=output.labels.numpy(),
                masks=tuple(output.masks) if self.masks and output.masks is not None else None,
                truth=Truth.of_view(view),
            )

    def drop(self, sample: int) -> None:
        """Forget the detections of an image."""
        self._images.pop(sample, None)

    def merge(self, other: Self) -> None:
        """Add the images of another process."""
        self._images |= other._images
        self._not_finite |= other._not_finite

    def scores(self, **extent: Any) -> "RegionScores":
        """Return the scores of all images."""
        samples = sorted(self._images)
        images = tuple(self._images[sample] for sample in samples)
        masks = self.masks and all(image.truth.masks is not None for image in images if len(image.truth))
        if self.ranked_by_masks and not masks:
            raise UserError("model.rank_by masks: the data have objects without masks; set it to boxes")
        failed = {bad.index: image for bad in extent["failed"] if (image := self._failed(bad)) is not None}
        return RegionScores(
            sample_ids=tensor(samples, dtype=int64),
            images=images,
            failed_images=tuple(failed.values()),
            failed_ids=tuple(failed),
            num_classes=self.num_classes,
            masks=masks,
            ranked_by_masks=self.ranked_by_masks,
            rule=self.rule,
            **extent,
        )

    def _failed(self, bad: BadSample) -> ImageRegions | None:
        """Return the true objects of an image that failed, without detections."""
        if bad.index in self._not_finite or not isinstance(bad.target, Objects):
            return self._not_finite.get(bad.index)
        (view,) = Objects.batched([bad.target])
        return ImageRegions.nothing_in(view)


@dataclass(frozen=True, kw_only=True)
class RegionScores(Scores):
    """The result of an evaluation of detection.

    Objects of an image that could not be read are missed.

    Attributes:
        images: The scored images.
        failed_images: The images that failed, without detections.
        failed_ids: Their sample ids.
        num_classes: K.
        masks: Whether masks are scored too.
        ranked_by_masks: Whether the figure of masks ranks checkpoints.
        rule: How outputs become objects, as text.
    """

    images: tuple[ImageRegions, ...]
    failed_images: tuple[ImageRegions, ...] = ()
    failed_ids: tuple[int, ...] = ()
    num_classes: int
    masks: bool = False
    ranked_by_masks: bool = False
    rule: str = ""

    @cached_property
    def every_image(self) -> tuple[ImageRegions, ...]:
        """The images that count, the failed ones last unless they are left out."""
        return (*self.images, *(self.failed_images if self.failed_are_wrong else ()))

    def by_sample(self) -> list[tuple[int, ImageRegions]]:
        """Return the images that count, each with its sample id."""
        ids = [*self.sample_ids.tolist(), *(self.failed_ids if self.failed_are_wrong else ())]
        return list(zip(ids, self.every_image, strict=True))

    @cached_property
    def _ordered(self) -> tuple[ImageRegions, ...]:
        return tuple(sorted(self.every_image, key=lambda image: image.truth.image_id))

    @cached_property
    def boxes(self) -> CocoFigures:
        """Precision and recall of boxes."""
        return coco_figures(self._ordered, self.num_classes, "bbox")

    @cached_property
    def shapes(self) -> CocoFigures | None:
        """Precision and recall of masks; `None` if only boxes are scored."""
        return coco_figures(self._ordered, self.num_classes, "segm") if self.masks else None

    def metrics(self) -> dict[str, float]:
        """Return the twelve figures of boxes, and of masks, 0..1; nan without an object of the area."""
        figures = dict(self.boxes.figures)
        if self.shapes is not None:
            figures |= {f"{MASKS}{name}": value for name, value in self.shapes.figures.items()}
        return {name: figures[name] for name in metric_names(masks=self.masks, ranked_by_masks=self.ranked_by_masks)}

    def headline(self) -> dict[str, float]:
        """Return the figures of a score line: over all thresholds, at 0.5 and at 0.75."""
        return {name: value for name, value in self.metrics().items() if in_headline(name)}

    def text_of(self, name: str, value: float) -> str:
        """Return a share in percent."""
        return "none" if math.isnan(value) else f"{100 * value:.2f} %"

    @cached_property
    def claims(self) -> tuple[Claims, ...]:
        """The claims of each image's detections on true boxes, at an intersection over union of 0.5."""
        return tuple(map(claims_of, self.every_image))

    @cached_property
    def best_score(self) -> float:
        """The least score with which precision and recall of boxes are balanced best."""
        return best_score(self.every_image, self.claims)

    @cached_property
    def mistakes(self) -> tuple[Mistakes, ...]:
        """The mistakes of each image's detections of `best_score` or more."""
        pairs = zip(self.every_image, self.claims, strict=True)
        return tuple(mistakes_of(image, claims, score=self.best_score) for image, claims in pairs)

    def confusion(self) -> Counts:
        """Return what true boxes are taken for, (K + 1, K + 1); see `mistakes.confusion`."""
        return confusion(self.every_image, self.mistakes, self.num_classes)

    def facts(self) -> dict[str, Any]:
        """Return the rule, the counts of objects and detections, and the mistakes from the best score on."""
        truths = [image.truth for image in self.every_image]
        return {
            "rule": self.rule,
            "objects": self._num_objects,
            "crowds": sum(int(truth.crowd.sum()) for truth in truths),
            "images_without_objects": sum(not len(truth) for truth in truths),
            "detections": self._num_detections,
            "classes_in_map": int((self.boxes.by_class() >= 0).sum()),
            "best_score": self.best_score,
            "at_best_score": counted(self.mistakes),
        }

    def counts(self, noun: str = "images") -> str:
        """Return the counts of images, objects and detections."""
        rule = f", {self.rule}" if self.rule else ""
        return f"{super().counts(noun)}, {self._num_objects} objects, {self._num_detections} detections{rule}"

    @cached_property
    def _num_objects(self) -> int:
        return sum(int((~image.truth.crowd).sum()) for image in self.every_image)

    @cached_property
    def _num_detections(self) -> int:
        return sum(len(image.scores) for image in self.images)
