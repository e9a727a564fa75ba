"""Checks of the decoders on small generated videos and images, in separate processes."""

import base64
import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mvrec.doctor.checks import Check, Status
from mvrec.processes import ChildError, Limits, apart

# Codecs and their encoders in order of preference. A decoder may exist without any encoder.
ENCODERS = {
    "h264": ("libx264", "libopenh264"),
    "hevc": ("libx265",),
    "vp9": ("libvpx-vp9",),
    "av1": ("libsvtav1", "libaom-av1", "librav1e"),
    "mpeg4": ("mpeg4",),
}
LEVELS = tuple(range(30, 230, 20))  # the grey of each frame
TOLERANCE = 6  # grey levels after coding
TRIAL = Limits(seconds=60.0, memory=None)

_SIZE = (48, 64)
_PNG = base64.b64decode(  # one grey pixel of 127
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGOoBwAAgQCA05RTSgAAAABJRU5ErkJggg=="
)
_FIXES = {
    "pyav": "pip install --force-reinstall av",
    "decord": "pip install --force-reinstall decord (--data.decoder auto works without it)",
    "torchcodec": "install FFmpeg (apt install ffmpeg, or conda install ffmpeg) and the torchcodec of this torch: "
    "pip install --upgrade torchcodec (--data.decoder auto works without it)",
}


def media_checks() -> list[Check]:
    """Check every decoder on every codec that can be encoded here, and images."""
    with tempfile.TemporaryDirectory() as folder:
        decoders, unusable = _usable()
        checks = [_image(Path(folder)), *unusable]
        for codec in ENCODERS:
            checks += _codec(Path(folder), codec, decoders)
    return checks


def _codec(folder: Path, codec: str, decoders: Sequence[str]) -> list[Check]:
    path = folder / f"{codec}.mp4"
    try:
        encoder = apart(write_clip, path, codec, limits=TRIAL)
    except ChildError as error:
        # Without a clip there is nothing to test; if PyAV does not load at all, that is the finding.
        status: Status = "broken" if codec == "h264" else "warning"
        return [Check("decoders", codec, status, f"no clip could be made: {error}", _FIXES["pyav"])]
    if encoder is None:
        return [Check("decoders", codec, "note", "not tried: this PyAV has no encoder for it")]
    return [_decoder(path, codec, decoder) for decoder in decoders]


def _usable() -> tuple[list[str], list[Check]]:
    """Return the usable decoders, and checks of those that are not installed or do not load."""
    usable, checks = ["pyav"], []
    for decoder in ("decord", "torchcodec"):
        if importlib.util.find_spec(decoder) is None:
            checks.append(Check("decoders", decoder, "note", "not installed (the decoder auto works without it)"))
            continue
        try:
            apart(load, decoder, limits=TRIAL)
        except ChildError as error:
            checks.append(
                Check("decoders", decoder, "warning", str(error).partition(": ")[2] or str(error), _FIXES[decoder])
            )
        else:
            usable.append(decoder)
    return usable, checks


def _decoder(path: Path, codec: str, decoder: str) -> Check:
    name = f"{codec} by {decoder}"
    try:
        answer = apart(read_levels, path, decoder, limits=TRIAL)
    except ChildError as error:
        return _failed(name, decoder, codec, str(error))
    if isinstance(answer, str):
        if decoder != "pyav" and codec in ("av1", "mpeg4"):
            return Check("decoders", name, "note", answer)
        return _failed(name, decoder, codec, answer)
    off = max(abs(level - level_written) for level, level_written in zip(answer, LEVELS, strict=True))
    if off > TOLERANCE:
        return _failed(name, decoder, codec, f"gives the wrong frames or colours: {answer} for {list(LEVELS)}")
    return Check("decoders", name, "ok", f"{len(LEVELS)} frames")


def _failed(name: str, decoder: str, codec: str, text: str) -> Check:
    status: Status = "broken" if decoder == "pyav" and codec in ("h264", "mpeg4", "vp9") else "warning"
    return Check("decoders", name, status, text, _FIXES[decoder])


def _image(folder: Path) -> Check:
    try:
        levels = apart(read_images, folder, limits=TRIAL)
    except ChildError as error:
        fix = "pip install --force-reinstall simplejpeg pillow"
        return Check("decoders", "JPEG and PNG", "broken", str(error), fix)
    return Check("decoders", "JPEG and PNG", "ok", f"grey {levels[0]} and {levels[1]}")


# -- run in a separate process -----------------------------------------------------------------------------------------


def load(decoder: str) -> None:
    """Load the libraries of a decoder."""
    if decoder == "torchcodec":
        from mvrec.data.video.torchcodec import require_torchcodec

        require_torchcodec()
    else:
        importlib.import_module(decoder)


def write_clip(path: Path, codec: str) -> str | None:
    """Write frames of `LEVELS`; return the encoder, or `None` without one."""
    import av
    import numpy as np

    encoders = [name for name in ENCODERS[codec] if name in av.codecs_available]
    encoder = next((name for name in encoders if _can_encode(name)), None)
    if encoder is None:
        return None
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(encoder, rate=10)
        stream.codec_context.thread_count = 1
        stream.height, stream.width = _SIZE
        stream.pix_fmt = "yuv420p"
        for level in LEVELS:
            pixels = np.full((*_SIZE, 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return encoder


def _can_encode(name: str) -> bool:
    import av

    try:
        return bool(av.codec.Codec(name, "w").is_encoder)
    except ValueError:
        return False


def read_levels(path: Path, decoder: str) -> list[int] | str:
    """Return the mean grey of every frame by a decoder, or why it fails."""
    from mvrec.data.video.opening import open_video
    from mvrec.errors import DecodeError, UserError

    try:
        with open_video(path, decoder=decoder) as video:
            if video.num_frames != len(LEVELS):
                return f"counts {video.num_frames} frames instead of {len(LEVELS)}"
            frames = video.frames(range(len(LEVELS)))
    except DecodeError as error:
        return error.cause
    except UserError as error:
        return str(error)
    return [round(float(frame.mean())) for frame in frames]


def read_images(folder: Path) -> tuple[int, int]:
    """Return the grey of a JPEG and of a PNG."""
    import numpy as np
    import simplejpeg

    from mvrec.data.loading.images import read_image

    pixels = np.full((16, 24, 3), 90, np.uint8)
    (folder / "x.jpg").write_bytes(simplejpeg.encode_jpeg(pixels, colorspace="RGB"))
    (folder / "x.png").write_bytes(_PNG)
    levels = [round(float(read_image(folder / name).mean())) for name in ("x.jpg", "x.png")]
    if abs(levels[0] - 90) > TOLERANCE or levels[1] != 127:
        raise ValueError(f"grey levels {levels} instead of 90 and 127")
    return levels[0], levels[1]
