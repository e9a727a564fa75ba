"""The times of a file's frames and the packets at which decoding can begin, from its packets alone.

A frame found by its time must be the frame that decoding from the start gives. That holds if each packet is one
picture that is shown at the packet's time, and if decoding begins at a picture that needs no earlier one. In any
doubtful case the decoder must count.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mvrec.data.video.pictures import Pictures
from mvrec.data.video.video import Ints

if TYPE_CHECKING:
    from av.packet import Packet

# Places by which a frame may be shown earlier or later than it is stored.
_MOST_REORDERED = 16
# Ticks between two frames: hours or days. FLV has no times before 0 and makes a late time of each.
_OVERFLOW = 2**30


def _no_times() -> Ints:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class Timing:
    """The times of a stream's packets, in ticks of the stream.

    Attributes:
        shown: Times of the shown frames, ascending, or None if a frame can only be found by counting from the start.
        keys: Times of the frames at which decoding can begin, ascending.
        key_seeks: The seek target for each of them.
        key_places: The number of packets stored before each of them.
        stored: Times of all packets, in the order of storage.
        sizes: Bytes of all packets.
        is_plain: Whether each packet is a shown frame, decoding can begin at each key frame, and no frame is shown
            before the key frame after which it is stored.
        is_listed: Whether the timing comes from tables, which packets must confirm. Whether decoding can begin at a key
            frame is not known yet.
        key_bytes: (keys, 2) place and size in bytes of each key frame in the file, if listed.
        has_head: Whether the first key is the start of the file, where the decoder shows frames although references
            are missing.
        counted: Times of the frames by the decoder, if they can only be counted; None if it gives no times.
        num_counted: The number of counted frames.
        last: Duration of the last frame; 0 if unknown.
    """

    shown: Ints | None = None
    keys: Ints = field(default_factory=_no_times, repr=False)
    key_seeks: Ints = field(default_factory=_no_times, repr=False)
    key_places: Ints = field(default_factory=_no_times, repr=False)
    stored: Ints = field(default_factory=_no_times, repr=False)
    sizes: Ints = field(default_factory=_no_times, repr=False)
    is_plain: bool = False
    is_listed: bool = False
    key_bytes: Ints = field(default_factory=_no_times, repr=False)
    has_head: bool = False
    counted: Ints | None = None
    num_counted: int = 0
    last: int = 0

    @property
    def num_frames(self) -> int:
        """The number of shown frames."""
        return self.num_counted if self.shown is None else len(self.shown)


@dataclass
class Packets:
    """The result of a look at every packet.

    Attributes:
        pictures: Inspects the packets.
        stored: Their times.
        sizes: Their bytes.
        hidden: Places of packets that an edit list hides.
        entries: Place, time and seek target of each packet at which decoding can begin.
        num_keys: The container's number of key frames.
        last: Time and duration of the last shown packet.
        are_frames: Whether each is one whole shown picture, coded like all others.
        has_late: Whether some may be shown before others that are stored before them.
    """

    pictures: Pictures
    stored: list[int | None] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    hidden: list[int] = field(default_factory=list)
    entries: list[tuple[int, int, int]] = field(default_factory=list)
    num_keys: int = 0
    last: tuple[int, int] = (-(2**63), 0)
    are_frames: bool = True
    has_late: bool = False

    def add(self, packet: "Packet", *, seek_by_pts: bool) -> None:
        """Add a packet; `seek_by_pts` means that seeks look for the time of showing."""
        look, time = self.pictures.look(bytes(packet)), packet.pts
        if packet.is_keyframe and look.is_entry and time is not None:
            seek = time if seek_by_pts or packet.dts is None else packet.dts
            self.entries.append((len(self.stored), time, seek))
        if packet.is_discard:
            self.hidden.append(len(self.stored))
        elif time is not None:
            self.last = max(self.last, (time, packet.duration or 0))
        self.num_keys += packet.is_keyframe
        # Instead of lost data a decoder shows something that depends on earlier frames.
        self.are_frames &= look.is_one and not packet.is_corrupt and not packet.has_sidedata("new_extradata")
        self.has_late |= look.is_late
        self.stored.append(time)
        self.sizes.append(packet.size)

    def timing(self, *, one_edit: bool) -> tuple[Timing, int | None]:
        """Determine the times of the frames, as far as packets allow.

        Args:
            one_edit: Whether hidden packets are before the first frame and after the last, not in between.

        Returns:
            The timing; and if frames may be shown before the first packet at which decoding can begin, the time of that
                packet.
        """
        unknown = Timing(last=self.last[1])
        if not (self.pictures.supported and self.are_frames and self.entries) or (self.hidden and not one_edit):
            return unknown, None
        if None in self.stored:
            return unknown, None
        stored = np.array(self.stored, np.int64)
        places, keys, seeks = np.array(self.entries, np.int64).T
        is_shown = np.ones(len(stored), bool)
        is_shown[self.hidden] = False
        if not _in_decoders_order(stored, places, has_late=self.has_late):
            return unknown, None
        # Frames shown before the first entry lack their reference: the decoder may show them or not.
        is_sure = is_shown & (stored >= keys[0])
        if not is_sure.any():
            return unknown, None
        is_plain = _is_plain_order(stored, places) and is_sure.all() and self.num_keys == len(places)
        timing = Timing(
            np.sort(stored[is_sure]),
            keys,
            seeks,
            places,
            stored,
            np.array(self.sizes, np.int64),
            is_plain=bool(is_plain),
            last=self.last[1],
        )
        return timing, int(keys[0]) if (is_shown & ~is_sure).any() else None


def listed_timing(
    table: Ints,
    offsets: Ints | None,
    *,
    first: tuple[int | None, int | None],
    num_bytes: int,
    duration: int,
    reorders: bool,
) -> Timing | None:
    """Return the timing by a file's tables after a look at one packet; None where all packets must be read.

    Args:
        table: (N, 5) for each packet its decoding time, whether the container calls it a key frame, whether it is
            hidden, its bytes, and its place.
        offsets: (N,) delay of showing each packet, or None if all are 0.
        first: Decoding time and time of showing of the first packet.
        num_bytes: Size of the file.
        duration: Duration of the stream; 0 if unknown.
        reorders: Whether frames may be shown in another order than stored.
    """
    stored, is_key, is_hidden, sizes, begins = table.T
    if (
        not len(table)
        or (offsets is not None and len(offsets) != len(table))
        or not is_key[0]
        or is_hidden.any()
        or sizes.min() <= 0
        or (begins + sizes).max() > num_bytes
        or (np.diff(stored) <= 0).any()
        or first[0] != stored[0]
        or first[1] is None
    ):
        return None
    shown = stored + (first[1] - stored[0]) + (0 if offsets is None else offsets - offsets[0])
    places = np.flatnonzero(is_key)
    if shown.min() < shown[0] or not _in_decoders_order(shown, places, has_late=reorders):
        return None
    return Timing(
        np.sort(shown),
        shown[places],
        stored[places],
        places,
        shown,
        sizes,
        is_plain=_is_plain_order(shown, places),
        is_listed=True,
        key_bytes=np.stack([begins, sizes], axis=1)[places],
        last=duration - int(stored[-1] - stored[0]),
    )


def with_head(timing: Timing, head: Ints) -> Timing:
    """Return the timing of a file that shows frames at times `head` before decoding can begin."""
    if not len(head):
        return timing
    assert timing.shown is not None
    begin = np.zeros(1, np.int64)
    return Timing(
        np.concatenate([head, timing.shown]),
        np.concatenate([head[:1], timing.keys]),
        np.concatenate([begin, timing.key_seeks]),
        np.concatenate([begin, timing.key_places]),
        timing.stored,
        timing.sizes,
        has_head=True,
        last=timing.last,
    )


def _is_plain_order(stored: Ints, places: Ints) -> bool:
    """Return whether no frame is shown before the key frame after which it is stored."""
    newest = np.searchsorted(places, np.arange(len(stored)), side="right") - 1
    return bool((stored >= stored[places[newest.clip(0)]])[newest >= 0].all())


def _in_decoders_order(stored: Ints, places: Ints, *, has_late: bool) -> bool:
    """Return whether the times of packets rise in the decoder's order."""
    ascending = np.sort(stored)
    gaps = np.diff(ascending)
    if (gaps == 0).any() or (gaps > _OVERFLOW).any():
        return False
    order = np.searchsorted(ascending, stored)
    moved = np.abs(order - np.arange(len(stored)))
    if bool(moved.any()) != has_late:
        return False
    # No frame stored before an entry is shown after it.
    newest = np.maximum.accumulate(stored)
    later = places[places > 0]
    return moved.max() <= _MOST_REORDERED and bool((newest[later - 1] < stored[later]).all())


def in_shown_order(times: Ints) -> Ints | None:
    """Return the times of frames in the decoder's order; None if they are unusable.

    If a container knows only the order of storage, each frame comes with the time of another one.
    """
    ascending = np.sort(times)
    moved = np.abs(np.searchsorted(ascending, times) - np.arange(len(times)))
    usable = (np.diff(ascending) > 0).all() and moved.max(initial=0) <= _MOST_REORDERED
    return ascending if usable else None


def without_jumps(times: Ints, most: float) -> Ints:
    """Return ascending times from a clock that restarted wherever two frames lie more than `most` ticks apart.

    After a restart, frames continue at the usual distance.
    """
    gaps = np.diff(times)
    is_jump = gaps > most
    if is_jump.any() and not is_jump.all():
        gaps[is_jump] = int(np.median(gaps[~is_jump]))
        times = times[0] + np.concatenate([[0], np.cumsum(gaps)])
    return times
