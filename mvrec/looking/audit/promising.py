"""A rough look at many pairs of files at once, before the few that may be copies are compared in detail."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mvrec.looking.audit.looks import COMPARED, PARTS, SMALL, Bits, Floats, Look, shrunk

MOST_BITS = 12  # of 64, by which the hashes of a candidate's best frames may differ
ROUGH_LIKENESS = 0.85  # correlation of small pictures before the sides of a cut are adjusted
LEAST_LIKENESS = 0.95  # correlation of small pictures
PIECE_LIKENESS = 0.9  # of pictures of half the sides
LEAST_PIECE_FRAMES = 3  # of each video, that are like one of the other
AT_ONCE = 4000  # pairs

_BIT_COUNTS = np.array([number.bit_count() for number in range(1 << 16)], np.uint8)


def differing_bits(first: Bits, second: Bits) -> npt.NDArray[np.int64]:
    """Return the number of bits in which hashes (...) differ; numpy 1 has no function for it."""
    differing = np.ascontiguousarray(first ^ second)
    return _BIT_COUNTS[differing.view(np.uint16).reshape(*differing.shape, 4)].sum(-1, dtype=np.int64)


def promising(looks: Mapping[int, Look], pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the pairs whose whole pictures, parts or moments are roughly alike.

    Args:
        looks: Files of one kind, videos or images, by number.
        pairs: Numbers of two files each.
    """
    candidates: list[tuple[int, int]] = []
    for begin in range(0, len(pairs), AT_ONCE):
        part = pairs[begin : begin + AT_ONCE]
        first, second = ([looks[pair[side]] for pair in part] for side in (0, 1))
        candidates += [pair for pair, is_alike in zip(part, _are_alike(first, second), strict=True) if is_alike]
    return candidates


def _are_alike(first: Sequence[Look], second: Sequence[Look]) -> npt.NDArray[np.bool_]:
    """Return for each pair whether it is roughly alike: bool (n,)."""
    pictures = [np.stack([look.pictures for look in side]) for side in (first, second)]  # (n, M, h, w) each
    moments = sorted({int(share * pictures[0].shape[1]) for share in COMPARED})
    whole = [normed(of_side[:, moments]) for of_side in pictures]  # (n, C, d) each
    alike: npt.NDArray[np.bool_] = (whole[0] * whole[1]).sum(-1).min(1) >= ROUGH_LIKENESS
    alike |= _parts_are_alike(first, whole[0], second) | _parts_are_alike(second, whole[1], first)
    if pictures[0].shape[1] > 1 and len(rows := np.flatnonzero(~alike)):
        near = np.matmul(*(_halved(of_side[rows], side) for side, of_side in enumerate(pictures))) >= PIECE_LIKENESS
        alike[rows] = (near.any(1).sum(1) >= LEAST_PIECE_FRAMES) & (near.any(2).sum(1) >= LEAST_PIECE_FRAMES)
    return alike


def _halved(pictures: npt.NDArray[np.uint8], side: int) -> Floats:
    """Return pictures (n, M, h, w) of half the sides as rows (n, M, d), or for the second side as columns (n, d, M)."""
    high = pictures[:, :, ::2].astype(np.uint16) + pictures[:, :, 1::2]
    rows = normed(high[..., ::2] + high[..., 1::2])
    return rows.transpose(0, 2, 1) if side else rows


def _parts_are_alike(wholes: Sequence[Look], pictures: Floats, others: Sequence[Look]) -> npt.NDArray[np.bool_]:
    """Return for each pair whether a part of the other file is roughly like the first one, whole: bool (n,)."""
    hashes = np.stack([look.hashes[0] for look in wholes])  # (n, C)
    of_parts = np.stack([look.hashes[1:] for look in others])  # (n, PARTS - 1, C)
    is_near: Any = (differing_bits(of_parts, hashes[:, None]) <= MOST_BITS).any(2)  # bool (n, PARTS - 1)
    alike = np.zeros(len(wholes), bool)
    for number in np.flatnonzero(is_near.any(0)).tolist():
        rows = np.flatnonzero(is_near[:, number] & ~alike)
        if not len(rows):
            continue
        large = np.stack([others[row].large for row in rows.tolist()])  # (r, C, h, w)
        squares = shrunk(large.reshape(-1, *large.shape[2:]), SMALL, PARTS[1 + number])
        parts = normed(squares.reshape(*large.shape[:2], SMALL, SMALL))
        alike[rows] = (parts * pictures[rows]).sum(-1).min(1) >= ROUGH_LIKENESS
    return alike


def normed(pictures: npt.NDArray[Any]) -> Floats:
    """Return pictures (..., h, w) as rows (..., h * w) of mean 0 and length 1, plain ones as 0."""
    rows = pictures.reshape(*pictures.shape[:-2], -1).astype(np.float32)
    rows -= rows.mean(-1, keepdims=True)
    lengths = np.sqrt(np.einsum("...d,...d->...", rows, rows))[..., None]
    rows /= np.where(lengths > 0, lengths, 1)
    return rows
