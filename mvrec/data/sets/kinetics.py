"""Kinetics 400, 600 and 700, and videos of any classes in their layouts."""

import logging
from typing import Any

from mvrec.data.listing.layouts import Layout
from mvrec.data.sets.kinetics_layouts import KineticsLayout, find_kinetics_layout
from mvrec.data.sets.video_data import VideoData
from mvrec.files import at_home

log = logging.getLogger(__name__)


class Kinetics(VideoData):
    """Clips of the videos of Kinetics, in its common layouts.

    These are `root/<split>/<class name>/<video>` with split = train, val, test; lists `root/<split>.csv` of mvrec, of
    SlowFast or of mmaction2; the annotation CSVs of DeepMind and CVDF next to their folders of videos; and
    OpenDataLab's `Kinetics-400/videos`. See `mvrec.data.sets.kinetics_layouts`.

    The classes come from `classes`, else from `root/classes.txt`, else from the training split.

    Args:
        root: The data set.
        layout: The layout. "auto" prefers lists to annotation CSVs to class folders and logs its choice; "lists",
            "folders", "cvdf" (annotation CSVs) and "opendatalab" accept only that layout.
        annotations: The folder of lists or CSVs, if it is neither `root` nor `root/annotations`.
        **knobs: See `VideoData`.

    Raises:
        UserError: From `setup`: a missing or empty root, split or class folder, or a malformed list.
    """

    def __init__(
        self,
        root: str,
        *,
        layout: KineticsLayout = "auto",
        annotations: str | None = None,
        **knobs: Any,
    ) -> None:
        super().__init__(root, **knobs)
        self._wanted_layout, self._annotations = layout, annotations
        self._told = False

    def setup(self, stage: str) -> None:
        """Read the lists or folders of a stage, and log the choice of "auto"; no file is opened."""
        super().setup(stage)
        if self._wanted_layout == "auto" and not self._told:
            log.info("data: %s", self.layout.describe())
            self._told = True

    def find_layout(self) -> Layout:
        """Return the layout of the root; see `find_kinetics_layout`."""
        annotations = at_home(self._annotations) if self._annotations is not None else None
        return find_kinetics_layout(self.root, layout=self._wanted_layout, annotations=annotations)
