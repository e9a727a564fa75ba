"""Videos read by torchcodec, an optional package that needs the FFmpeg libraries of the system."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mvrec.data.video.pyav import PyAVVideo
from mvrec.data.video.video import Frames, Ints, Video
from mvrec.errors import DecodeError, UserError


class TorchCodecVideo(Video):
    """A video read by torchcodec, after PyAV has inspected the file.

    Raises:
        DecodeError: torchcodec is not exact on this kind of file, or counts other frames.
        UserError: torchcodec does not work on this machine.
    """

    decoder = "torchcodec"

    def __init__(self, reference: PyAVVideo) -> None:
        super().__init__(reference.path, num_frames=reference.num_frames, fps=reference.fps, clock=reference.clock)
        # It misses or mixes up frames in the same files as others (MPEG-TS, AVI with B frames, open groups of
        # pictures), and colours of more than 8 bits and edges of odd sizes differ a little.
        if not reference.is_ordinary() or reference.orientation.is_mirrored:
            raise DecodeError(self.path, "torchcodec is not exact on this kind of file: use the decoder auto or pyav")
        self._size = reference.size
        name, content = str(Path(reference.path).absolute()), reference.source.content
        with self._decode_errors():
            from torchcodec.decoders import VideoDecoder

            self._reader: Any = VideoDecoder(
                name if content is None else content,
                dimension_order="NHWC",
                num_ffmpeg_threads=1,
                seek_mode="exact",
            )
        if self._reader.metadata.num_frames != self.num_frames:
            counted = self._reader.metadata.num_frames
            raise DecodeError(self.path, f"torchcodec counts {counted} frames instead of {self.num_frames}")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._size

    def _decode(self, indices: Ints) -> Frames:
        self._check_memory(len(indices), self._size)
        with self._decode_errors():
            return self._reader.get_frames_at(indices.tolist()).data.numpy()

    def close(self) -> None:
        """Free the decoder."""
        self._reader = None

    @contextmanager
    def _decode_errors(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError, IndexError) as error:
            cause = str(error).strip().splitlines()[0]
            raise DecodeError(self.path, f"damaged (torchcodec: {cause[:150]})") from error


def require_torchcodec() -> None:
    """Check that torchcodec finds its libraries, which it reports in pages of text and only on use.

    Raises:
        UserError: It does not find them.
    """
    try:
        import torchcodec.decoders

        # Releases without this attribute fail to import instead.
        if getattr(torchcodec, "ffmpeg_major_version", 0) is None:
            raise ImportError("no FFmpeg")
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(
            "torchcodec does not load here: install FFmpeg (its shared libraries) and the release of "
            "torchcodec that fits this torch, or choose the decoder auto or pyav"
        ) from error
