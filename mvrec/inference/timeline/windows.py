"""The length of the windows in which a video is looked at."""

from mvrec.data.views.protocol import ClipProtocol, Protocol
from mvrec.errors import UserError

WINDOWS_AT_A_TIME = 2  # of a timeline, over each moment


def needs_rate(protocol: Protocol) -> bool:
    """Return whether clips have the rate of the file, so that their length follows from it."""
    return isinstance(protocol, ClipProtocol) and not protocol.clip.target_fps


def has_clips(protocol: Protocol) -> bool:
    """Return whether clips have a length, so that windows have one without being told."""
    return isinstance(protocol, ClipProtocol) and protocol.clip.sampling != "segments"


def clip_seconds(protocol: Protocol, fps: float) -> float:
    """Return the seconds of a clip of the network, the default for a window.

    Args:
        protocol: Of the network; one of images has no clips, and gets a second.
        fps: Frames per second of the video, which count where clips have its rate.

    Raises:
        UserError: The network looks at segments of a whole action, which may have any length.
    """
    if not isinstance(protocol, ClipProtocol):
        return 1.0
    clip = protocol.clip
    if not has_clips(protocol):
        raise UserError("this network looks at segments of a whole action: say with --window how long one may take")
    return clip.num_frames * clip.stride_frames / (clip.target_fps or fps)
