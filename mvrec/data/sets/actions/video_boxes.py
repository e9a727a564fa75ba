"""Anybody's videos with boxes in key frames."""

from pathlib import Path
from typing import Any

from mvrec.data.listing.boxes.layouts import BoxLists, find_box_lists
from mvrec.data.sets.actions.box_data import BoxData
from mvrec.data.sets.folder import checked_fraction
from mvrec.files import at_home


class VideoBoxes(BoxData):
    """Videos with a list of boxes: a CSV with the header `path,time,x1,y1,x2,y2,label[,person][,score]`.

    Times are seconds from the start of the video; boxes are shares of the frame, in 0..1, or pixels. A box with several
    labels has several rows, a box without one has an empty label, and a row without corners is a key frame without
    boxes.

    The lists are `train.csv`, `val.csv` and `test.csv` in the root, or `boxes.csv`, of whose videos a hash of the paths
    chooses some for val. Class names come from `classes`, else from `classes.txt`, else from the training boxes.

    Args:
        root: The data set.
        boxes: The list of boxes, in place of those in the root.
        val_fraction: Share of the videos in val if one list has all. `fold` replaces it.
        **knobs: See `BoxData`.

    Raises:
        UserError: A fraction outside 0..1; from `setup`: a missing list, a malformed row, or a label that is no class.
    """

    def __init__(
        self,
        root: str,
        *,
        boxes: str | None = None,
        val_fraction: float = 0.1,
        **knobs: Any,
    ) -> None:
        super().__init__(root, **knobs)
        self._boxes: Path | None = None if boxes is None else at_home(boxes)
        self.val_fraction = checked_fraction(val_fraction)

    def find_boxes(self) -> BoxLists:
        """Return the lists of boxes of the root, or the one that the arguments name."""
        fraction = 0 if self.fold else self.val_fraction
        return find_box_lists(self.root, self.faults, val_fraction=fraction, boxes=self._boxes)
