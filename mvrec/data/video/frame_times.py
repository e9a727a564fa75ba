"""When the frames of a file are shown, and from where each can be decoded, worked out from its packets alone.

A frame found by its time has to be the frame that decoding from the start brings at that place. That is so where each
packet is one picture that is shown at the packet's time, and where decoding begins at a picture that needs none before
it. Everything that is not surely of this kind is for the decoder to count.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mvrec.data.video.pictures import Pictures
from mvrec.data.video.video import Ints

if TYPE_CHECKING:
    from av.packet import Packet

# By how many places a frame may be shown earlier or later than it is stored.
_MOST_REORDERED = 16
# Ticks between two frames: hours or days. FLV has no times before 0 and makes a late one of each.
_OVERFLOW = 2**30


def _no_times() -> Ints:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class Timing:
    """The times of a stream's packets, in ticks of the stream.

    Attributes:
        shown: those of the frames that are shown, ascending, or None where a frame can only be found by counting from
            the start.
        keys: those of the frames from which decoding can begin, ascending.
        key_seeks: what to ask a seek for to land on each of them.
        key_places: how many packets are stored before each of them.
        stored: those of all packets, as they are stored.
        sizes: bytes of all packets.
        is_plain: each packet is a frame that is shown, decoding can begin at each key frame, and no frame is shown
            before the key frame after which it is stored.
        is_listed: tables said so, and packets have to confirm. Whether decoding can begin at a key frame is yet to be
            seen there.
        key_bytes: (keys, 2) where each key frame begins in the file and how many bytes it has, if listed.
        has_head: the first key stands for the start of the file, of which the decoder shows some frames although it
            lacks what they need.
        counted: when the frames are shown by the decoder, where they can only be found by counting; None where it
            does not tell.
        num_counted: how many these are.
        last: for how long the last frame is shown; 0 where nobody knows.
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
        """How many frames are shown."""
        return self.num_counted if self.shown is None else len(self.shown)


@dataclass
class Packets:
    """What a look at every packet has shown.

    Attributes:
        pictures: looks into them.
        stored: their times.
        sizes: their bytes.
        hidden: the places of those that an edit list hides.
        entries: place, time and seek of each from which decoding can begin.
        num_keys: how many the container calls key frames.
        last: time and length of the one shown last.
        are_frames: each is one whole picture that is shown, coded like all others.
        has_late: some may be shown before others that are stored before them.
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
        """Note a packet; `seek_by_pts` says that a seek looks for the time at which a frame is shown."""
        seen, time = self.pictures.look(bytes(packet)), packet.pts
        if packet.is_keyframe and seen.is_entry and time is not None:
            seek = time if seek_by_pts or packet.dts is None else packet.dts
            self.entries.append((len(self.stored), time, seek))
        if packet.is_discard:
            self.hidden.append(len(self.stored))
        elif time is not None:
            self.last = max(self.last, (time, packet.duration or 0))
        self.num_keys += packet.is_keyframe
        # Of what was lost on the way a decoder makes something out of whatever it has decoded before.
        self.are_frames &= seen.is_one and not packet.is_corrupt and not packet.has_sidedata("new_extradata")
        self.has_late |= seen.is_late
        self.stored.append(time)
        self.sizes.append(packet.size)

    def timing(self, *, one_edit: bool) -> tuple[Timing, int | None]:
        """When the frames are shown, as far as the packets tell.

        Args:
            one_edit: what is hidden is before the first frame and after the last, but not between them.

        Returns:
            The timing, and where frames may be shown before the first from which decoding can begin, the time of that
            first one.
        """
        unknown = Timing(last=self.last[1])
        if not (self.pictures.known and self.are_frames and self.entries) or (self.hidden and not one_edit):
            return unknown, None
        if None in self.stored:
            return unknown, None
        stored = np.array(self.stored, np.int64)
        places, keys, seeks = np.array(self.entries, np.int64).T
        is_shown = np.ones(len(stored), bool)
        is_shown[self.hidden] = False
        if not _in_decoders_order(stored, places, has_late=self.has_late):
            return unknown, None
        # What is shown before the first entry lacks its reference: the decoder shows it or not.
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
        table: (N, 5) for each packet when it is to be decoded, whether the container calls it a key frame, whether it
            is hidden, its bytes, and where they begin.
        offsets: (N,) by how much later each is shown, or None where all of them are 0.
        first: when the first is to be decoded, and when it is shown.
        num_bytes: those of the file.
        duration: that of the stream; 0 where nobody knows.
        reorders: frames may be shown in another order than that in which they are stored.
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
    """Return the timing of a file that shows frames at times `head` before the first from which decoding can begin."""
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
    """Return whether the times of packets rise as the decoder shows them."""
    ascending = np.sort(stored)
    gaps = np.diff(ascending)
    if (gaps == 0).any() or (gaps > _OVERFLOW).any():
        return False
    order = np.searchsorted(ascending, stored)
    moved = np.abs(order - np.arange(len(stored)))
    if bool(moved.any()) != has_late:
        return False
    # Nothing stored before an entry is shown after it.
    newest = np.maximum.accumulate(stored)
    later = places[places > 0]
    return moved.max() <= _MOST_REORDERED and bool((newest[later - 1] < stored[later]).all())


def in_shown_order(times: Ints) -> Ints | None:
    """Return the times of frames in the order in which a decoder shows them; None if they are not usable.

    Where a container knows only the order in which frames are stored, each comes with the time of another one.
    """
    ascending = np.sort(times)
    moved = np.abs(np.searchsorted(ascending, times) - np.arange(len(times)))
    usable = (np.diff(ascending) > 0).all() and moved.max(initial=0) <= _MOST_REORDERED
    return ascending if usable else None


def without_jumps(times: Ints, most: float) -> Ints:
    """Return ascending times from a clock that restarted wherever two frames lie more than `most` ticks apart.

    What follows comes as long after what was before as frames usually do.
    """
    gaps = np.diff(times)
    is_jump = gaps > most
    if is_jump.any() and not is_jump.all():
        gaps[is_jump] = int(np.median(gaps[~is_jump]))
        times = times[0] + np.concatenate([[0], np.cumsum(gaps)])
    return times
