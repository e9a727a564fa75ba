"""Small real video files for tests, whose frames know their own number."""

import tarfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from data_trees import tar_of

from mvrec.data.listing.archive import ArchiveMember

_BITS = 10


def numbered_frame(number, size):
    """(H, W, 3): `number` as dark and light blocks, the lowest bit at the top left, under some texture."""
    bits = (number >> np.arange(_BITS) & 1).reshape(2, _BITS // 2)
    rows = np.arange(size[0]) * 2 // size[0]
    columns = np.arange(size[1]) * (_BITS // 2) // size[1]
    blocks = 60 + 130 * bits[rows[:, None], columns]
    texture = np.random.default_rng(number).integers(-25, 25, (*size, 3))
    return (blocks[..., None] + texture).astype(np.uint8)


def read_number(frame):
    """The number that `numbered_frame` put into a frame (H, W, 3), however it was compressed since."""
    height, width = frame.shape[:2]
    ys = (np.arange(2) * 2 + 1) * height // 4
    xs = (np.arange(_BITS // 2) * 2 + 1) * width // _BITS
    blocks = [frame[y - height // 8 : y + height // 8, x - width // 30 : x + width // 30 + 1] for y in ys for x in xs]
    return sum(int(block.mean() > 125) << bit for bit, block in enumerate(blocks))


def read_numbers(frames):
    return [read_number(frame) for frame in frames]


def write_video(
    path,
    *,
    num_frames=32,
    size=(48, 64),
    fps=30,
    codec="libx264",
    gop=12,
    b_frames=2,
    pix_fmt="yuv420p",
    faststart=False,
    numbered=True,
    matrix=None,
    colours=None,
    pixel_aspect=None,
    ticks=None,
    encoder_options="",
    container_options=None,
    sound=False,
    cover=False,
    title="",
):
    """Write a video file and return its path; the suffix chooses the container.

    Args:
        size: (height, width).
        faststart: put the header of an MP4 before its frames.
        numbered: let frames carry their number for `read_number`; grey otherwise.
        matrix: (a, b, c, d) of a display matrix that shows (x, y) at (a x + c y, b x + d y), up to a shift.
        colours: (colour matrix, range) that the encoder writes into the stream, by their numbers in H.273.
        pixel_aspect: width to height of a pixel, as a fraction.
        ticks: a time in 1/600 s for each frame, for a rate that varies.
        encoder_options: more options of x264 or x265, as in "open-gop=1:keyint=7".
        sound, cover: begin the file with a sound track, or with the picture of a cover.
        title: what it says of itself; its letters é become those of Latin-1, which are no UTF-8.
        ...: codec, gop, b_frames and pix_fmt are FFmpeg's; pix_fmt "yuv444p" takes odd sizes.
    """
    path = Path(path)
    options = {**({"movflags": "faststart"} if faststart else {}), **(container_options or {})}
    settings = {"thread_count": 1, "pix_fmt": pix_fmt, "sample_aspect_ratio": pixel_aspect}
    settings["time_base"] = None if ticks is None else Fraction(1, 600)
    settings["colorspace"], settings["color_range"] = colours or (None, None)
    with av.open(str(path), "w", options=options) as container:
        codec_options = {
            "libx264": {"x264-params": encoder_options},
            "libx265": {"x265-params": f"log-level=none:{encoder_options}"},
        }.get(codec, {})
        container.metadata.update({"title": title} if title else {})
        covers = [container.add_stream("mjpeg", rate=1, height=32, width=32, pix_fmt="yuvj420p")] if cover else []
        sounds = [container.add_stream("aac", rate=16000, layout="mono")] if sound else []
        stream = container.add_stream(codec, rate=fps, options={"bf": str(b_frames), "g": str(gop), **codec_options})
        stream.height, stream.width = size
        for name, value in settings.items():
            if value is not None:
                setattr(stream.codec_context, name, value)
        if matrix is not None:
            a, b, c, d = (round(value * 65536) for value in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for cover_stream in covers:
            cover_stream.disposition = Disposition.attached_pic
            grey = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 200, np.uint8), format="rgb24")
            container.mux(cover_stream.encode(grey))
        for sound_stream in sounds:
            _encode_sound(container, sound_stream, seconds=num_frames / fps)
        for number in range(num_frames):
            pixels = numbered_frame(number, size) if numbered else np.full((*size, 3), 128, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if ticks is not None:
                frame.pts, frame.time_base = int(ticks[number]), Fraction(1, 600)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if "é" in title:
        path.write_bytes(path.read_bytes().replace("é".encode(), b"\xe9 "))
    return path


def write_two_sizes(folder, suffix, *, sizes=((48, 64), (96, 120)), **options):
    """Two videos of ten frames each in one, of which the second is of another size, and return its path."""
    path, content = folder / "joined.ts", b""
    for number, size in enumerate(sizes):
        ticks = 20 * np.arange(10) + 200 * number
        part = write_video(folder / "part.ts", num_frames=10, b_frames=0, size=size, ticks=ticks, **options)
        content += part.read_bytes()
    path.write_bytes(content)
    return path if suffix == "ts" else remux([path], path.with_suffix(f".{suffix}"))


def remux(sources, target, *, begins=(0.0,), times_of_storage=False, options=None):
    """Copy the pictures of files one after the other without encoding again, and return the copy.

    `begins` are the seconds by which each part is moved. With `times_of_storage` frames are shown when they are stored.
    """
    with av.open(str(target), "w", options=options or {}) as writer:
        stream = None
        for source, begin in zip(sources, begins, strict=True):
            with av.open(str(source)) as reader:
                stream = stream or writer.add_stream_from_template(reader.streams.video[0])
                for packet in reader.demux(video=0):
                    if packet.size:
                        ticks = round(begin / float(packet.time_base))
                        packet.pts = (packet.dts if times_of_storage else packet.pts) + ticks
                        packet.dts, packet.stream = packet.dts + ticks, stream
                        writer.mux(packet)
    return Path(target)


def cut_start(source, target, *, num_frames, fps=30):
    """Copy a video without its first `num_frames` frames, without encoding again.

    The copy still holds those frames, for others need them, and an edit list that hides them.
    """
    return remux([source], target, begins=[-num_frames / fps])


def write_audio(path, *, seconds=0.5):
    """Write a sound without a picture and return its path."""
    with av.open(str(path), "w") as container:
        _encode_sound(container, container.add_stream("aac", rate=16000, layout="mono"), seconds=seconds)
    return Path(path)


def _encode_sound(container, stream, *, seconds):
    for start in range(0, int(16000 * seconds), 1024):
        wave = np.sin(np.arange(start, start + 1024) / 10).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def truncate(path, fraction, target=None):
    """Keep the first `fraction` of the bytes of a file, in place or in `target`, and return where."""
    data = Path(path).read_bytes()
    target = Path(target or path)
    target.write_bytes(data[: int(len(data) * fraction)])
    return target


def damage(path, start, end):
    """Overwrite the bytes between two fractions of a file with noise, in place."""
    data = bytearray(Path(path).read_bytes())
    first, last = int(len(data) * start), int(len(data) * end)
    data[first:last] = np.random.default_rng(0).integers(0, 256, last - first, np.uint8).tobytes()
    Path(path).write_bytes(data)
    return Path(path)


def in_archive(path, archive=None):
    """A member that is a copy of a file inside a tar of its own, behind another file."""
    path = Path(path)
    archive = Path(archive or path.with_suffix(".tar"))
    archive.write_bytes(tar_of({"before.txt": b"hello", path.name: path.read_bytes()}))
    with tarfile.open(archive) as tar:
        info = tar.getmember(path.name)
    return ArchiveMember(archive=archive, name=info.name, offset=info.offset_data, size=info.size)


def patch_box(data, box, offset, value):
    """The bytes of an MP4 with another 32-bit number at `offset` behind the name of its first such box."""
    data = bytearray(data)
    place = data.index(box) + 4 + offset
    data[place : place + 4] = value.to_bytes(4)
    return bytes(data)
