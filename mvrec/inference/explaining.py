"""The pixels and frames on which a class score rests, of a file or an array."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mvrec.data.listing.index import Sample
from mvrec.data.loading.clips import clip_views, timed_frames
from mvrec.data.loading.images import protocol_view
from mvrec.data.views.geometry import Geometry
from mvrec.data.views.protocol import ClipProtocol, DetectionProtocol, ImageProtocol, MaskProtocol
from mvrec.data.views.timeline import timeline_of
from mvrec.data.views.transforms import views_of
from mvrec.errors import UserError, nearest
from mvrec.files import at_home, shown
from mvrec.inference.heat import Method, default_method, heat_map
from mvrec.inference.inputs import Item, as_item, warn_of_still
from mvrec.inference.objects.explaining import object_heat
from mvrec.inference.overlay import (
    Crop,
    Pixels,
    captioned,
    contact_sheet,
    enlarged,
    framed,
    in_range,
    overlaid,
    side_by_side,
    write_mp4,
    write_png,
)
from mvrec.inference.recogniser import Recogniser
from mvrec.inference.results import Prediction
from mvrec.tasks.outputs import CLASSIFICATION, PixelOutput, need_task

MAX_FPS = 60.0


class Seen(NamedTuple):
    """A network's view of a file.

    Attributes:
        view: What it takes, uint8 (1, C, [T,] H, W).
        frames: Whole frames scaled as the view is, uint8 (T, H', W', 3); T is 1 for images.
        crop: Where in them the view lies.
        fps: At which frames are to be shown to pass as quickly as in the file.
        where: The part of the file, for messages.
        span: Start and end of the part in seconds; `None` for an image and for frames of unknown rate.
    """

    view: Tensor
    frames: Pixels
    crop: Crop
    fps: float
    where: str
    span: tuple[float | None, float | None]


@dataclass(frozen=True, eq=False)
class Heat(Prediction):
    """The prediction for one view of a file or array, and the pixels on which the score of a class rests.

    Attributes:
        heat: float32 (T, H, W), of an image (H, W), from 0 to 1 over all frames together; `None` for an unreadable
            file.
        class_name: The explained class; "rollout" is the same for all.
        probability: Its probability in this view; for a segmenter its share of the image.
        method: The method.
        shown_view: The view: `shown_view.view` uint8 (1, C, [T,] H, W) has its pixels.
        box: Of a detector: the box of the explained object in the image.
    """

    heat: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    class_name: str = ""
    probability: float = 0.0
    method: str = ""
    shown_view: Seen | None = field(default=None, repr=False)
    box: Crop | None = None

    @property
    def frames(self) -> Pixels:
        """The pixels of the view, uint8 (T, H, W, 3), of an image (H, W, 3)."""
        shown_view = self._seen()
        return shown_view.view[0].movedim(0, -1).numpy()

    @property
    def subject(self) -> str:
        """The explained class with its probability, for captions."""
        if self.method == "rollout":
            return "any class"
        of = " of the image" if isinstance(self.output, PixelOutput) else ""
        return f"{self.class_name} ({100 * self.probability:.1f} %{of})"

    def save(self, path: str | os.PathLike[str], *, full_frame: bool = False) -> None:
        """Draw the heat over the frames and write it: a video as .mp4, a sheet of frames or an image as .png.

        Args:
            path: The file.
            full_frame: Draw whole frames with the crop marked in them, instead of the crop alone.

        Raises:
            DecodeError: The file could not be read.
            UserError: The picture cannot be written, or not in this format.
        """
        shown_view, path = self._seen(), at_home(path)
        check_output(path, is_video=self.frames.ndim == 4)
        place = ", ".join(filter(None, (Path(self.source).name, shown_view.where)))
        caption = [place, f"{self.method} for {self.subject}"]
        assert self.heat is not None
        try:
            lines = [shown(line) for line in caption]
            _write(path, shown_view, self.heat, full_frame=full_frame, caption=lines, box=self.box)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from None

    def _seen(self) -> Seen:
        self.check()
        assert self.shown_view is not None
        return self.shown_view


def check_output(path: Path, *, is_video: bool) -> None:
    """Check that a picture of this name can be drawn.

    Raises:
        UserError: It ends neither in .mp4 nor in .png, or is to be a video of an image.
    """
    if path.suffix.lower() not in (".mp4", ".png"):
        raise UserError(f"the output must end in .mp4 or .png, got {path}")
    if path.suffix.lower() == ".mp4" and not is_video:
        raise UserError(f"no video comes of an image: the output must end in .png, got {path}")


def explained(
    recogniser: Recogniser,
    file: Path | Sample | Item,
    *,
    class_name: str | None = None,
    method: Method | None = None,
    stage: int | None = None,
    clip: int | None = None,
    crop: int | None = None,
    detection: int | None = None,
) -> Heat:
    """Explain the score of a class for one view.

    Args:
        recogniser: The network.
        file: A video, or a span of one, or an image, or an array of these.
        class_name: The class, by name or number; the view's most probable one by default.
        method: See `heat_map`; the most informative one for the network by default.
        stage: See `heat_map`.
        clip: See `seen_by`.
        crop: See `seen_by`.
        detection: Of a detector: which object, 0 for the one with the highest score; of `class_name` alone if given.

    Raises:
        DecodeError: The file cannot be read.
        UserError: The network is for another task, or has no such class, method, stage, clip, crop or object.
    """
    check_explainable(recogniser, command="explaining")
    number = None if class_name is None else class_number(class_name, recogniser.class_names)
    item = as_item(file)
    shown_view = seen_by(recogniser, item, clip=clip, crop=crop)
    if isinstance(recogniser.protocol, DetectionProtocol):
        return _object_explained(recogniser, item.source, shown_view, detection or 0, number, method, stage)
    if detection is not None:
        raise UserError(f"a detection is explained of a detector, and {recogniser.source} is for another task")
    output: Any = recogniser.outputs.output(recogniser.raw(shown_view.view), torch.ones(1, dtype=torch.float64))
    values = list(output.shares.values()) if isinstance(output, PixelOutput) else output.probabilities.tolist()
    number = values.index(max(values)) if number is None else number
    method = method or default_method(recogniser.backbone, stage=stage)
    x = recogniser.network_input(shown_view.view)
    heat = heat_map(recogniser.backbone, x, torch.tensor([number]), method=method, stage=stage).cpu()
    if isinstance(output, PixelOutput):
        if not values[number]:
            raise UserError(f"{item.source}: no pixel is of class {recogniser.class_names[number]!r}: choose another")
        heat = F.interpolate(heat[None], output.classes.shape, mode="bilinear")[0]
    return Heat(
        item.source,
        *shown_view.span,
        output=output,
        heat=in_range(heat[0].numpy()),
        class_name=recogniser.class_names[number],
        probability=values[number],
        method=method,
        shown_view=shown_view,
    )


def _object_explained(
    recogniser: Recogniser,
    source: str,
    shown_view: Seen,
    rank: int,
    label: int | None,
    method: Method | None,
    stage: int | None,
) -> Heat:
    image = shown_view.view[0]
    heat, objects, row, method = object_heat(recogniser, image, rank=rank, label=label, method=method, stage=stage)
    on_image = F.interpolate(heat[None, None], tuple(image.shape[-2:]), mode="bilinear")[0, 0]
    height, width = image.shape[-2:]
    left, top, right, bottom = (round(side) for side in objects.boxes[row].tolist())
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    return Heat(
        source,
        *shown_view.span,
        output=objects,
        heat=in_range(on_image.numpy()),
        class_name=objects.names[row],
        probability=float(objects.scores[row]),
        method=method,
        shown_view=shown_view,
        box=Crop(top, left, max(min(bottom, height) - top, 1), max(min(right, width) - left, 1)),
    )


def check_explainable(recogniser: Recogniser, *, command: str) -> None:
    """Check that a network gives classes, to files, pixels or objects.

    Raises:
        UserError: It is for another task.
    """
    if not isinstance(recogniser.protocol, MaskProtocol | DetectionProtocol):
        need_task(recogniser.outputs, CLASSIFICATION, command=command, source=recogniser.source)


def class_number(name: str, names: tuple[str, ...]) -> int:
    """Return the number of a class: by its name, or by the number itself if no class has it as a name.

    Raises:
        UserError: There is none.
    """
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    raise UserError(f"{name!r} is not one of the {len(names)} classes{nearest(name, names)}")


def seen_by(
    recogniser: Recogniser, file: Path | Sample | Item, *, clip: int | None = None, crop: int | None = None
) -> Seen:
    """Return one view of a file or span under the protocol, with the frames around it.

    Args:
        recogniser: The network and its protocol.
        file: A video, or a span of one, or an image, or an array of these, as the network takes it.
        clip: Which clip of a video, 0 for the first; the middle one by default.
        crop: Which crop of a clip; the middle one by default.

    Raises:
        UserError: The protocol has no such clip or crop.
        DecodeError: The file cannot be read.
    """
    return _SEEN[recogniser.protocol.kind](recogniser.protocol, as_item(file), clip, crop)


def _image_seen(protocol: ImageProtocol, item: Item, clip: int | None, crop: int | None) -> Seen:
    _chosen("clip", clip, 1)
    _chosen("crop", crop, 1)
    image = item.image(upright=protocol.upright)
    frames, box = _scaled(image[None], protocol.geometries(*image.shape[:2])[0])
    return Seen(protocol_view(image, protocol), frames, box, 1.0, "the image", (None, None))


def _clip_seen(protocol: ClipProtocol, item: Item, clip: int | None, crop: int | None) -> Seen:
    views = protocol.views
    protocol = replace(protocol, views=replace(views, frame_order="natural"))  # controls do not apply to what is shown
    clip, crop = _chosen("clip", clip, views.num_clips), _chosen("crop", crop, views.num_crops)
    with item.open("auto") as video:
        times = timeline_of(video)
        warn_of_still(item, video)
        numbers = timed_frames(item.sample, times, protocol)[clip]
        pixels = video.frames(numbers.tolist())
    frames, box = _scaled(pixels, protocol.geometries(*pixels.shape[1:3])[crop])
    view = clip_views(pixels, protocol)[crop].transpose(0, 1)[None]  # (1, C, T, H, W)
    ends = torch.stack([numbers.min(), numbers.max()])
    (start, last), end = times.start_of(ends), times.end_of(ends)[1]
    step = max(last - start, 1 / times.fps) / max(len(numbers) - 1, 1)  # seconds from one frame of the clip to the next
    place = f" ({start:.2f} s to {end:.2f} s)" if item.has_seconds else ""
    where = f"clip {clip} of {views.num_clips}{place}, crop {crop} of {views.num_crops}"
    return Seen(view, frames, box, min(1 / step, MAX_FPS), where, (start, end) if item.has_seconds else (None, None))


def _whole_image_seen(
    protocol: MaskProtocol | DetectionProtocol, item: Item, clip: int | None, crop: int | None
) -> Seen:
    _chosen("clip", clip, 1)
    _chosen("crop", crop, 1)
    image = item.image(upright=protocol.upright)
    view = torch.from_numpy(image).permute(2, 0, 1)[None]
    return Seen(view, image[None], Crop(0, 0, *image.shape[:2]), 1.0, "the image", (None, None))


_SEEN: dict[str, Callable[..., Seen]] = {
    ClipProtocol.kind: _clip_seen,
    ImageProtocol.kind: _image_seen,
    MaskProtocol.kind: _whole_image_seen,
    DetectionProtocol.kind: _whole_image_seen,
}


def _chosen(noun: str, number: int | None, count: int) -> int:
    if number is None:
        return count // 2
    if not 0 <= number < count:
        raise UserError(f"there is no {noun} {number}: the protocol has the {noun}s 0..{count - 1}")
    return number


def _scaled(frames: Pixels, geometry: Geometry) -> tuple[Pixels, Crop]:
    """Return whole frames (T, H', W', 3) scaled as for a view, and the place of the view in them."""
    assert geometry.crop is not None
    whole = views_of(frames, [replace(geometry, crop=None)])[0]
    return whole.permute(0, 2, 3, 1).numpy(), Crop(*geometry.crop)


def _write(
    path: Path,
    shown_view: Seen,
    heat: npt.NDArray[np.float32],
    *,
    full_frame: bool,
    caption: Sequence[str],
    box: Crop | None,
) -> None:
    """Draw and write; without `full_frame` it is the view's own pixels."""
    view, about = shown_view.view[0], ": ".join(reversed(caption))
    frames = (view if view.ndim == 4 else view[:, None]).permute(1, 2, 3, 0).numpy()  # (T, H, W, 3)
    hot = heat.reshape(frames.shape[:3])
    if full_frame:
        frames, drawn = shown_view.frames, overlaid(shown_view.frames, hot, crop=shown_view.crop)
    else:
        drawn = overlaid(frames, hot)
    if box is not None:
        frames, drawn = framed(frames.copy(), box), framed(drawn, box)
    frames, drawn = enlarged(frames), enlarged(drawn)
    if path.suffix.lower() == ".mp4":
        write_mp4(path, captioned(side_by_side(frames, drawn), caption), fps=shown_view.fps, about=about)
        return
    picture = side_by_side(frames, drawn) if len(frames) == 1 else contact_sheet(frames, drawn)[None]
    write_png(path, captioned(picture, caption)[0], about=about)
