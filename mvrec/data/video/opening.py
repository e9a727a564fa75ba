"""Opening a video file with a chosen decoder.

Headers of containers can be wrong: frames that were never downloaded, frames hidden by an edit list, rates of 0. So
PyAV inspects every file first, and all decoders must agree with it. decord and torchcodec, which on some kinds of file
return wrong frames, or repeat a frame where one is missing, get only the kinds of files on which they are exact.
"""

import importlib.metadata
import importlib.util
import os

from mvrec.class_paths import is_class_path
from mvrec.data.listing.archive import ArchiveMember, FilePath
from mvrec.data.video.own_decoder import OwnVideo, check_decoder
from mvrec.data.video.video import Decoder, Source, Video, check_is_file_with_content
from mvrec.errors import UserError, install_hint


def open_video(path: FilePath, decoder: Decoder = "auto") -> Video:
    """Open a video file for reading frames by number.

    Args:
        path: The file, or an `ArchiveMember`, which is read into memory.
        decoder: "pyav", "decord", "torchcodec", or "auto"; see `describe_decoder`. Or the class path of one's own;
            see `OwnVideo`.

    Raises:
        DecodeError: The file is missing, cut short, not a video, its header is impossible, or the chosen decoder is
            not exact on files of this kind.
        UserError: The decoder does not exist, or does not work here.
    """
    check_decoder(decoder)
    if is_class_path(decoder):
        return OwnVideo(path, decoder)
    if decoder == "decord" and not _is_installed("decord"):
        raise UserError("decord is not installed here: choose the decoder auto or pyav")
    if decoder == "torchcodec" and not _is_installed("torchcodec"):
        raise UserError(f"torchcodec is not installed here: {install_hint('torchcodec')}, or choose auto or pyav")
    if decoder == "torchcodec":
        from mvrec.data.video.torchcodec import require_torchcodec

        require_torchcodec()
    from mvrec.data.video.pyav import PyAVVideo

    video = PyAVVideo(source_of(path))
    if decoder in ("auto", "pyav"):
        return video
    with video:
        if decoder == "decord":
            from mvrec.data.video.decord import DecordVideo

            return DecordVideo(video)
        from mvrec.data.video.torchcodec import TorchCodecVideo

        return TorchCodecVideo(video)


def describe_decoder(decoder: Decoder) -> str:
    """Return one line for the log: the meaning of a decoder choice on this machine.

    `auto` is PyAV everywhere: it is exact on every kind of file, always installed, and skips frames that no other
    frame needs, which makes it the fastest of the three on H.264 with B frames (`benchmarks/decode.py`).
    """
    if is_class_path(decoder):
        return f"{decoder}, of one's own"
    package, name = {"decord": ("decord", "decord"), "torchcodec": ("torchcodec", "torchcodec")}.get(
        decoder, ("av", "PyAV")
    )
    if not _is_installed(package):
        return f"{decoder}: not installed"
    if decoder == "torchcodec":
        from mvrec.data.video.torchcodec import require_torchcodec

        try:
            require_torchcodec()
        except UserError as error:
            return f"{decoder}: {error}"
    return f"{decoder}: {name} {importlib.metadata.version(package)}" + (
        ", exact on every kind of file" if package == "av" else ", for the kinds of files on which it is exact"
    )


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def source_of(path: FilePath) -> Source:
    """Return the source of a file's bytes.

    Raises:
        DecodeError: The file is missing or empty.
    """
    if isinstance(path, ArchiveMember):
        return Source(str(path), path.read())
    name = os.fspath(path)
    check_is_file_with_content(name)
    return Source(name)
