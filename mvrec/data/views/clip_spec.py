"""The rule by which a clip is taken from a video; needs no torch."""

from dataclasses import dataclass
from typing import Literal

from mvrec.ranges import check_ranges

ShortVideo = Literal["repeat_last", "loop", "error"]
Sampling = Literal["dense", "segments"]
ClipPositions = Literal["spread", "uniform", "constant_clips_per_video"]


@dataclass(frozen=True)
class ClipSpec:
    """The rule by which a clip is taken from a video.

    Attributes:
        num_frames: T, frames in a clip.
        stride_frames: Distance of two clip frames, in frames at `target_fps`. Dense sampling only.
        target_fps: Time base of the stride. A 60 fps video is read in steps twice as wide as a 30 fps one.
            `None` takes each video's own frames as the time base. Dense sampling only.
        short_video: A clip longer than its video repeats the last frame, loops, or is an error. Videos with fewer
            frames than segments repeat frames, or are an error.
        sampling: "dense" takes neighbouring frames at a stride; "segments" takes one frame of each of `num_frames`
            equal parts of the video (TSN, Wang et al. 2016), as Something-Something is read.
    """

    num_frames: int = 16
    stride_frames: int = 4
    target_fps: float | None = 30.0
    short_video: ShortVideo = "repeat_last"
    sampling: Sampling = "dense"

    def __post_init__(self) -> None:
        check_ranges("", vars(self))

    def span(self, fps: float) -> float:
        """Return the length of a clip in frames of a video of `fps` frames per second."""
        rate = 1.0 if self.target_fps is None else fps / self.target_fps
        return self.num_frames * self.stride_frames * rate
