"""The outlines and masks of objects in packed arrays.

Run lengths are those of COCO: https://github.com/cocodataset/cocoapi, common/maskApi.c.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

HUNDREDTHS = 100
_MOST_HUNDREDTHS = 2**31 - 1
_CHUNK = 1 << 16  # objects that are put into another order at a time
_SIGN, _MORE, _BITS = 16, 32, 5  # of a character: 5 bits, the highest of which is the sign, and one for more to come
_FIRST = 48  # the character of 0
_MOST_CHARACTERS = 13  # of a number of 64 bits
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Shapes:
    """The shape of each object: polygons, run lengths, or none.

    Attributes:
        ring_starts: int64 (N + 1,), the first polygon of each object.
        point_starts: int64 (R + 1,), the first number of each polygon in `coordinates`.
        coordinates: x and y in turn, (P,): int32 hundredths of a pixel where these give all numbers exactly, else
            float64 pixels.
        run_starts: int64 (N + 1,), the first byte of each object in `runs`.
        runs: uint8 (S,), COCO's compressed run lengths.
    """

    ring_starts: npt.NDArray[np.int64]
    point_starts: npt.NDArray[np.int64]
    coordinates: npt.NDArray[np.int32] | Floats
    run_starts: npt.NDArray[np.int64]
    runs: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        for values in self.arrays():
            values.setflags(write=False)

    def __len__(self) -> int:
        return len(self.ring_starts) - 1

    def arrays(self) -> tuple[npt.NDArray[np.generic], ...]:
        """Return all arrays."""
        return self.ring_starts, self.point_starts, self.coordinates, self.run_starts, self.runs

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Whether each object has a shape: bool (N,)."""
        return (np.diff(self.ring_starts) > 0) | (np.diff(self.run_starts) > 0)

    @property
    def least_numbers(self) -> npt.NDArray[np.int64]:
        """The numbers of each object's shortest polygon, int64 (N,); -1 without polygons."""
        counts = np.diff(self.ring_starts)
        least = np.full(len(self), -1, np.int64)
        if (mask := counts > 0).any():
            least[mask] = np.minimum.reduceat(np.diff(self.point_starts), self.ring_starts[:-1][mask])
        return least

    def polygons(self, number: int) -> list[Floats]:
        """Return the polygons of an object, in pixels: a list of float64 (n, 2), x and y."""
        first, last = self.ring_starts[number], self.ring_starts[number + 1]
        starts = self.point_starts[first : last + 1]
        return [self._pixels(begin, end).reshape(-1, 2) for begin, end in pairwise(starts)]

    def compressed(self, number: int) -> bytes:
        """Return the compressed run lengths of an object; b"" without them."""
        return self.runs[self.run_starts[number] : self.run_starts[number + 1]].tobytes()

    def part(self, first: int, last: int) -> "Shapes":
        """Return the shapes of the objects `first` to `last - 1` without the other ones' memory."""
        rings = self.ring_starts[first : last + 1]
        points, runs = self.point_starts[rings[0] : rings[-1] + 1], self.run_starts[first : last + 1]
        return Shapes(
            rings - rings[0],
            points - points[0],
            self.coordinates[points[0] : points[-1]],
            runs - runs[0],
            self.runs[runs[0] : runs[-1]],
        )

    def taken(self, order: npt.NDArray[np.int64]) -> "Shapes":
        """Return the shapes of some objects in an order: int64 (M,)."""
        if np.array_equal(order, np.arange(len(self))):
            return self
        chunks = [order[begin : begin + _CHUNK] for begin in range(0, len(order), _CHUNK)]
        rings = [_positions(self.ring_starts, chunk) for chunk in chunks]
        numbers: list[npt.NDArray[np.int32] | Floats] = [self.coordinates[:0]]
        numbers += [self.coordinates[_positions(self.point_starts, chunk)] for chunk in rings]
        coordinates: Any = np.concatenate(numbers)
        return Shapes(
            _starts(np.diff(self.ring_starts)[order]),
            _starts(np.concatenate([np.diff(self.point_starts)[chunk] for chunk in [*rings, order[:0]]])),
            coordinates,
            _starts(np.diff(self.run_starts)[order]),
            np.concatenate([self.runs[_positions(self.run_starts, chunk)] for chunk in chunks] + [self.runs[:0]]),
        )

    def _pixels(self, begin: int, end: int) -> Floats:
        values = self.coordinates[begin:end]
        return values / HUNDREDTHS if values.dtype == np.int32 else np.array(values, np.float64)


def _starts(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def _positions(starts: npt.NDArray[np.int64], order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the places of all elements of some entries, entry by entry: int64 (E,)."""
    counts = np.diff(starts)[order]
    return np.arange(counts.sum()) + np.repeat(starts[:-1][order] - _starts(counts)[:-1], counts)


class ShapePacking:
    """Arrays of shapes that grow object by object."""

    def __init__(self) -> None:
        self._rings, self._points, self._run_ends = array("q", [0]), array("q", [0]), array("q", [0])
        self._coordinates = array("d")
        self._runs = bytearray()

    def add(self, polygons: Sequence[Sequence[float]] = (), runs: bytes = b"") -> None:
        """Add the shape of the next object.

        Args:
            polygons: x and y in turn, for each polygon.
            runs: Compressed run lengths.
        """
        for polygon in polygons:
            self._coordinates.extend(polygon)
            self._points.append(len(self._coordinates))
        self._runs += runs
        self._rings.append(len(self._points) - 1)
        self._run_ends.append(len(self._runs))

    def shapes(self) -> Shapes:
        """Return the packed shapes."""
        return Shapes(
            np.frombuffer(self._rings, np.int64),
            np.frombuffer(self._points, np.int64),
            _exact(np.frombuffer(self._coordinates, np.float64)),
            np.frombuffer(self._run_ends, np.int64),
            np.frombuffer(bytes(self._runs), np.uint8),
        )


def _exact(values: Floats) -> npt.NDArray[np.int32] | Floats:
    """Return numbers as int32 hundredths if these give back every one of them bit for bit."""
    packed = np.empty(len(values), np.int32)
    for place in _slices(len(values)):
        scaled = np.rint(values[place] * HUNDREDTHS)
        if not (np.abs(scaled) <= _MOST_HUNDREDTHS).all() or (scaled / HUNDREDTHS != values[place]).any():
            return values
        packed[place] = scaled
    return packed


def _slices(count: int) -> Iterator[slice]:
    step = 1 << 22
    return (slice(begin, begin + step) for begin in range(0, count, step))


def polygon_area(polygons: Sequence[Sequence[float]]) -> float:
    """Return the area that some polygons, x and y in turn, enclose together, in square pixels."""
    area = 0.0
    for polygon in polygons:
        x, y = np.asarray(polygon[0::2], np.float64), np.asarray(polygon[1::2], np.float64)
        area += abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    return area


def box_of_polygons(polygons: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """Return the box around some polygons: x, y, width and height."""
    x = [value for polygon in polygons for value in polygon[0::2]]
    y = [value for polygon in polygons for value in polygon[1::2]]
    return min(x), min(y), max(x) - min(x), max(y) - min(y)


def encoded_polygons(polygons: Sequence[npt.NDArray[np.float64]], height: int, width: int) -> dict[str, Any]:
    """Return the mask that some polygons fill together, as pycocotools fills them.

    Args:
        polygons: float64 (n, 2) each, with three points or more; others fill nothing.
        height: Of the mask in pixels.
        width: The same.
    """
    from faster_coco_eval.core import mask

    flat = [polygon.ravel().tolist() for polygon in polygons if len(polygon) >= 3]
    if not flat:
        return {"size": [height, width], "counts": compressed([height * width], height, width)}
    filled: dict[str, Any] = mask.merge(mask.frPyObjects(flat, height, width))
    return filled


def compressed(counts: Sequence[int], height: int, width: int) -> bytes:
    """Return run lengths, pixels out and in the mask in turn by columns, in their compressed form."""
    from faster_coco_eval.core import mask

    runs: bytes = mask.frPyObjects({"size": [height, width], "counts": list(counts)}, height, width)["counts"]
    return runs


def box_of_runs(runs: bytes, height: int, width: int) -> tuple[float, float, float, float]:
    """Return the box around a mask: x, y, width and height."""
    from faster_coco_eval.core import mask

    x, y, box_width, box_height = np.asarray(mask.toBbox({"size": [height, width], "counts": runs})).ravel().tolist()
    return x, y, box_width, box_height


def run_lengths(runs: bytes) -> npt.NDArray[np.int64] | None:
    """Return the lengths of compressed runs, int64 (n,); `None` for bytes that are none."""
    digits = np.frombuffer(runs, np.uint8).astype(np.int64) - _FIRST
    if not len(digits) or digits.min() < 0 or digits.max() >= 2 * _MORE or digits[-1] & _MORE:
        return None
    last = np.flatnonzero(~digits & _MORE)  # the highest bits of each number
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() >= _MOST_CHARACTERS:
        return None
    place = np.arange(len(digits)) - np.repeat(first, last - first + 1)
    values = np.add.reduceat((digits & (_MORE - 1)) << (_BITS * place), first)
    values -= np.where(digits[last] & _SIGN, 1 << (_BITS * (last - first + 1)), 0)
    # From the fourth on a number is the difference to the last but one.
    for parity in (1, 2):
        values[parity::2] = np.cumsum(values[parity::2])
    return values
