"""Atomic writing of files, and recognising a file by its content."""

import csv
import errno
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mvrec.errors import UserError

# Recognised by their first bytes: placeholders of files that were not fetched, and common mix-ups.
_STAND_INS = (
    (
        rb"\s*<(!doctype|html|head|\?xml)",
        "a web page: fetch the file itself, which may need a login",
    ),
    (rb"version https://git-lfs", "a pointer of Git LFS: fetch the file itself with `git lfs pull`"),
    (rb"/annex/objects/|\.git/annex/", "a pointer of git-annex: fetch the file itself with `git annex get`"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ\x00|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd", "an archive: unpack it first"),
    (rb"\x89HDF\r\n", "a file of HDF5, which TensorFlow and Keras write: give weights of PyTorch"),
    (rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI |\xff\xd8\xff|\x89PNG|GIF8", "a video or image"),
)
_PART, _RANDOM_LETTERS = ".part", 8  # in names of unfinished files; `tempfile` chooses the letters
BYTE_ORDER_MARK = "\ufeff"
_MOST_NAME_BYTES = 255  # of a file name, on all usual file systems
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # how Python decodes bytes of file names that are not UTF-8


def at_home(path: str | os.PathLike[str]) -> Path:
    """Expand a leading `~` to the home directory, unless the name merely begins with that character."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path's own refuses such names


def user_cache() -> Path:
    """Return the folder of files that can be made or fetched again: $MVREC_CACHE, else mvrec in the user's cache."""
    if folder := os.environ.get("MVREC_CACHE"):
        return at_home(folder).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mvrec"


def write_atomically(path: Path, text: str) -> None:
    """Write a text file into a temporary sibling, then rename it. Bytes of file names stay as they are."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def check_target(path: Path, *, flag: str) -> None:
    """Check, before long work, that a file can be written; its folder is made.

    Raises:
        UserError: It is a folder, or its own folder cannot be written.
    """
    if path.is_dir():
        raise UserError(f"{flag}={path} is a folder: name the file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"{flag}={path} cannot be written: {error.strerror or error}") from None


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV for people: UTF-8 with a byte order mark, by which spreadsheets show all alphabets rightly."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomically(path, BYTE_ORDER_MARK + text.getvalue())


def append_whole(path: Path, text: str) -> None:
    """Append all of a text to a file or nothing: after an error the file is unchanged and the error names it."""
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
    return _NOT_UTF8.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def shown(text: str) -> str:
    """Return text for readers of UTF-8 only: other bytes of file names become visible with a backslash."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def stand_in(path: Path) -> str:
    """Name what a file contains in place of weights or a list, such as a web page; "" if it may be right."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "empty"
    return next((text for start, text in _STAND_INS if re.match(start, head, re.DOTALL | re.IGNORECASE)), "")


def weights_in(folder: Path) -> Path:
    """Return a run directory's best checkpoint, else the last; or the weights in a folder of `mvrec hub`.

    Raises:
        UserError: The folder has none of them.
    """
    places = [place / name for place in (folder / "checkpoints", folder) for name in ("best.ckpt", "last.ckpt")]
    weights = next((place for place in [*places, folder / "model.safetensors"] if place.is_file()), None)
    if weights is None:
        raise UserError(
            f"{folder} is a folder without checkpoints/best.ckpt, checkpoints/last.ckpt or model.safetensors"
        )
    return weights


@contextmanager
def atomic_path(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling to write into; it replaces `path` when the block ends without an error.

    Args:
        path: The file.
        durable: Flush the file to disk before the rename, so that a power cut leaves no empty file.
    """
    if path.is_dir():  # fail now, not after hours of work
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
            error.filename = str(path)  # a failed write does not name its file
        raise


def remove_leftovers(place: Path) -> None:
    """Remove temporary files that killed processes left of one file of `atomic_path`, or of all files of a folder."""
    folder, beginning = (place, ".") if place.is_dir() else (place.parent, _beginning(place))
    if not folder.is_dir():
        return
    of_one = None if place.is_dir() else len(beginning) + _RANDOM_LETTERS + len(_PART)
    for entry in os.scandir(folder):
        is_part = entry.name.startswith(beginning) and entry.name.endswith(_PART)
        if is_part and of_one in (None, len(entry.name)) and entry.is_file(follow_symlinks=False):
            Path(entry.path).unlink(missing_ok=True)


def _beginning(path: Path) -> str:
    """Return the prefix of the names of a file's temporary siblings."""
    name = path.name
    if len(os.fsencode(name)) > _MOST_NAME_BYTES - _RANDOM_LETTERS - len(_PART) - 2:
        name = hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()
    return f".{name}."


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
