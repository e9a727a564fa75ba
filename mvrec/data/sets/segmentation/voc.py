"""The segmentation images of Pascal VOC: 20 classes and the background."""

from typing import Any, Literal

from mvrec.data.listing.layouts import Layout
from mvrec.data.listing.mask_layouts import MaskLists, Naming
from mvrec.data.sets.segmentation.ade20k import inner_root
from mvrec.data.sets.segmentation.segmentation_data import SegmentationData
from mvrec.data.sets.segmentation.values import ClassList

_NAMES = """
background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant
sheep sofa train tvmonitor
"""
CLASSES = tuple(_NAMES.split())
_YEARS = ("VOC2012", "VOC2011", "VOC2010", "VOC2009", "VOC2008", "VOC2007")


class VOCSegmentation(SegmentationData):
    """Images of `JPEGImages/` with masks of `SegmentationClass/`, as the lists `ImageSets/Segmentation/` split them.

    The value 255, the border of objects, is not labelled. `test` and `predict` read val, because the masks of the test
    images are not public.

    Args:
        root: `VOC2012` or another year, or a folder above it (`VOCdevkit`).
        test_split: See `SegmentationData`.
        train_list: Name of the list of training images, such as "trainaug" for the 10,582 images with the masks of
            Hariharan et al. 2011.
        masks: The folder of the masks, such as "SegmentationClassAug" for those.
        **knobs: See `SegmentationData`.

    Raises:
        UserError: See `SegmentationData`.
    """

    def __init__(
        self,
        root: str,
        *,
        test_split: Literal["val", "test"] = "val",
        train_list: str = "train",
        masks: str = "SegmentationClass",
        **knobs: Any,
    ) -> None:
        super().__init__(root, test_split=test_split, **knobs)
        self.train_list, self.masks = train_list, masks

    def find_layout(self) -> Layout:
        """Return the lists of the release."""
        year = inner_root(self.root, *_YEARS, *(f"VOCdevkit/{year}" for year in _YEARS))
        lists = year / "ImageSets/Segmentation"
        names = {"train": self.train_list, "val": "val"} | ({"test": "test"} if self.test_split == "test" else {})
        return MaskLists(
            self.root,
            {split: lists / f"{name}.txt" for split, name in names.items()},
            Naming(unpaired="skip"),
            folders=(year / "JPEGImages", year / self.masks),
        )

    def class_list(self) -> ClassList:
        """Return background and the 20 classes, unless the arguments name others."""
        return super().class_list() if self.classes is not None else ClassList(CLASSES, ignored=self.ignored)
