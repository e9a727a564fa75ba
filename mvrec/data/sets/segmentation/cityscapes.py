"""Cityscapes: street scenes with 19 scored classes."""

from typing import Any, Literal

from mvrec.data.listing.layouts import Layout
from mvrec.data.listing.mask_layouts import MaskFolders, Naming
from mvrec.data.sets.segmentation.segmentation_data import SegmentationData
from mvrec.data.sets.segmentation.values import ClassList
from mvrec.data.views.geometry import Sides
from mvrec.data.views.mask_augment import MaskAugment
from mvrec.data.views.targets import NOT_LABELLED

# Names and ids of the scored classes in the order of their train ids; https://arxiv.org/abs/1604.01685
CLASSES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
IMAGES, MASKS, SUFFIX = "leftImg8bit", "gtFine", "_leftImg8bit"
_IDS = range(34)


class Cityscapes(SegmentationData):
    """Images of `leftImg8bit/<split>/<city>/` with the fine masks of `gtFine/<split>/<city>/`.

    Masks hold ids (`labelIds`), of which 19 are classes and the others not labelled, or those classes' train ids.
    `test` and `predict` read the validation images, because the masks of the test images are not public.

    Args:
        root: The folder of `leftImg8bit` and `gtFine`.
        size: See `SegmentationData`; by default mmsegmentation's crops, half as high as wide.
        protocol: See `SegmentationData`; by default images are scored in their own size, 2048 x 1024.
        augment: Training augmentation.
        test_split: See `SegmentationData`.
        masks: The masks to read, by the end of their names.
        **knobs: See `SegmentationData`.

    Raises:
        UserError: See `SegmentationData`.
    """

    def __init__(
        self,
        root: str,
        *,
        size: Sides = (512, 1024),
        protocol: str = "whole",
        augment: MaskAugment = MaskAugment(scale=(2048, 1024)),  # noqa: B008 - frozen, and shown in --help
        test_split: Literal["val", "test"] = "val",
        masks: Literal["labelIds", "labelTrainIds"] = "labelIds",
        **knobs: Any,
    ) -> None:
        super().__init__(root, size=size, protocol=protocol, augment=augment, test_split=test_split, **knobs)
        self.masks = masks

    def find_layout(self) -> Layout:
        """Return the folders of the release."""
        naming = Naming(SUFFIX, f"_gtFine_{self.masks}")
        return MaskFolders(self.root, naming, image_folders=(IMAGES,), mask_folders=(MASKS,))

    def class_list(self) -> ClassList:
        """Return the 19 scored classes; all other ids are not labelled."""
        if self.masks == "labelTrainIds":
            return ClassList(tuple(CLASSES), ignored=self.ignored)
        others = [number for number in _IDS if number not in CLASSES.values()]
        return ClassList(tuple(CLASSES), tuple(CLASSES.values()), ignored=(*self.ignored, *others, NOT_LABELLED))
