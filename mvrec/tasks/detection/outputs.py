"""Objects from a network's outputs, for recognising, exporting and reporting."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from mvrec.data.views.protocol import Protocol
from mvrec.errors import UserError
from mvrec.models.heads.detection.results import Detections, ImageSize
from mvrec.report.sections import RunResults, TaskReport
from mvrec.tasks.detection.detecting import ImageDetections, detect, detections_in, encoded_masks
from mvrec.tasks.detection.head import HEADS
from mvrec.tasks.maps_heads import KEY
from mvrec.tasks.outputs import TaskOutputs
from mvrec.tasks.regions import Regions

if TYPE_CHECKING:
    from torch import Tensor

    from mvrec.models.backbone import Backbone

CLASS_IDS = "class_ids"  # among a file's facts: the number of each class in COCO files


class DetectionOutputs(TaskOutputs):
    """The objects in images.

    Args:
        class_names: Names in label order.
        head: The arguments of the network's head.
        class_ids: The number of each class in COCO files; by default 1, 2, 3 ...
    """

    task = HEADS.task

    def __init__(
        self, class_names: Sequence[str], head: Mapping[str, Any], class_ids: Sequence[int] | None = None
    ) -> None:
        self.class_names, self.head = tuple(class_names), dict(head)
        self.class_ids = tuple(class_ids or range(1, len(self.class_names) + 1))

    @classmethod
    def of_file(
        cls, details: Mapping[str, Any], network: "Backbone", *, source: str, classes: str | None = None
    ) -> Self:
        """Return outputs with the classes and the head of a file."""
        names = HEADS.restore(network, details, source=source, classes=classes)
        return cls(names, details[KEY], details.get(CLASS_IDS))

    def raw(self, network: "Backbone", clips: "Tensor", protocol: Protocol) -> list[ImageDetections | None]:
        """Return the objects of images (V, 3, H, W), in pixels of these."""
        return detect(network, clips, [ImageSize(*clips.shape[-2:])] * len(clips))

    def detections(self, network: "Backbone", clips: "Tensor", images: Sequence[ImageSize]) -> list[Detections | None]:
        """Return the objects of images (V, 3, H, W) on the CPU, in pixels of the files that `images` tell.

        `None` stands for outputs that are not finite.
        """
        return detections_in(network, clips, images)

    def regions(self, detections: Detections, size: tuple[int, int]) -> Regions:
        """Return the objects of an image of (height, width) in pixels, with their names and masks."""
        masks = encoded_masks(detections, size, style=self.head["style"])
        return Regions.of((*detections[:3], masks), self.class_names, size)

    def output(self, raw: Sequence[ImageDetections | None], weights: "Tensor") -> Regions:
        """Return the prediction of an image, which has one view."""
        (detections,) = raw
        if detections is None:
            raise UserError("the network's outputs are not finite: it cannot detect objects in this image")
        return Regions.of(detections, self.class_names, (0, 0))

    def columns(self, top: int) -> list[str]:
        """Return a column for the number of objects, and one for that of each class."""
        return ["objects", *self.class_names]

    def no_fields(self) -> dict[str, Any]:
        """Return no objects."""
        return {"objects": []}

    def facts(self) -> dict[str, Any]:
        """Return class names and ids, and the head's arguments."""
        return {"class_names": list(self.class_names), CLASS_IDS: list(self.class_ids), KEY: self.head}

    @classmethod
    def facts_in(cls, details: Mapping[str, Any]) -> dict[str, Any]:
        """Return class names and ids and the head's arguments, if the file has them."""
        return {name: details.get(name) for name in ("class_names", CLASS_IDS, KEY)}

    @classmethod
    def rows_of(cls, card: Mapping[str, Any]) -> dict[str, str]:
        """Return rows with the detector, its form, its thresholds and the number of classes."""
        head = card.get(KEY) or {}
        rule = head_rule(head) if head else ""
        return {"detector": rule, "classes": str(len(card.get("class_names") or ()))}

    def describe(self) -> str:
        """Return the number of classes."""
        return f"objects of {len(self.class_names)} classes"

    def activation(self) -> str:
        """Return the function from outputs to probabilities."""
        return "none: scores are probabilities"

    @classmethod
    def report(cls, results: RunResults) -> TaskReport:
        """Return classes, confusions, kinds of mistakes and the worst images."""
        from mvrec.tasks.detection.report import DetectionReport  # charts, which recognising does not need

        return DetectionReport(results)


def head_rule(arguments: Mapping[str, Any]) -> str:
    """Return by which rule a head turns outputs into objects: its detector, form, thresholds and most objects."""
    return (
        f"{arguments['detector']} in {arguments['style']}'s form, scores above {arguments['score_threshold']:g}, "
        f"NMS {arguments['nms_threshold']:g}, at most {arguments['max_detections']} an image"
    )
