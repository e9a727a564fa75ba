"""`mvrec explain`: what in a video or an image the score of a class rests on, drawn over its frames."""

import argparse
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mvrec.data.listing.file_kinds import IMAGES, VIDEOS
from mvrec.data.listing.index import Sample
from mvrec.data.loading.clips import clip_views, timed_frames
from mvrec.data.loading.guarded_files import open_video, read_image
from mvrec.data.loading.images import protocol_view
from mvrec.data.views.geometry import Geometry
from mvrec.data.views.protocol import ClipProtocol, ImageProtocol
from mvrec.data.views.timeline import timeline_of
from mvrec.data.views.transforms import views_of
from mvrec.errors import DecodeError, UserError, nearest
from mvrec.files import at_home, shown
from mvrec.inference.heat import METHODS, default_method, heat_map
from mvrec.inference.overlay import (
    Crop,
    Pixels,
    contact_sheet,
    enlarged,
    in_range,
    overlaid,
    side_by_side,
    write_mp4,
    write_png,
)
from mvrec.inference.reading import add_limits, start_readers
from mvrec.inference.recogniser import Recogniser, load_recogniser
from mvrec.inference.sources import LISTS, as_sample, find_sources
from mvrec.messages import CommandParser
from mvrec.ranges import check_range
from mvrec.tasks.outputs import CLASSIFICATION, need_task

MAX_FPS = 60.0
SOME_FAILED = 1  # exit code

log = logging.getLogger("mvrec")


class Seen(NamedTuple):
    """A network's view of a file.

    Attributes:
        view: What it takes, uint8 (1, C, [T,] H, W).
        frames: Whole frames scaled as the view is, uint8 (T, H', W', 3); T is 1 for images.
        crop: Where in them the view lies.
        fps: At which frames are to be shown to pass as quickly as in the file.
        where: The part of the file, for messages.
    """

    view: Tensor
    frames: Pixels
    crop: Crop
    fps: float
    where: str


def main(arguments: list[str]) -> None:
    """Draw what a network's score for a class rests on over the frames that it saw, and print its best classes.

    The methods: cam (Grad-CAM) and layercam (LayerCAM) weigh a stage of the network's feature maps, for every network.
    For MViT there are also rollout, the attention of all blocks followed back to the patches, whatever the class, and
    relevance, the same with the attention that speaks for the class.

    Of a list with several rows each one is drawn, with its span: OUT gets the row's number behind its name. A file that
    cannot be read is named, the others are drawn, and the exit code is 1.
    """
    options = _parser().parse_args(arguments)
    _check(options)
    start_readers(options)
    recogniser = load_recogniser(options.ckpt, classes=options.classes, device=options.device)
    need_task(recogniser.outputs, CLASSIFICATION, command="mvrec explain", source=options.ckpt)
    if options.output.suffix.lower() == ".mp4" and not recogniser.is_video:
        raise UserError(f"{options.ckpt} is a network for images, of which no video comes: --output must end in .png")
    number = None if options.class_name is None else class_number(options.class_name, recogniser.class_names)
    is_list = options.source.suffix.lower() in LISTS and options.source.is_file()
    kind = VIDEOS if recogniser.is_video else IMAGES
    samples = find_sources([str(options.source)], kind=kind) if is_list else [Sample(options.source, 0)]
    failed: list[DecodeError] = []
    for row, sample in enumerate(samples, start=1):
        output = options.output
        if len(samples) > 1:
            output = output.with_stem(f"{output.stem}_{row:0{len(str(len(samples)))}d}")
        try:
            _explain(recogniser, sample, output, number, options)
        except DecodeError as error:
            failed.append(error)
    if failed and len(samples) == 1:
        raise UserError(str(failed[0]))
    for fault in failed:
        log.warning("unreadable: %s", fault)
    if failed:
        sys.exit(SOME_FAILED)


def _check(options: argparse.Namespace) -> None:
    if options.output.suffix.lower() not in (".mp4", ".png"):
        raise UserError(f"--output must end in .mp4 or .png, got {options.output}")
    if options.output.resolve() == options.source.resolve():
        raise UserError(f"--output is the source itself: {options.output}")
    check_range("--top", options.top)


def _explain(
    recogniser: Recogniser, sample: Sample, output: Path, number: int | None, options: argparse.Namespace
) -> None:
    """Draw one view of a file or span, and print what the network says of it."""
    shown_view = seen_by(recogniser, sample, clip=options.clip, crop=options.crop)
    probabilities = recogniser.probabilities(shown_view.view)[0]
    number = int(probabilities.argmax()) if number is None else number
    method = options.method or default_method(recogniser.backbone, stage=options.stage)
    x = recogniser.normalised(shown_view.view)
    heat = heat_map(recogniser.backbone, x, torch.tensor([number]), method=method, stage=options.stage)[0].cpu()
    name = recogniser.class_names[number]
    subject = "any class" if method == "rollout" else f"{name} ({100 * probabilities[number]:.1f} %)"
    about = shown(f"{method} for {subject}: {Path(sample.path).name}, {shown_view.where}")
    try:
        _write(output, shown_view, heat, full_frame=options.full_frame, about=about)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror or error}") from None
    report = [f"{sample.path}: {shown_view.where}"]
    for value, place in zip(*probabilities.topk(min(options.top, len(probabilities))), strict=True):
        report.append(f"{100 * value:6.2f} %  {recogniser.class_names[place]}")
    print("\n".join([*report, f"{output}: {method} for {subject}"]))  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="mvrec explain", description=main.__doc__)
    parser.add_argument("source", type=at_home, metavar="SOURCE", help="a video, an image or a list")
    parser.add_argument("--ckpt", required=True, metavar="PATH", help="a checkpoint, a run directory or weights")
    parser.add_argument("-o", "--output", type=at_home, required=True, metavar="OUT", help="the .mp4 or .png to write")
    parser.add_argument("--method", choices=METHODS, help="default: relevance for MViT, cam for the others")
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="default: the most probable one")
    parser.add_argument(
        "--stage", type=int, metavar="N", help="of cam, layercam: 0 is the finest map (default: the coarsest)"
    )
    parser.add_argument("--clip", type=int, metavar="N", help="which of the protocol's clips (default: the middle one)")
    parser.add_argument("--crop", type=int, metavar="N", help="which of its crops (default: the middle one)")
    parser.add_argument("--full_frame", action="store_true", help="draw whole frames, with the crop marked in them")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes to print (default: %(default)s)")
    parser.add_argument("--classes", metavar="LIST", help="names of the classes, where the checkpoint has none")
    parser.add_argument("--device", default="auto", help="default: the first GPU where there is one, else the CPU")
    add_limits(parser)
    return parser


def class_number(name: str, names: tuple[str, ...]) -> int:
    """Return the number of a class: by its name, or by the number itself if no class has it as a name.

    Raises:
        UserError: There is none.
    """
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    raise UserError(f"--class: {name!r} is not one of the {len(names)} classes{nearest(name, names)}")


def seen_by(recogniser: Recogniser, file: Path | Sample, *, clip: int | None = None, crop: int | None = None) -> Seen:
    """Return one view of a file or span under the protocol, with the frames around it.

    Args:
        recogniser: The network and its protocol.
        file: A video, or a span of one, or an image, as the network takes it.
        clip: Which clip of a video, 0 for the first; the middle one by default.
        crop: Which crop of a clip; the middle one by default.

    Raises:
        UserError: The protocol has no such clip or crop.
        DecodeError: The file cannot be read.
    """
    protocol, sample = recogniser.protocol, as_sample(file)
    return _SEEN[protocol.kind](protocol, sample, clip, crop)


def _image_seen(protocol: ImageProtocol, sample: Sample, clip: int | None, crop: int | None) -> Seen:
    _chosen("clip", clip, 1)
    _chosen("crop", crop, 1)
    image = read_image(sample.path, upright=protocol.upright)
    frames, box = _scaled(image[None], protocol.geometries(*image.shape[:2])[0])
    return Seen(protocol_view(image, protocol), frames, box, 1.0, "the image")


def _clip_seen(protocol: ClipProtocol, sample: Sample, clip: int | None, crop: int | None) -> Seen:
    views = protocol.views
    protocol = replace(protocol, views=replace(views, frame_order="natural"))  # controls do not apply to what is shown
    clip, crop = _chosen("clip", clip, views.num_clips), _chosen("crop", crop, views.num_crops)
    with open_video(sample.path) as video:
        times = timeline_of(video)
        numbers = timed_frames(sample, times, protocol)[clip]
        pixels = video.frames(numbers.tolist())
    frames, box = _scaled(pixels, protocol.geometries(*pixels.shape[1:3])[crop])
    view = clip_views(pixels, protocol)[crop].transpose(0, 1)[None]  # (1, C, T, H, W)
    ends = torch.stack([numbers.min(), numbers.max()])
    (start, last), end = times.start_of(ends), times.end_of(ends)[1]
    step = max(last - start, 1 / times.fps) / max(len(numbers) - 1, 1)  # seconds from one frame of the clip to the next
    where = f"clip {clip} of {views.num_clips} ({start:.2f} s to {end:.2f} s), crop {crop} of {views.num_crops}"
    return Seen(view, frames, box, min(1 / step, MAX_FPS), where)


_SEEN: dict[str, Callable[..., Seen]] = {ClipProtocol.kind: _clip_seen, ImageProtocol.kind: _image_seen}


def _chosen(noun: str, number: int | None, count: int) -> int:
    if number is None:
        return count // 2
    if not 0 <= number < count:
        raise UserError(f"--{noun}: there is no {noun} {number}: the protocol has the {noun}s 0..{count - 1}")
    return number


def _scaled(frames: Pixels, geometry: Geometry) -> tuple[Pixels, Crop]:
    """Return whole frames (T, H', W', 3) scaled as for a view, and the place of the view in them."""
    assert geometry.crop is not None
    whole = views_of(frames, [replace(geometry, crop=None)])[0]
    return whole.permute(0, 2, 3, 1).numpy(), Crop(*geometry.crop)


def _write(path: Path, shown_view: Seen, heat: Tensor, *, full_frame: bool, about: str) -> None:
    """Draw and write; without `full_frame` it is the view's own pixels."""
    view = shown_view.view[0]
    frames = (view if view.ndim == 4 else view[:, None]).permute(1, 2, 3, 0).numpy()  # (T, H, W, 3)
    shown = in_range(heat.reshape(frames.shape[:3]).numpy())
    if full_frame:
        frames, drawn = shown_view.frames, overlaid(shown_view.frames, shown, crop=shown_view.crop)
    else:
        drawn = overlaid(frames, shown)
    frames, drawn = enlarged(frames), enlarged(drawn)
    if path.suffix.lower() == ".mp4":
        write_mp4(path, side_by_side(frames, drawn), fps=shown_view.fps, about=about)
    elif len(frames) == 1:
        write_png(path, side_by_side(frames, drawn)[0], about=about)
    else:
        write_png(path, contact_sheet(frames, drawn), about=about)
