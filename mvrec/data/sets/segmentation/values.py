"""From the values in masks and the names of classes to the class of each value."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mvrec.data.loading.masks import MASK_VALUES, MaskCoding, MaskError, value_counts
from mvrec.data.views.targets import NOT_LABELLED
from mvrec.errors import DecodeError, UserError

SHOWN = 8  # values that a message shows, the rest is counted
_MOST_UNNAMED = 64  # values without names; more are a photo or smoothed borders, not classes
_FAR = 255  # the value of objects in masks of 0 and 255

ReadMask = Callable[[Path], npt.NDArray[np.uint8]]


@dataclass
class ValueCounts:
    """The values of some masks.

    Attributes:
        pixels: int64 (256,), pixels of each value.
        masks: int64 (256,), masks with each value.
        first: The first mask with each value.
        sets: The sets of values that masks have, with the number of masks and the first one.
        unreadable: Masks that cannot be read.
        count: Masks that were read.
    """

    pixels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(MASK_VALUES, np.int64))
    masks: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(MASK_VALUES, np.int64))
    first: dict[int, Path] = field(default_factory=dict)
    sets: dict[frozenset[int], tuple[int, Path]] = field(default_factory=dict)
    unreadable: list[DecodeError] = field(default_factory=list)
    count: int = 0

    @property
    def present(self) -> list[int]:
        """The values that occur, in ascending order."""
        return [int(value) for value in np.flatnonzero(self.pixels)]

    def add(self, path: Path, pixels: npt.NDArray[np.int64]) -> None:
        """Add a mask with these numbers of pixels per value."""
        self.pixels += pixels
        self.masks += pixels > 0
        self.count += 1
        values = frozenset(np.flatnonzero(pixels).tolist())
        for value in values:
            self.first.setdefault(value, path)
        number, first = self.sets.get(values, (0, path))
        self.sets[values] = number + 1, first

    def unlabelled(self, coding: MaskCoding) -> tuple[int, Path | None]:
        """Return the number of masks without a labelled pixel, and one of them."""
        masks = [entry for values, entry in self.sets.items() if values <= set(coding.ignored)]
        return sum(number for number, _ in masks), next((path for _, path in masks), None)


def count_values(paths: Sequence[Path], read: ReadMask, *, threads: int) -> ValueCounts:
    """Count the values of masks.

    Args:
        paths: The masks.
        read: Reads one.
        threads: Number of masks that are read at once.

    Raises:
        UserError: A mask has a form without class numbers, such as RGB.
    """
    counts = ValueCounts()

    def counted(path: Path) -> npt.NDArray[np.int64] | DecodeError:
        try:
            return value_counts(read(path))
        except DecodeError as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        for path, result in zip(paths, pool.map(counted, paths), strict=True):
            if isinstance(result, MaskError):
                pool.shutdown(cancel_futures=True)
                raise UserError(str(result))
            if isinstance(result, DecodeError):
                counts.unreadable.append(result)
            else:
                counts.add(path, result)
    return counts


@dataclass(frozen=True)
class ClassList:
    """Classes as a user names them.

    Attributes:
        names: In label order; `None` if only the masks tell.
        values: The value of each class; `None` for 0, 1, 2 and so on.
        ignored: Values of pixels that are not labelled, besides 255.
        zero_is_none: Whether 0 is not labelled and the first class has the value 1 (`reduce_zero_label`).
    """

    names: Sequence[str] | None = None
    values: Sequence[int] | None = None
    ignored: Sequence[int] = ()
    zero_is_none: bool = False

    @property
    def needs_all_masks(self) -> bool:
        """Whether every mask counts: two classes may be 0 and 255, and without names the values are the classes."""
        return self.names is None or (len(self.names) == 2 and self.values is None)

    def coding(self, counts: ValueCounts, *, where: str, strict: bool = True) -> MaskCoding:
        """Return the class of each value.

        Args:
            counts: The values of the masks, or of some of them.
            where: The data set, for messages.
            strict: Whether a value of no class is an error.

        Raises:
            UserError: Too many classes, or with `strict` a value of no class.
        """
        ignored = {*self.ignored, *((0,) if self.zero_is_none else ())}
        remaining = [value for value in counts.present if value not in ignored]
        far = not self.zero_is_none and self.values is None and _FAR in remaining and set(remaining) <= {0, _FAR}
        far = far and (0 in remaining if self.names is None else len(self.names) == 2)
        if not far and NOT_LABELLED not in (self.values or ()):
            ignored.add(NOT_LABELLED)
            remaining = [value for value in remaining if value != NOT_LABELLED]
        if self.names is None:
            names, values = [str(value) for value in remaining], remaining
            _check_unnamed(values, counts, where)
        else:
            names, values = list(self.names), self._values(far)
        if len(names) >= NOT_LABELLED:
            raise UserError(f"{where}: {len(names)} classes; masks of 8 bits have {NOT_LABELLED - 1} at most")
        coding = MaskCoding(names, values, sorted(ignored))
        for value in counts.present if strict else ():  # the first mask with a strange value
            if (cause := coding.fault(np.where(np.arange(MASK_VALUES) == value, counts.pixels, 0))) is not None:
                raise UserError(f"{counts.first[value]}: {cause}")
        return coding

    def _values(self, far: bool) -> list[int]:
        assert self.names is not None
        if self.values is not None:
            return list(self.values)
        if far:
            return [0, _FAR]
        start = 1 if self.zero_is_none else 0
        return list(range(start, start + len(self.names)))


def _check_unnamed(values: Sequence[int], counts: ValueCounts, where: str) -> None:
    if len(values) > _MOST_UNNAMED:
        example = f"{values[-1]} in {counts.first[values[-1]]}"
        raise UserError(
            f"{where}: the masks have {len(values)} different values, such as {example}; "
            "if these are classes, name them in classes.txt, else save the masks without smoothed borders"
        )
    if not values:
        raise UserError(f"{where}: no labelled pixel in {counts.count} masks")


def values_text(counts: ValueCounts, coding: MaskCoding) -> str:
    """Return the values of masks with their classes and their shares of the pixels, the largest first."""
    total = max(int(counts.pixels.sum()), 1)
    name_of = dict(zip(coding.values, coding.names, strict=True))
    by_size = sorted(counts.present, key=lambda value: -int(counts.pixels[value]))
    parts = []
    for value in by_size[:SHOWN]:
        name = "not labelled" if value in coding.ignored else name_of[value]
        name = "" if name == str(value) else f" {name}"
        share = 100 * int(counts.pixels[value]) / total
        parts.append(f"{value}{name} {share:.{0 if share >= 10 else 1}f} %")
    more = f" and {len(by_size) - SHOWN} more values" if len(by_size) > SHOWN else ""
    return ", ".join(parts) + more
