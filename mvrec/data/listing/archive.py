"""Files inside an uncompressed tar, read in place by their offset."""

import hashlib
import logging
import os
import tarfile
import zipfile
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mvrec.errors import DecodeError, UserError
from mvrec.files import atomic_path, user_cache

log = logging.getLogger(__name__)

_BLOCK = 512  # bytes; headers and contents of a tar begin at multiples of it
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
}
_VERSION = 1  # of the saved listings


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """A file inside an archive. It takes the place of a path and prints like one.

    Attributes:
        archive: The archive.
        name: The file's name in it; for an archive in an archive both names, `n01440764.tar/n01440764_10026.JPEG`.
        offset: First byte of the file in the archive.
        size: Size in bytes.
    """

    archive: Path
    name: str
    offset: int
    size: int

    def __fspath__(self) -> str:
        return f"{self.archive}/{self.name}"

    def __str__(self) -> str:
        return self.__fspath__()

    def read(self) -> bytes:
        """Return the file's bytes.

        Raises:
            DecodeError: The archive is missing, unreadable, or ends before the file does.
        """
        try:
            with self.archive.open("rb") as archive:
                archive.seek(self.offset)
                content = archive.read(self.size)
        except OSError as error:
            raise DecodeError(self, f"its archive: {error.strerror or error}") from error
        if len(content) < self.size:
            raise DecodeError(self, f"its archive ends after {len(content)} of its {self.size} bytes")
        if not content:
            raise DecodeError(self, "is empty (0 bytes)")
        return content


FilePath = str | os.PathLike[str]  # the argument of readers: a path, or an `ArchiveMember`


def list_tar(path: Path) -> Iterator[ArchiveMember]:
    """Yield the files in an uncompressed tar, and in tars within it, in stored order.

    Only the headers are read, one small read per file. Folders, links and the like are skipped. A file in a tar in a
    tar has both names, `n01440764.tar/n01440764_10026.JPEG`.

    Raises:
        UserError: The file is missing, compressed, damaged, or not a tar, with the place.
    """
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
        yield from _members(path, prefix="", begin=0, end=end)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None


def _refuse_compressed(where: str, beginning: bytes) -> None:
    for magic, kind in _COMPRESSED.items():
        if beginning.startswith(magic):
            raise UserError(
                f"{where}: compressed ({kind}), so that files in it cannot be read in place: unpack it, or make it a "
                "plain tar"
            )


def _members(path: Path, *, prefix: str, begin: int, end: int) -> Iterator[ArchiveMember]:
    """Yield the files of the tar at bytes `begin..end` of a file, and of tars within it."""
    where = f"{path}/{prefix}".rstrip("/")
    with path.open("rb") as file:
        file.seek(begin)
        _refuse_compressed(where, file.read(8))
        file.seek(begin)
        try:
            archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - the next line closes it
            with archive:
                while (member := archive.next()) is not None and member.offset < end:
                    archive.members.clear()  # type: ignore[attr-defined]  # it would keep an object for every file
                    if member.isreg():
                        yield from _files_of(path, member, prefix=prefix, end=end, where=where)
                _check_end(file, archive.offset if member is None else member.offset, end=end, where=where)
        except tarfile.TarError as error:
            raise UserError(f"{where}: not a tar, or a damaged one: {error}") from None


def _files_of(path: Path, member: tarfile.TarInfo, *, prefix: str, end: int, where: str) -> Iterator[ArchiveMember]:
    name, stop = f"{prefix}{member.name.removeprefix('./')}", member.offset_data + member.size
    if stop > end:
        raise UserError(f"{where}: ends at byte {end}, in the middle of {member.name!r}: it is cut off")
    if member.sparse is not None:
        raise UserError(f"{where}: {member.name!r} is stored with holes (sparse) and cannot be read in place")
    if member.name.endswith(".tar"):
        yield from _members(path, prefix=f"{name}/", begin=member.offset_data, end=stop)
    else:
        yield ArchiveMember(path, name, member.offset_data, member.size)


def _check_end(file: BinaryIO, offset: int, *, end: int, where: str) -> None:
    """Distinguish the end of a tar from a broken header, which tarfile takes for the end too."""
    if offset >= end:
        log.warning("%s: ends without a tar's end mark; it may be cut off", where)
        return
    file.seek(offset)
    if any(file.read(min(_BLOCK, end - offset))):
        raise UserError(f"{where}: not a tar, or a damaged one: no header at byte {offset}")


class TarListing:
    """The files of a tar, sorted by name, in packed arrays.

    Attributes:
        archive: The tar.
        names: The names one after the other, normally UTF-8: uint8.
        ends: End of each name in `names`: int64 (files,).
        offsets: First byte of each file in the tar: int64 (files,).
        sizes: Size of each file in bytes: int64 (files,).
    """

    def __init__(self, archive: Path, arrays: Mapping[str, np.ndarray]) -> None:
        self.archive = archive
        self.names, self.ends = arrays["names"], arrays["ends"]
        self.offsets, self.sizes = arrays["offsets"], arrays["sizes"]

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[ArchiveMember]:
        begin = 0
        for end, offset, size in zip(self.ends, self.offsets, self.sizes, strict=True):
            name = self.names[begin:end].tobytes().decode("utf-8", "surrogateescape")
            yield ArchiveMember(self.archive, name, int(offset), int(size))
            begin = end


def read_tar_listing(path: Path, *, cache: Path | None = None) -> TarListing:
    """Return `list_tar`'s files from a cache, so that the headers of a million files are read once.

    The cache is `<tar>.index.npz` next to the tar, or in the user's cache if that folder is read-only. It is valid
    while size and modification time of the tar are unchanged.

    Args:
        path: An uncompressed tar.
        cache: Another path of the cache.

    Raises:
        UserError: As `list_tar`.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    stamp = np.asarray([_VERSION, state.st_size, state.st_mtime_ns], dtype=np.int64)
    places = [cache] if cache is not None else [path.with_name(f"{path.name}.index.npz"), _user_cache(path)]
    for place in places:
        if (saved := _saved_listing(place, stamp)) is not None:
            return TarListing(path, saved)
    log.info("%s: reading its headers, once (%.1f GB)", path, state.st_size / 1e9)
    arrays = _packed(list_tar(path))
    for place in places:
        try:
            with atomic_path(place) as temporary, temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, stamp=stamp, **arrays)
        except OSError as error:
            log.debug("%s: %s", place, error)
        else:
            log.info("%s: %d files, listed in %s", path, len(arrays["ends"]), place)
            break
    else:
        log.warning("%s: cannot save its listing anywhere (tried %s)", path, ", ".join(map(str, places)))
    return TarListing(path, arrays)


def _user_cache(path: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
    return user_cache() / "tars" / f"{digest}-{path.name}.index.npz"


def _saved_listing(place: Path, stamp: np.ndarray) -> dict[str, np.ndarray] | None:
    """Return the arrays of a saved listing, or `None` if it is missing or outdated."""
    if not place.is_file():
        return None
    try:
        with place.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            if not np.array_equal(saved["stamp"], stamp):
                log.info("%s: the tar has changed since then: listing it again", place)
                return None
            return {name: saved[name] for name in ("names", "ends", "offsets", "sizes")}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        log.warning("%s: cannot be read: listing the tar again (%s)", place, error)
        return None


def _packed(members: Iterable[ArchiveMember]) -> dict[str, np.ndarray]:
    names: list[bytes] = []
    offsets, sizes = array("q"), array("q")
    for member in members:
        names.append(member.name.encode("utf-8", "surrogateescape"))
        offsets.append(member.offset)
        sizes.append(member.size)
    # Sorted, so that files of a tar have the same order as in folders.
    order = sorted(range(len(names)), key=names.__getitem__)
    return {
        "names": np.frombuffer(b"".join(names[place] for place in order), dtype=np.uint8),
        "ends": np.cumsum([len(names[place]) for place in order], dtype=np.int64),
        "offsets": np.asarray(offsets, dtype=np.int64)[order],
        "sizes": np.asarray(sizes, dtype=np.int64)[order],
    }
