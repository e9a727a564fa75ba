"""The objects of an image as the target of its views: boxes, classes and masks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mvrec.data.listing.archive import FilePath
from mvrec.data.listing.objects.table import ImageObjects
from mvrec.data.views.geometry import Geometry
from mvrec.data.views.objects.shapes import Movement, Piece, counts_of, decoded, filled, rectangle, stacked
from mvrec.data.views.targets import Target
from mvrec.errors import DecodeError

LEAST_SIDE = 1.0  # pixels of a box in a view; what is narrower is not learned
_CUT = 0.5  # pixels of a box outside the view from which on it is cut, so that its visible part decides


class ViewObjects(NamedTuple):
    """The objects that a view shows.

    Attributes:
        corners: float32 (N, 4), x1, y1, x2, y2 in pixels of the view.
        labels: int64 (N,), their classes.
        pieces: Their masks; `None` if no masks are learned.
        size: (height, width) of the view without padding.
        scale: New side over old side, of x and y.
    """

    corners: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    pieces: tuple[Piece | None, ...] | None
    size: tuple[int, int]
    scale: tuple[float, float]


_NO_VIEW = ViewObjects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), None, (0, 0), (1.0, 1.0))


@dataclass(frozen=True, eq=False)
class Objects(Target):
    """Objects of an image.

    Training learns those that are no crowd and of which a view shows `LEAST_SIDE` or more. A box that the view cuts
    becomes the tight one of the visible mask, or without masks the visible part of the box.

    Attributes:
        annotations: The objects as their file has them.
        path: The image, for messages.
        masks: Whether training learns masks; objects without outlines have their boxes as such.
        outlined: Whether the objects of the data set have outlines, so that masks are scored.
        evaluated: Whether the batch has the truth of the file too.
        frame: (height, width) of the image; `None` until `in_frame`.
        angle: Degrees by which the picture is turned counterclockwise about its centre before a view is made of it.
        view: The objects of the view; `None` until `moved`.
        runs: The compressed run lengths of all masks in the file's size; `None` without outlines, or if nobody asks.
    """

    noun: ClassVar[str] = "boxes of objects"
    source: ClassVar[str] = "COCO, YOLO, VOC, LabelMe or CSV annotations: --data mvrec.data.ObjectFolder"
    task: ClassVar[str] = "Detection"

    annotations: ImageObjects
    path: FilePath
    masks: bool = True
    outlined: bool = True
    evaluated: bool = True
    frame: tuple[int, int] | None = None
    angle: float = 0.0
    view: ViewObjects | None = None
    runs: tuple[bytes, ...] | None = None

    def in_frame(self, height: int, width: int) -> Self:
        """Return the target for an image of this size in pixels.

        Raises:
            DecodeError: The annotations say another size, or a box lies outside the image.
        """
        listed = self.annotations.height, self.annotations.width
        if min(listed) > 0 and listed != (height, width):
            raise DecodeError(self.path, _size_fault(listed, (height, width), self.annotations))
        x, y, w, h = self.annotations.boxes.T
        outside = (x >= width) | (y >= height) | (x + w <= 0) | (y + h <= 0)
        if outside.any():
            number = int(outside.argmax())
            box = ", ".join(f"{value:g}" for value in self.annotations.boxes[number])
            raise DecodeError(
                self.path,
                f"{self.annotations.source}: object {self.annotations.ids[number]} with the box {box} lies outside the "
                f"image of {width}x{height} pixels: correct or remove it",
            )
        return replace(self, frame=(height, width))

    def turned(self, angle: float) -> Self:
        """Return the target of a picture turned by an angle in degrees, counterclockwise about its centre."""
        return replace(self, angle=angle)

    def moved(self, geometry: Geometry) -> Self:
        """Move boxes and outlines to the view, and fill the masks of the objects that it shows."""
        assert self.frame is not None
        movement = Movement(geometry, self.frame, self.angle)
        runs = self._runs() if self.evaluated and self.outlined else None
        return replace(self, view=self._in_view(movement), runs=runs)

    def _in_view(self, movement: Movement) -> ViewObjects:
        height, width = movement.size
        corners = movement.corners(self.annotations.boxes)
        limit = np.array([width, height] * 2, np.float64)
        visible = corners.clip(0, limit)
        cut: Any = np.any(np.abs(visible - corners) > _CUT, axis=1) | movement.turned  # bool (N,)
        shown: Any = _are_large(visible) & ~self.annotations.crowd  # bool (N,)
        with_masks = self.masks and not self.evaluated
        pieces: list[Piece | None] = []
        for number in np.flatnonzero(shown).tolist():
            piece = None
            if with_masks or movement.turned:
                piece = self._piece(number, movement, corners[number])
            if cut[number] and (with_masks or movement.turned):
                visible[number] = (0, 0, 0, 0) if piece is None else piece.corners
            pieces.append(piece)
        large = _are_large(visible)
        pieces = [piece for piece, number in zip(pieces, np.flatnonzero(shown).tolist(), strict=True) if large[number]]
        shown &= large
        return ViewObjects(
            visible[shown].astype(np.float32),
            self.annotations.labels[shown].astype(np.int64),
            tuple(pieces) if with_masks else None,
            movement.size,
            movement.scale,
        )

    def _piece(self, number: int, movement: Movement, corners: npt.NDArray[np.float64]) -> Piece | None:
        """Return the visible mask of an object, from its outline, its run lengths or its box."""
        assert self.frame is not None
        outlines = [polygon for polygon in self.annotations.polygons(number) if len(polygon) > 2]
        if not outlines and (runs := self.annotations.rle(number, *self.frame)) is not None:
            return movement.resampled(decoded(runs), corners.tolist())
        outlines = outlines or [rectangle(self.annotations.boxes[number])]
        return filled([movement.points(outline) for outline in outlines], *movement.size)

    def _runs(self) -> tuple[bytes, ...]:
        """Return the masks of all objects in the file's size, as COCO's tools fill and write them."""
        height, width = self.frame or (self.annotations.height, self.annotations.width)
        return tuple(counts_of(self._rle(number, height, width)) for number in range(len(self.annotations)))

    def _rle(self, number: int, height: int, width: int) -> dict[str, Any]:
        rle = self.annotations.rle(number, height, width)
        if rle is None:
            from faster_coco_eval.core import mask as coco  # imported where masks are made only

            rle = coco.frPyObjects([rectangle(self.annotations.boxes[number]).ravel().tolist()], height, width)[0]
        return rle

    @classmethod
    def batched(cls, targets: Sequence[Self]) -> list[dict[str, Any]]:
        """Return a dictionary of each view.

        * `boxes` float32 (N, 4), x1, y1, x2, y2 in pixels of the view, and `labels` int64 (N,);
        * `size` int64 (2,), height and width of the view without padding;
        * in training `masks` uint8 (N, h, w), if masks are learned;
        * in evaluation `scale` float64 (2,), new side over old side of x and y; `frame` int64 (2,), height and width of
          the file; `image_id` int64 (); and of all M objects of the file `truth_boxes` float64 (M, 4), x, y, width and
          height, `truth_labels` int64 (M,), `truth_crowd` bool (M,), `truth_areas` float64 (M,), `truth_ids` int64
          (M,), and `truth_masks`, M compressed run lengths of COCO in the file's size, or `None` without outlines.

        The target of a file that cannot be read has no boxes, but the truth.
        """
        return [target._entries() for target in targets]

    def _entries(self) -> dict[str, Any]:
        view = self.view or _NO_VIEW
        entries: dict[str, Any] = {
            "boxes": torch.from_numpy(view.corners.copy()),
            "labels": torch.from_numpy(view.labels.copy()),
            "size": torch.tensor(view.size),
        }
        if view.pieces is not None:
            entries["masks"] = torch.from_numpy(stacked(view.pieces, *view.size))
        return {**entries, **self._truth(view)} if self.evaluated else entries

    def _truth(self, view: ViewObjects) -> dict[str, Any]:
        truth = self.annotations
        frame = self.frame or (truth.height, truth.width)
        runs = self.runs
        if runs is None and self.outlined and min(frame) > 0:
            runs = self._runs()  # of a file that cannot be read, whose size the annotations say
        return {
            "scale": torch.tensor(view.scale, dtype=torch.float64),
            "frame": torch.tensor(frame),
            "image_id": torch.tensor(truth.image_id),
            "truth_boxes": _tensor(truth.boxes, np.float64),
            "truth_labels": _tensor(truth.labels, np.int64),
            "truth_crowd": _tensor(truth.crowd, np.bool_),
            "truth_areas": _tensor(truth.areas, np.float64),
            "truth_ids": _tensor(truth.ids, np.int64),
            "truth_masks": None if runs is None else list(runs),
        }


def _are_large(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return whether both sides of boxes (N, 4) are long enough to be learned: bool (N,)."""
    return np.all(corners[:, 2:] - corners[:, :2] >= LEAST_SIDE, axis=1)


def _tensor(values: npt.NDArray[Any], dtype: Any) -> Tensor:
    return torch.from_numpy(np.array(values, dtype))  # a copy: the table is read-only


def _size_fault(listed: tuple[int, int], actual: tuple[int, int], annotations: ImageObjects) -> str:
    """Return the fault of an image whose (height, width) are not those of its annotations."""
    text = (
        f"the image has {actual[1]}x{actual[0]} pixels, {annotations.source} says {listed[1]}x{listed[0]} "
        f"(image {annotations.image_id})"
    )
    if listed == actual[::-1]:
        return (
            f"{text}: its EXIF block turns it; annotate it as viewers show it, or set data.upright false for boxes of "
            "pictures as they are stored"
        )
    return f"{text}: annotate this image, or correct the size"
