"""Objects in an image as a prediction; no torch, which reports need not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mvrec.tasks.outputs import Output

Mask = dict[str, Any]  # COCO's compressed RLE: "size" [height, width], "counts" bytes


@dataclass(frozen=True, eq=False)
class Regions(Output):
    """The objects in an image, best first.

    Attributes:
        boxes: float32 (N, 4), left, top, right and bottom in pixels of the image.
        scores: float32 (N,), 0..1.
        labels: int64 (N,), class numbers.
        class_names: Names in label order.
        masks: COCO's compressed RLE of each, with the image's size; `None` if the network has no masks.
        size: (height, width) of the image in pixels.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    masks: tuple[Mask, ...] | None = None
    size: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, detections: Any, class_names: Sequence[str], size: tuple[int, int]) -> Self:
        """Return boxes, scores, labels and masks, as tensors and bytes, with names, in an image of (height, width)."""
        masks = None
        if detections[3] is not None:
            masks = tuple({"size": list(size), "counts": counts} for counts in detections[3])
        boxes, scores, labels = (values.numpy() for values in detections[:3])
        return cls(boxes, scores, labels, tuple(class_names), masks=masks, size=size)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> list[str]:
        """The class of each object."""
        return [self.class_names[label] for label in self.labels.tolist()]

    def only(self, places: npt.NDArray[Any]) -> Self:
        """Return some of the objects, by bool (N,) or places (M,)."""
        numbers = np.arange(len(self))[places]
        masks = None if self.masks is None else tuple(self.masks[number] for number in numbers.tolist())
        return replace(
            self, boxes=self.boxes[numbers], scores=self.scores[numbers], labels=self.labels[numbers], masks=masks
        )

    def above(self, score: float) -> Self:
        """Return the objects of this score or more."""
        return self.only(self.scores >= score)

    @property
    def counts(self) -> dict[str, int]:
        """The objects of each class, in label order."""
        numbers = np.bincount(self.labels, minlength=len(self.class_names)).tolist()
        return dict(zip(self.class_names, numbers, strict=True))

    def best(self, top: int) -> list[tuple[str, float]]:
        """Return the names and scores of the best objects."""
        return list(zip(self.names[:top], self.scores[:top].tolist(), strict=True))

    def text(self, top: int) -> str:
        """Return the names and scores of the best objects, and how many more there are."""
        shown = ", ".join(f"{name} {score:.2f}" for name, score in self.best(top))
        more = f" and {len(self) - top} more" if len(self) > top else ""
        return f"{shown or 'nothing'}{more}"

    def cells(self, top: int) -> list[str]:
        """Return the number of objects, and of those of each class."""
        return [str(number) for number in (len(self), *self.counts.values())]

    def fields(self, top: int) -> dict[str, Any]:
        """Return each object with name, score, box and, if there is one, mask."""
        rows: list[dict[str, Any]] = [
            {"label": name, "score": score, "box": box}
            for name, score, box in zip(self.names, self.scores.tolist(), self.boxes.tolist(), strict=True)
        ]
        for row, mask in zip(rows, self.masks or (), strict=False):
            row["mask"] = {**mask, "counts": mask["counts"].decode("ascii")}
        return {"objects": rows}

    def row(self, top: int) -> dict[str, Any]:
        """Return the number of objects, and of those of each class, a column each."""
        return {"objects": len(self), **self.counts}
