"""COCO: 80 classes of things, with boxes and outlines."""

from typing import Any, Literal

from mvrec.data.listing.objects.finding import Source
from mvrec.data.listing.objects.layouts import ObjectLayout
from mvrec.data.sets.detection.detection_data import DetectionData


class COCO(DetectionData):
    """COCO's images `train2017/` and `val2017/` with `annotations/instances_train2017.json` and the like.

    Training leaves out images without objects, as the recipes do, and boxes without area. `test` and `predict` read
    val, because the annotations of test are not public.

    Args:
        root: The data set.
        year: The release, in the names of its files.
        empty: See `DetectionData`.
        bad_boxes: See `DetectionData`.
        test_split: See `DetectionData`.
        **knobs: See `DetectionData`.

    Raises:
        UserError: See `DetectionData`.
    """

    def __init__(
        self,
        root: str,
        *,
        year: Literal["2014", "2017"] = "2017",
        empty: Literal["keep", "drop"] = "drop",
        bad_boxes: Literal["refuse", "drop"] = "drop",
        test_split: Literal["val", "test"] = "val",
        **knobs: Any,
    ) -> None:
        super().__init__(root, empty=empty, bad_boxes=bad_boxes, test_split=test_split, **knobs)
        self.year = year

    def find_objects(self) -> ObjectLayout:
        """Return the annotations of the release."""
        places = {split: self.root / f"annotations/instances_{split}{self.year}.json" for split in ("train", "val")}
        sources = {split: Source("coco", place) for split, place in places.items() if place.is_file()}
        return ObjectLayout(self.root, sources, self.size_of, bad_boxes=self.bad_boxes)
