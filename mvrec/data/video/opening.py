"""Opening a video file with the decoder asked for.

Containers promise things about their content that are not so: frames that a download never brought, frames
that an edit list hides, rates of 0. So PyAV looks at every file first, and what it finds is what all decoders
promise. decord and torchcodec, which answer for some kinds of file with the wrong frames, or repeat a frame where
one is missing, are handed only files of a kind on which they are exact.
"""

import importlib.metadata
import importlib.util
import os
from typing import get_args

from mvrec.data.listing.archive import ArchiveMember, FilePath
from mvrec.data.video.video import Decoder, Source, Video, check_is_file_with_content
from mvrec.errors import UserError, install_hint


def open_video(path: FilePath, decoder: Decoder = "auto") -> Video:
    """Open a video file for reading frames by number.

    Args:
        path: the file, or an `ArchiveMember`, which is read into memory.
        decoder: "pyav", "decord", "torchcodec", or "auto"; see `describe_decoder`.

    Raises:
        DecodeError: the file is missing, cut short, no video or promises what cannot be, or the decoder asked for is
            not exact on files of this kind.
        UserError: no such decoder, or it does not work here.
    """
    if decoder not in get_args(Decoder):
        raise UserError(f"the decoder must be auto, decord, pyav or torchcodec, got {decoder!r}")
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
    """One line for the log: what a choice of decoder means on this machine.

    `auto` is PyAV everywhere: it is exact on every kind of file, always installed, and leaves out the frames that no
    other frame needs, which makes it the fastest of the three on H.264 with B frames (`benchmarks/decode.py`).
    """
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
    """Where the bytes of a file come from.

    Raises:
        DecodeError: There is no such file, or nothing in it.
    """
    if isinstance(path, ArchiveMember):
        return Source(str(path), path.read())
    name = os.fspath(path)
    check_is_file_with_content(name)
    return Source(name)
