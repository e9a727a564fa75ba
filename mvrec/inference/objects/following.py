"""Objects of a video followed from frame to frame: boxes that overlap belong to one track."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from mvrec.inference.actions.tracks import Linker, longest_gap
from mvrec.inference.objects.results import ObjectPrediction
from mvrec.inference.results import Prediction
from mvrec.tasks.regions import Regions


def followed(predictions: Iterable[Prediction]) -> Iterator[Prediction]:
    """Yield the frames of videos and streams with the tracks of their objects; images pass as they are.

    Objects of a class are linked by the overlap of their boxes. A hidden object keeps its track for a second.

    Args:
        predictions: Frames in the order of time, video after video.
    """
    source, follower = "", Follower()
    for prediction in predictions:
        if not isinstance(prediction, ObjectPrediction) or prediction.start_seconds is None:
            yield prediction
            continue
        if prediction.source != source:
            source, follower = prediction.source, Follower()
        assert isinstance(prediction.output, Regions)
        yield replace(prediction, tracks=follower.follow(prediction.start_seconds, prediction.output))


class Follower:
    """The tracks of a video's objects."""

    def __init__(self) -> None:
        self._linkers: dict[str, Linker] = {}

    def follow(self, seconds: float, regions: Regions) -> tuple[str, ...]:
        """Return the track of each object of a frame: the class and a number, such as "car 2"."""
        tracks = np.full(len(regions), "", object)
        for number in np.unique(regions.labels).tolist():
            rows, name = regions.labels == number, regions.class_names[number]
            linker = self._linkers.setdefault(name, Linker(most_gap=longest_gap(0)))
            tracks[rows] = [f"{name} {track}" for track in linker.link(seconds, regions.boxes[rows])]
        return tuple(tracks.tolist())
