"""Writing one video or image in a smaller size, with as many frames at the same times."""

import contextlib
import hashlib
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mvrec.data.video.shown_pictures import Orientation, bare_copy
from mvrec.errors import DecodeError
from mvrec.files import atomic_path
from mvrec.prep.sources import compare_with_promise

if TYPE_CHECKING:
    import av
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from mvrec.data.listing.archive import FilePath
    from mvrec.data.video.video import Clock, Ints

_TV = 1  # FFmpeg's number for the limited range of brightness, which players expect of videos
_SMPTE170M = 6  # FFmpeg's number for the colours of standard definition


@dataclass(frozen=True)
class Recipe:
    """The settings of smaller files.

    Attributes:
        short_side: In pixels, even.
        gop: Most frames from one key frame to the next, the most that a seek decodes.
        crf: x264's quality; lower is better and larger.
        preset: x264's preset of speed.
        fast_decode: Omit features that slow decoding (x264's tune fastdecode: no CABAC, no deblocking).
        enlarge: Enlarge smaller files, too.
        quality: Of JPEG.
    """

    short_side: int = 256
    gop: int = 16
    crf: int = 23
    preset: str = "fast"
    fast_decode: bool = False
    enlarge: bool = False
    quality: int = 95

    @property
    def mark(self) -> str:
        """The comment in the files, by which finished ones are recognised."""
        digest = hashlib.blake2b(repr(self).encode(), digest_size=4).hexdigest()
        return f"mvrec resize: short side {self.short_side}, {digest}"

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) of the result: the aspect is kept up to even sides."""
        short = min(height, width)
        target = self.short_side if self.enlarge or short > self.short_side else short
        even = [max(2, 2 * round(side * target / short / 2)) for side in (height, width)]
        return even[0], even[1]

    def encoder_options(self) -> dict[str, str]:
        """Return the options of FFmpeg's libx264."""
        # On small pictures mbtree reads uninitialised memory: equal frames would become different bytes.
        options = {"crf": str(self.crf), "preset": self.preset, "g": str(self.gop), "x264-params": "mbtree=0"}
        return {**options, "tune": "fastdecode"} if self.fast_decode else options


class Task(NamedTuple):
    """A file to resize.

    Attributes:
        source: The file.
        target: The result.
        kind: "video" or "image".
    """

    source: "FilePath"
    target: Path
    kind: str


def resize(task: Task, *, recipe: Recipe) -> dict[str, Any]:
    """Write a task's target, or recognise it as finished.

    Returns:
        state "done" or "kept"; height and width; frames and fps of a video.

    Raises:
        DecodeError: The source cannot be read, or the result is wrong.
        OSError: The target cannot be written.
    """
    return _resize_image(task, recipe) if task.kind == "image" else _resize_video(task, recipe)


# -- videos ----------------------------------------------------------------------------------------------------------


def _resize_video(task: Task, recipe: Recipe) -> dict[str, Any]:
    import av

    from mvrec.data.video.opening import open_video

    with open_video(task.source, "pyav") as video:
        num_frames, fps, (height, width) = video.num_frames, video.fps, video.size
        compare_with_promise(task.source, video.duration)
    size = recipe.size(height, width)
    facts = {"frames": num_frames, "fps": fps, "height": size[0], "width": size[1]}
    if task.target.is_file() and _is_done(task.target, num_frames, size, recipe):
        return {"state": "kept", **facts}
    try:
        with atomic_path(task.target, durable=True) as part:
            times = _transcode(task, part, size, recipe, num_frames=num_frames)
            _verify(task, part, times, num_frames=num_frames, size=size)
    except av.FFmpegError as error:
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, error.strerror, str(task.target)) from error
        raise DecodeError(task.source, f"cannot be encoded again ({error.strerror})") from error
    return {"state": "done", **facts}


def _is_done(target: Path, num_frames: int, size: tuple[int, int], recipe: Recipe) -> bool:
    import av

    from mvrec.data.video.opening import open_video

    try:
        with av.open(str(target)) as container:
            if container.metadata.get("comment") != recipe.mark:
                return False
        with open_video(target, "pyav") as video:
            return video.num_frames == num_frames and video.size == size
    except (av.FFmpegError, DecodeError):
        return False


def _transcode(task: Task, part: Path, size: tuple[int, int], recipe: Recipe, *, num_frames: int) -> list[Fraction]:
    """Write the video; return the time of each frame in seconds from the first."""
    import av

    from mvrec.data.video.frame_finder import FrameFinder
    from mvrec.data.video.opening import source_of

    with contextlib.closing(FrameFinder(source_of(task.source))) as finder:
        source, clock = finder.stream, finder.clock
        rate = source.average_rate or source.guessed_rate or Fraction(25)
        ticks = None if _is_even(clock, rate) else clock.ticks
        frames = finder.all_frames()
        first = next(frames, None)
        if first is None:
            raise DecodeError(task.source, "none of its frames can be decoded")
        base = 1 / rate if ticks is None else clock.tick
        with av.open(str(part), "w", format="mp4", options={"movflags": "faststart"}) as writer:
            writer.metadata["comment"] = recipe.mark
            stream = _add_stream(writer, source, first, rate=rate, base=base, size=size, recipe=recipe)
            times: list[Fraction] = []
            scaled_frames = _scaled(itertools.chain([first], frames), size, ticks=ticks, base=base, times=times)
            packets = itertools.chain.from_iterable(
                stream.encode(frame) for frame in itertools.chain(scaled_frames, [None])
            )
            for packet in _lasting(packets, num_frames / rate):
                writer.mux(packet)
    return times


def _lasting(packets: Iterator["Packet"], seconds: Fraction) -> Iterator["Packet"]:
    """Yield packets and extend the last one to the given time, which sets the mean frame rate."""
    begin, pending, count = None, None, 0
    for packet in packets:
        count += 1
        begin = packet.dts if begin is None else begin
        if pending is not None:
            yield pending
        pending = packet
    if pending is not None and pending.dts is not None and pending.time_base is not None:
        before = pending.dts - (begin or 0)
        left = round(seconds / pending.time_base) - before
        # A container whose times do not match its rate (Matroska) says nothing about the last frame.
        pending.duration = left if left > 0 else max(1, before // max(1, count - 1))
        yield pending


def _is_even(clock: "Clock", rate: Fraction) -> bool:
    """Return whether frames should have even distances.

    They should if the file has no usable times (AVI), or if the times lie on the grid of the frame rate up to
    milliseconds.
    """
    if clock.ticks is None:
        return True
    times = (clock.ticks - clock.ticks[0]).tolist()
    return all(abs(time - number / (rate * clock.tick)) <= 1 for number, time in enumerate(times))


def _add_stream(
    writer: "av.container.OutputContainer",
    source: "VideoStream",
    first: "VideoFrame",
    *,
    rate: Fraction,
    base: Fraction,
    size: tuple[int, int],
    recipe: Recipe,
) -> "VideoStream":
    stream = writer.add_stream("libx264", rate=rate, options=recipe.encoder_options())
    codec = stream.codec_context
    codec.thread_count = 1  # with more, the bytes would depend on the number of threads
    codec.height, codec.width = size
    codec.pix_fmt = "yuv420p"
    codec.time_base = base
    codec.color_range = _TV
    codec.colorspace, codec.color_primaries, codec.color_trc = _colours(first)
    aspect = source.sample_aspect_ratio
    if aspect and aspect > 0 and aspect != 1:
        codec.sample_aspect_ratio = 1 / aspect if Orientation.of(first).transposed else aspect
    return stream


def _colours(frame: "VideoFrame") -> tuple[int, int, int]:
    if frame.format.is_rgb:
        return _SMPTE170M, _SMPTE170M, _SMPTE170M  # the target of RGB
    return int(frame.colorspace), int(frame.color_primaries), int(frame.color_trc)


def _scaled(
    frames: Iterator["VideoFrame"],
    size: tuple[int, int],
    *,
    ticks: "Ints | None",
    base: Fraction,
    times: list[Fraction],
) -> Iterator["VideoFrame"]:
    """Yield frames of the new size, upright, at `ticks` from 0 on or else evenly, and add their times to `times`."""
    from av.video.reformatter import VideoReformatter

    reformatter, orientation = VideoReformatter(), Orientation()
    for number, frame in enumerate(frames):
        if not number:
            orientation = Orientation.of(frame)
        place = number if ticks is None or number >= len(ticks) else int(ticks[number] - ticks[0])
        height, width = orientation.size(size)
        scaled_frame = reformatter.reformat(
            frame,
            width,
            height,
            "yuv420p",
            interpolation="LANCZOS",
            dst_colorspace=_SMPTE170M if frame.format.is_rgb else None,
            dst_color_range=_TV,
            threads=1,
        )
        if orientation != Orientation():
            scaled_frame = bare_copy(scaled_frame, orientation)
        scaled_frame.pts, scaled_frame.time_base = place, base
        times.append(place * base)
        scaled_frame.pict_type = 0  # the encoder chooses key frames, not the source
        yield scaled_frame


def _verify(task: Task, part: Path, times: list[Fraction], *, num_frames: int, size: tuple[int, int]) -> None:
    """Raise `DecodeError` unless the result has every frame of the source, each at its time, in the right size."""
    import av

    from mvrec.data.video.opening import open_video

    if len(times) != num_frames:
        raise DecodeError(task.source, f"{len(times)} of its {num_frames} frames can be decoded")
    with open_video(part, "pyav") as video:
        if video.num_frames != num_frames or video.size != size:
            raise DecodeError(task.source, f"its copy came out as {video.num_frames} frames of {video.size}")
    with av.open(str(part)) as container:
        stream = container.streams.video[0]
        base = stream.time_base or Fraction(1)
        ticks = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)
    for tick, time in zip(ticks, times, strict=True):
        if abs((tick - ticks[0]) * base - (time - times[0])) > base:
            raise DecodeError(task.source, f"its frame at {float(time):.3f} s would come at {float(tick * base):.3f} s")


# -- images ----------------------------------------------------------------------------------------------------------


def _resize_image(task: Task, recipe: Recipe) -> dict[str, Any]:
    import numpy as np
    from PIL import Image

    from mvrec.data.listing.archive import ArchiveMember
    from mvrec.data.loading.images import read_image

    pixels = read_image(task.source, upright=True)
    height, width = pixels.shape[:2]
    target = recipe.short_side if recipe.enlarge or min(height, width) > recipe.short_side else min(height, width)
    height, width = (max(1, round(side * target / min(height, width))) for side in (height, width))
    facts = {"frames": 1, "fps": 0.0, "height": height, "width": width}
    same_size = (height, width) == pixels.shape[:2]
    content = task.source.read() if isinstance(task.source, ArchiveMember) else Path(task.source).read_bytes()
    # A small and upright JPEG stays as it is.
    stays = same_size and content.startswith(b"\xff\xd8\xff")
    if not (stays and np.array_equal(read_image(task.source, upright=False), pixels)):
        scaled = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        scaled.save(buffer, "JPEG", quality=recipe.quality, comment=recipe.mark)
        content = buffer.getvalue()
    # Scaling is cheap next to reading, so the bytes themselves show finished work.
    if task.target.is_file() and task.target.read_bytes() == content:
        return {"state": "kept", **facts}
    with atomic_path(task.target) as part:
        part.write_bytes(content)
    return {"state": "done", **facts}
