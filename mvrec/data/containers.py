"""What FFmpeg opens, in one way for files, cameras and addresses, and which of its streams is shown."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream


def open_container(name: Any, **how: Any) -> "InputContainer":
    """What FFmpeg reads there.

    Args:
        name: A path, an address, a camera or an open file.
        **how: See `av.open`.

    Raises:
        av.FFmpegError: There is nothing, or no container that FFmpeg knows.
        ValueError: No such name can be.
    """
    import av

    # A title in an old encoding is no reason to refuse a file; from version 19 on PyAV thinks so too.
    tolerant: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
    return av.open(name, "r", **tolerant, **how)


def shown_stream(container: "InputContainer") -> "VideoStream | None":
    """The video that players show; None where there is none. A song carries its cover as a video, which is none."""
    from av.stream import Disposition
    from av.video.stream import VideoStream

    stream = container.streams.best("video")
    is_video = isinstance(stream, VideoStream) and not stream.disposition & Disposition.attached_pic
    return stream if is_video else None  # type: ignore[return-value]  # mypy does not see through the name
