"""The samples of a split in packed arrays: files and their classes.

A million rows take a few allocations, and forked loader workers share their memory: a list of objects would be
copied page by page, because every access to an object writes its reference count.
"""

import hashlib
import logging
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mvrec.data.listing.archive import ArchiveMember
from mvrec.data.listing.class_names import ClassNames, class_names_of, spelt_alike, wordnet_aliases
from mvrec.data.listing.label_sets import LabelSets
from mvrec.data.listing.lists import LABEL_SEPARATOR, SEVERAL, Row
from mvrec.data.listing.row_origins import Origins
from mvrec.data.listing.row_targets import RowTargets, TargetOf
from mvrec.data.views.targets import ClassIndex, MultiHot, Target
from mvrec.errors import UserError

NAMED = 5  # classes that a warning names, the rest is counted

_SPAN_COLUMNS = ("start_seconds", "end_seconds")  # of predictions

OTHER_SEPARATORS = (",", "|", "/", "+")  # that lists for other tools have between labels
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One row: a file, its class or classes, and optionally the relevant part of it.

    Attributes:
        path: The file, or the member of a tar.
        label: Class index; in a multi-label index all of its classes in ascending order, or ().
        start_seconds: Start of the action; `None` for the whole file.
        end_seconds: End of the action; `None` for the whole file.
        where: `list:line` of a row with a span, for messages.
    """

    path: Path | ArchiveMember
    label: int | tuple[int, ...]
    start_seconds: float | None = None
    end_seconds: float | None = None
    where: str = field(default="", compare=False)


class SampleIndex:
    """An immutable sequence of `Sample`s with the names of their classes.

    Repeated rows stay and are counted in a warning; another warning names classes without a row.

    Rows of multi-label lists give a multi-label index, in which a row has any number of classes, also none. There, rows
    of the same file and span are merged, so that a list may have a line per label.

    Args:
        rows: Rows of a list or of folders. They are read one by one and not kept.
        root: The folder to which relative paths refer.
        class_names: Names in label order. A row's label is one of them but for spelling (see `normalised`), or a
            number below their count; with ImageNet's 1000 names it may be a WordNet id. By default the names are the
            sorted labels themselves, or all numbers up to the highest.
        name: The name of the rows in warnings: "train" and so on.
        target_of: Makes the target of a row that is not its class or classes. Labels are then any text, and the
            index has no classes.

    Attributes:
        root: As passed.
        classes: The names of the classes and the labels that mean them; for other splits.
        class_names: Names in label order.
        target_type: The type of all rows' targets.
        labels: int32 (rows,), class or label text of each row; in a multi-label index (labels,), those of all rows
            concatenated.

    Raises:
        UserError: A label that is not a class, with the row's place and the nearest name; a file with two labels, or in
            a multi-label list a repeated label; rows of both kinds, or of another kind than the given classes; a path
            in a tar without offset and size.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        *,
        root: Path,
        class_names: Sequence[str] | ClassNames | None = None,
        name: str = "",
        target_of: TargetOf | None = None,
    ) -> None:
        self.root = root
        packed = _Packing(root, RowTargets(target_of))
        for row in rows:
            packed.add(row)
        labels = packed.labels_seen()
        self._targets = packed.targets
        self._texts: tuple[str, ...] = ()  # labels that are not classes
        if packed.targets.type is None:
            self.target_type: type[Target] = MultiHot if packed.multi_label else ClassIndex
            self.classes = classes = _classes(packed, class_names, labels)
            numbers = [classes.number(label, where=where) for label, where in labels.items()]
        else:
            self.target_type, self._texts = packed.targets.type, tuple(labels)
            self.classes, numbers = ClassNames((), source=packed.first_source), list(range(len(labels)))
        self.class_names = self.classes.names
        self.labels = np.asarray(numbers, dtype=np.int32)[np.frombuffer(packed.labels, dtype=np.int32)]
        self._sets: LabelSets | None = None
        self._bytes = np.frombuffer(packed.paths, dtype=np.uint8)
        self._ends = np.frombuffer(packed.ends, dtype=np.int64)
        self._spans = np.frombuffer(packed.spans, dtype=np.float64).reshape(-1, 2) if packed.has_spans else None
        self._places = np.frombuffer(packed.places, dtype=np.int64).reshape(-1, 3) if packed.has_places else None
        self._origins = packed.origins
        repeated = _repeated_rows(self)
        if packed.multi_label:
            self._take_sets(packed)
            self._join(repeated)
        elif not self._texts:
            _refuse_two_labels(self, packed, repeated)
        self._warn(name, len(repeated))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> Sample:
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of an index of {len(self)} rows")
        label = int(self.labels[number]) if self._sets is None else tuple(self._sets[number].tolist())
        where = self._origins.where(number) if self._spans is not None else ""
        return Sample(self._path(number), label, *self._span(number), where)

    def __iter__(self) -> Iterator[Sample]:
        return (self[number] for number in range(len(self)))

    def target(self, number: int) -> Target:
        """Return the target of a row.

        Raises:
            DecodeError: The target's file cannot be read.
        """
        if self._sets is not None:
            return MultiHot(tuple(self._sets[number].tolist()), len(self.class_names))
        if not self._texts:
            return ClassIndex(int(self.labels[number]))
        target = self._targets.of(self.row(number))
        assert target is not None
        return target

    def class_counts(self) -> np.ndarray:
        """Return the number of rows of each class, in label order: int64 (classes,)."""
        return np.bincount(self.labels, minlength=len(self.class_names))[: len(self.class_names)]

    @property
    def nbytes(self) -> int:
        """Size of the packed arrays in bytes."""
        label_ends = self._sets.ends if self._sets is not None else None
        arrays = (self._bytes, self._ends, self.labels, label_ends, self._spans, self._places)
        return sum(values.nbytes for values in arrays if values is not None) + self._origins.nbytes

    def columns(self) -> dict[str, list[str]]:
        """Return the lists' other values of each row: its span, and the columns unknown to mvrec."""
        spans: dict[str, list[str]] = {}
        if self._spans is not None:
            for place, name in enumerate(_SPAN_COLUMNS):
                seconds = self._spans[:, place].tolist()
                spans[name] = ["" if math.isnan(second) else f"{second:.3f}" for second in seconds]
        for name, values in self._origins.columns().items():
            spans[f"list_{name}" if name in _SPAN_COLUMNS else name] = values
        return spans

    def digest(self) -> str:
        """Return the SHA-256 of paths, labels or targets, spans and class names, which identifies a run's data."""
        digest = hashlib.sha256("\n".join(self.class_names or self._texts).encode("utf-8", "surrogateescape"))
        label_ends = self._sets.ends if self._sets is not None else None
        spans = None if self._spans is None else self._spans.astype(np.float32)  # the type in recorded digests
        for values in (self._bytes, self._ends, self.labels, label_ends, spans):
            digest.update(b"" if values is None else np.ascontiguousarray(values).data)
            digest.update(b"\n")
        if self._texts:
            digest.update(self._targets.digest)
        return digest.hexdigest()

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

    def row(self, number: int) -> Row:
        """Return a row of an index without classes as it was read."""
        start, end = (math.nan if seconds is None else seconds for seconds in self._span(number))
        offset, size = (-1, -1) if self._places is None else (int(value) for value in self._places[number, :2])
        return self._origins.row(number)._replace(
            path=_decoded(self._name(number)),
            label=self._texts[self.labels[number]],
            start_seconds=start,
            end_seconds=end,
            offset=offset,
            size=size,
        )

    def _take_sets(self, packed: "_Packing") -> None:
        self._sets = LabelSets(self.labels, np.frombuffer(packed.label_ends, dtype=np.int64)).ordered()
        self.labels = self._sets.values
        if (twice := self._sets.first_repeated()) is not None:
            row, label = twice
            raise UserError(f"{packed.where(row)}: label {self.class_names[label]!r} is listed twice")

    def _join(self, repeated: Mapping[int, int]) -> None:
        """Merge the rows of the same file and span."""
        if not repeated or self._sets is None:
            return
        keep = np.ones(len(self), dtype=bool)
        keep[list(repeated)] = False
        into = np.cumsum(keep) - 1
        into[list(repeated)] = into[list(repeated.values())]
        self._sets = self._sets.joined(into)
        self.labels = self._sets.values
        lengths = np.diff(self._ends, prepend=0)
        self._bytes, self._ends = self._bytes[np.repeat(keep, lengths)], np.cumsum(lengths[keep])
        self._spans = None if self._spans is None else self._spans[keep].reshape(-1, 2)
        self._places = None if self._places is None else self._places[keep].reshape(-1, 3)
        self._origins = self._origins.kept(keep)

    def _warn(self, name: str, repeated: int) -> None:
        beginning = f"{self.root}{', ' if name else ''}{name}"
        if repeated and self._sets is not None:
            log.info("%s: %d rows repeat a file and are merged with its first row", beginning, repeated)
        elif repeated:
            log.warning("%s: %d of %d rows repeat another one and count again", beginning, repeated, len(self))
        missing = np.flatnonzero(self.class_counts() == 0).tolist()
        if missing and len(self):
            named = ", ".join(repr(self.class_names[number]) for number in missing[:NAMED])
            more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
            count = len(self.class_names)
            log.warning("%s: no samples for %d of %d classes: %s%s", beginning, len(missing), count, named, more)
        joint = (label for label in self.class_names if LABEL_SEPARATOR in label)
        for label in joint:
            if {part.strip() for part in label.split(LABEL_SEPARATOR)} <= set(self.class_names):
                text = "%s: %r is one class here: several per file need a column %r instead of 'label'"
                log.warning(text, beginning, label, SEVERAL)
                break
        if self._sets is not None and (other := _joined_otherwise(self.class_names)):
            text = "%s: %r is one class here: the labels of a file are separated by %r"
            log.warning(text, beginning, other, LABEL_SEPARATOR)
        if alike := spelt_alike(self.class_names):
            log.warning("%s: %a and %a are two classes that differ only in spelling", beginning, *alike)


def _joined_otherwise(names: Sequence[str]) -> str | None:
    """Return a class that consists of other classes with another separator between them, if there is one."""
    classes = {name.strip() for name in names}
    parts = ((name, [part.strip() for part in name.split(mark)]) for name in names for mark in OTHER_SEPARATORS)
    return next((name for name, labels in parts if len(labels) > 1 and classes >= set(labels)), None)


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _classes(packed: "_Packing", classes: Sequence[str] | ClassNames | None, labels: Mapping[str, str]) -> ClassNames:
    """Return the classes of rows, after a check that their kind is that of the other splits."""
    several, source = packed.multi_label, packed.first_source
    if isinstance(classes, ClassNames):
        if classes.multi_label is not None and classes.multi_label != several and len(packed.ends):
            has, other = ("several labels", "one label") if several else ("one label", "several labels")
            raise UserError(
                f"{source}: has {has} per file, {classes.source} has {other}: all splits need a column "
                f"{SEVERAL!r}, or none"
            )
        names, aliases = classes.names, classes.aliases
    else:
        if classes is None:
            classes = class_names_of(labels, are_names=packed.from_folders, multi_label=several)
        names = tuple(classes)
        aliases = wordnet_aliases(labels, names, where=source)
    if several and not names:
        raise UserError(f"{source}: none of its {len(packed.ends)} rows has a label")
    unwritable = next((name for name in names if LABEL_SEPARATOR in name), None) if several else None
    if unwritable is not None:
        raise UserError(
            f"{source}: class {unwritable!r} holds the {LABEL_SEPARATOR!r} that separates labels: rename it"
        )
    return ClassNames(names, aliases=aliases, multi_label=several, source=source)


class _Packing:
    """Arrays that grow row by row and keep no Python object per row."""

    def __init__(self, root: Path, targets: RowTargets) -> None:
        self.root, self.targets = root, targets
        self.paths = bytearray()
        self.ends, self.labels = array("q"), array("i")
        self.label_ends = array("q")  # of multi-label rows
        self.multi_label = False
        self.spans, self.places = array("d"), array("q")
        self.has_spans = self.has_places = False
        self.from_folders = True  # until a list's row comes
        self.origins = Origins()
        self._numbers: dict[str, int] = {}  # labels in the order of their first rows, listed in `_firsts`
        self._firsts: list[str] = []
        self._archives: dict[str, int] = {}

    @property
    def first_source(self) -> str:
        return self.origins.first_source

    def add(self, row: Row) -> None:
        self.targets.check(row)
        self._add_labels(row if self.targets.type is None else row._replace(multi_label=False))
        self.from_folders = self.from_folders and row.line == 0
        self.origins.add(row)
        self.paths += row.path.encode("utf-8", "surrogateescape")
        self.ends.append(len(self.paths))
        self._add_span(row)
        if row.offset < 0 and ".tar/" in row.path and self._archive_end(row.path) >= 0:
            raise UserError(f"{row.where}: {row.path!r} lies in a tar: give its place in the columns offset and size")
        if row.offset >= 0 or self.has_places:
            self._add_place(row)

    def _add_labels(self, row: Row) -> None:
        if row.multi_label != self.multi_label:
            if len(self.ends):
                raise UserError(
                    f"{row.where}: a list cannot mix rows with one label and with several, as at {self.where(0)}"
                )
            self.multi_label = row.multi_label
        for label in row.labels:
            number = self._numbers.get(label)
            if number is None:
                number = self._numbers[label] = len(self._firsts)
                self._firsts.append(row.where)
            self.labels.append(number)
        if self.multi_label:
            self.label_ends.append(len(self.labels))

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
        """Return the length in bytes of a path's first part that is a tar; -1 without one. Results are cached."""
        place = -1
        while (place := path.find(".tar/", place + 1)) >= 0:
            archive = path[: place + len(".tar")]
            if archive not in self._archives:
                exists = (self.root / archive).is_file()
                self._archives[archive] = len(archive.encode("utf-8", "surrogateescape")) if exists else -1
            if self._archives[archive] >= 0:
                return self._archives[archive]
        return -1

    def labels_seen(self) -> Mapping[str, str]:
        """Return the labels, each with the place of its first row."""
        return dict(zip(self._numbers, self._firsts, strict=True))

    def where(self, number: int) -> str:
        """Return the place of a row, `list:line`."""
        return self.origins.where(number)


def _repeated_rows(index: SampleIndex) -> dict[int, int]:
    """Return the rows that repeat the file and the span of an earlier one, with that row."""
    # Hashes find the few rows to compare; a set of a million paths would need more memory than the index.
    hashes = np.fromiter((hash(index._name(number)) for number in range(len(index))), np.int64, len(index))
    values, counts = np.unique(hashes, return_counts=True)
    suspects = np.flatnonzero(np.isin(hashes, values[counts > 1]))
    first: dict[tuple[bytes, float | None, float | None], int] = {}
    repeated = {}
    for number in suspects.tolist():
        earlier = first.setdefault((index._name(number), *index._span(number)), number)
        if earlier != number:
            repeated[number] = earlier
    return repeated


def _refuse_two_labels(index: SampleIndex, packed: _Packing, repeated: Mapping[int, int]) -> None:
    """Raise `UserError` if rows of the same file and span have different labels."""
    for number, earlier in repeated.items():
        label, earlier_label = (index.class_names[int(index.labels[row])] for row in (number, earlier))
        if label != earlier_label:
            name = repr(_decoded(index._name(number)))
            raise UserError(
                f"{packed.where(number)}: {name} is {label!r} here and {earlier_label!r} at {packed.where(earlier)}"
                f" (several classes per file: a column {SEVERAL!r} instead of 'label')"
            )
