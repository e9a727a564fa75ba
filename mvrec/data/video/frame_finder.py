"""Finding frames of a file by number, as PyAV's FFmpeg decodes them: their list, and where to start decoding.

The list of frames is complete before the first is decoded: from the tables of an MP4 if these are complete and
simple, else from a look at every packet. A frame is then found by its time, from the nearest earlier picture at which
decoding can begin. If the packets leave any doubt, frames are numbered by decoding from the start.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mvrec.data.video.containers import MOST_GAP_SECONDS, decode_errors, has_jumps, open_container, shown_stream
from mvrec.data.video.frame_times import Packets, Timing, in_shown_order, listed_timing, with_head, without_jumps
from mvrec.data.video.mp4_tables import MAX_FRAMES, read_mp4_tracks
from mvrec.data.video.pictures import Look, Pictures
from mvrec.data.video.video import MAX_PIXELS, Clock, Ints, Source, check_size
from mvrec.errors import DecodeError

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame

Result = TypeVar("Result")

# Containers whose packets are always whole frames.
_FRAME_PACKETS = {"mov", "matroska"}
# Codecs with one shown frame per packet, which the tables of an MP4 describe completely.
_LISTED_CODECS = {"h264", "hevc", "mpeg4"}
# A decoder returns a frame as many packets late as frames may be out of order: 16, or twice that in fields.
_MAX_DELAY_PACKETS = 64
# Frames after a key frame from which it is cheaper to read on than to decode all of them again.
_FAR = 100


class _PacketsDifferError(Exception):
    """A packet differs from the tables of the file, or from an earlier look at all packets."""


class FrameFinder:
    """The video stream of an open file, frame by frame.

    Args:
        source: The source of its bytes.

    Attributes:
        path: Its name in messages.
        stream: PyAV's stream.
        timing: The times of its frames.
        header_size: (height, width) in pixels by the file's header.

    Raises:
        DecodeError: The file is cut short, not a video, or its header is impossible.
    """

    def __init__(self, source: Source) -> None:
        self.path, self._source = source.path, source
        self.timing = Timing()
        self._has_one_edit = False
        # What the decoder showed of an MP4's key frames, for files read by their tables.
        self._looks: dict[int, Look] = {}
        # Key frame from which the last requested frame was decoded, and its number.
        self._last = (-1, -1)
        # Frames that pass one by one: those after the last requested one, and the number of frames up to it.
        self._coming: Iterator[VideoFrame] | None = None
        self._num_gone = 0
        try:
            with decode_errors(source.path):
                self.timing = self._find_out()
        except BaseException:
            self.close()
            raise

    @property
    def containers(self) -> list[str]:
        """FFmpeg's names of the container."""
        return self._container.format.name.split(",")

    @property
    def clock(self) -> Clock:
        """The times of the frames."""
        timing = self.timing
        ticks = timing.counted if timing.shown is None else timing.shown
        if ticks is None or not self.stream.time_base:
            return Clock()
        if has_jumps(self._container):
            ticks = without_jumps(ticks, MOST_GAP_SECONDS / self.stream.time_base)
        return Clock(ticks, self.stream.time_base, timing.last)

    def is_plain(self) -> bool:
        """Return whether a decoder that trusts the container finds the right frames, too."""
        if not self.timing.is_plain or ("mov" in self.containers and not self._has_one_edit):
            return False
        looks = (self._look_at_key(self.timing, key) for key in range(len(self.timing.key_bytes)))
        return all(look.is_entry or not look.is_one for look in looks)  # decoders report damage themselves

    def close(self) -> None:
        """Free the decoder and close the file."""
        if hasattr(self, "_container"):
            self._container.close()

    def believing_packets(self, read: Callable[[], Result]) -> Result:
        """Return the result of `read`; if packets differ from the expected ones, repeat it with another `timing`.

        Raises:
            DecodeError: The file is damaged.
        """
        with decode_errors(self.path):
            try:
                return read()
            except _PacketsDifferError:
                self._find_out_again()
                return read()

    def all_frames(self) -> Iterator["VideoFrame"]:
        """Yield every frame as stored, in the order of showing; see `find`."""
        with decode_errors(self.path):
            try:
                yield from self.find(np.arange(self.timing.num_frames))
            except _PacketsDifferError:
                raise DecodeError(self.path, "its packets differ from its tables") from None

    def _find_out(self) -> Timing:
        """Determine the times of the frames."""
        tracks = read_mp4_tracks(self._source)
        if tracks:
            self._open(probe=False)
            track = tracks.get(self.stream.id)
            self._has_one_edit = track is not None and track.num_edits <= 1
            timing = self._from_tables(track.offsets) if track and self._has_one_edit else None
            if timing is not None:
                return timing
            self._container.close()
        self._open()
        return self._look_through()

    def _look_through(self) -> Timing:
        """Determine the times from all packets, and from the decoder if these leave a doubt."""
        timing, entry = self._walk()
        if timing.shown is not None and entry is not None:
            head = self._shown_before(entry)
            timing = with_head(timing, head) if head is not None else Timing(last=timing.last)
        if timing.shown is None:
            return self._count(timing)
        self.timing = timing
        if next(self.find(np.zeros(1, np.int64)), None) is None:
            raise DecodeError(self.path, "none of its frames can be decoded")
        return timing

    def _shown_before(self, entry: int) -> Ints | None:
        """Return the times of the frames shown before the one at `entry`; None if the decoder shows them otherwise."""
        times: list[int] = []
        for frame in self._decode_from_start():
            if frame.pts == entry:
                return np.array(times, np.int64)
            if frame.pts is None or not max(times, default=frame.pts - 1) < frame.pts < entry:
                return None
            times.append(frame.pts)
        return None

    def _count(self, timing: Timing) -> Timing:
        """Determine the times by decoding all frames."""
        frames = self._decode_from_start()
        first = next(frames, None)
        if first is None:
            raise DecodeError(self.path, "none of its frames can be decoded")
        check_size(self.path, first.width, first.height)
        times = [first.pts, *(frame.pts for frame in frames)]
        usable_times = np.array([time for time in times if time is not None], np.int64)
        usable = len(usable_times) == len(times) and self._container.format.name != "avi"
        return replace(timing, counted=in_shown_order(usable_times) if usable else None, num_counted=len(times))

    def _from_tables(self, offsets: Ints | None) -> Timing | None:
        """Return the timing by the tables of an MP4, or None if all packets must be read."""
        codec, sequence = self.stream.codec_context, self._pictures.sequence
        rows = [(e.timestamp, e.is_keyframe, e.is_discard, e.size, e.pos) for e in self.stream.index_entries]
        first = next(self._packets(), None)
        if codec.name not in _LISTED_CODECS or len(rows) != self.stream.frames or first is None:
            return None
        if codec.name == "h264" and (sequence is None or sequence.has_fields):
            return None
        timing = listed_timing(
            np.array(rows, np.int64).reshape(-1, 5),
            offsets,
            first=(first.dts, first.pts),
            num_bytes=self._source.num_bytes,
            duration=self.stream.duration or 0,
            reorders=codec.has_b_frames if sequence is None else not sequence.in_order,
        )
        if timing is None:
            return None
        looks = [self._look_at_key(timing, key) for key in range(1 if timing.is_plain else len(timing.keys))]
        if not looks[0].is_entry or looks[0].has_header or not all(look.is_one for look in looks):
            return None
        return timing

    def _look_at_key(self, timing: Timing, key: int) -> Look:
        if key not in self._looks:
            place, size = timing.key_bytes[key].tolist()
            with self._source.open() as file:
                file.seek(place)
                self._looks[key] = self._pictures.look(file.read(size))
        return self._looks[key]

    def _can_begin(self, key: int) -> bool:
        return not self.timing.is_listed or self._look_at_key(self.timing, key).is_entry

    def _walk(self) -> tuple[Timing, int | None]:
        """Look at every packet without decoding; see `Packets.timing`."""
        packets, whole = Packets(self._pictures), True
        # Matroska seeks by the time of showing, all other containers by the time of decoding.
        seek_by_pts = "matroska" in self._container.format.name
        for packet in self._packets():
            if not packet.size:  # the end mark, or AVI's "as before"
                continue
            if len(packets.stored) == MAX_FRAMES:
                raise DecodeError(self.path, f"it has more than the {MAX_FRAMES} frames that a video may have")
            whole = not packet.is_corrupt
            packets.add(packet, seek_by_pts=seek_by_pts)
        # The index of an MP4 is complete; other files list key frames at most.
        num_packets, num_promised = len(packets.stored), len(self.stream.index_entries)
        whole |= "mpegts" in self.containers  # an interrupted recording
        if not num_packets:
            raise DecodeError(self.path, "it has no frames")
        if num_packets < num_promised or not whole:
            raise DecodeError(self.path, f"cut short: it ends with packet {num_packets} of {num_promised}")
        timing, entry = packets.timing(one_edit=self._has_one_edit)
        # AVI knows only the order of storage.
        misleading = self._container.format.name == "avi" and self.stream.codec_context.has_b_frames
        return (Timing(last=timing.last), None) if misleading else (timing, entry)

    def _find_out_again(self) -> None:
        was, num_frames = self.timing, self.timing.num_frames
        self._last, self._coming = (-1, -1), None
        self._reopen()
        # Never seen, but if FFmpeg reads some tables differently, its packets are right.
        self.timing = self._look_through() if was.is_listed else self._count(Timing(last=was.last))
        if self.timing.num_frames != num_frames:
            raise DecodeError(self.path, "its tables and its frames do not agree")

    def find(self, indices: Ints) -> Iterator["VideoFrame"]:
        """Yield the frames at ascending `indices`, ending early if one is missing; see `believing_packets`."""
        if self.timing.shown is None:
            yield from self._find_in_passing(indices, 0)
            return
        times = self.timing.shown[indices]
        keys = np.searchsorted(self.timing.keys, times, side="right") - 1
        keys = np.array([next(k for k in range(key, -1, -1) if self._can_begin(k)) for key in keys.tolist()])
        (last_key, last), self._last = self._last, (int(keys[-1]), int(indices[-1]))
        if last_key == keys[0] == keys[-1] and last < indices[0] and indices[0] > self._number_of(last_key) + _FAR:
            yield from self._find_in_passing(indices, last_key)
            return
        self._coming = None
        # Reading on costs less than a jump to the very next key frame. If no frame stored after a key frame is shown
        # before it, the packets up to that key frame need not be decoded.
        stops_at_keys = self.timing.is_plain and self._packets_are_frames
        starts = np.flatnonzero(np.diff(keys, prepend=-2) > (0 if stops_at_keys else 1))
        packets: Iterator[Packet] = iter(())
        reached = -2
        for key, group in zip(keys[starts].tolist(), np.split(times, starts[1:]), strict=True):
            packets = self._packets_until(key, packets) if key == reached + 1 else self._packets_from(key)
            yield from self._decode_group(packets, group.tolist())
            reached = key if stops_at_keys else -2

    def _find_in_passing(self, indices: Ints, key: int) -> Iterator["VideoFrame"]:
        """Yield the frames at `indices` of all frames from a key frame on; keep the later ones for the next call."""
        coming, self._coming = self._coming, None
        if coming is None or indices[0] < self._num_gone:
            coming, self._num_gone = self._all_from(key), self._number_of(key)
        indices_left, shown = set(indices.tolist()), self.timing.shown
        for frame in coming:
            if shown is not None and frame.pts != shown[self._num_gone]:
                raise _PacketsDifferError
            self._num_gone += 1
            if self._num_gone - 1 in indices_left:
                yield frame
            if self._num_gone > indices[-1]:
                self._coming = coming
                return

    def _all_from(self, key: int) -> Iterator["VideoFrame"]:
        if self.timing.shown is None or (self.timing.has_head and key == 0):
            return self._decode_from_start()
        begin = self.timing.keys[key]
        packets = self._packets_from(key)
        self.stream.codec_context.skip_frame = "DEFAULT"
        return (frame for packet in packets for frame in packet.decode() if frame.pts is None or frame.pts >= begin)

    def _number_of(self, key: int) -> int:
        """Return the number of a key frame among the shown frames."""
        return 0 if self.timing.shown is None else int(np.searchsorted(self.timing.shown, self.timing.keys[key]))

    def _decode_group(self, packets: Iterator["Packet"], times: list[int]) -> Iterator["VideoFrame"]:
        """Yield the frames at ascending `times`; the first one depends on the key frame with which `packets` begin.

        No packet is decoded after the last requested frame: the decoder is drained and cleared.
        """
        codec, has_head = self.stream.codec_context, self.timing.has_head
        # Output of a decoder for frames without their references may depend on any earlier frame.
        can_skip = self._can_skip and not (has_head and times[0] < self.timing.keys[1])
        unsent, remaining, late, began = set(times), times[::-1], 0, False
        for packet in packets:
            if can_skip:
                codec.skip_frame = "DEFAULT" if packet.pts in unsent else "NONREF"
            frames = self._decode_packet(packet, tolerant=has_head and not began)
            began |= bool(frames) or (packet.is_keyframe and not packet.is_corrupt)
            yield from self._matching(frames, remaining)
            unsent.discard(packet.pts)
            late += not unsent
            if not remaining or (not unsent and (self._packets_are_frames or late > _MAX_DELAY_PACKETS)):
                break
        if remaining:
            yield from self._matching(codec.decode(None), remaining)
        codec.flush_buffers()

    @staticmethod
    def _matching(frames: "list[VideoFrame]", times: list[int]) -> Iterator["VideoFrame"]:
        """Yield those of `frames` whose times come next in `times`, which is in descending order."""
        for frame in frames:
            if times and frame.pts is not None and frame.pts >= times[-1]:
                if frame.pts != times.pop():  # the frame was skipped, or comes later
                    raise _PacketsDifferError
                yield frame

    def _packets_from(self, key: int) -> Iterator["Packet"]:
        """Return the packets from a key frame on; from an earlier one or the start if the jump fails."""
        timing, from_start = self.timing, int(self.timing.has_head)
        if key >= from_start and self._jumps_to(int(timing.key_seeks[key])):
            packets = self._packets()
            first = next(packets, None)
            reached = -1 if first is None or first.pts is None else int(np.searchsorted(timing.keys, first.pts))
            if first is not None and from_start <= reached <= key and self._is_key(first, reached):
                return self._confirmed(itertools.chain([first], packets), int(timing.key_places[reached]))
            # Some containers land elsewhere; read from the start then.
        self._reopen()
        return self._confirmed(self._packets(), 0)

    def _jumps_to(self, seek: int) -> bool:
        """Seek near a time and return whether the container can; picture sequences, Flash and FITS cannot."""
        import av

        try:
            self._container.seek(seek, stream=self.stream)
        except av.FFmpegError:
            return False
        return True

    def _is_key(self, packet: "Packet", key: int) -> bool:
        place = self.timing.key_places[key]
        as_known = self.timing.stored[place], self.timing.sizes[place]
        return (packet.pts, packet.size) == as_known and self._can_begin(key)

    def _confirmed(self, packets: Iterator["Packet"], place: int) -> Iterator["Packet"]:
        """Yield `packets` after a check that they are the ones stored from `place` on."""
        for packet in packets:
            if packet.size:
                is_listed = place < len(self.timing.stored)
                if not is_listed or (packet.pts, packet.size) != (self.timing.stored[place], self.timing.sizes[place]):
                    raise _PacketsDifferError
                place += 1
            yield packet

    def _packets_until(self, key: int, packets: Iterator["Packet"]) -> Iterator["Packet"]:
        """Yield the rest of `packets` from a key frame on, without decoding those before it."""
        for packet in packets:
            if packet.is_keyframe and packet.pts == self.timing.keys[key]:
                return itertools.chain([packet], packets)
        return iter(())

    def _packets(self) -> Iterator["Packet"]:
        """Yield all packets from the current place, with the empty one at the end that drains the decoder."""
        try:
            yield from self._container.demux(self.stream)
        except IndexError as error:  # PyAV's, on a packet of a stream that appeared after the file was opened
            raise DecodeError(self.path, "another stream begins in the middle of it") from error

    def _decode_from_start(self) -> Iterator["VideoFrame"]:
        """Yield all frames in the decoder's order."""
        self._reopen()
        began = False
        for packet in self._packets():
            frames = self._decode_packet(packet, tolerant=not began)
            began |= bool(frames) or (packet.is_keyframe and not packet.is_corrupt)
            yield from frames

    @staticmethod
    def _decode_packet(packet: "Packet", *, tolerant: bool) -> "list[VideoFrame]":
        """Return the decoded frames; with `tolerant` none if the decoder lacks their references.

        A part cut out of a stream begins with packets that cannot be decoded, which players skip.
        """
        import av

        if not packet.size and packet.pts is not None:  # AVI's "as before", which decoders do not accept
            return []
        try:
            return packet.decode()
        except av.InvalidDataError:
            if not tolerant:
                raise
            return []

    def _reopen(self) -> None:
        self._container.close()
        self._open()

    def _open(self, *, probe: bool = True) -> None:
        """Open the file; without `probe` FFmpeg decodes nothing to inspect a stream."""
        # FFmpeg measures frames with their margins, so this is only for sizes missing in the header.
        limit = {"max_pixels": str(2 * MAX_PIXELS)}
        options = limit if probe else {**limit, "skip_frame": "all"}
        self._container = open_container(self._source.for_ffmpeg(), options=options)
        stream = shown_stream(self._container)
        if stream is None:
            raise DecodeError(self.path, "it has no video stream")
        if stream.codec_context is None:
            raise DecodeError(self.path, "FFmpeg has no decoder for its codec")
        check_size(self.path, stream.codec_context.width, stream.codec_context.height)
        self.header_size = stream.codec_context.height, stream.codec_context.width
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.options = limit
        self.stream = stream
        codec = stream.codec_context.codec
        self._pictures = Pictures(
            codec.canonical_name,
            stream.codec_context.extradata or b"",
            intra_only=codec.intra_only,
            reorders=stream.codec_context.has_b_frames,
        )
        # Frames that no other frame needs can be skipped. Only H.264 marks them reliably.
        self._can_skip = stream.codec_context.name == "h264"
        self._packets_are_frames = not _FRAME_PACKETS.isdisjoint(self._container.format.name.split(","))
