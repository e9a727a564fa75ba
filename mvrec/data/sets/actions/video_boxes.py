"""Anybody's videos with boxes in key frames."""

from functools import cached_property
from pathlib import Path
from typing import Any

from mvrec.data.listing.boxes.layouts import BoxLists, find_box_lists
from mvrec.data.listing.boxes.reading import FrameRule
from mvrec.data.listing.root import check_root
from mvrec.data.loading.frames.seconds import FrameSeconds
from mvrec.data.sets.actions.box_data import BoxData
from mvrec.data.sets.folder import checked_fraction
from mvrec.files import at_home
from mvrec.ranges import check_ranges


class VideoBoxes(BoxData):
    """Videos with a list of boxes: a CSV with the header `path,time,x1,y1,x2,y2,label[,person][,score]`.

    Times are seconds from the start of the video; boxes are shares of the frame, in 0..1, or pixels. A box with several
    labels has several rows, a box without one has an empty label, and a row without corners is a key frame without
    boxes. Lists may also be in AVA's form, which has no header, or the XML of CVAT, for videos or for images 1.1; there
    a box's actions are the values of its attributes, or its label where it has none.

    The lists are `train.csv`, `val.csv` and `test.csv` in the root, or `boxes.csv`, of whose videos a hash of the paths
    chooses some for val; CVAT's end with `.xml`, and a folder `boxes` may hold several. Class names come from
    `classes`, else from `classes.txt`, else from the training boxes.

    Args:
        root: The data set.
        boxes: The list of boxes or a folder of lists, in place of those in the root.
        val_fraction: Share of the videos in val if one list has all. `fold` replaces it.
        every: Seconds from one key frame of a video with CVAT's tracks to the next; `None` takes all frames.
        attributes: The attributes of CVAT that hold actions; all by default.
        **knobs: See `BoxData`.

    Raises:
        UserError: A number that is out of range; from `setup`: a missing list, a malformed row, or a label that is no
            class.
    """

    def __init__(
        self,
        root: str,
        *,
        boxes: str | None = None,
        val_fraction: float = 0.1,
        every: float | None = 1.0,
        attributes: list[str] | None = None,
        **knobs: Any,
    ) -> None:
        super().__init__(root, **knobs)
        self._boxes: Path | None = None if boxes is None else at_home(boxes)
        self.val_fraction = checked_fraction(val_fraction)
        check_ranges("data.", {"every": every})
        self.rule = FrameRule(FrameSeconds(self.root, decoder=self.decoder), every, attributes)

    @cached_property
    def files(self) -> BoxLists:
        """The lists of boxes, without folds."""
        check_root(self.root)
        return self.find_boxes()

    def find_boxes(self) -> BoxLists:
        """Return the lists of boxes of the root, or the one that the arguments name."""
        fraction = 0 if self.fold else self.val_fraction
        return find_box_lists(self.root, self.faults, val_fraction=fraction, boxes=self._boxes, rule=self.rule)
