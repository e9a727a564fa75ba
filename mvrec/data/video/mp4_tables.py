"""The tables of an MP4 or QuickTime file about its frames, read from its header alone.

FFmpeg keeps the order of storage but not the order of showing, so without these tables a whole file must be read to
list its frames. And it trusts the tables: an impossible number of frames makes it request all memory, so such files
must be refused before.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from mvrec.data.video.video import Ints, Source
from mvrec.errors import DecodeError

MAX_FRAMES = 10_000_000  # 46 hours at 60 frames per second

_MAX_TOP_LEVEL_BOXES = 1000
_MAX_HEADER_BYTES = 2**28
_CONTAINERS = {b"trak", b"mdia", b"minf", b"stbl", b"edts"}
_FIRST = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}


@dataclass(frozen=True)
class Mp4Track:
    """The tables of a video track with one list of all its frames.

    Attributes:
        number: The track's number in the file.
        offsets: (N,) delay of showing each frame after its storage, in ticks of the track; None if all are 0.
        num_edits: The number of entries of the edit list that show something.
    """

    number: int
    offsets: Ints | None
    num_edits: int


def read_mp4_tracks(source: Source) -> dict[int, Mp4Track]:
    """Return the video tracks of a file by number; none if it is not an MP4, is fragmented, or damaged.

    Raises:
        DecodeError: Its number of frames is impossible, or its times have no scale.
    """
    with source.open() as file:
        header = _header(file, source.num_bytes)
    try:
        traks = [content for name, content in _boxes(header) if name == b"trak"] if header else []
        tracks = [_track(trak, source) for trak in traks]
    except (struct.error, IndexError, ValueError):  # truncated tables, which FFmpeg judges
        return {}
    return {track.number: track for track in tracks if track}


def _header(file: BinaryIO, num_bytes: int) -> bytes | None:
    """Return the content of the one `moov` box, if it lists all frames."""
    position, header = 0, None
    for count in range(_MAX_TOP_LEVEL_BOXES):
        if position + 8 > num_bytes:
            return header
        file.seek(position)
        start = file.read(16)
        size, name, prefix = int.from_bytes(start[:4]), start[4:8], 8
        if size == 1:
            size, prefix = int.from_bytes(start[8:16]), 16
        size = num_bytes - position if size == 0 else size
        # Fragments have their own lists of frames.
        if name == b"moof" or (name == b"moov" and header is not None) or size < prefix:
            return None
        if count == 0 and name not in _FIRST:
            return None
        if name == b"moov":
            if size > min(_MAX_HEADER_BYTES, num_bytes - position):
                return None
            file.seek(position + prefix)
            header = file.read(size - prefix)
        position += size
    return None


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield names and contents of the boxes in `content`, including boxes inside pure containers."""
    position = 0
    while position + 8 <= len(content):
        size, name = struct.unpack_from(">I4s", content, position)
        if size < 8:
            return
        inner = content[position + 8 : position + size]
        yield name, inner
        if name in _CONTAINERS and name != b"trak":
            yield from _boxes(inner)
        position += size


def _track(trak: bytes, source: Source) -> Mp4Track | None:
    boxes: dict[bytes, bytes] = {}
    for name, content in _boxes(trak):
        if name in boxes and name in (b"stts", b"ctts", b"stsz", b"elst"):
            raise ValueError("a table given twice")
        boxes.setdefault(name, content)
    is_video = boxes.get(b"hdlr", b"")[8:12] == b"vide"
    num_frames = _num_samples(boxes)
    listed = max([num_frames, *(_num_listed(boxes[name]) for name in (b"stts", b"ctts") if name in boxes)])
    if listed > source.num_bytes:
        raise DecodeError(source.path, f"promises {listed} frames in {source.num_bytes} bytes")
    if is_video and listed > MAX_FRAMES:
        raise DecodeError(source.path, f"promises {listed} frames, more than the {MAX_FRAMES} that a video may have")
    if not is_video:
        return None
    if int.from_bytes(boxes.get(b"stsd", b"")[4:8]) > 1:
        raise ValueError("pictures that are coded in several ways")
    header = boxes.get(b"mdhd", b"")
    if header and not int.from_bytes(header[20:24] if header[0] == 1 else header[12:16]):
        raise DecodeError(source.path, "its time scale is 0: its frames have no times")
    track_header = boxes.get(b"tkhd", b"\0")
    number = int.from_bytes(track_header[20:24] if track_header[0] == 1 else track_header[12:16])
    offsets = _offsets(boxes[b"ctts"], num_frames) if b"ctts" in boxes else None
    return Mp4Track(number, offsets, _num_edits(boxes.get(b"elst", bytes(8))))


def _num_samples(boxes: dict[bytes, bytes]) -> int:
    """Return the number of frames by `stsz` (sizes of 32 bits) or `stz2` (4 to 16)."""
    table = boxes.get(b"stsz") or boxes.get(b"stz2")
    return struct.unpack_from(">I", table, 8)[0] if table else 0


def _runs(table: bytes) -> np.ndarray:
    """Return (N, 2) pairs of count and value from a table of runs."""
    count = struct.unpack_from(">I", table, 4)[0]
    rows = np.frombuffer(table, ">u4", offset=8, count=(len(table) - 8) // 4 // 2 * 2).reshape(-1, 2)
    return rows[:count].astype(np.int64)


def _num_listed(table: bytes) -> int:
    """Return the number of frames in a table of runs, or its claimed number of runs if that is larger."""
    return max(int(_runs(table)[:, 0].sum()), struct.unpack_from(">I", table, 4)[0])


def _offsets(table: bytes, num_frames: int) -> Ints:
    repeats, offsets = _runs(table).T
    expanded = np.repeat((offsets + 2**31) % 2**32 - 2**31, repeats)  # signed: QuickTime has negative ones
    if len(expanded) != num_frames:
        raise ValueError("one offset for each frame, or none")
    return expanded


def _num_edits(table: bytes) -> int:
    is_long, count = table[0] == 1, struct.unpack_from(">I", table, 4)[0]
    form = struct.Struct(">Qqi" if is_long else ">Iii")
    starts = [form.unpack_from(table, 8 + form.size * row)[1] for row in range(min(count, 1000))]
    return sum(start != -1 for start in starts)  # -1 is a pause before the start
