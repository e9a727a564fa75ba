"""Features of many files as one table: a row per clip with its path, span, label and vector."""

import contextlib
import csv
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mvrec.data.listing.index import Sample
from mvrec.errors import UserError, nearest, need
from mvrec.files import BYTE_ORDER_MARK, atomic_path, shown
from mvrec.inference.features import read_record, target_files

ENDINGS = (".parquet", ".npz", ".csv")
SPANS = ("start_seconds", "end_seconds")


@dataclass(frozen=True)
class FeatureTable:
    """Rows of clips.

    Attributes:
        columns: Values of each row by column: `path`, `start_seconds` and `end_seconds` of clips, and those of lists.
        vectors: float32 (rows, D).
    """

    columns: dict[str, list[Any]]
    vectors: npt.NDArray[np.float32]


def check_table(path: Path) -> None:
    """Check the ending of a table's file before hours of work.

    Raises:
        UserError: It is none of `ENDINGS`, or lacks the package that writes it.
    """
    if path.suffix not in ENDINGS:
        raise UserError(f"--table must end in {', '.join(ENDINGS)}, got {str(path)!r}{nearest(path.suffix, ENDINGS)}")
    if path.suffix == ".parquet":
        need("table", "pyarrow")


def read_table(
    files: Sequence[tuple[Path, Sample]], columns: Sequence[Mapping[str, str]], *, with_spans: bool
) -> FeatureTable:
    """Join the features of files, in their order; a file whose features are missing has no row.

    Args:
        files: The stem of the features and the file itself, for each file.
        columns: Further values of each file, such as its label.
        with_spans: Whether the rows are clips, which have times.

    Raises:
        UserError: No file has features, or they are no vectors.
    """
    names = list(dict.fromkeys(name for values in columns for name in values))
    table: dict[str, list[Any]] = {name: [] for name in ("path", *(SPANS if with_spans else ()), *names)}
    vectors = []
    for (stem, sample), values in zip(files, columns, strict=True):
        record = read_record(stem, "npy")
        if record is None:
            continue
        rows = np.load(target_files(stem, "npy")[0])
        if rows.ndim != 2:
            raise UserError(f"{stem}: a table has one vector per row, these are maps: add --pool all")
        vectors.append(rows)
        table["path"] += [str(sample.path)] * len(rows)
        for name in SPANS if with_spans else ():
            table[name] += record[name]
        for name in names:
            table[name] += [values.get(name, "")] * len(rows)
    if not vectors:
        raise UserError("no file could be read: there is nothing to put into a table")
    return FeatureTable(table, np.concatenate(vectors))


def write_table(path: Path, table: FeatureTable) -> None:
    """Write a table as its file's ending says; the file appears once it is complete.

    In `.npz` every column is an array, the vectors are `vector` (rows, D). In `.parquet` `vector` is a list per row, in
    `.csv` a column per number.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        with atomic_path(path) as temporary:
            {".parquet": _write_parquet, ".npz": _write_npz, ".csv": _write_csv}[path.suffix](temporary, table)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def _write_npz(path: Path, table: FeatureTable) -> None:
    # Not np.savez: a column of a list may have the name of one of its arguments.
    with zipfile.ZipFile(path, "w") as archive:
        for name, values in {**table.columns, "vector": table.vectors}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(values), allow_pickle=False)


def _write_parquet(path: Path, table: FeatureTable) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        name: [shown(value) if isinstance(value, str) else value for value in values]
        for name, values in table.columns.items()
    }
    width = table.vectors.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(table.vectors.ravel()), width)
    parquet.write_table(pa.table({**columns, "vector": vectors}), path)


def _write_csv(path: Path, table: FeatureTable) -> None:
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(BYTE_ORDER_MARK)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*table.columns, *(f"vector_{number}" for number in range(table.vectors.shape[1]))])
        for *values, vector in zip(*table.columns.values(), table.vectors, strict=True):
            writer.writerow([*values, *map(str, vector)])


@contextlib.contextmanager
def parts_of(path: Path) -> Iterator[Path]:
    """Yield the folder of the features of single files next to a table; it goes when the table is there."""
    folder = path.with_name(f".{path.name}.parts")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
