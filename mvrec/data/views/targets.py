"""The true targets of views, and how they follow the pixels.

A data module has one type of target for all its files: `data.target_type`. Index, loader, guard and batch pass
targets on without looking into them:

* `SampleIndex.target(row) -> Target`: of a file;
* `Item.targets: tuple[Target, ...]`: of its views, each `target.moved(geometry)` of its view;
* `ClipBatch.targets`: `target_type.batched([...])`, a tensor, a list of tensors or dictionaries of them, or `None`;
* `BadSample.target`: in evaluation the target of a file that cannot be read.

======================  =====================================================  =====================================
type                    of a file                                              `ClipBatch.targets`
======================  =====================================================  =====================================
`ClassIndex`            its class                                              int64 (B,)
`MultiHot`              any number of classes                                  float32 (B, K)
`Values`                D numbers                                              float64 (B, D)
`MaskMap`               the class of each pixel                                int64 (B, H, W), a list of several sizes
`Objects`               objects: boxes, classes, and outlines if available    a list of dictionaries; see
                                                                               `mvrec.data.views.objects`
`ActionBoxes`           boxes of a key frame, each with any number of classes  a list of dictionaries
`NoTarget`              nothing                                                `None`
======================  =====================================================  =====================================

Another kind of target is a subclass of `Target`; a data module returns it from
`RecognitionData.target(row)`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import mvrec.data.views.pixel_operations as tvf
from mvrec.data.views.geometry import Box, Geometry

Batched = Any  # a tensor, or lists and dictionaries of tensors, or None: all that `torch.utils._pytree` maps over


class Target(ABC):
    """The true target of a view. Immutable, and small enough to travel between processes.

    Attributes:
        noun: The name of the target in messages, such as "a class".
        source: Where data modules of mvrec take it from, for messages.
        task: The task of mvrec that learns it, for messages.
        in_file: Whether making one reads a file, so that set-up checks the first row only.
    """

    noun: ClassVar[str]
    source: ClassVar[str] = ""
    task: ClassVar[str] = ""
    in_file: ClassVar[bool] = False

    def moved(self, geometry: Geometry) -> Self:
        """Return the target of the view that `geometry` makes of the frames; itself if it is not about places."""
        return self

    @classmethod
    @abstractmethod
    def batched(cls, targets: Sequence[Self]) -> Batched:
        """Batch the targets of views, at least one."""


def needed(kind: type[Target], targets: Sequence[type[Target]]) -> str:
    """Return which targets a task needs in place of the data's, where data have them, and which task takes the data's.

    Args:
        kind: The type of the data's targets.
        targets: The types that the task learns.
    """
    nouns = " or ".join(target.noun for target in targets)
    sources = "".join(f" ({source})" for source in dict.fromkeys(target.source for target in targets) if source)
    return f"{nouns}{sources}{kind.task and f'; {kind.noun}: --model {kind.task}'}"


@dataclass(frozen=True)
class NoTarget(Target):
    """No target."""

    noun: ClassVar[str] = "no label"

    @classmethod
    def batched(cls, targets: Sequence[Self]) -> None:
        """Return nothing."""
        return


@dataclass(frozen=True)
class ClassIndex(Target):
    """One class.

    Attributes:
        index: Its number.
    """

    noun: ClassVar[str] = "one class"
    source: ClassVar[str] = "class folders, or lists with a column 'label' or 'labels'"
    task: ClassVar[str] = "Classification"

    index: int

    @property
    def classes(self) -> tuple[int, ...]:
        """The class as a tuple."""
        return (self.index,)

    @classmethod
    def batched(cls, targets: Sequence[Self]) -> Tensor:
        """Return int64 (B,)."""
        return torch.tensor([target.index for target in targets], dtype=torch.int64)


@dataclass(frozen=True)
class MultiHot(Target):
    """Any number of classes, also none.

    Attributes:
        classes: Their numbers in ascending order.
        num_classes: K.
    """

    noun: ClassVar[str] = "several classes"
    source: ClassVar[str] = ClassIndex.source
    task: ClassVar[str] = ClassIndex.task

    classes: tuple[int, ...]
    num_classes: int

    @classmethod
    def batched(cls, targets: Sequence[Self]) -> Tensor:
        """Return 1 for the classes of a view and 0 for all others: float32 (B, K)."""
        hot = np.zeros((len(targets), targets[0].num_classes), np.float32)
        for row, target in enumerate(targets):
            hot[row, list(target.classes)] = 1
        return torch.from_numpy(hot)


def classes_of(target: Target) -> tuple[int, ...]:
    """Return the class numbers of a target; none if it is of another type, or unknown."""
    return target.classes if isinstance(target, ClassIndex | MultiHot) else ()


@dataclass(frozen=True)
class Values(Target):
    """Numbers to predict.

    Attributes:
        values: D numbers.
    """

    noun: ClassVar[str] = "numbers"
    source: ClassVar[str] = "lists with a column 'value' instead of 'label', or the columns that --data.values names"
    task: ClassVar[str] = "Regression"

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.values)):
            raise ValueError(f"values must be finite, got {', '.join(map(str, self.values))}")

    @classmethod
    def batched(cls, targets: Sequence[Self]) -> Tensor:
        """Return float64 (B, D), as exact as the list's numbers."""
        return torch.tensor([target.values for target in targets], dtype=torch.float64)


NOT_LABELLED = 255  # the class of pixels that count neither in training nor in a score


@dataclass(frozen=True, eq=False)
class MaskMap(Target):
    """The class of each pixel.

    Attributes:
        classes: uint8 (H, W); `NOT_LABELLED` where no class is given.
    """

    noun: ClassVar[str] = "a class per pixel"
    source: ClassVar[str] = "images/ and masks/ with files of the same names: --data mvrec.data.MaskFolder"
    task: ClassVar[str] = "Segmentation"
    in_file: ClassVar[bool] = True

    classes: npt.NDArray[Any]

    def moved(self, geometry: Geometry) -> Self:
        """Cut, scale to the nearest pixel, flip, and pad with `NOT_LABELLED`."""
        return type(self)(_moved_maps(self.classes[None], geometry, padding=NOT_LABELLED)[0])

    @classmethod
    def batched(cls, targets: Sequence[Self]) -> Tensor | list[Tensor]:
        """Return int64 (B, H, W), or a list of (H, W) where views have different sizes."""
        maps = [torch.from_numpy(target.classes.astype(np.int64)) for target in targets]
        return torch.stack(maps) if len({single.shape for single in maps}) == 1 else maps


@dataclass(frozen=True, eq=False)
class ActionBoxes(Target):
    """The boxes of a key frame, each with any number of actions.

    A network is asked about `places`; a score compares its answers with `truth`. Both are the same boxes unless a
    detector's are asked about.

    Attributes:
        places: float32 (N, 4), left, top, right and bottom as shares of the frame, in 0..1, or in pixels of it if not
            `relative`.
        actions: bool (N, K), the actions of each.
        truth: float32 (M, 4), the true boxes with an action, in the same unit.
        true_actions: bool (M, K), their actions.
        relative: Whether these boxes are shares of the frame. Those of a list in pixels are not, until `in_frame`.
        corners: float32 (N, 4), `places` in pixels of the view; `None` until `in_frame`.
        keeps_cropped: Whether a box outside the view stays, without area, as in SlowFast; else it is dropped.
    """

    noun: ClassVar[str] = "boxes with actions"
    source: ClassVar[str] = "a list of boxes with times: --data mvrec.data.VideoBoxes"
    task: ClassVar[str] = "ActionDetection"

    places: npt.NDArray[np.float32]
    actions: npt.NDArray[np.bool_]
    truth: npt.NDArray[np.float32]
    true_actions: npt.NDArray[np.bool_]
    relative: bool = True
    corners: npt.NDArray[np.float32] | None = None
    keeps_cropped: bool = True

    def in_frame(self, height: int, width: int) -> Self:
        """Return the target for frames of this size in pixels, with `corners` in them."""
        scale = np.array([width, height] * 2, np.float32)
        if self.relative:
            return replace(self, corners=self.places * scale)
        shares = {"places": self.places / scale, "truth": self.truth / scale}
        return replace(self, **shares, relative=True, corners=self.places)  # type: ignore[arg-type]

    def moved(self, geometry: Geometry) -> Self:
        """Cut the corners at the border of the view."""
        assert self.corners is not None
        corners = _moved_corners(self.corners, geometry)
        if self.keeps_cropped:
            return replace(self, corners=corners)
        visible = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
        arrays = {"places": self.places[visible], "actions": self.actions[visible], "corners": corners[visible]}
        return replace(self, **arrays)  # type: ignore[arg-type]

    @classmethod
    def batched(cls, targets: Sequence[Self]) -> list[dict[str, Tensor]]:
        """Return for each view `corners` (N, 4) in pixels, `actions` float32 (N, K), `places` (N, 4), `truth` (M, 4).

        `true_actions` are bool (M, K).
        """
        return [target._tensors() for target in targets]

    def _tensors(self) -> dict[str, Tensor]:
        corners = self.places[:0] if self.corners is None else self.corners  # none in a file that cannot be read
        arrays: dict[str, npt.NDArray[Any]] = {
            **{"corners": corners, "actions": self.actions.astype(np.float32), "places": self.places},
            **{"truth": self.truth, "true_actions": self.true_actions},
        }
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def _moved_corners(corners: npt.NDArray[np.float32], geometry: Geometry) -> npt.NDArray[np.float32]:
    """Return corners (N, 4) in pixels of the view, inside it."""
    box, (height, width) = geometry.box, geometry.size
    crop = geometry.crop or Box(0, 0, height, width)
    shift = np.array([box.left, box.top] * 2, np.float32)
    limit = np.array([box.width, box.height] * 2, np.float32)
    scale = np.array([width / box.width, height / box.height] * 2, np.float32)
    moved = np.clip(corners - shift, 0, limit) * scale - np.array([crop.left, crop.top] * 2, np.float32)
    moved = np.clip(moved, 0, np.array([crop.width, crop.height] * 2, np.float32))
    if geometry.flip:
        moved = np.stack([crop.width - moved[:, 2], moved[:, 1], crop.width - moved[:, 0], moved[:, 3]], axis=1)
    return moved.astype(np.float32)


def _moved_maps(maps: npt.NDArray[Any], geometry: Geometry, *, padding: int) -> npt.NDArray[Any]:
    """Return maps (N, H, W) of the view by nearest pixels, `padding` where it is padded; their type stays."""
    box, crop = geometry.box, geometry.crop
    moved = torch.from_numpy(np.ascontiguousarray(_cut(maps, box)))
    if len(moved) and moved.shape[-2:] != torch.Size(geometry.size):
        moved = tvf.resize(moved, list(geometry.size), tvf.InterpolationMode.NEAREST)
    elif not len(moved):
        moved = moved.new_empty((0, *geometry.size))
    if crop is not None:
        moved = moved[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    if geometry.flip:
        moved = moved.flip(-1)
    if geometry.padded is not None:
        content, moved = moved, moved.new_full((len(moved), *geometry.padded), padding)
        moved[:, : content.shape[-2], : content.shape[-1]] = content
    return moved.contiguous().numpy()


def _cut(maps: npt.NDArray[Any], box: Box) -> npt.NDArray[Any]:
    return maps[:, box.top : box.top + box.height, box.left : box.left + box.width]
