"""Opening files, cameras and addresses with FFmpeg, the stream that players show, and its clock."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mvrec.errors import DecodeError

MOST_GAP_SECONDS = 10.0  # between two frames; the limit of the `ffmpeg` command

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream


def open_container(name: Any, **options: Any) -> "InputContainer":
    """Open a container with FFmpeg.

    Args:
        name: A path, an address, a camera or an open file.
        **options: See `av.open`.

    Raises:
        av.FFmpegError: There is no file, or no container that FFmpeg knows.
        ValueError: The name is invalid.
    """
    import av

    # A title in an old encoding is no reason to refuse a file; PyAV agrees from version 19 on.
    tolerant: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
    return av.open(name, "r", **tolerant, **options)


def shown_stream(container: "InputContainer") -> "VideoStream | None":
    """Return the video stream that players show; None without one. The cover image of a song does not count."""
    from av.stream import Disposition
    from av.video.stream import VideoStream

    stream = container.streams.best("video")
    is_video = isinstance(stream, VideoStream) and not stream.disposition & Disposition.attached_pic
    return stream if is_video else None  # type: ignore[return-value]  # mypy does not see through the name


def has_jumps(container: "InputContainer") -> bool:
    """Return whether the clock of such containers (transport streams, DVDs) may restart in the middle.

    Frames after a gap of more than `MOST_GAP_SECONDS` then follow directly on the earlier ones, as players show them.
    """
    from av.format import Flags

    return bool(container.format.flags & int(Flags.ts_discont.value))  # type: ignore[call-overload]  # an int


@contextmanager
def decode_errors(path: str) -> Iterator[None]:
    """Turn FFmpeg's errors into a `DecodeError`."""
    import av

    try:
        yield
    except (av.FFmpegError, UnicodeError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        if isinstance(error, av.InvalidDataError):
            cause = "no video, damaged or cut short"
        raise DecodeError(path, cause) from error
