"""Pack the files of a list into plain tars for reading in place: few large files instead of many small ones."""

import hashlib
import random
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from mvrec.errors import DecodeError, UserError
from mvrec.files import at_home, atomic_path, remove_leftovers
from mvrec.messages import CommandParser
from mvrec.prep import boxes, console, masks, objects, sources
from mvrec.prep.console import shown
from mvrec.prep.jobs import Failure, run_jobs
from mvrec.prep.journal import Journal, stamp, without_leftovers, write_json
from mvrec.processes import Limits

if TYPE_CHECKING:
    from mvrec.data.listing.archive import FilePath
    from mvrec.data.listing.lists import Row

_CHUNK_BYTES = 1 << 20
_NAMED = 10


class Piece(NamedTuple):
    """A file for a shard.

    Attributes:
        source: The file.
        name: Its name in the tar.
        size: Bytes.
    """

    source: "FilePath"
    name: str
    size: int


class Shard(NamedTuple):
    """A tar to write.

    Attributes:
        target: The tar.
        pieces: Its files, in order.
    """

    target: Path
    pieces: tuple[Piece, ...]

    @property
    def digest(self) -> str:
        """Return the hash of names, sizes and order, by which the journal knows the content."""
        text = "\n".join(f"{piece.name}\0{piece.size}" for piece in self.pieces)
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def member_name(path: str) -> str:
    """Return the name of a row's file in a shard: its path, without parts that lead out of a folder."""
    *folders, name = (part for part in Path(path).parts if part not in ("/", ".."))
    return "/".join([*(folder.removesuffix(".tar") for folder in folders), name])  # a path may name only one tar


def pieces_of(source: sources.Source, rows: Sequence["Row"]) -> tuple[dict[tuple[str, int], Piece], list[str]]:
    """Return each file of the rows once, by path and offset; and the faults of missing ones.

    Raises:
        UserError: Two files would have the same name.
    """
    pieces: dict[tuple[str, int], Piece] = {}
    names: dict[str, str] = {}
    missing = []
    for row in rows:
        if (row.path, row.offset) in pieces:
            continue
        file, name = sources.file_of(source.root, row), member_name(row.path)
        try:
            size = row.size if row.offset >= 0 else stamp(Path(file))[0]
            if row.offset < 0 and not Path(file).is_file():
                raise IsADirectoryError(0, "is not a regular file")
            sources.archive_of(file).stat()
        except OSError as error:
            missing.append(f"{row.where}: {shown(row.path)}: {error.strerror}")
            continue
        if names.setdefault(name, row.path) != row.path:
            raise UserError(f"{row.where}: {shown(row.path)} and {shown(names[name])} would both be {shown(name)}")
        pieces[row.path, row.offset] = Piece(file, name, size)
    return pieces, missing


def plan(pieces: Sequence[Piece], folder: Path, *, shard_bytes: int, seed: int | None) -> list[Shard]:
    """Spread files over shards.

    Every shard gets the same number of files, or one less, so that ranks with equally many shards have the same
    number of steps, up to one file per shard.

    Args:
        pieces: In the order of the list.
        folder: The folder of the tars.
        shard_bytes: Their approximate size.
        seed: Shuffle first; `None` keeps the order.
    """
    order = list(pieces)
    if seed is not None:
        random.Random(seed).shuffle(order)
    total = sum(piece.size for piece in order)
    count = max(1, min(len(order), -(-total // shard_bytes)))
    ends = [len(order) * number // count for number in range(count + 1)]
    return [
        Shard(folder / f"shard-{number:06d}.tar", tuple(order[ends[number] : ends[number + 1]]))
        for number in range(count)
    ]


def write_shard(shard: Shard) -> list[tuple[int, int]]:
    """Write a tar that depends on its files alone, read it back and compare.

    Returns:
        Offset and size of each file in bytes.

    Raises:
        DecodeError: A file cannot be read or has changed, or the tar reads back differently.
    """
    sums = []
    with atomic_path(shard.target, durable=True) as part:
        with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar:
            for piece in shard.pieces:
                with _opened(piece) as file:
                    reader = _Summing(file)
                    header = tarfile.TarInfo(piece.name)  # without owner and time: only names and bytes decide
                    header.size = piece.size
                    try:
                        tar.addfile(header, reader)
                    except tarfile.ReadError:
                        raise DecodeError(piece.source, "became shorter while it was read") from None
                    sums.append(reader.digest)
        return _verified(shard, part, sums)


class _Summing:
    """A file that hashes the data read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._sum = file, hashlib.blake2b(digest_size=16)

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(count)
        self._sum.update(data)
        return data

    @property
    def digest(self) -> bytes:
        return self._sum.digest()


def _opened(piece: Piece) -> BinaryIO:
    from mvrec.data.listing.archive import ArchiveMember

    try:
        file = sources.archive_of(piece.source).open("rb")
    except OSError as error:
        raise DecodeError(piece.source, error.strerror or str(error)) from None
    if isinstance(piece.source, ArchiveMember):
        file.seek(piece.source.offset)
    return file


def _verified(shard: Shard, part: Path, sums: list[bytes]) -> list[tuple[int, int]]:
    from mvrec.data.listing.archive import list_tar

    places = []
    with part.open("rb") as file:
        for piece, digest, member in zip(shard.pieces, sums, list_tar(part), strict=True):
            file.seek(member.offset)
            checksum, left = hashlib.blake2b(digest_size=16), member.size
            while left:
                data = file.read(min(left, _CHUNK_BYTES))
                if not data:
                    break
                checksum.update(data)
                left -= len(data)
            if member.name != piece.name or checksum.digest() != digest:
                raise DecodeError(piece.source, f"reads back differently from {shard.target.name}")
            places.append((member.offset, member.size))
    return places


def write_shards(
    shards: Sequence[Shard], journal: Journal, *, workers: int
) -> dict[Path, list[tuple[int, int]] | Failure]:
    """Write the shards that do not exist as recorded in the journal.

    Returns:
        For each tar the places of its files, or why it failed.
    """
    results: dict[Path, list[tuple[int, int]] | Failure] = {}
    todo = []
    with (
        without_leftovers(shard.target.parent for shard in shards),
        console.progress(sum(piece.size for shard in shards for piece in shard.pieces), unit="B") as bar,
    ):
        for shard in shards:
            record = journal.get(str(shard.target))
            if record is not None and _is_current(record, shard):
                results[shard.target] = [(offset, size) for offset, size in record["places"]]
                bar.update(sum(piece.size for piece in shard.pieces))
            else:
                todo.append(shard)
        limits = Limits(seconds=None, memory=None)
        with closing(run_jobs(write_shard, todo, workers=workers, limits=limits)) as written:
            for shard, result in written:
                results[shard.target] = result
                if not isinstance(result, Failure):
                    state = {"stamp": stamp(shard.target), "digest": shard.digest, "sources": _sources_digest(shard)}
                    journal.add(str(shard.target), **state, places=result)
                bar.update(sum(piece.size for piece in shard.pieces))
    return results


def _is_current(record: dict[str, Any], shard: Shard) -> bool:
    try:
        return (
            record["digest"] == shard.digest
            and record["stamp"] == stamp(shard.target)
            and record["sources"] == _sources_digest(shard)
        )
    except OSError:
        return False


def _sources_digest(shard: Shard) -> str:
    """Return the hash of the files' modification times."""
    stamps = [stamp(sources.archive_of(piece.source)) for piece in shard.pieces]
    return hashlib.blake2b(repr(stamps).encode(), digest_size=16).hexdigest()


def listed(
    rows: Sequence["Row"],
    pieces: dict[tuple[str, int], Piece],
    shards: Sequence[Shard],
    places: dict[Path, list[tuple[int, int]]],
    *,
    out: Path,
) -> Iterator["Row"]:
    """Yield the rows with their files' places in the shards, in the order of the list."""
    by_name = {
        piece.name: (shard.target.relative_to(out).as_posix(), *place)
        for shard in shards
        for piece, place in zip(shard.pieces, places[shard.target], strict=True)
    }
    for row in rows:
        piece = pieces.get((row.path, row.offset))
        if piece is not None:
            tar, offset, size = by_name[piece.name]
            yield row._replace(path=f"{tar}/{piece.name}", offset=offset, size=size)


def arguments() -> CommandParser:
    """Build the parser."""
    parser = console.parser("shard", __doc__ or "")
    parser.add_argument("root", type=at_home, help="a data set: a folder of files or with lists, or one list")
    parser.add_argument("out", type=at_home, help="folder of <split>/shard-000000.tar and so on, with <split>.csv")
    parser.add_argument("--list", type=at_home, action="append", default=[], help="pack these lists (paths from ROOT)")
    parser.add_argument("--shard-size", type=console.size_in_bytes, default="256MB", help="approximate size of a tar")
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="spread the files at random")
    parser.add_argument("--skip-missing", action="store_true", help="skip missing files")
    return parser


class Split(NamedTuple):
    """The plan of one split."""

    rows: list["Row"]
    pieces: dict[tuple[str, int], Piece]
    shards: list[Shard]


def plan_splits(source: sources.Source, options: Any) -> tuple[dict[str, Split], list[str]]:
    """Plan every split; return also the missing files.

    Raises:
        UserError: Rows have no label, or there is nothing to pack.
    """
    splits, missing = {}, []
    for name, rows in source.rows.items():
        unlabelled = next((row for row in rows if not row.label and not row.multi_label), None)
        if unlabelled is not None:
            raise UserError(f"{unlabelled.where}: {shown(unlabelled.path)} lies in no class folder and has no label")
        pieces, faults = pieces_of(source, rows)
        missing += faults
        if pieces:
            shards = plan(
                list(pieces.values()), options.out / name, shard_bytes=options.shard_size, seed=options.shuffle
            )
            splits[name] = Split(rows, pieces, shards)
    return splits, missing


def main(words: list[str]) -> int:
    """Pack a data set; return the exit code."""
    options = arguments().parse_args(words)
    masks.refuse(options.root, job="shard", reason="which are read from folders and lists only")
    boxes.refuse(options.root, job="shard", reason="which are read from files only")
    objects.refuse(options.root, job="shard", reason="which are read from files only")
    source = sources.read_source(options.root, lists=options.list)
    if options.out.resolve() == source.root.resolve():
        raise UserError(
            f"{options.out} is the data set itself, whose lists would be overwritten: choose another folder"
        )
    splits, missing = plan_splits(source, options)
    for line in missing[:_NAMED]:
        print(f"missing: {line}", file=sys.stderr)
    if missing and not options.skip_missing:
        raise UserError(
            f"{len(missing)} of {len(source)} files are missing: run `mvrec prep check`, or add --skip-missing"
        )
    shards = [shard for split in splits.values() for shard in split.shards]
    size = sum(piece.size for shard in shards for piece in shard.pieces)
    if options.dry_run:
        print(f"{sum(len(s.pieces) for s in shards)} files, {size / 1e6:.1f} MB, would go into {len(shards)} shards")
        return console.ALL_FINE
    with Journal(options.out / "shard.jsonl") as journal:
        results = write_shards(shards, journal, workers=options.workers)
        failures = {path: result for path, result in results.items() if isinstance(result, Failure)}
        for path, failure in sorted(failures.items())[:_NAMED]:
            print(f"{path}: {failure.cause}", file=sys.stderr)
        if failures:
            print(f"{len(failures)} of {len(shards)} shards failed; no list was written", file=sys.stderr)
            return console.SOME_BAD
        places = {path: result for path, result in results.items() if not isinstance(result, Failure)}
        written = _write_lists(source, splits, places, options.out)
        write_json(options.out / "shard.json", _report(splits, missing, options))
    lines = [
        [name, len(split.rows), len(split.shards), len(split.shards[0].pieces), _megabytes(split)]
        for name, split in splits.items()
    ]
    print(console.table(["split", "rows", "shards", "files each", "MB"], lines))
    print("", *(f"list: {shown(path)}" for path in written), sep="\n")
    return console.SOME_BAD if missing else console.ALL_FINE


def _megabytes(split: Split) -> str:
    return f"{sum(piece.size for piece in split.pieces.values()) / 1e6:.1f}"


def _report(splits: dict[str, Split], missing: list[str], options: Any) -> dict[str, Any]:
    shards = {
        name: [{"tar": shard.target.name, "files": len(shard.pieces)} for shard in split.shards]
        for name, split in splits.items()
    }
    return {"shard_bytes": options.shard_size, "shuffle": options.shuffle, "missing": missing, "shards": shards}


def _write_lists(
    source: sources.Source, splits: dict[str, Split], places: dict[Path, list[tuple[int, int]]], out: Path
) -> list[Path]:
    from mvrec.data.listing.lists import write_rows

    written = []
    for name, split in splits.items():
        target = out / f"{name}.csv"
        remove_leftovers(target)
        write_rows(target, listed(split.rows, split.pieces, split.shards, places, out=out))
        written.append(target)
    source.copy_class_names(out)
    return written
