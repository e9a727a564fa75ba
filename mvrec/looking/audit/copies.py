"""Exact and near copies among many files, found by an index of hashes and decided by small pictures."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mvrec.looking.audit.looks import PARTS, SMALL, Bits, Floats, Look, Part, shrunk
from mvrec.looking.audit.promising import (
    LEAST_LIKENESS,
    LEAST_PIECE_FRAMES,
    MOST_BITS,
    ROUGH_LIKENESS,
    differing_bits,
    normed,
    promising,
)

BLOCKS = (11, 11, 11, 11, 10, 10)  # bits; hashes that differ in up to 4 bits have two blocks in common
LEAST_CUT_LIKENESS = 0.97  # of parts, of which there are many to choose from
LEAST_PIECE_LIKENESS = 0.975  # of pieces in time, of which there are several to choose from
LEAST_IMAGE_LIKENESS = 0.98  # of images, whole or in part: written digits and signs look alike at one moment
MOST_DIFFERENT = 6.0  # levels of 8 bits by which colours of the compared frames differ, on average
LEAST_MOTION = 1.5  # grey levels that change between two moments, for their change to be compared
LEAST_MOTION_LIKENESS = 0.8
MOST_ALIKE = 200  # hashes with two blocks in common: a title card or a black border says nothing
WIDTHS = tuple(number / 80 for number in range(-4, 5))  # shares of a frame by which cuts are adjusted
LEAST_ADJUSTED, STEPS = 0.85, (-0.05, -0.025, 0.0, 0.0125, 0.025, 0.05)  # likeness from which on sides move one by one
PIECE_SHARE = 0.5  # of the shorter video, which a common piece covers
PIECE_FRAMES = 5  # compared frames of a common piece, at most
MOST_SHIFTS = 4  # places in time at which a video is tried in another one
CHUNK = 4_000_000  # pairs of hashes compared at a time

WHOLE = ("same bytes", "re-encoded")  # kinds of copies that show all of the other file


class Copy(NamedTuple):
    """Two files that show the same.

    Attributes:
        first: Number of the earlier file.
        second: Number of the later file.
        kind: "same bytes", "re-encoded", "cut", "mirrored", "cut and mirrored" or "a piece of the other".
        likeness: Correlation of their small pictures, 1 for equal ones.
    """

    first: int
    second: int
    kind: str
    likeness: float


def copies(looks: Sequence[Look | None], digests: Sequence[str]) -> list[Copy]:
    """Return all pairs of copies, ordered by their numbers.

    Args:
        looks: What each file shows; `None` for a file that cannot be read.
        digests: A digest of each file's bytes; "" for none.
    """
    pairs: dict[tuple[int, int], Copy] = {}
    same: dict[str, int] = {}
    for number, digest in enumerate(digests):
        if digest and (first := same.setdefault(digest, number)) != number:
            pairs[first, number] = Copy(first, number, "same bytes", 1.0)
    repeated = {copy.second for copy in pairs.values()}
    alone = {number: look for number, look in enumerate(looks) if look is not None and number not in repeated}
    for is_video in (False, True):
        group = {number: look for number, look in alone.items() if (len(look.large) > 1) == is_video}
        for first, second in promising(group, _candidates(group)):
            if (copy := _verified(first, second, group[first], group[second])) is not None:
                pairs[first, second] = copy
    return [pairs[numbers] for numbers in sorted(pairs)]


# -- candidates --------------------------------------------------------------------------------------------------------


class _Hashes(NamedTuple):
    """Hashes (n,) and the number of the file of each."""

    bits: Bits
    files: npt.NDArray[np.int64]


def _candidates(looks: Mapping[int, Look]) -> list[tuple[int, int]]:
    """Return pairs of files of which one, whole, has a hash close to one of the other: whole, a part, or later."""
    whole = _gathered((number, look.hashes[0]) for number, look in looks.items())
    parts = _gathered((number, look.hashes) for number, look in looks.items())
    moments = _gathered((number, look.moments) for number, look in looks.items())
    most = max(looks, default=0) + 1
    codes = np.union1d(_near(whole, parts, most), _near(moments, moments, most))
    return list(zip((codes // most).tolist(), (codes % most).tolist(), strict=True))


def _gathered(hashes: Iterable[tuple[int, Bits]]) -> _Hashes:
    """Return different hashes of each file, without those of plain frames."""
    unique = [(number, np.unique(bits[bits > 0])) for number, bits in hashes]
    counts = [len(bits) for _, bits in unique]
    numbers = np.repeat(np.array([number for number, _ in unique], np.int64), counts)
    return _Hashes(np.concatenate([np.zeros(0, np.uint64), *(bits for _, bits in unique)]), numbers)


def _masks() -> tuple[np.uint64, ...]:
    ends = list(accumulate(BLOCKS))
    blocks = [((1 << size) - 1) << (end - size) for size, end in zip(BLOCKS, ends, strict=True)]
    return tuple(np.uint64(first | second) for first, second in combinations(blocks, 2))


def _near(first: _Hashes, second: _Hashes, most: int) -> npt.NDArray[np.int64]:
    """Return the pairs of files with close hashes, each as `smaller * most + greater`, sorted."""
    codes = [np.zeros(0, np.int64)]
    for mask in _masks():
        order = np.argsort(second.bits & mask, kind="stable")
        keys = (second.bits & mask)[order]
        queries = np.argsort(first.bits & mask, kind="stable")
        begins = np.searchsorted(keys, (first.bits & mask)[queries], "left")
        counts = np.searchsorted(keys, (first.bits & mask)[queries], "right") - begins
        counts[counts > MOST_ALIKE] = 0
        for chunk in _chunks(counts):
            number = counts[chunk]
            ones = np.repeat(queries[chunk], number)
            places = np.arange(len(ones)) - np.repeat(np.cumsum(number) - number, number)
            others = order[np.repeat(begins[chunk], number) + places]
            close = differing_bits(first.bits[ones], second.bits[others]) <= MOST_BITS
            a, b = first.files[ones[close]], second.files[others[close]]
            codes.append(np.unique((np.minimum(a, b) * most + np.maximum(a, b))[a != b]))
    return np.unique(np.concatenate(codes))


def _chunks(counts: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the places of counts above 0 in parts whose counts add up to about `CHUNK`."""
    places = np.flatnonzero(counts)
    if len(places):
        yield from np.split(places, np.flatnonzero(np.diff(np.cumsum(counts[places]) // CHUNK)) + 1)


# -- verdicts ----------------------------------------------------------------------------------------------------------


def _verified(first: int, second: int, base: Look, other: Look) -> Copy | None:
    """Return the copy if the pictures agree: both whole, one whole with a part of the other, or in a piece of time."""
    is_video = len(base.large) > 1
    alike, least = likeness(_small(base), _small(other)), LEAST_LIKENESS if is_video else LEAST_IMAGE_LIKENESS
    if alike >= least and have_like_colours(base, other):
        return Copy(first, second, "re-encoded", alike)
    (alike, part), (whole, cut) = max(
        (_best_part(base, other), (base, other)), (_best_part(other, base), (other, base)), key=lambda best: best[0][0]
    )
    if alike >= (LEAST_CUT_LIKENESS if is_video else LEAST_IMAGE_LIKENESS) and have_like_colours(whole, cut, part):
        kind = " and ".join(name for name, holds in (("cut", part.is_cut), ("mirrored", part.mirrored)) if holds)
        return Copy(first, second, kind, alike)
    alike = _piece_likeness(base, other) if is_video else 0.0
    return Copy(first, second, "a piece of the other", alike) if alike >= LEAST_PIECE_LIKENESS else None


def have_like_colours(whole: Look, other: Look, part: Part = PARTS[0]) -> bool:
    """Return whether the colours of a file and of a part of another one differ as little as those of copies."""
    pictures = [
        shrunk(look.colours.reshape(-1, SMALL, SMALL), SMALL, of) for look, of in ((whole, PARTS[0]), (other, part))
    ]
    return float(np.abs(pictures[0] - pictures[1]).mean()) <= MOST_DIFFERENT


def _small(look: Look, part: Part = PARTS[0]) -> Floats:
    return shrunk(look.large, SMALL, part)


def _best_part(whole: Look, other: Look) -> tuple[float, Part]:
    """Return the part of a file that is most like another one, whole, and how like it is."""
    bits = differing_bits(other.hashes[1:], whole.hashes[0]).min(1)
    near = [PARTS[1 + number] for number in np.flatnonzero(bits <= MOST_BITS).tolist()]
    if not near:
        return 0.0, PARTS[0]
    rows = normed(_small(whole))  # (C, d)
    rough, part = _most_alike(rows, other, near)
    if rough >= ROUGH_LIKENESS and part.is_cut:
        rough, part = _most_alike(rows, other, [part.widened(width) for width in WIDTHS])
    if rough >= LEAST_ADJUSTED:
        for side in Part._fields[:4]:
            moved = [max(getattr(part, side) + step, 0.0) for step in STEPS]
            rough, part = _most_alike(rows, other, [part._replace(**{side: share}) for share in moved])
    return (likeness(_small(whole), _small(other, part)), part) if rough >= LEAST_ADJUSTED else (rough, part)


def _most_alike(rows: Floats, other: Look, parts: Sequence[Part]) -> tuple[float, Part]:
    """Return the least correlation over the moments for the part for which it is greatest, and that part."""
    squares = normed(np.stack([_small(other, part) for part in parts]))  # (parts, C, d)
    alike = (squares * rows).sum(-1).min(1)
    return float(alike.max()), parts[int(alike.argmax())]


def likeness(base: Floats, other: Floats) -> float:
    """Return the least correlation of two files' small pictures (moments, h, w), 0 if they move in another way.

    Recordings of one unmoved camera share their background, so the changes between moments count as well.
    """
    a, b = _rows(base), _rows(other)
    least = float(_correlations(a, b).min())
    if least < LEAST_ADJUSTED or len(a) == 1:
        return least
    x, y = np.diff(a, axis=0), np.diff(b, axis=0)
    moves = np.maximum(x.std(1), y.std(1)) >= LEAST_MOTION
    return least if (_correlations(x, y)[moves] >= LEAST_MOTION_LIKENESS).all() else 0.0


def _rows(pictures: Floats) -> Floats:
    return pictures.reshape(len(pictures), -1).astype(np.float32)


def _piece_likeness(base: Look, other: Look) -> float:
    """Return how like two videos are in the time that they have in common; 0 without such a time.

    A video that hardly moves looks like any other moment of the same camera, so it is no piece of another one.
    """
    alike = normed(base.pictures) @ normed(other.pictures).T  # (M, M)
    places = np.argwhere(alike >= LEAST_LIKENESS)
    shifts: list[float] = []
    for a, b in places[np.argsort(-alike[tuple(places.T)], kind="stable")].tolist():
        shift = float(base.times[a] - other.times[b])
        if len(shifts) < MOST_SHIFTS and all(
            abs(shift - other_shift) > 0.5 / max(base.fps, 1.0) for other_shift in shifts
        ):
            shifts.append(shift)
    return max((_shifted_likeness(base, other, shift) for shift in shifts), default=0.0)


def _shifted_likeness(base: Look, other: Look, shift: float) -> float:
    """Return how like two videos are if the second begins `shift` seconds later; 0 if too little is common."""
    common = min(base.seconds, shift + other.seconds) - max(0.0, shift)
    if common < PIECE_SHARE * min(base.seconds, other.seconds):
        return 0.0
    times = other.times + shift
    gaps = np.abs(base.times[:, None] - times)  # (M, M)
    nearest = gaps.argmin(0)
    inside = np.flatnonzero((times >= 0) & (times <= base.seconds))
    order = inside[np.argsort(gaps[nearest[inside], inside], kind="stable")]
    partners: dict[int, int] = {}  # frames of the first video, and those of the second next to them in time
    for place in order.tolist():
        if len(partners) < PIECE_FRAMES:
            partners.setdefault(int(nearest[place]), place)
    if len(partners) < LEAST_PIECE_FRAMES:
        return 0.0
    first, second = (pictures.astype(np.float32) for pictures in (base.pictures, other.pictures))
    frames = sorted(partners)
    a, b = first[frames], second[[partners[frame] for frame in frames]]
    if np.diff(a.reshape(len(a), -1), axis=0).std(1).max() < LEAST_MOTION:
        return 0.0
    return likeness(a, b) if np.abs(a - b).mean() <= MOST_DIFFERENT else 0.0


def _correlations(x: Floats, y: Floats) -> Floats:
    """Return the correlation of each row of two arrays (n, d): float32 (n,), 0 for a plain row."""
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    correlations: Floats = (x * y).sum(1) / np.where(norms > 0, norms, np.float32(1))
    return correlations
