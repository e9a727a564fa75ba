"""Class maps from a network's outputs, for recognising, exporting and reporting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mvrec.data.views.protocol import MaskProtocol, Protocol
from mvrec.errors import UserError
from mvrec.report.sections import RunResults, TaskReport
from mvrec.tasks.maps_heads import KEY
from mvrec.tasks.outputs import PixelOutput, TaskOutputs
from mvrec.tasks.segmentation.colours import colours
from mvrec.tasks.segmentation.head import HEADS

if TYPE_CHECKING:
    from torch import Tensor

    from mvrec.models.backbone import Backbone


@dataclass(frozen=True, eq=False)
class ClassMap(PixelOutput):
    """The class of each pixel of an image.

    Attributes:
        classes: uint8 (H, W), class numbers.
        class_names: Names in label order.
    """

    classes: "np.ndarray[Any, np.dtype[np.uint8]]"
    class_names: tuple[str, ...]

    @property
    def colours(self) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        """The colour of each class, RGB uint8 (K, 3): those of PASCAL VOC's palette."""
        return colours(len(self.class_names))

    @property
    def shares(self) -> dict[str, float]:
        """The share of the image of each class, 0..1, in label order."""
        counts = np.bincount(self.classes.ravel(), minlength=len(self.class_names))
        return dict(zip(self.class_names, (counts / max(self.classes.size, 1)).tolist(), strict=True))

    def best(self, top: int) -> list[tuple[str, float]]:
        """Return the classes with the largest shares of the image, with these."""
        ranked = sorted(self.shares.items(), key=lambda pair: -pair[1])
        return [(name, share) for name, share in ranked[:top] if share > 0]

    def text(self, top: int) -> str:
        """Return the largest classes with their shares of the image."""
        return ", ".join(f"{name} {100 * share:.1f} %" for name, share in self.best(top))

    def cells(self, top: int) -> list[str]:
        """Return the share of each class."""
        return [f"{share:.6f}" for share in self.shares.values()]

    def fields(self, top: int) -> dict[str, Any]:
        """Return the shares of the classes that occur."""
        return {"shares": {name: share for name, share in self.shares.items() if share}}

    def row(self, top: int) -> dict[str, Any]:
        """Return the share of each class, a column each."""
        return dict(self.shares)


class SegmentationOutputs(TaskOutputs):
    """The class of each pixel.

    Args:
        class_names: Names in label order.
        head: The arguments of the network's head.
    """

    task = HEADS.task

    def __init__(self, class_names: Sequence[str], head: Mapping[str, Any]) -> None:
        self.class_names, self.head = tuple(class_names), dict(head)

    @classmethod
    def of_file(
        cls, details: Mapping[str, Any], network: "Backbone", *, source: str, classes: str | None = None
    ) -> Self:
        """Return outputs with the classes and the head of a file."""
        names = HEADS.restore(network, details, source=source, classes=classes)
        return cls(names, details[KEY])

    def raw(self, network: "Backbone", clips: "Tensor", protocol: Protocol) -> "list[Tensor | None]":
        """Return the class of each pixel of images (V, 3, H, W): uint8 (H, W) each."""
        from mvrec.tasks.segmentation.modes import label_map

        assert isinstance(protocol, MaskProtocol)
        return [label_map(network, clip[None], protocol) for clip in clips]

    def output(self, raw: "Sequence[Tensor | None]", weights: "Tensor") -> ClassMap:
        """Return the prediction of an image, which has one view."""
        (classes,) = raw
        if classes is None:
            raise UserError("the network's outputs are not finite: it cannot segment this image")
        return ClassMap(classes.cpu().numpy().astype(np.uint8), self.class_names)

    def columns(self, top: int) -> list[str]:
        """Return the names of the classes, whose shares of the image the cells are."""
        return list(self.class_names)

    def no_fields(self) -> dict[str, Any]:
        """Return no shares."""
        return {"shares": {}}

    def facts(self) -> dict[str, Any]:
        """Return class names and the head's arguments."""
        return {"class_names": list(self.class_names), KEY: self.head}

    @classmethod
    def facts_in(cls, details: Mapping[str, Any]) -> dict[str, Any]:
        """Return class names and the head's arguments, if the file has them."""
        return {"class_names": details.get("class_names"), KEY: details.get(KEY)}

    @classmethod
    def rows_of(cls, card: Mapping[str, Any]) -> dict[str, str]:
        """Return rows with the decoder and the number of classes."""
        return {"decoder": str(card.get(KEY, {}).get("decoder")), "classes": str(len(card.get("class_names") or ()))}

    def describe(self) -> str:
        """Return the number of classes."""
        return f"{len(self.class_names)} classes per pixel"

    def activation(self) -> str:
        """Return the function from outputs to probabilities."""
        return "softmax over the classes of each pixel"

    @classmethod
    def report(cls, results: RunResults) -> TaskReport:
        """Return classes, confusions and the worst images."""
        from mvrec.tasks.segmentation.report import SegmentationReport  # charts, which recognising does not need

        return SegmentationReport(results)
