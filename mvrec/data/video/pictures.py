"""The pictures in a packet's bytes: whether decoding can begin there, and what it shows.

A container's marks of key frames are not reliable: with periodic intra refresh marked pictures are not whole, and in
open groups pictures after a key frame need the ones before it.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

_H264_PICTURES, _H264_IDR, _H264_SEI, _H264_SETS = range(1, 6), 5, 6, (7, 8)
_HEVC_PICTURES, _HEVC_ENTRIES, _HEVC_SETS, _HEVC_BREAKS = range(32), range(16, 22), (32, 33, 34), (16, 17, 18, 36, 37)
_RECOVERY_POINT = 6
_SLICE_BYTES = 16  # more than the inspected beginning of a slice
_H264_BASELINE = 66
_H264_WITH_CHROMA = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
_MPEG4_PICTURE = b"\0\0\1\xb6"
_PNG = b"\x89PNG\r\n\x1a\n"
_AV1_FRAMES = (3, 6)


class Bits:
    """A reader of numbers of any width from bytes."""

    def __init__(self, data: bytes) -> None:
        self._number, self._left = int.from_bytes(data), 8 * len(data)

    def read(self, count: int) -> int:
        """Return the next bits as a number.

        Raises:
            ValueError: Fewer bits are left.
        """
        if count > self._left:
            raise ValueError("the bits end early")
        self._left -= count
        return self._number >> self._left & ((1 << count) - 1)

    def unsigned(self) -> int:
        """Return the next unsigned number in Exp-Golomb code, as in H.264."""
        zeros = self._left - (self._number & ((1 << self._left) - 1)).bit_length()
        return self.read(2 * zeros + 1) - 1

    def signed(self) -> int:
        """Return the next signed number in Exp-Golomb code."""
        code = self.unsigned()
        return (code + 1) // 2 if code % 2 else -code // 2


@dataclass(frozen=True)
class H264Sequence:
    """The content of a sequence parameter set of H.264.

    Attributes:
        frame_num_bits: Width of the frame number in each slice.
        has_planes: Whether each colour is coded separately.
        has_fields: Whether pictures may be single fields.
        in_order: Whether pictures are shown in the order of storage.
    """

    frame_num_bits: int
    has_planes: bool
    has_fields: bool
    in_order: bool


class Look(NamedTuple):
    """The result of a look at a packet.

    Attributes:
        is_entry: A decoder that begins with it shows it, and all that is shown after it, exactly. Pictures stored after
            it but shown before it are excluded.
        is_one: It is one shown picture, not a field, a mark, several pictures or a hidden one, and does not change the
            decoding of others.
        is_late: If packets give no other order, it may be shown before a picture stored before it.
        has_header: It repeats the global header, or has one of its own.
    """

    is_entry: bool
    is_one: bool = True
    is_late: bool = False
    has_header: bool = False


class Pictures:
    """Inspects the packets of one stream.

    Args:
        codec: FFmpeg's name of the codec.
        header: The global header, FFmpeg's `extradata`.
        intra_only: Whether no picture of this codec ever needs another.
        reorders: Whether by its header it may show pictures in another order than stored.

    Attributes:
        supported: Whether packets of this stream can be inspected. If not, decode from the start.
        sequence: The content of an H.264 header.
    """

    def __init__(self, codec: str, header: bytes, *, intra_only: bool, reorders: bool) -> None:
        self._length_size = _length_size(codec, header)
        self._header, self._reorders = header, reorders
        self._time_bits = _mpeg4_time_bits(header) if codec == "mpeg4" else 0
        self._look: Callable[[bytes], Look] | None = {
            "h264": self._h264,
            "hevc": self._hevc,
            "mpeg4": self._mpeg4,
            "mpeg1video": _mpeg2,
            "mpeg2video": _mpeg2,
            "vp9": _vp9,
            "av1": _av1,
            "png": _png,
        }.get(codec, _intra if intra_only else None)
        self.supported = self._look is not None
        self.sequence = h264_sequence(header) if codec == "h264" else None

    def look(self, data: bytes) -> Look:
        """Inspect a packet."""
        try:
            return self._look(data) if self._look is not None else Look(is_entry=False)
        except (IndexError, ValueError):
            return Look(is_entry=False, is_one=False)

    def _h264(self, data: bytes) -> Look:
        recovers, has_header, is_known = False, False, True
        for unit in self._units(data):
            kind = unit[0] & 31
            if kind == _H264_SEI:
                recovers |= _recovers_at_once(unit[1:])
            elif kind in _H264_SETS:
                has_header, is_known = True, is_known and self._is_known(unit)
            elif kind in _H264_PICTURES:
                bits = Bits(_unescaped(unit[1:_SLICE_BYTES]))
                bits.unsigned()
                form = bits.unsigned() % 5  # 1: a B slice; 2, 4: one that needs no other picture
                is_entry = kind == _H264_IDR or (recovers and form in (2, 4))
                is_late = form == 1 and not (self.sequence and self.sequence.in_order)
                return Look(is_entry, self._h264_is_frame(bits) and is_known, is_late, has_header)
        return Look(is_entry=False, is_one=False)

    def _h264_is_frame(self, bits: Bits) -> bool:
        if self.sequence is None or not self.sequence.has_fields:
            return self.sequence is not None
        bits.unsigned()
        bits.read(self.sequence.frame_num_bits + 2 * self.sequence.has_planes)
        return not bits.read(1)

    def _hevc(self, data: bytes) -> Look:
        # Only the first layer is shown.
        units = [(unit[0] >> 1 & 63, unit) for unit in self._units(data) if not (unit[0] & 1 or unit[1] >> 3)]
        picture = next((kind for kind, _ in units if kind in _HEVC_PICTURES), None)
        # After some of these a decoder skips pictures that need earlier ones.
        breaks = any(kind in _HEVC_BREAKS for kind, _ in units)
        sets = [self._is_known(unit) for kind, unit in units if kind in _HEVC_SETS]
        is_one = picture is not None and not breaks and all(sets)
        return Look(picture in _HEVC_ENTRIES, is_one, self._reorders, bool(sets))

    def _is_known(self, unit: bytes) -> bool:
        """Return whether a parameter set is in the global header. If not, pictures depend on where decoding began."""
        return unit.rstrip(b"\0") in self._header

    def _mpeg4(self, data: bytes) -> Look:
        start = data.index(_MPEG4_PICTURE) + len(_MPEG4_PICTURE)
        form, is_single = data[start] >> 6, data.find(_MPEG4_PICTURE, start) < 0  # form 0: I, 1: P, 2: B
        if not self._time_bits:
            self._time_bits = _mpeg4_time_bits(data)
        bits = Bits(data[start : start + _SLICE_BYTES])
        bits.read(2)
        while bits.read(1):  # whole seconds
            pass
        is_coded = bits.read(self._time_bits + 3) & 1 == 1  # otherwise the mark of a skipped picture
        return Look(form == 0, is_single and is_coded and self._time_bits > 0, form == 2)

    def _units(self, data: bytes) -> Iterator[bytes]:
        """Yield the units (NAL) of a packet of H.264 or HEVC, without separators."""
        if not self._length_size:
            yield from re.split(b"\0\0\1", data)[1:]
            return
        position = 0
        while position + self._length_size < len(data):
            start = position + self._length_size
            position = start + int.from_bytes(data[position:start])
            if position > len(data):
                raise ValueError("a unit ends after its packet")
            yield data[start:position]


def _intra(data: bytes) -> Look:
    return Look(is_entry=True)


def _mpeg2(data: bytes) -> Look:
    picture = data.index(b"\0\0\1\0")
    form = data[picture + 5] >> 3 & 7  # 1: I, 2: P, 3: B
    extensions = (match.end() for match in re.finditer(b"\0\0\1\xb5", data[picture:]))
    has_field = any(data[picture + at] >> 4 == 8 and data[picture + at + 2] & 3 != 3 for at in extensions)
    is_entry = form == 1 and data.find(b"\0\0\1\xb3", 0, picture) >= 0
    return Look(is_entry, data.count(b"\0\0\1\0") == 1 and not has_field, form == 3)


def _vp9(data: bytes) -> Look:
    # Four bits: shows an earlier picture, needs others, is shown, is robust.
    flags = data[0] & 15 if data[0] >> 4 & 3 != 3 else (data[0] << 1 | data[1] >> 7) & 15
    # Of several frames in a packet, marked at its end, the last is shown.
    return Look(not flags & 0b1100, bool(flags & 0b1010) or data[-1] >> 5 == 0b110)


def _av1(data: bytes) -> Look:
    frames = (content for kind, content in _av1_units(data) if kind in _AV1_FRAMES)
    return Look(next(frames, b"")[0] >> 4 == 0b0001)  # no earlier picture, a key frame, shown


def _png(data: bytes) -> Look:
    return Look(data.startswith(_PNG))


def h264_sequence(header: bytes) -> H264Sequence | None:
    """Return the first sequence parameter set of a global header; None if it is missing or truncated."""
    if header[:1] == b"\1":
        unit = header[8 : 8 + int.from_bytes(header[6:8])]
    else:
        units = (header[match.end() :] for match in re.finditer(b"\0\0\1", header))
        unit = next((unit for unit in units if unit and unit[0] & 31 == 7), b"")
    try:
        return _read_h264_sequence(unit[1:4], Bits(_unescaped(unit[4:])))
    except (IndexError, ValueError):
        return None


def _read_h264_sequence(profile: bytes, bits: Bits) -> H264Sequence:
    bits.unsigned()
    has_planes = False
    if profile[0] in _H264_WITH_CHROMA:
        chroma = bits.unsigned()
        has_planes = chroma == 3 and bool(bits.read(1))
        for _ in range(2):
            bits.unsigned()
        bits.read(1)
        _skip_scaling_lists(bits, 12 if chroma == 3 else 8)
    frame_num_bits = bits.unsigned() + 4
    order_type = bits.unsigned()
    _skip_order(bits, order_type)
    bits.unsigned()
    bits.read(1)
    for _ in range(2):
        bits.unsigned()
    has_fields = not bits.read(1)
    in_order = profile[0] == _H264_BASELINE or order_type == 2 or _most_reordered(bits, has_fields=has_fields) == 0
    return H264Sequence(frame_num_bits, has_planes, has_fields, in_order)


def _skip_scaling_lists(bits: Bits, count: int) -> None:
    if not bits.read(1):
        return
    for number in range(count):
        if bits.read(1):
            last = step = 8
            for _ in range(16 if number < 6 else 64):
                if step:
                    step = (last + bits.signed()) % 256
                last = step or last


def _skip_order(bits: Bits, order_type: int) -> None:
    if order_type == 0:
        bits.unsigned()
    elif order_type == 1:
        bits.read(1)
        bits.signed()
        bits.signed()
        for _ in range(bits.unsigned()):
            bits.signed()


def _most_reordered(bits: Bits, *, has_fields: bool) -> int | None:
    """Return the most pictures shown later than one stored after them; None if the header does not say."""
    if has_fields:
        bits.read(1)
    bits.read(1)
    if bits.read(1):  # cropped
        for _ in range(4):
            bits.unsigned()
    if not bits.read(1):  # usability information follows
        return None
    _skip_looks(bits)
    buffers = [_skip_buffers(bits) for _ in range(2)]
    if any(buffers):
        bits.read(1)
    bits.read(1)
    if not bits.read(1):
        return None
    bits.read(1)
    for _ in range(4):
        bits.unsigned()
    return bits.unsigned()


def _skip_looks(bits: Bits) -> None:
    """Skip the pixel shape, visible part, colours and rate."""
    if bits.read(1) and bits.read(8) == 255:
        bits.read(32)
    if bits.read(1):
        bits.read(1)
    if bits.read(1):
        bits.read(4)
        if bits.read(1):
            bits.read(24)
    if bits.read(1):
        bits.unsigned()
        bits.unsigned()
    if bits.read(1):
        bits.read(65)


def _skip_buffers(bits: Bits) -> bool:
    """Skip the buffer parameters; return whether they exist."""
    if not bits.read(1):
        return False
    count = bits.unsigned() + 1
    bits.read(8)
    for _ in range(count):
        bits.unsigned()
        bits.unsigned()
        bits.read(1)
    bits.read(20)
    return True


def _recovers_at_once(message: bytes) -> bool:
    """Return whether supplemental information (SEI) of H.264 promises exact pictures from here on."""
    content = _unescaped(message)
    position = 0
    while position + 2 < len(content):
        numbers = []
        for _ in range(2):  # kind and size; each 255 means that more follows
            end = position
            while content[end] == 255:
                end += 1
            numbers.append(255 * (end - position) + content[end])
            position = end + 1
        if numbers[0] == _RECOVERY_POINT:
            bits = Bits(content[position : position + numbers[1]])
            return bits.unsigned() == 0 and bits.read(2) == 0b10  # at once, exactly, no broken link
        position += numbers[1]
    return False


def _unescaped(unit: bytes) -> bytes:
    return unit.replace(b"\0\0\3", b"\0\0")


def _length_size(codec: str, header: bytes) -> int:
    """Return the number of bytes of each unit's length; 0 if start codes separate units."""
    if codec not in ("h264", "hevc") or header.startswith((b"\0\0\1", b"\0\0\0\1")):
        return 0
    place = 4 if codec == "h264" else 21
    return (header[place] & 3) + 1 if len(header) > place else 0


def _mpeg4_time_bits(header: bytes) -> int:
    """Return the width of the time in each picture of MPEG-4 part 2; 0 if the header does not say."""
    start = re.search(rb"\x00\x00\x01[\x20-\x2f]", header)
    if start is None:
        return 0
    try:
        bits = Bits(header[start.end() : start.end() + 2 * _SLICE_BYTES])
        bits.read(9)
        version = bits.read(7) >> 3 if bits.read(1) else 1
        if bits.read(4) == 15:  # shape of pixels
            bits.read(16)
        if bits.read(1):
            bits.read(3)
            if bits.read(1):  # buffers
                bits.read(79)
        if bits.read(2) == 3 and version != 1:
            bits.read(4)
        bits.read(1)
        return max((bits.read(16) - 1).bit_length(), 1)
    except ValueError:
        return 0


def _av1_units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and content of the units (OBU) of a packet of AV1."""
    position = 0
    while position < len(data):
        header = data[position]
        position += 2 if header & 4 else 1
        size, shift = len(data) - position, 0
        if header & 2:
            size = 0
            while True:
                byte = data[position]
                position += 1
                size |= (byte & 127) << shift
                shift += 7
                if not byte & 128:
                    break
        yield header >> 3 & 15, data[position : position + size]
        position += size
