"""Videos with the people and their actions drawn in, written as predictions come."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from mvrec.data.listing.index import Sample
from mvrec.data.loading.guarded_files import open_video
from mvrec.data.views.timeline import timeline_of
from mvrec.errors import DecodeError, UserError
from mvrec.inference.actions.drawing import Scene, colour_of, drawn
from mvrec.inference.actions.results import ActionPrediction, Sighting
from mvrec.inference.overlay import Mp4Writer, enlarged
from mvrec.inference.results import writing

NOMINAL_FPS = 30.0  # of a video whose pictures have times of their own
FRAMES_AT_ONCE = 8  # a call of the decoder may have to seek
LEAST_PIXELS = 360  # of the short side: text of a readable size would hide smaller pictures
MOST_GAP = 2.5  # moments over which the box of a hidden person moves on


class ActionVideos:
    """The videos with boxes, names and actions, one `NAME.mp4` for each video; use it in a `with` statement.

    A video is drawn when its last prediction has come, and is read a second time for that.

    Args:
        folder: The folder; `None` for none.
        samples: The name of each source in the folder, without ending, and the video or the part of one.
        least_score: Least score of an action that is shown.

    Raises:
        UserError: A file cannot be written.
    """

    def __init__(
        self, folder: Path | None, samples: Mapping[str, tuple[Path, Sample]], *, least_score: float = 0.5
    ) -> None:
        self.folder, self.samples, self.least_score = folder, samples, least_score
        self._predictions: list[ActionPrediction] = []

    def __enter__(self) -> "ActionVideos":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind in (None, KeyboardInterrupt):
            self._finish()

    def write(self, prediction: ActionPrediction) -> None:
        """Take a prediction; those of a video come one after the other."""
        if self.folder is None:
            return
        if self._predictions and self._predictions[0].source != prediction.source:
            self._finish()
        if not prediction.error:
            self._predictions.append(prediction)

    def _finish(self) -> None:
        predictions, self._predictions = self._predictions, []
        if self.folder is None or not predictions:
            return
        name, sample = self.samples[predictions[0].source]
        write_video(self.folder / f"{name}.mp4", sample, predictions, least_score=self.least_score)


def write_video(path: Path, sample: Sample, predictions: list[ActionPrediction], *, least_score: float = 0.5) -> None:
    """Write a video with the people and their actions.

    Args:
        path: The file.
        sample: The video, or a part of it.
        predictions: Its key frames in the order of time.
        least_score: Least score of an action that is shown.

    Raises:
        UserError: The video cannot be read any more, or the file cannot be written.
    """
    scene = Scene(predictions, most_gap=MOST_GAP * _step(predictions), least_score=least_score)
    colours = {name: colour_of(number) for number, name in enumerate(scene.names)}
    with writing(path), open_video(sample.path) as video:
        times = timeline_of(video)
        window = times.window(sample.start_seconds, sample.end_seconds)
        with Mp4Writer(path, fps=NOMINAL_FPS, about=f"{sample.path}: actions of people") as writer:
            for first in range(window.first, window.first + window.length, FRAMES_AT_ONCE):
                last = min(first + FRAMES_AT_ONCE, window.first + window.length)
                numbers = torch.arange(first, last)
                try:
                    frames = video.frames(numbers.tolist())
                except DecodeError as error:
                    raise UserError(f"{error}: no video of its actions is written") from None
                large = enlarged(frames, least=LEAST_PIXELS)
                factor = np.float32(large.shape[1] / frames.shape[1])
                for seconds, picture in zip(times.start_of(numbers), large, strict=True):
                    labels = [label._replace(corners=label.corners * factor) for label in scene.at(seconds)]
                    begin = sample.start_seconds or 0.0
                    writer.write(drawn(picture, labels, colours), seconds=max(seconds - begin, 0.0))


def _step(predictions: list[ActionPrediction]) -> float:
    """Return the usual seconds from one look at people to the next."""
    sightings: list[Sighting] = [sighting for prediction in predictions for sighting in prediction.sightings]
    return float(np.median(np.diff([sighting.seconds for sighting in sightings]))) if len(sightings) > 1 else 1.0
