"""The samples of a split in packed arrays: which files there are and what class each belongs to.

A million rows cost a few allocations, and forked loader workers share their memory: a list of objects would be
copied page by page, as every look at an object writes its reference count.
"""

import logging
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mvrec.data.archive import ArchiveMember
from mvrec.data.class_names import ClassNames, class_names_of, normalised, wordnet_aliases
from mvrec.data.lists import Row
from mvrec.errors import UserError

NAMED = 5  # classes that a warning names before it counts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One row: a file, its class, and optionally the part of it that counts.

    Attributes:
        path: The file, or the member of a tar.
        label: Class index.
        start_seconds: Where the action starts; `None` for the whole file.
        end_seconds: Where it ends; `None` for the whole file.
    """

    path: Path | ArchiveMember
    label: int
    start_seconds: float | None = None
    end_seconds: float | None = None


class SampleIndex:
    """An immutable sequence of `Sample`s with the names of their classes.

    Rows that stand there twice stay and are counted in a warning; classes without a row are named in another.

    Args:
        rows: What was read from a list or found in folders. They are taken one by one and not kept.
        root: Relative paths are relative to it.
        class_names: Names in label order. A row's label is one of them but for spelling (see `normalised`), or a
            number below their count; with ImageNet's 1000 names it may be a WordNet id. By default the names are the
            labels themselves, sorted, or all numbers up to the highest.
        name: What warnings call the rows: "train" and so on.

    Attributes:
        root: As passed.
        classes: The names of the classes, and what labels mean them; for other splits.
        class_names: Names in label order.
        labels: int32 (rows,).

    Raises:
        UserError: A label that is no class, with the row's place and the nearest name; a file with two labels; a
            path in a tar that is not there.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        *,
        root: Path,
        class_names: Sequence[str] | ClassNames | None = None,
        name: str = "",
    ) -> None:
        self.root = root
        packed = _Packing(root)
        for row in rows:
            packed.add(row)
        labels = packed.labels_seen()
        known = class_names
        if not isinstance(known, ClassNames):
            names = class_names_of(labels) if known is None else known
            known = ClassNames(names, aliases=wordnet_aliases(labels, names, where=packed.first_source))
        self.classes = known
        numbers = [known.number(label, where=where) for label, where in labels.items()]
        self.class_names = known.names
        self.labels = np.asarray(numbers, dtype=np.int32)[np.frombuffer(packed.labels, dtype=np.int32)]
        self._bytes = np.frombuffer(packed.paths, dtype=np.uint8)
        self._ends = np.frombuffer(packed.ends, dtype=np.int64)
        self._spans = np.frombuffer(packed.spans, dtype=np.float32).reshape(-1, 2) if packed.has_spans else None
        self._places = np.frombuffer(packed.places, dtype=np.int64).reshape(-1, 3) if packed.has_places else None
        repeated = _repeated_rows(self, packed)
        self._warn(name, repeated)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> Sample:
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of an index of {len(self)} rows")
        return Sample(self._path(number), int(self.labels[number]), *self._span(number))

    def __iter__(self) -> Iterator[Sample]:
        return (self[number] for number in range(len(self)))

    def class_counts(self) -> np.ndarray:
        """How many rows each class has, in label order: int64 (classes,)."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    @property
    def nbytes(self) -> int:
        """Bytes of the packed arrays."""
        arrays = (self._bytes, self._ends, self.labels, self._spans, self._places)
        return sum(values.nbytes for values in arrays if values is not None)

    def _name(self, number: int) -> bytes:
        begin = self._ends[number - 1] if number else 0
        return self._bytes[begin : self._ends[number]].tobytes()

    def _path(self, number: int) -> Path | ArchiveMember:
        name = self._name(number)
        if self._places is not None and self._places[number, 0] >= 0:
            offset, size, cut = (int(value) for value in self._places[number])
            return ArchiveMember(self.root / _decoded(name[:cut]), _decoded(name[cut + 1 :]), offset, size)
        return self.root / _decoded(name)

    def _span(self, number: int) -> tuple[float | None, float | None]:
        if self._spans is None:
            return None, None
        start, end = (None if math.isnan(second) else float(second) for second in self._spans[number])
        return start, end

    def _warn(self, name: str, repeated: int) -> None:
        beginning = f"{self.root}{', ' if name else ''}{name}"
        if repeated:
            log.warning("%s: %d of %d rows repeat another one and count again", beginning, repeated, len(self))
        missing = np.flatnonzero(self.class_counts() == 0).tolist()
        if missing and len(self):
            named = ", ".join(repr(self.class_names[number]) for number in missing[:NAMED])
            more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
            count = len(self.class_names)
            log.warning("%s: no samples for %d of %d classes: %s%s", beginning, len(missing), count, named, more)
        alike: dict[str, str] = {}
        for label in self.class_names:
            other = alike.setdefault(normalised(label), label)
            if other != label:
                log.warning("%s: %r and %r are two classes that only spelling tells apart", beginning, other, label)


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


class _Packing:
    """Arrays that grow row by row; no Python object per row stays behind."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = bytearray()
        self.ends, self.labels, self.lines = array("q"), array("i"), array("i")
        self.spans, self.places = array("f"), array("q")
        self.has_spans = self.has_places = False
        self.sources: list[tuple[int, str]] = []  # first row of each run of rows with one source
        self._numbers: dict[str, int] = {}  # labels in the order of their first rows, which `_firsts` has
        self._firsts: list[str] = []
        self._archives: dict[str, int] = {}

    @property
    def first_source(self) -> str:
        return self.sources[0][1] if self.sources else ""

    def add(self, row: Row) -> None:
        number = self._numbers.get(row.label)
        if number is None:
            number = self._numbers[row.label] = len(self._firsts)
            self._firsts.append(row.where)
        if not self.sources or self.sources[-1][1] != row.source:
            self.sources.append((len(self.ends), row.source))
        self.paths += row.path.encode("utf-8", "surrogateescape")
        self.ends.append(len(self.paths))
        self.labels.append(number)
        self.lines.append(row.line)
        self._add_span(row)
        if row.offset < 0 and ".tar/" in row.path and self._archive_end(row.path) >= 0:
            raise UserError(f"{row.where}: {row.path!r} lies in a tar: the columns offset and size must say where")
        if row.offset >= 0 or self.has_places:
            self._add_place(row)

    def _add_span(self, row: Row) -> None:
        spanned = not (math.isnan(row.start_seconds) and math.isnan(row.end_seconds))
        if spanned and not self.has_spans:
            self.spans.extend([math.nan] * (2 * (len(self.ends) - 1)))
            self.has_spans = True
        if self.has_spans:
            self.spans.append(row.start_seconds)
            self.spans.append(row.end_seconds)

    def _add_place(self, row: Row) -> None:
        if not self.has_places:
            self.places.extend([-1] * (3 * (len(self.ends) - 1)))
            self.has_places = True
        cut = -1
        if row.offset >= 0:
            cut = self._archive_end(row.path)
            if cut < 0:
                raise UserError(
                    f"{row.where}: {row.path!r} has an offset, but no part of it is a tar below {self.root}"
                )
        self.places.extend((row.offset, row.size, cut))

    def _archive_end(self, path: str) -> int:
        """Bytes of a path up to the first part that is a tar; -1 where no part is. Each is looked for once."""
        place = -1
        while (place := path.find(".tar/", place + 1)) >= 0:
            archive = path[: place + len(".tar")]
            if archive not in self._archives:
                there = (self.root / archive).is_file()
                self._archives[archive] = len(archive.encode("utf-8", "surrogateescape")) if there else -1
            if self._archives[archive] >= 0:
                return self._archives[archive]
        return -1

    def labels_seen(self) -> Mapping[str, str]:
        """The labels, each with the place of its first row."""
        return dict(zip(self._numbers, self._firsts, strict=True))

    def where(self, number: int) -> str:
        """The place of a row."""
        source = next(source for first, source in reversed(self.sources) if first <= number)
        return Row("", "", source=source, line=self.lines[number]).where


def _repeated_rows(index: SampleIndex, packed: _Packing) -> int:
    """How many rows repeat the file and the span of an earlier one.

    Raises:
        UserError: Two such rows with different labels.
    """
    # Hashes find the few rows to compare; a set of a million paths would take more memory than the index.
    hashes = np.fromiter((hash(index._name(number)) for number in range(len(index))), np.int64, len(index))
    values, counts = np.unique(hashes, return_counts=True)
    suspects = np.flatnonzero(np.isin(hashes, values[counts > 1]))
    first: dict[tuple[bytes, float | None, float | None], int] = {}
    repeated = 0
    for number in suspects.tolist():
        earlier = first.setdefault((index._name(number), *index._span(number)), number)
        if earlier == number:
            continue
        repeated += 1
        ours, theirs = (index.class_names[int(index.labels[row])] for row in (number, earlier))
        if ours != theirs:
            name = repr(_decoded(index._name(number)))
            raise UserError(
                f"{packed.where(number)}: {name} is {ours!r} here and {theirs!r} at {packed.where(earlier)}"
            )
    return repeated
