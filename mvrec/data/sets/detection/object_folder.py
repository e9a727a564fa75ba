"""Anybody's images with objects."""

from typing import Any

from mvrec.data.listing.objects.layouts import ObjectLayout, find_object_layout
from mvrec.data.sets.detection.detection_data import DetectionData
from mvrec.data.sets.folder import checked_fraction


class ObjectFolder(DetectionData):
    """Images with objects in any of the usual forms, which are recognised.

    * COCO: `annotations/instances_train.json` or `train.json` or one JSON of all, images found by name;
    * YOLO: `data.yaml`, or `images/train/` with texts of the same names in `labels/train/`;
    * VOC: `Annotations/` with lists in `ImageSets/Main/`, or an XML for each image;
    * LabelMe: a JSON for each image;
    * a CSV with the header `path,x1,y1,x2,y2,label`, in pixels.

    Without splits a hash of the paths splits the images into train and val. Class names come from `classes`, else from
    `classes.txt`, else from the training annotations; other splits are matched by name.

    Args:
        root: The data set, or its file of annotations (`data.yaml`, a JSON, a CSV).
        val_fraction: Share of val if the root has no splits. A hash of the paths chooses, so most files stay where
            they are when others are added or removed. `fold` replaces it.
        **knobs: See `DetectionData`.

    Raises:
        UserError: A fraction outside 0..1; from `setup`: no annotations, a malformed one with file and id, an object
            without area, or an unknown class.
    """

    def __init__(self, root: str, *, val_fraction: float = 0.1, **knobs: Any) -> None:
        super().__init__(root, **knobs)
        self.val_fraction = checked_fraction(val_fraction)

    def find_objects(self) -> ObjectLayout:
        """Return the annotations of the root, or of the file that it names."""
        fraction = 0 if self.fold else self.val_fraction
        return find_object_layout(self.place, self.size_of, val_fraction=fraction, bad_boxes=self.bad_boxes)
