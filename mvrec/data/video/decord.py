"""Videos read by decord."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mvrec.data.video.pyav import PyAVVideo
from mvrec.data.video.shown_pictures import Orientation
from mvrec.data.video.video import Frames, Ints, Video
from mvrec.errors import DecodeError


class DecordVideo(Video):
    """A video read by decord, after PyAV has inspected the file.

    Raises:
        DecodeError: decord is not exact on this kind of file, or counts other frames.
    """

    decoder = "decord"

    def __init__(self, reference: PyAVVideo) -> None:
        super().__init__(reference.path, num_frames=reference.num_frames, fps=reference.fps, clock=reference.clock)
        # It counts hidden frames, returns frames of another group of pictures (MPEG-TS, open groups) or of wrong
        # colours (10 bits), trusts missing times (AVI), does not rotate pictures and has no decoder for AV1.
        if not reference.is_ordinary() or reference.orientation != Orientation():
            raise DecodeError(self.path, "decord is not exact on this kind of file: use the decoder auto or pyav")
        import decord

        self._size = reference.size
        decord.logging.set_level(decord.logging.QUIET)
        with self._decode_errors():
            # One thread: loader workers run in parallel already.
            self._reader: Any = decord.VideoReader(reference.source.for_ffmpeg(), ctx=decord.cpu(0), num_threads=1)
        if len(self._reader) != self.num_frames:
            raise DecodeError(self.path, f"decord counts {len(self._reader)} frames instead of {self.num_frames}")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._size

    def _decode(self, indices: Ints) -> Frames:
        self._check_memory(len(indices), self._size)
        with self._decode_errors():
            return self._reader.get_batch(indices).asnumpy()

    def close(self) -> None:
        """Free the decoder."""
        self._reader = None

    @contextmanager
    def _decode_errors(self) -> Iterator[None]:
        import decord

        try:
            yield
        except (decord.DECORDError, RuntimeError, AssertionError, IndexError) as error:
            # decord puts time stamps and places in its source before its message.
            cause = str(error).strip().splitlines()[0].rpartition(".cc:")[2].partition(": ")[2]
            raise DecodeError(self.path, f"damaged (decord: {cause[:150]})") from error
