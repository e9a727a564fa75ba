"""Videos read by PyAV, which brings its own FFmpeg: the decoder that is exact on every kind of file.

Which frames there are is known before the first is decoded: from the tables of an MP4 where these are complete and
simple, and else from a look at every packet. A frame is then found by its time, never by counting, wherever the
container has times.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mvrec.data.mp4_tables import MAX_FRAMES, read_mp4_tracks
from mvrec.data.video import MAX_PIXELS, Clock, Frames, Ints, Source, Video
from mvrec.errors import DecodeError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame

Found = TypeVar("Found")

# What the other decoders read exactly, bit for bit like PyAV, if the stream is plain (see `Timing`).
_ORDINARY_CONTAINERS = {"mov", "matroska"}
_ORDINARY_CODECS = {"h264", "hevc", "mpeg4", "vp9"}
_ORDINARY_PIXELS = {"yuv420p": (2, 2), "yuvj420p": (2, 2), "yuv422p": (1, 2), "yuv444p": (1, 1)}

_MIN_FPS, _MAX_FPS = 0.001, 1000.0
# Containers whose packets are whole frames, always.
_FRAME_PACKETS = {"mov", "matroska"}
# Codecs that show one frame for each packet, of which the tables of an MP4 tell everything.
_LISTED_CODECS = {"h264", "hevc", "mpeg4", "vp9"}
# Frames come out of a decoder as many packets late as they may be out of order: 16, or twice that in fields.
_MAX_DELAY_PACKETS = 64


@dataclass(frozen=True)
class Timing:
    """The times of a stream's packets, in ticks of the stream.

    Attributes:
        shown: those of the frames that are shown, ascending, or None where the packets carry no usable times, so that
            a frame can only be found by counting from the start.
        keys: those of the key frames, ascending.
        key_seeks: what to ask a seek for to land on each key frame.
        is_plain: each packet is a frame that is shown, and none is shown before the key frame after which it is stored.
        shown_of_stored: when a packet is shown by when it is stored, where tables said so and packets have to confirm.
        counted: when the frames are shown by the decoder, where they can only be found by counting.
        last: for how long the last frame is shown; 0 where nobody knows.
    """

    shown: Ints | None
    keys: Ints
    key_seeks: Ints
    is_plain: bool
    shown_of_stored: dict[int, int] | None = field(default=None, repr=False)
    counted: Ints | None = None
    last: int = 0


_UNKNOWN = Timing(None, np.empty(0, np.int64), np.empty(0, np.int64), is_plain=False)


class _TablesDifferError(Exception):
    """A packet is not shown when the tables of the file say."""


class PyAVVideo(Video):
    """A video read by PyAV.

    Attributes:
        source: where its bytes come from.
    """

    decoder = "pyav"

    def __init__(self, source: Source) -> None:
        from av.video.reformatter import VideoReformatter

        self.path, self.source = source.path, source
        # Kept, because a frame would build its own each time, with a thread for each core.
        self._reformatter = VideoReformatter()
        self._stored_size: tuple[int, int] | None = None
        self._timing = _UNKNOWN
        try:
            with _decode_errors(source.path):
                self._timing, num_frames = self._find_out()
                clock = self._clock()
            super().__init__(source.path, num_frames=num_frames, fps=self._mean_fps(num_frames), clock=clock)
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels as shown, which is after rotation. Decodes a frame if none was yet."""
        if self._stored_size is None:
            self.first_frame()
        assert self._stored_size is not None
        return self._stored_size[::-1] if self._quarter_turns % 2 else self._stored_size

    @property
    def quarter_turns(self) -> int:
        """By how many quarters of a turn counter-clockwise the stored picture is shown."""
        assert self.size
        return self._quarter_turns

    def is_ordinary(self) -> bool:
        """The file is of a kind that the other decoders read exactly, too."""
        container = self._container.format.name
        if _ORDINARY_CONTAINERS.isdisjoint(container.split(",")) or not self._timing.is_plain:
            return False
        if "mov" in container and self._timing.shown_of_stored is None:  # stored in fragments, or cut by an edit list
            return False
        first = self.first_frame()
        # Where colours are shared between pixels, at the edge of an odd size each decoder guesses in its own way.
        height, width = _ORDINARY_PIXELS.get(first.format.name, (0, 0))
        return (
            self._stream.codec_context.name in _ORDINARY_CODECS
            and height > 0
            and first.height % height == 0
            and first.width % width == 0
            and not first.interlaced_frame
        )

    def first_frame(self) -> "VideoFrame":
        """The first frame as it is stored.

        Raises:
            DecodeError: it cannot be decoded.
        """
        first = self._believing_packets(lambda: next(self._find(np.zeros(1, np.int64)), None))
        if first is None:
            raise DecodeError(self.path, "not one frame can be decoded")
        self._note_size(first)
        return first

    def close(self) -> None:
        """Free the decoder and close the file."""
        if hasattr(self, "_container"):
            self._container.close()

    def _decode(self, indices: Ints) -> Frames:
        return self._believing_packets(lambda: self._decode_found(indices))

    def _believing_packets(self, read: Callable[[], Found]) -> Found:
        """What `read` gives, by the times of the packets where the tables of the file turn out to tell others."""
        with _decode_errors(self.path):
            try:
                return read()
            except _TablesDifferError:
                # Never seen, but if FFmpeg reads some file's tables in another way, its packets are right.
                self._reopen()
                self._timing = self._walk()
                if self._timing.shown is None or len(self._timing.shown) != self.num_frames:
                    raise DecodeError(self.path, "its tables and its frames do not agree") from None
                self.clock = self._clock()
                vars(self).pop("times", None)
                return read()

    def _decode_found(self, indices: Ints) -> Frames:
        frames: Frames | None = None
        found = 0
        for found, frame in enumerate(self._find(indices), start=1):
            if frames is None:
                self._note_size(frame)
                self._check_memory(len(indices), self.size)
                frames = np.empty((len(indices), *self.size, 3), np.uint8)
            frames[found - 1] = self._to_rgb(frame)
        if frames is None or found < len(indices):
            raise DecodeError(self.path, f"frame {indices[found]} of {self.num_frames} cannot be decoded")
        return frames

    def _check_size(self, width: int, height: int) -> None:
        if width * height > MAX_PIXELS:
            size = f"{width} x {height}"
            raise DecodeError(self.path, f"frames of {size} are larger than the {MAX_PIXELS} pixels that one may have")

    def _note_size(self, frame: "VideoFrame") -> None:
        if self._stored_size is None:
            self._check_size(frame.width, frame.height)
            self._stored_size = frame.height, frame.width
            self._quarter_turns = round(frame.rotation / 90) % 4

    def _to_rgb(self, frame: "VideoFrame") -> Frames:
        if (frame.height, frame.width) != self._stored_size:
            raise DecodeError(self.path, "the frames are not all of one size")
        plane = self._reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(frame.height, plane.line_size)
        rgb = rows[:, : 3 * frame.width].reshape(frame.height, frame.width, 3)
        return np.rot90(rgb, self._quarter_turns) if self._quarter_turns else rgb

    def _open(self, *, probe: bool = True) -> None:
        """Open the file; without `probe` FFmpeg decodes nothing to learn what a stream is like."""
        import av
        from av.stream import Disposition
        from av.video.stream import VideoStream

        # A title in an old encoding is no reason to refuse a file; from version 19 on PyAV thinks so too.
        tolerant: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
        # FFmpeg measures frames with their margins, so this is only for those that the header does not announce.
        limit = {"max_pixels": str(2 * MAX_PIXELS)}
        options = limit if probe else {**limit, "skip_frame": "all"}
        self._container: InputContainer = av.open(self.source.for_ffmpeg(), options=options, **tolerant)
        stream = self._container.streams.best("video")
        # A song carries its cover as a video.
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            raise DecodeError(self.path, "there is no video in it")
        if stream.codec_context is None:
            raise DecodeError(self.path, "no decoder for its codec")
        self._check_size(stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.options = limit
        self._stream = stream
        # Frames that no other frame needs can be skipped. Only H.264 marks them in a way that never errs.
        self._can_skip = stream.codec_context.name == "h264"
        self._packets_are_frames = not _FRAME_PACKETS.isdisjoint(self._container.format.name.split(","))

    def _find_out(self) -> tuple[Timing, int]:
        """When the frames are shown, and how many there are."""
        tracks = read_mp4_tracks(self.source)
        if tracks:
            self._open(probe=False)
            track = tracks.get(self._stream.id)
            timing = self._from_tables(track.offsets) if track and track.num_edits <= 1 else None
            if timing is not None and timing.shown is not None:
                return timing, len(timing.shown)
            self._container.close()
        self._open()
        timing = self._walk()
        self._timing = timing
        if timing.shown is not None:
            self.first_frame()  # which proves that there is a decoder
            return timing, len(timing.shown)
        frames = self._decode_from_start()
        first = next(frames, None)
        if first is None:
            raise DecodeError(self.path, "not one frame can be decoded")
        self._note_size(first)
        times = [first.pts, *(frame.pts for frame in frames)]
        known = np.array([time for time in times if time is not None], np.int64)
        usable = len(known) == len(times) and self._container.format.name != "avi" and bool((np.diff(known) > 0).all())
        return replace(timing, counted=known if usable else None), len(times)

    def _clock(self) -> Clock:
        ticks = self._timing.counted if self._timing.shown is None else self._timing.shown
        if ticks is None or not self._stream.time_base:
            return Clock()
        return Clock(ticks, self._stream.time_base, self._timing.last)

    def _from_tables(self, offsets: Ints | None) -> Timing | None:
        """The times by the tables of an MP4, or None where it takes a look at the packets."""
        entries = self._stream.index_entries
        rows = ((e.timestamp, e.is_keyframe, e.is_discard, e.size, e.pos + e.size) for e in entries)
        table = np.array(list(rows), np.int64).reshape(-1, 5)
        stored, is_key, is_hidden, sizes, ends = table.T
        if (
            self._stream.codec_context.name not in _LISTED_CODECS
            or not len(table)
            or len(table) != self._stream.frames
            or (offsets is not None and len(offsets) != len(table))
            or not is_key[0]
            or is_hidden.any()
            or sizes.min() <= 0
            or ends.max() > self.source.num_bytes
            or (np.diff(stored) <= 0).any()
        ):
            return None
        first = next(self._packets(), None)
        if first is None or first.pts is None or first.dts is None or first.dts != stored[0]:
            return None
        shown = stored + (first.pts - first.dts) + (0 if offsets is None else offsets - offsets[0])
        newest_key = np.maximum.accumulate(np.where(is_key, np.arange(len(table)), 0))
        is_plain = bool((shown >= shown[newest_key]).all())
        ascending = np.sort(shown)
        if (np.diff(ascending) == 0).any() or ascending[0] < shown[0]:
            return None
        keys = np.flatnonzero(is_key)
        keys = keys[np.argsort(shown[keys])]
        confirm = dict(zip(stored.tolist(), shown.tolist(), strict=True))
        last = (self._stream.duration or 0) - int(stored[-1] - stored[0])
        return Timing(ascending, shown[keys], stored[keys], is_plain, confirm, last=last)

    def _walk(self) -> Timing:
        """Look at every packet, keeping and decoding none."""
        self._timing = _UNKNOWN
        shown: list[int | None] = []
        keys: list[tuple[int, int]] = []
        num_packets, whole, leading, last_shown = 0, True, False, (-(2**63), 0)
        # Matroska looks up the time at which a frame is shown, everything else that at which it is stored.
        seek_by_pts = "matroska" in self._container.format.name
        for packet in self._packets():
            if not packet.size:  # the mark of the end, or AVI's "as before"
                continue
            num_packets += 1
            if num_packets > MAX_FRAMES:
                raise DecodeError(self.path, f"it has more than the {MAX_FRAMES} frames that a video may have")
            whole = not packet.is_corrupt
            if not packet.is_discard:
                if packet.pts is not None:
                    last_shown = max(last_shown, (packet.pts, packet.duration or 0))
                shown.append(packet.pts)
            if packet.is_keyframe and packet.pts is not None:
                keys.append((packet.pts, packet.pts if seek_by_pts or packet.dts is None else packet.dts))
            leading |= bool(keys) and packet.pts is not None and packet.pts < keys[-1][0]
        # The index of an MP4 is complete; that of other files lists key frames at most.
        num_promised = len(self._stream.index_entries)
        if not num_packets:
            raise DecodeError(self.path, "there are no frames in it")
        if num_packets < num_promised or not whole:
            raise DecodeError(self.path, f"cut short: it ends with packet {num_packets} of {num_promised}")
        timing = self._timing_of(shown, sorted(keys), is_plain=not leading and len(shown) == num_packets)
        return replace(timing, last=last_shown[1])

    def _timing_of(self, shown: list[int | None], keys: list[tuple[int, int]], *, is_plain: bool) -> Timing:
        key_times, key_seeks = np.array(keys, np.int64).reshape(-1, 2).T
        times = np.array([time for time in shown if time is not None], np.int64)
        codec = self._stream.codec_context
        # AVI knows only the order in which frames are stored, and VP8 has packets that are never shown.
        misleading = codec.name == "vp8" or (self._container.format.name == "avi" and codec.has_b_frames)
        if misleading or not keys or len(np.unique(times)) < len(shown):
            return Timing(None, key_times, key_seeks, is_plain=False)
        # What is shown before the first key frame lacks its reference.
        decodable = np.sort(times[times >= key_times[0]])
        if not len(decodable):
            raise DecodeError(self.path, "all its frames are hidden or lack the key frame that they depend on")
        return Timing(decodable, key_times, key_seeks, is_plain and len(decodable) == len(times))

    def _mean_fps(self, num_frames: int) -> float:
        rate = float(self._stream.average_rate or 0)
        shown = self._timing.shown
        if not _MIN_FPS <= rate <= _MAX_FPS and shown is not None and num_frames > 1 and self._stream.time_base:
            rate = (num_frames - 1) / (int(shown[-1] - shown[0]) * float(self._stream.time_base))
        if not _MIN_FPS <= rate <= _MAX_FPS:
            raise DecodeError(self.path, f"its frame rate of {rate:g} per second cannot be")
        return rate

    def _find(self, indices: Ints) -> Iterator["VideoFrame"]:
        """The frames at ascending `indices`, ending early where one is not to be had."""
        if self._timing.shown is None:
            wanted = set(indices.tolist())
            frames = enumerate(self._decode_from_start())
            yield from itertools.islice((f for i, f in frames if i in wanted), len(wanted))
            return
        times = self._timing.shown[indices]
        keys = np.searchsorted(self._timing.keys, times, side="right") - 1
        # Reading on costs less than a jump to the very next key frame. Where no frame is stored after a key frame that
        # is shown before it, the packets up to that key frame need not even be decoded.
        stops_at_keys = self._timing.is_plain and self._packets_are_frames
        starts = np.flatnonzero(np.diff(keys, prepend=-2) > (0 if stops_at_keys else 1))
        packets: Iterator[Packet] = iter(())
        reached = -2
        for key, group in zip(keys[starts].tolist(), np.split(times, starts[1:]), strict=True):
            packets = self._packets_until(key, packets) if key == reached + 1 else self._packets_from(key)
            yield from self._decode_group(packets, group.tolist())
            reached = key if stops_at_keys else -2

    def _decode_group(self, packets: Iterator["Packet"], times: list[int]) -> Iterator["VideoFrame"]:
        """The frames at ascending `times`, of which the first depends on the key frame with which `packets` begin.

        No packet is decoded after the last that is wanted: the decoder is asked for what it still holds and cleared.
        """
        codec = self._stream.codec_context
        unsent, wanted, late = set(times), set(times), 0
        for packet in packets:
            if self._can_skip:
                codec.skip_frame = "DEFAULT" if packet.pts in unsent else "NONREF"
            yield from self._wanted(packet.decode(), wanted)
            unsent.discard(packet.pts)
            late += not unsent
            if not wanted or (not unsent and (self._packets_are_frames or late > _MAX_DELAY_PACKETS)):
                break
        if wanted:
            yield from self._wanted(codec.decode(None), wanted)
        codec.flush_buffers()

    @staticmethod
    def _wanted(frames: "list[VideoFrame]", wanted: set[int]) -> Iterator["VideoFrame"]:
        for frame in frames:
            if frame.pts in wanted:
                wanted.remove(frame.pts)
                yield frame

    def _packets_from(self, key: int) -> Iterator["Packet"]:
        """The packets from a key frame on, or from the start where a jump to it fails."""
        self._container.seek(int(self._timing.key_seeks[key]), stream=self._stream)
        packets = self._packets()
        first = next(packets, None)
        if first and first.is_keyframe and first.pts is not None and first.pts <= self._timing.keys[key]:
            return itertools.chain([first], packets)
        # Some containers land elsewhere; then the way is from the start.
        self._reopen()
        return self._packets()

    def _packets_until(self, key: int, packets: Iterator["Packet"]) -> Iterator["Packet"]:
        """The rest of `packets` from a key frame on, of which those before it are not decoded."""
        for packet in packets:
            if packet.is_keyframe and packet.pts == self._timing.keys[key]:
                return itertools.chain([packet], packets)
        return iter(())

    def _packets(self) -> Iterator["Packet"]:
        """All packets from where the file is, with the empty one at the end that empties the decoder."""
        try:
            for packet in self._container.demux(self._stream):
                if packet.size and not self._confirms(packet):
                    raise _TablesDifferError
                yield packet
        except IndexError as error:  # PyAV's, on a packet of a stream that was not there when the file was opened
            raise DecodeError(self.path, "another stream begins in the middle of it") from error

    def _confirms(self, packet: "Packet") -> bool:
        told = self._timing.shown_of_stored
        return told is None or (packet.dts is not None and told.get(packet.dts) == packet.pts)

    def _decode_from_start(self) -> Iterator["VideoFrame"]:
        self._reopen()
        return (frame for packet in self._packets() for frame in packet.decode())

    def _reopen(self) -> None:
        self._container.close()
        self._open()


@contextmanager
def _decode_errors(path: str) -> Iterator[None]:
    import av

    try:
        yield
    except (av.FFmpegError, UnicodeError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        if isinstance(error, av.InvalidDataError):
            cause = "no video, damaged or cut short"
        raise DecodeError(path, cause) from error


def load_library() -> None:
    """Import PyAV now, before processes are forked that would each do so for themselves."""
    import av  # noqa: F401
