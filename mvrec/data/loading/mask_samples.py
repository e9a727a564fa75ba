"""Datasets of images with a mask each: index x two files x pixels and classes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mvrec.data.listing.index import Sample, SampleIndex
from mvrec.data.listing.lists import Row
from mvrec.data.loading.images import EvalImages, TrainImages
from mvrec.data.loading.masks import Colours, MaskCoding, MaskError, read_mask
from mvrec.data.loading.samples import FileViews
from mvrec.data.views.geometry import Sides
from mvrec.data.views.mask_augment import MaskAugment, choose_mask_geometry
from mvrec.data.views.own_augment import apply_own
from mvrec.data.views.protocol import MaskProtocol
from mvrec.data.views.targets import MaskMap, Target
from mvrec.data.views.transforms import MEAN_COLOUR, Colour, padded_frames, train_view
from mvrec.errors import DecodeError


@dataclass(frozen=True)
class MaskTargets:
    """Reads the targets of rows whose labels are the paths of masks.

    Args:
        root: The folder to which the paths are relative.
        coding: The class of each value.
        colours: The number of each colour; `None` for masks of numbers.
    """

    target_type: ClassVar[type[Target]] = MaskMap

    root: Path
    coding: MaskCoding
    colours: Colours | None = None

    def __call__(self, row: Row) -> MaskMap:
        """Return the classes of a row's image.

        Raises:
            DecodeError: The mask cannot be read, or has a value of no class; its path is that of the image, by which
                bad files are known.
        """
        path = self.root / row.label
        try:
            return MaskMap(self.coding.classes(read_mask(path, colours=self.colours), path))
        except DecodeError as error:
            raise type(error)(self.root / row.path, f"mask {row.label}: {error.cause}") from None


@dataclass(frozen=True)
class TrainMasks(TrainImages):
    """Random views of images and their masks; see `TrainSamples`.

    Args:
        index: The images; a row's label is the path of its mask.
        size: Side of the view in pixels, or its height and width.
        augment: Augmentation.
        padding: RGB of pixels outside an image that is smaller than the view.
    """

    size: Sides  # type: ignore[assignment]  # other samples have squares
    augment: MaskAugment = field(default_factory=MaskAugment)  # type: ignore[assignment]  # has places of its own
    upright: bool = True
    padding: Colour = MEAN_COLOUR

    def fitted(self, number: int, target: Target, height: int, width: int) -> Target:
        """Return the mask, which must have the size of the image."""
        check_mask_size(self.index, number, target, height, width)
        return target

    def views(self, frames: np.ndarray, target: Target, seeds: Sequence[int]) -> tuple[Tensor, tuple[Target, ...]]:
        """Return a view and its classes for every seed: uint8 (V, C, H, W), and maps (H, W)."""
        assert isinstance(target, MaskMap)
        augment, views, targets = self.augment, [], []
        for seed in seeds:
            way = choose_mask_geometry(target.classes, size=self.size, augment=augment, seed=seed)
            # Padding has the mean colour after everything else.
            view = train_view(frames, replace(way, padded=None), rand_augment=augment.photometric, seed=seed)
            if augment.after_crop is not None:
                view = apply_own(view, augment.after_crop, key="after_crop", seed=seed)
            views.append(view if way.padded is None else padded_frames(view, way.padded, self.padding))
            targets.append(target.moved(way))
        return torch.cat(views), tuple(targets)


@dataclass(frozen=True)
class EvalMasks(EvalImages):
    """Whole images in their own size with their masks; see `EvalSamples`.

    Args:
        index: The images; a row's label is the path of its mask.
        protocol: How the network sees them; the network's input is made on the device.
    """

    protocol: MaskProtocol  # type: ignore[assignment]  # another kind

    def fitted(self, number: int, target: Target, height: int, width: int) -> Target:
        """Return the mask, which must have the size of the image."""
        check_mask_size(self.index, number, target, height, width)
        return target

    def views(self, sample: Sample, number: int, *, only: Sequence[int] | None = None) -> FileViews:
        """Return the one view, the image: uint8 (1, C, H, W)."""
        image = self.read(sample.path)
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
        return FileViews(pixels, tuple(self.protocol.geometries(*image.shape[:2])))


def check_mask_size(index: SampleIndex, number: int, target: Target, height: int, width: int) -> None:
    """Check that a row's mask has the size of its image.

    Raises:
        MaskError: It has another size.
    """
    assert isinstance(target, MaskMap)
    rows, columns = target.classes.shape
    if (rows, columns) != (height, width):
        mask = index.row(number).label
        raise MaskError(str(index[number].path), size_fault(mask, (rows, columns), (height, width)))


def size_fault(mask: object, mask_size: tuple[int, int], image_size: tuple[int, int]) -> str:
    """Return the fault of a mask whose (height, width) are not those of its image."""
    turned = " turned as its EXIF block says" if mask_size == image_size[::-1] else ""
    return (
        f"the image has {image_size[1]}x{image_size[0]} pixels{turned}, its mask {mask} has "
        f"{mask_size[1]}x{mask_size[0]}: make the mask of the image as viewers show it"
    )
