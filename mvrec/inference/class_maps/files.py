"""Overlays and masks of pictures, written to folders as they come."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mvrec.errors import UserError
from mvrec.files import write_atomically
from mvrec.inference.overlay import Mp4Writer, legend_picture, write_png
from mvrec.inference.results import PicturePrediction, PixelPrediction, Prediction, writing
from mvrec.tasks.outputs import PixelOutput

NOMINAL_FPS = 30.0  # of a video whose pictures have times of their own


class PictureFiles:
    """The files of class maps and of objects; use it in a `with` statement.

    An image gives `NAME.png` in each folder; a video or stream `NAME.mp4` of its drawn frames. Of class maps there is a
    folder `NAME` with the mask of each frame too, overlays get a `legend.png` of the colours, and masks a `classes.txt`
    of the names in label order; nothing else lies among the masks, so `mvrec.data.MaskFolder` reads them.

    Args:
        overlays: Folder of overlays; `None` for none.
        masks: Folder of masks; `None` for none.
        names: The name of each source in the folders, without ending; may have folders of its own.

    Raises:
        UserError: A file cannot be written.
    """

    def __init__(self, *, overlays: Path | None, masks: Path | None, names: Mapping[str, Path]) -> None:
        self.overlays, self.masks, self.names = overlays, masks, names
        self._open = ExitStack()  # the video that is being written
        self._video: Mp4Writer | None = None
        self._source, self._begin, self._count = "", 0.0, 0
        self._explained = False

    def __enter__(self) -> "PictureFiles":
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def write(self, prediction: Prediction) -> None:
        """Write the files of a prediction; none of an unreadable file."""
        if (self.overlays is None and self.masks is None) or not isinstance(prediction, PicturePrediction):
            return
        if not self._explained and isinstance(prediction.output, PixelOutput):
            self._explain(prediction.output)
        name = self.names[prediction.source]
        if prediction.start_seconds is not None:
            self._write_frame(name, prediction, prediction.start_seconds)
            return
        if self.overlays is not None:
            prediction.save_overlay(self.overlays / f"{name}.png")
        if self.masks is not None and isinstance(prediction, PixelPrediction):
            prediction.save_mask(self.masks / f"{name}.png")

    def _write_frame(self, name: Path, prediction: PicturePrediction, seconds: float) -> None:
        if prediction.source != self._source:
            self._open.close()
            self._source, self._begin, self._count, self._video = prediction.source, seconds, 0, None
        if self.overlays is not None:
            path = self.overlays / f"{name}.mp4"
            with writing(path):
                if self._video is None:
                    nouns = "classes of pixels" if isinstance(prediction, PixelPrediction) else "objects"
                    about = f"{prediction.source}: {nouns}"
                    self._video = self._open.enter_context(Mp4Writer(path, fps=NOMINAL_FPS, about=about))
                try:
                    self._video.write(prediction.overlay(), seconds=seconds - self._begin)
                except ValueError as error:
                    others = "--masks only" if isinstance(prediction, PixelPrediction) else "no --overlays"
                    raise UserError(f"{prediction.source}: {error}: write {others}") from None
        if self.masks is not None and isinstance(prediction, PixelPrediction):
            prediction.save_mask(self.masks / name / f"{self._count:06d}.png")
        self._count += 1

    def _explain(self, output: PixelOutput) -> None:
        """Write which colour and number is which class."""
        self._explained = True
        if self.overlays is not None:
            with writing(self.overlays / "legend.png") as path:
                write_png(path, legend_picture(output.class_names, output.colours))
        if self.masks is not None:
            with writing(self.masks / "classes.txt") as path:
                write_atomically(path, "".join(f"{name}\n" for name in output.class_names))
