"""Anybody's images and masks in folders."""

from typing import Any

from mvrec.data.listing.mask_layouts import MaskFolders, Naming, Unpaired
from mvrec.data.sets.folder import checked_fraction
from mvrec.data.sets.segmentation.segmentation_data import SegmentationData
from mvrec.data.views.mask_augment import MaskAugment


class MaskFolder(SegmentationData):
    """Images of `images/` with the masks of the same names in `masks/`: PNGs of grey values or palette indices.

    Splits are folders, `images/train/` with `masks/train/` or `train/images/` with `train/masks/`; without them a hash
    of the paths splits into train and val. Names of classes come from `classes`, else from `classes.txt`; without
    either each value of the masks is a class. Masks of 0 and 255 have two classes.

    Args:
        root: The data set.
        protocol: See `SegmentationData`; by default images are scored in their own size.
        augment: Training augmentation; by default images are scaled from their own size.
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
        val_fraction: float = 0.1,
        image_suffix: str = "",
        mask_suffix: str = "",
        unpaired: Unpaired = "refuse",
        **knobs: Any,
    ) -> None:
        super().__init__(root, protocol=protocol, augment=augment, **knobs)
        self.val_fraction = checked_fraction(val_fraction)
        self.naming = Naming(image_suffix, mask_suffix, unpaired)

    def find_layout(self) -> MaskFolders:
        """Return the root's own splits, else a split by hash."""
        return MaskFolders(self.root, self.naming, val_fraction=0 if self.fold else self.val_fraction)
