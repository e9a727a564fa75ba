"""The objects of an image, of a frame of a video, or of an array."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from mvrec.inference.class_maps.drawing import OPACITY
from mvrec.inference.objects.drawing import drawn_objects
from mvrec.inference.results import PicturePrediction
from mvrec.tasks.regions import Regions

CORNERS = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True, eq=False)
class ObjectPrediction(PicturePrediction):
    """The objects of an image, of a frame of a video, or of an array.

    Attributes:
        output: The objects: `output.boxes` float32 (N, 4) in pixels, `output.scores`, `output.names` and
            `output.masks`, those with the highest scores first.
        pixels: The image, uint8 (H, W, 3).
        tracks: Of a frame of a video or stream: the track of each object, such as "car 2".
    """

    tracks: tuple[str, ...] = ()

    @property
    def objects(self) -> Regions:
        """The objects.

        Raises:
            DecodeError: The file could not be read.
        """
        return cast("Regions", self._output())

    def overlay(self, opacity: float = OPACITY) -> npt.NDArray[np.uint8]:
        """Return the image with masks, boxes, names and scores, uint8 (H', W', 3).

        An image with a short side of less than 360 pixels is enlarged by a whole number.

        Args:
            opacity: Share of the colours of masks, from 0 to 1.

        Raises:
            DecodeError: The file could not be read.
        """
        objects = self.objects
        assert self.pixels is not None
        return drawn_objects(self.pixels, objects, self.tracks, opacity=opacity)

    def as_dict(self, k: int = 5) -> dict[str, Any]:
        """Return plain values with all `objects`, as a line of `mvrec recognize --format jsonl` has them."""
        values = super().as_dict(k)
        for entry, track in zip(values.get("objects", ()), self.tracks, strict=False):
            entry["track"] = track
        return values

    def as_rows(self) -> list[dict[str, Any]]:
        """Return a row of plain values per object: `pandas.DataFrame` takes them.

        The columns are those of a list of boxes, which `mvrec.data.ObjectFolder` reads, and time, score and track. An
        image without objects has a row without a box.
        """
        place = {"path": self.source, "time": self.start_seconds}
        objects = self.objects
        tracks = self.tracks or ("",) * len(objects)
        rows = zip(objects.boxes.tolist(), objects.names, objects.scores.tolist(), tracks, strict=True)
        return [
            {**place, **dict(zip(CORNERS, box, strict=True)), "label": label, "score": score, "track": track}
            for box, label, score, track in rows
        ] or [{**place, **dict.fromkeys((*CORNERS, "label", "score", "track"))}]
