"""Average precision and recall of boxes and masks by COCO's rule: the twelve figures that papers print.

faster-coco-eval computes them in C++, equal to pycocotools. Two things decide equal scores, and both are those of
pycocotools on a file: images have the order of their COCO ids, and objects that of the file.

Objects get numbers from 1 on here, whatever their ids: pycocotools takes an object with the id 0 for a missing one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mvrec.tasks.detection.image_regions import ImageRegions

AREAS = ("all", "small", "medium", "large")
MOST = (1, 10, 100)  # detections per image of the recall figures
# Name, whether it is a precision, IoU threshold, area, and most detections: in the order of pycocotools.
FIGURES: tuple[tuple[str, bool, float | None, str, int], ...] = (
    ("map", True, None, "all", 100),
    ("map_50", True, 0.5, "all", 100),
    ("map_75", True, 0.75, "all", 100),
    ("map_small", True, None, "small", 100),
    ("map_medium", True, None, "medium", 100),
    ("map_large", True, None, "large", 100),
    ("recall_1", False, None, "all", 1),
    ("recall_10", False, None, "all", 10),
    ("recall_100", False, None, "all", 100),
    ("recall_small", False, None, "small", 100),
    ("recall_medium", False, None, "medium", 100),
    ("recall_large", False, None, "large", 100),
)
THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of the intersection over union

Kind = Literal["bbox", "segm"]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CocoFigures:
    """Precision and recall of all classes, areas and IoU thresholds; -1 where there is no object.

    Attributes:
        precision: (10, 101, K, 4, 3): IoU threshold, recall, class, area, most detections.
        recall: (10, K, 4, 3).
    """

    precision: Values
    recall: Values

    @cached_property
    def figures(self) -> dict[str, float]:
        """The twelve figures, 0..1; nan without an object of the area."""
        return {
            name: self._figure(is_precision, threshold, area, most)
            for name, is_precision, threshold, area, most in FIGURES
        }

    def by_class(self, *, threshold: float | None = None, area: str = "all") -> Values:
        """Return the average precision of each class, (K,); nan for a class without objects.

        Args:
            threshold: Intersection over union; `None` for the mean over 0.5 to 0.95.
            area: One of `AREAS`.
        """
        part = self._at(self.precision, threshold)[..., AREAS.index(area), -1]  # (T, 101, K)
        return np.array([mean_of(part[..., number]) for number in range(part.shape[-1])])

    def curve(self, threshold: float | None = None) -> Values:
        """Return the precision at the recalls 0, 0.01 .. 1, averaged over the classes with objects: (101,)."""
        part = self._at(self.precision, threshold)[..., 0, -1]
        return np.array([mean_of(part[:, place]) for place in range(part.shape[1])])

    def _figure(self, is_precision: bool, threshold: float | None, area: str, most: int) -> float:
        values = self._at(self.precision if is_precision else self.recall, threshold)
        return mean_of(values[..., AREAS.index(area), MOST.index(most)])

    @staticmethod
    def _at(values: Values, threshold: float | None) -> Values:
        return values if threshold is None else values[np.isclose(THRESHOLDS, threshold)]


def coco_figures(images: Sequence[ImageRegions], num_classes: int, kind: Kind) -> CocoFigures:
    """Return precision and recall of boxes ("bbox") or masks ("segm").

    Areas of true objects are those of the file. Areas of detections are those of their boxes or masks: pycocotools
    takes those of boxes for masks too where a result has both, unlike mmdetection and detectron2, which remove boxes.

    Args:
        images: In the order of their COCO ids, with masks if `kind` is "segm".
        num_classes: K.
        kind: What is compared.
    """
    from faster_coco_eval import COCO, COCOeval_faster  # C++ that only scores need

    if not any(len(image.truth) for image in images):
        return CocoFigures(np.full((10, 101, num_classes, 4, 3), -1.0), np.full((10, num_classes, 4, 3), -1.0))
    frame: dict[str, Any] = {
        "images": [
            {"id": number, "height": image.height, "width": image.width} for number, image in enumerate(images, 1)
        ],
        "categories": [{"id": number, "name": str(number)} for number in range(num_classes)],
    }
    true, detected = (
        COCO({**frame, "annotations": numbered(rows(images, kind))}, print_function=_silent)
        for rows in (_true_rows, _detected_rows)
    )
    judge = COCOeval_faster(true, detected, kind, print_function=_silent, rle_iou_max_workers=1)
    judge.evaluate()
    judge.accumulate()
    shapes = (10, 101, num_classes, 4, 3), (10, num_classes, 4, 3)
    values = [np.asarray(judge.eval[name], np.float64) for name in ("precision", "recall")]
    return CocoFigures(*(value.reshape(shape) for value, shape in zip(values, shapes, strict=True)))


def numbered(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with the ids 1, 2, 3 ..."""
    return [{"id": number, **row} for number, row in enumerate(rows, 1)]


def _true_rows(images: Sequence[ImageRegions], kind: Kind) -> list[dict[str, Any]]:
    rows = []
    for number, image in enumerate(images, 1):
        truth = image.truth
        columns = (truth.labels.tolist(), truth.boxes.tolist(), truth.areas.tolist(), truth.crowd.tolist())
        for place, (label, box, area, crowd) in enumerate(zip(*columns, strict=True)):
            row = {"image_id": number, "category_id": label, "bbox": box, "area": area, "iscrowd": int(crowd)}
            rows.append(row | (_mask(image, truth.masks, place) if kind == "segm" else {}))
    return rows


def _detected_rows(images: Sequence[ImageRegions], kind: Kind) -> list[dict[str, Any]]:
    from faster_coco_eval.core import mask as rle

    rows = []
    for number, image in enumerate(images, 1):
        boxes = image.boxes
        areas = (boxes[:, 2] * boxes[:, 3]).tolist()
        columns = (image.labels.tolist(), boxes.tolist(), image.scores.astype(np.float64).tolist(), areas)
        for place, (label, box, score, area) in enumerate(zip(*columns, strict=True)):
            row = {"image_id": number, "category_id": label, "bbox": box, "score": score, "area": area, "iscrowd": 0}
            if kind == "segm":
                row |= _mask(image, image.masks, place)
                row["area"] = float(rle.area(row["segmentation"]))
            rows.append(row)
    return rows


def _mask(image: ImageRegions, masks: tuple[bytes, ...] | None, place: int) -> dict[str, Any]:
    assert masks is not None, "boxes are scored without masks, masks never"
    return {"segmentation": {"size": [image.height, image.width], "counts": masks[place]}}


def mean_of(values: Values) -> float:
    """Return the mean of the values that are not -1; nan of none."""
    defined = values[values > -1]
    return float(np.mean(defined)) if len(defined) else float("nan")


def _silent(*text: Any) -> None:
    """Drop the lines that COCO's tools print."""
