"""Exact and near copies among many files, found by an index of hashes and decided by small pictures."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mvrec.looking.audit.looks import CUTS, Look

BANDS, BAND_BITS = 4, 16  # hashes that differ in up to 3 bits share a band
MOST_BITS = 12  # of 64, by which the hashes of a candidate's best frames may differ
LEAST_LIKENESS = 0.95  # correlation of small pictures
LEAST_MOTION = 1.5  # grey levels that change between two moments, for their change to be compared
LEAST_MOTION_LIKENESS = 0.8
MOST_IN_BUCKET = 200  # files with one band: a title card or a black border says nothing


class Copy(NamedTuple):
    """Two files that show the same.

    Attributes:
        first: Number of the earlier file.
        second: Number of the later file.
        kind: "same bytes", "re-encoded" or "cut".
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
    for first, second in sorted(_candidates(alone)):
        if (copy := _verified(first, second, alone[first], alone[second])) is not None:
            pairs[first, second] = copy
    return [pairs[numbers] for numbers in sorted(pairs)]


def _candidates(looks: Mapping[int, Look]) -> set[tuple[int, int]]:
    """Return pairs of files of which one, whole, shares a band of a hash with the other, whole or cut."""
    buckets: dict[tuple[int, int], tuple[set[int], set[int]]] = defaultdict(lambda: (set(), set()))
    for number, look in looks.items():
        for cut, moment in np.ndindex(look.hashes.shape):
            for key in _bands(int(look.hashes[cut, moment])):
                buckets[key][cut > 0].add(number)
    pairs: set[tuple[int, int]] = set()
    for whole, cut_files in buckets.values():
        if len(whole) <= MOST_IN_BUCKET and len(cut_files) <= MOST_IN_BUCKET:
            pairs.update((min(a, b), max(a, b)) for a in whole for b in whole | cut_files if a != b)
    return pairs


def _bands(bits: int) -> Iterator[tuple[int, int]]:
    if bits:
        for band in range(BANDS):
            yield band, bits >> (band * BAND_BITS) & ((1 << BAND_BITS) - 1)


def _verified(first: int, second: int, base: Look, other: Look) -> Copy | None:
    """Return the copy if the pictures agree, whole or one whole with the other cut."""
    if base.hashes.shape != other.hashes.shape:
        return None  # an image and a video
    best: Copy | None = None
    for a, b in [(0, 0), *((0, cut) for cut in range(1, len(CUTS))), *((cut, 0) for cut in range(1, len(CUTS)))]:
        bits = min(int(x ^ y).bit_count() for x, y in zip(base.hashes[a], other.hashes[b], strict=True))
        if bits > MOST_BITS:
            continue
        alike = likeness(base.pictures[a], other.pictures[b])
        if alike >= LEAST_LIKENESS and (best is None or alike > best.likeness):
            best = Copy(first, second, "re-encoded" if a == b else "cut", alike)
    return best


def likeness(base: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Return the least correlation of two files' small pictures (moments, h, w), 0 if they move in another way.

    Recordings of one unmoved camera share their background, so the changes between moments count as well.
    """
    a, b = (pictures.reshape(len(pictures), -1).astype(np.float32) for pictures in (base, other))
    for x, y in zip(np.diff(a, axis=0), np.diff(b, axis=0), strict=True):
        moves = max(float(x.std()), float(y.std())) >= LEAST_MOTION
        if moves and _correlation(x, y) < LEAST_MOTION_LIKENESS:
            return 0.0
    return min(_correlation(x, y) for x, y in zip(a, b, strict=True))


def _correlation(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]) -> float:
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norm if norm else 0.0
