"""Files that lie inside an uncompressed tar and are read in place, by their offset."""

import os
from dataclasses import dataclass
from pathlib import Path

from mvrec.errors import DecodeError


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """A file inside an archive. It stands wherever the path of a file may stand and is printed like one.

    Attributes:
        archive: The archive.
        name: The file's name in it; for an archive in an archive both names, `n01440764.tar/n01440764_10026.JPEG`.
        offset: Where its bytes begin in the archive.
        size: How many bytes it has.
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
        """The file's bytes.

        Raises:
            DecodeError: The archive is missing, may not be read, or ends before the file does.
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


FilePath = str | os.PathLike[str]  # what readers take: a path, or an `ArchiveMember`
