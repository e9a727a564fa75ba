"""The detected and the true objects of an image, small enough to travel between processes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

EMPTY = b"1"  # the compressed RLE of a mask of one pixel without the object


@dataclass(frozen=True, eq=False)
class Truth:
    """The objects of an image as the data have them.

    Attributes:
        image_id: The image's id in the data's file.
        boxes: float64 (M, 4), left, top, width and height in pixels of the file, its very numbers.
        labels: int64 (M,), 0..K-1.
        crowd: bool (M,), whether a region has many objects; detections in it count neither as right nor as wrong.
        areas: float64 (M,), pixels, by which small and large objects are told apart.
        masks: The compressed RLE of each, at the size of the file; `None` for data without masks.
    """

    image_id: int
    boxes: Floats
    labels: Labels
    crowd: Flags
    areas: Floats
    masks: tuple[bytes, ...] | None = None

    @classmethod
    def of_view(cls, view: Mapping[str, Any]) -> Self:
        """Return the truth among the targets of a view, as `Objects.batched` gives them."""
        masks = view["truth_masks"]
        return cls(
            image_id=int(view["image_id"]),
            boxes=_array(view["truth_boxes"], np.float64).reshape(-1, 4),
            labels=_array(view["truth_labels"], np.int64),
            crowd=_array(view["truth_crowd"], np.bool_),
            areas=_array(view["truth_areas"], np.float64),
            masks=None if masks is None else tuple(masks),
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def corners(self) -> Floats:
        """(M, 4), left, top, right and bottom."""
        return np.concatenate([self.boxes[:, :2], self.boxes[:, :2] + self.boxes[:, 2:]], axis=1)


@dataclass(frozen=True, eq=False)
class ImageRegions:
    """The detected objects of an image next to the true ones.

    Attributes:
        height: Pixels of the file.
        width: Pixels of the file.
        corners: float32 (N, 4), left, top, right and bottom in pixels of the file.
        scores: float32 (N,).
        labels: int64 (N,), 0..K-1.
        masks: The compressed RLE of each; `None` if the network has no masks.
        truth: The true ones.
    """

    height: int
    width: int
    corners: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: Labels
    masks: tuple[bytes, ...] | None
    truth: Truth

    @classmethod
    def nothing_in(cls, view: Mapping[str, Any]) -> Self:
        """Return an image without detections, such as one that could not be read, from the targets of its view."""
        truth, (height, width) = Truth.of_view(view), (max(side, 1) for side in view["frame"].tolist())
        if truth.masks is None:  # of a file whose size nobody knows, if the others have masks
            truth = replace(truth, masks=(EMPTY,) * len(truth))
        empty = np.zeros(0, np.float32)
        return cls(height, width, np.zeros((0, 4), np.float32), empty, np.zeros(0, np.int64), (), truth)

    @property
    def boxes(self) -> Floats:
        """float64 (N, 4), left, top, width and height."""
        corners = self.corners.astype(np.float64)
        return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def _array(values: Any, kind: type[np.generic]) -> npt.NDArray[Any]:
    """Return a tensor as an array of a type."""
    return np.asarray(values.cpu().numpy()).astype(kind)
