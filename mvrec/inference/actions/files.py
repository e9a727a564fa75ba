"""Videos with the people and their actions drawn in, written as predictions come."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from mvrec.data.listing.index import Sample
from mvrec.data.loading.guarded_files import open_video
from mvrec.data.video.video import Decoder, Video
from mvrec.data.views.timeline import timeline_of
from mvrec.errors import DecodeError, UserError
from mvrec.inference.actions.drawing import LEAST_SCORE, Scene, drawn
from mvrec.inference.actions.results import ActionPrediction, Sighting
from mvrec.inference.actions.tracks import longest_gap
from mvrec.inference.objects.box_drawing import Pixels, colour_of
from mvrec.inference.overlay import Mp4Writer, enlarged
from mvrec.inference.results import writing

log = logging.getLogger("mvrec")

NOMINAL_FPS = 30.0  # of a video whose pictures have times of their own
FRAMES_AT_ONCE = 8  # a call of the decoder may have to seek
LEAST_PIXELS = 360  # of the short side: text of a readable size would hide smaller pictures


class ActionVideos:
    """The videos with boxes, names and actions, one `NAME.mp4` for each video; use it in a `with` statement.

    A video is drawn when its last prediction has come, and is read a second time for that.

    Args:
        folder: The folder; `None` for none.
        samples: The name of each source in the folder, without ending, and the video or the part of one.
        least_score: Least score of an action that is shown.
        decoder: Name of the decoder.

    Raises:
        UserError: A video cannot be opened any more, or a file cannot be written.
    """

    def __init__(
        self,
        folder: Path | None,
        samples: Mapping[str, tuple[Path, Sample]],
        *,
        least_score: float = LEAST_SCORE,
        decoder: Decoder = "auto",
    ) -> None:
        self.folder, self.samples, self.least_score, self.decoder = folder, samples, least_score, decoder
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
        try:
            with open_video(sample.path, decoder=self.decoder) as video:
                write_video(self.folder / f"{name}.mp4", video, sample, predictions, least_score=self.least_score)
        except DecodeError as error:
            raise UserError(str(error)) from None


def write_video(
    path: Path, video: Video, sample: Sample, predictions: list[ActionPrediction], *, least_score: float = LEAST_SCORE
) -> None:
    """Write a video with the people and their actions; a damaged one ends before the damage, with a warning.

    Args:
        path: The file.
        video: The opened video.
        sample: The part of it.
        predictions: Its key frames in the order of time.
        least_score: Least score of an action that is shown.

    Raises:
        UserError: The file cannot be written.
    """
    step = _step(predictions)
    scene = Scene(predictions, step=step, most_gap=longest_gap(step), least_score=least_score)
    colours = {name: colour_of(number) for number, name in enumerate(scene.names)}
    begin = sample.start_seconds or 0.0
    with writing(path), Mp4Writer(path, fps=NOMINAL_FPS, about=f"{sample.path}: actions of people") as writer:
        for seconds, picture in pictures(video, sample):
            large = enlarged(picture[None], least=LEAST_PIXELS)[0]
            factor = np.float32(large.shape[0] / picture.shape[0])
            labels = [label._replace(corners=label.corners * factor) for label in scene.at(seconds)]
            writer.write(drawn(large, labels, colours), seconds=max(seconds - begin, 0.0))


def pictures(video: Video, sample: Sample) -> Iterator[tuple[float, Pixels]]:
    """Yield the time and the pixels uint8 (H, W, 3) of each frame, up to damage."""
    times = timeline_of(video)
    window = times.window(sample.start_seconds, sample.end_seconds)
    end = min(window.first + window.length, video.num_frames)
    for first in range(window.first, end, FRAMES_AT_ONCE):
        numbers = torch.arange(first, min(first + FRAMES_AT_ONCE, end))
        try:
            frames = video.frames(numbers.tolist())
        except DecodeError as error:
            log.warning("%s: the written video ends at %.2f s", error, times.start_of(numbers)[0])
            return
        yield from zip(times.start_of(numbers), frames, strict=True)


def _step(predictions: list[ActionPrediction]) -> float:
    """Return the usual seconds from one look at people to the next."""
    sightings: list[Sighting] = [sighting for prediction in predictions for sighting in prediction.sightings]
    return float(np.median(np.diff([sighting.seconds for sighting in sightings]))) if len(sightings) > 1 else 1.0
