"""Datasets of images with objects: index x image x pixels, boxes and masks."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mvrec.data.loading.images import EvalImages, TrainImages
from mvrec.data.loading.samples import LIBRARIES
from mvrec.data.views.objects import Objects
from mvrec.data.views.objects.augment import ObjectAugment, choose_angle, choose_object_geometry, turned_frames
from mvrec.data.views.own_augment import apply_own
from mvrec.data.views.protocol import DetectionProtocol
from mvrec.data.views.targets import Target
from mvrec.data.views.transforms import MEAN_COLOUR, Colour, crop_and_resize, padded_frames
from mvrec.seeds import derive_seed

_LIBRARIES = (*LIBRARIES, "faster_coco_eval.core.mask")
_NO_COLOUR: Colour = (0, 0, 0)  # of padding, which the task clears after normalising


@dataclass(frozen=True)
class TrainObjects(TrainImages):
    """Random views of images, of several sizes, and the objects in them; see `TrainSamples`.

    Args:
        index: The images.
        size: Unused: views have several sizes.
        augment: Augmentation.
        upright: Apply the EXIF orientation.
        padding: RGB of pixels from outside an image that is turned.
    """

    size: int = 0
    augment: ObjectAugment = field(default_factory=ObjectAugment)  # type: ignore[assignment]  # has places of its own
    upright: bool = True
    padding: Colour = MEAN_COLOUR
    libraries: ClassVar[tuple[str, ...]] = _LIBRARIES

    def fitted(self, number: int, target: Target, height: int, width: int) -> Target:
        """Return the objects, for an image of this size."""
        assert isinstance(target, Objects)
        return replace(target, evaluated=False).in_frame(height, width)

    def views(self, frames: np.ndarray, target: Target, seeds: Sequence[int]) -> tuple[Tensor, tuple[Target, ...]]:
        """Return a view and its objects for the one seed: uint8 (1, C, h, w)."""
        assert isinstance(target, Objects)
        (seed,) = seeds  # views of several sizes make no item
        augment = self.augment
        if augment.rotation:
            angle = choose_angle(augment, seed=seed)
            frames, target = turned_frames(frames, angle, padding=self.padding), target.turned(angle)
        way = choose_object_geometry(*frames.shape[1:3], augment=augment, seed=seed)
        scaled = crop_and_resize(
            frames, way.box, way.size, interpolation=way.interpolation, antialias=way.antialias
        ).numpy()
        # Mirrored and put into order in one copy.
        view = torch.from_numpy(np.ascontiguousarray(scaled[..., ::-1] if way.flip else scaled))
        if augment.photometric is not None:
            view = augment.photometric(view, random.Random(derive_seed("photometric", seed)))
        if augment.after_crop is not None:
            view = apply_own(view, augment.after_crop, key="after_crop", seed=seed)
        return view if way.padded is None else padded_frames(view, way.padded, _NO_COLOUR), (target.moved(way),)


@dataclass(frozen=True)
class EvalObjects(EvalImages):
    """Whole images, scaled, with the truth of their files; see `EvalSamples`.

    Args:
        index: The images.
        protocol: How the network sees them.
    """

    protocol: DetectionProtocol  # type: ignore[assignment]  # another kind
    libraries: ClassVar[tuple[str, ...]] = _LIBRARIES

    def fitted(self, number: int, target: Target, height: int, width: int) -> Target:
        """Return the objects, for an image of this size."""
        assert isinstance(target, Objects)
        return target.in_frame(height, width)
