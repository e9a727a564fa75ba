"""Writing files so that nobody ever sees half of one, and knowing a file wherever it is copied to."""

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# By their first bytes: what lies in place of a file that was not really fetched, and what is taken for it by mistake.
_STAND_INS = (
    (
        rb"\s*<(!doctype|html|head|\?xml)",
        "a web page: fetch the file itself, which may need a login",
    ),
    (rb"version https://git-lfs", "a pointer of Git LFS: fetch the file itself with `git lfs pull`"),
    (rb"/annex/objects/|\.git/annex/", "a pointer of git-annex: fetch the file itself with `git annex get`"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ\x00|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd", "an archive: unpack it first"),
    (rb"\x89HDF\r\n", "a file of HDF5, which TensorFlow and Keras write: weights of PyTorch are wanted"),
    (rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI |\xff\xd8\xff|\x89PNG|GIF8", "a video or image"),
)
_PART, _RANDOM_LETTERS = ".part", 8  # of the names of files that are being written; the letters are `tempfile`'s
_MOST_NAME_BYTES = 255  # of a file name, on all usual file systems
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what bytes of file names become that are not


def at_home(path: str | os.PathLike[str]) -> Path:
    """A path as a user writes it: `~` at its start is the home directory, unless it only is a name that begins so."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path's own refuses such names


def write_atomically(path: Path, text: str) -> None:
    """Write a text file: into a temporary sibling first, then renamed. Bytes of file names stay as they are."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def append_whole(path: Path, text: str) -> None:
    """Append to a text file all or nothing: where that fails, the file is as it was, and the error names it."""
    rest = text.encode("utf-8", "surrogateescape")
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError as error:
            os.ftruncate(file.fileno(), before)
            error.filename = str(path)
            raise


def json_text(content: Any, *, indent: int | None = None) -> str:
    """Return JSON with readable letters; bytes of file names that are not UTF-8 are escaped as by `os.fsdecode`."""
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    return _NOT_UTF8.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def shown(text: str) -> str:
    """Return text for what takes UTF-8 only: bytes of file names that are not become visible with a backslash."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def stand_in(path: Path) -> str:
    """What a file is that lies where weights or a list should, such as a web page; "" for one that may be right."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "empty"
    return next((text for start, text in _STAND_INS if re.match(start, head, re.DOTALL | re.IGNORECASE)), "")


@contextmanager
def atomic_path(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary sibling to write into, which takes the place of `path` when the block ends well.

    Args:
        path: The file.
        durable: Wait for the disk to have it before it takes its name, so that a power cut leaves no empty file.
    """
    if path.is_dir():  # now, and not when the work of hours is to take its place
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_beginning(path), suffix=_PART)
    os.close(handle)
    try:
        yield Path(name)
        if durable:
            with open(name, "rb") as file:  # noqa: PTH123
                os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # noqa: PTH101 - mkstemp gives 0600, which nobody else could read
        os.replace(name, path)  # noqa: PTH105
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a failed write does not say of which file
        raise


def remove_leftovers(place: Path) -> None:
    """Remove what killed processes left of a file that they wrote by `atomic_path`, or of all files of a folder."""
    folder, beginning = (place, ".") if place.is_dir() else (place.parent, _beginning(place))
    if not folder.is_dir():
        return
    of_one = None if place.is_dir() else len(beginning) + _RANDOM_LETTERS + len(_PART)
    for entry in os.scandir(folder):
        is_part = entry.name.startswith(beginning) and entry.name.endswith(_PART)
        if is_part and of_one in (None, len(entry.name)) and entry.is_file(follow_symlinks=False):
            Path(entry.path).unlink(missing_ok=True)


def _beginning(path: Path) -> str:
    """How the names of a file's temporary siblings begin."""
    name = path.name
    if len(os.fsencode(name)) > _MOST_NAME_BYTES - _RANDOM_LETTERS - len(_PART) - 2:
        name = hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()
    return f".{name}."


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
