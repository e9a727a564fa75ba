"""Anybody's images and masks in folders."""

from functools import cached_property
from typing import Any

from mvrec.data.listing.layouts import Layout
from mvrec.data.listing.mask_classes import find_palette, read_palette
from mvrec.data.listing.mask_layouts import Naming, Unpaired, find_mask_layout
from mvrec.data.loading.masks import Colours
from mvrec.data.sets.folder import checked_fraction
from mvrec.data.sets.segmentation.segmentation_data import SegmentationData
from mvrec.data.sets.segmentation.values import ClassList
from mvrec.data.views.mask_augment import MaskAugment
from mvrec.files import at_home


class MaskFolder(SegmentationData):
    """Images of `images/` with the masks of the same names in `masks/`: PNGs of grey values or palette indices.

    Splits are lists, `train.csv` with the columns path and mask or `train.txt` with a name per line, or folders,
    `images/train/` with `masks/train/` or `train/images/` with `train/masks/`; without them a hash of the paths splits
    into train and val. Names of classes come from `classes`, else from `classes.txt`, with their values (`7 road`) or
    without; without either each value of the masks is a class. Masks of 0 and 255 have two classes.

    Masks may have colours if a file says which class has which: `palette.txt` with lines `name R G B`, or the
    `labelmap.txt` of CVAT.

    Args:
        root: The data set.
        protocol: See `SegmentationData`; by default images are scored in their own size.
        augment: Training augmentation; by default images are scaled from their own size.
        palette: A file with the colours of the classes; by default one in the root with a usual name.
        val_fraction: Share of val if the root has no splits. A hash of the paths chooses, so most files stay where
            they are when others are added or removed. `fold` replaces it.
        image_suffix: End of the images' names that the masks' lack, such as "_leftImg8bit".
        mask_suffix: End of the masks' names that the images' lack, such as "_mask".
        unpaired: Whether images without masks, and masks without images, end the run ("refuse") or are left out
            ("skip").
        **knobs: See `SegmentationData`.

    Raises:
        UserError: A fraction outside 0..1; from `setup`: a missing or empty root, an image without a mask, a mask
            without an image, a mask that holds no class numbers, or a value that is of no class.
    """

    def __init__(
        self,
        root: str,
        *,
        protocol: str = "whole",
        augment: MaskAugment = MaskAugment(scale=None),  # noqa: B008 - frozen, and shown in --help
        palette: str | None = None,
        val_fraction: float = 0.1,
        image_suffix: str = "",
        mask_suffix: str = "",
        unpaired: Unpaired = "refuse",
        **knobs: Any,
    ) -> None:
        super().__init__(root, protocol=protocol, augment=augment, **knobs)
        self.val_fraction = checked_fraction(val_fraction)
        self._palette = None if palette is None else at_home(palette)
        self.naming = Naming(image_suffix, mask_suffix, unpaired)

    def find_layout(self) -> Layout:
        """Return the root's own splits, lists before folders, else a split by hash."""
        return find_mask_layout(self.root, self.naming, val_fraction=0 if self.fold else self.val_fraction)

    @cached_property
    def palette(self) -> dict[str, tuple[int, int, int]]:
        """The colour of each class; empty for masks of numbers."""
        path = self._palette or find_palette(self.root)
        return {} if path is None else read_palette(path)

    def colours(self) -> Colours | None:
        """Return the number of each colour, in the order of the palette's file."""
        return {colour: number for number, colour in enumerate(self.palette.values())} or None

    def class_list(self) -> ClassList:
        """Return the classes of the arguments, the palette or `classes.txt`; without them the masks tell."""
        if self.classes is not None or not self.palette:
            return super().class_list()
        return ClassList(tuple(self.palette), ignored=self.ignored, zero_is_none=self.reduce_zero_label)
