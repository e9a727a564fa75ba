"""The times of frames that lists name by number."""

from pathlib import Path

from mvrec.data.listing.boxes.media import named_videos
from mvrec.data.loading.frames.folders import open_frames
from mvrec.data.video.video import Decoder
from mvrec.data.views.timeline import Timeline, timeline_of
from mvrec.errors import DecodeError

USUAL_FPS = 30.0  # of files that cannot be read, whose key frames are missed anyway


class FrameSeconds:
    """Returns the times of frames, and opens each video once for it.

    Args:
        root: The folder of the videos: a list's name is a path below it, or the name of a file anywhere below it.
        decoder: Name of the decoder.
        fps: Frames per second of folders of frames.
    """

    def __init__(self, root: Path, *, decoder: Decoder = "auto", fps: float = USUAL_FPS) -> None:
        self.root, self.decoder, self.fps = root, decoder, fps
        self._timelines: dict[str, tuple[Timeline, int]] = {}
        self._videos: dict[str, str] | None = None

    def __call__(self, video: str, frame: int) -> float:
        """Return the time of a frame in seconds, also behind the end.

        Args:
            video: The name of the video, or a folder of frames.
            frame: The number of the frame, from 0 on; in a folder the one in its name.
        """
        if video not in self._timelines:
            self._timelines[video] = self._timeline(video)
        line, first = self._timelines[video]
        number = frame - first
        if line.times is None:
            return number / line.fps
        inside = min(max(number, 0), line.num_frames - 1)
        return float(line.times[inside]) + (number - inside) / line.fps

    def _timeline(self, video: str) -> tuple[Timeline, int]:
        """Return the timeline of a video, and the number of its first frame."""
        try:
            with open_frames(self._path(video), decoder=self.decoder, fps=self.fps) as opened:
                return timeline_of(opened), int(getattr(opened, "numbers", [0])[0])
        except DecodeError:
            return Timeline(1, USUAL_FPS, 1 / USUAL_FPS), 0

    def _path(self, video: str) -> Path:
        path = self.root / video
        if path.exists():
            return path
        if self._videos is None:
            self._videos = named_videos(self.root)
        return self.root / self._videos.get(Path(video).stem, video)
